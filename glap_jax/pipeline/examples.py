"""One record of a shard to one example: what runs in the decoding threads or processes."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from glap_jax.pipeline.augment import Augmented, Augmenter
from glap_jax.pipeline.bad import BadClip
from glap_jax.pipeline.captions import DEFAULT_LANGUAGE, LANGUAGE_FIELD, Caption, Captions, draw, read_fixed
from glap_jax.pipeline.config import DataConfig
from glap_jax.pipeline.record import Record
from glap_jax.pipeline.sound import sound

# A flat dict, as Grain expects. All have the same fields: `key`, `shard`; `clip`, `caption`, `group` (ints);
# `reason` and `detail` (empty unless bad), `refused` (recordings that could not be mixed in), `cut` (the
# caption was cut), `waveform` (float32; none when bad), `ids` (int32) and `text`, the caption's (filled in
# training), `pooled` and `heard` (float32; filled by `vectors` with a text or an audio cache), `uncached`
# (what one of these lacks), `captions`, `language` and `fields`, the json (filled in evaluation).
Example = dict[str, Any]
NOTHING = np.zeros(0, np.float32)
# Captions whose tokens are remembered, in each process: all of a small corpus, which is read again and again.
CAPTIONS_KEPT = 1 << 15
# What an example has in place of what was not made.
_VOID: Example = {
    "caption": 0,
    "reason": "",
    "detail": "",
    "refused": (),
    "cut": False,
    "waveform": NOTHING,
    "ids": np.zeros(0, np.int32),
    "text": "",
    "pooled": NOTHING,
    "heard": NOTHING,
    "uncached": "",
    "captions": Captions((), ()),
    "language": "",
    "fields": {},
}


@runtime_checkable
class Tokenizer(Protocol):
    """What the pipeline asks of a tokenizer."""

    def encode(self, text: Any, *, language: str) -> list[int]:
        """Ids of a text, the language token first and the end marker last."""
        ...

    def cut(self, ids: list[int], max_tokens: int) -> list[int]:
        """At most `max_tokens` ids, the end marker still last."""
        ...

    def __hash__(self) -> int:
        """What it gave is remembered by it."""
        ...


@dataclasses.dataclass(frozen=True)
class TrainingExample:
    """Turns a record into a training example: a random part of the clip, augmented, and one of its captions.

    The result is a function of the record and the generator alone.
    """

    config: DataConfig
    group: int
    tokenizer: Tokenizer
    augment: Augmenter

    def __call__(self, record: Record, rng: np.random.Generator) -> Example:
        """The example, or what is wrong with the clip under `reason` and `detail`."""
        return _example(record, self.group, lambda: self._make(record, rng))

    def _make(self, record: Record, rng: np.random.Generator) -> Example:
        config = self.config
        position = rng.random()
        caption = draw(record.metadata, rng, config=config, place=record.caption)
        changed = Augmented(NOTHING, caption, ())
        if config.audio_cache is None:
            waveform = sound(record, config, seconds=config.crop_seconds, position=float(position))
            name = config.train[self.group].name
            changed = self.augment(waveform, caption, rng, metadata=record.metadata, group=name)
        caption = changed.caption
        ids, cut = _tokens(self.tokenizer, caption, config.max_tokens)
        return {
            "waveform": changed.waveform,
            "refused": changed.refused,
            "caption": identity(caption.language, caption.text),
            "ids": ids,
            "text": caption.text,
            "cut": cut,
        }


@functools.lru_cache(CAPTIONS_KEPT)
def _tokens(tokenizer: Tokenizer, caption: Caption, max_tokens: int) -> tuple[Int32[np.ndarray, " N"], bool]:
    """Token ids of a caption, and whether they had to be cut; they are the same each time it comes."""
    ids = tokenizer.encode(caption.text, language=caption.language)
    row = np.asarray(tokenizer.cut(ids, max_tokens), np.int32)
    row.flags.writeable = False
    return row, len(ids) > max_tokens


@dataclasses.dataclass(frozen=True)
class SoundExample:
    """Turns a record into the clip that an audio tower hears once and for all: from its start, unchanged."""

    config: DataConfig

    def __call__(self, record: Record) -> Example:
        """The example, or what is wrong with the clip under `reason` and `detail`."""
        seconds = self.config.eval_seconds
        return _example(record, 0, lambda: {"waveform": sound(record, self.config, seconds=seconds)})


@dataclasses.dataclass(frozen=True)
class EvaluationExample:
    """Turns a record into an evaluation example: the clip from its start and all captions, nothing random."""

    config: DataConfig
    group: int

    def __call__(self, record: Record) -> Example:
        """The example, or what is wrong with the clip under `reason` and `detail`."""
        return _example(record, self.group, lambda: self._make(record))

    def _make(self, record: Record) -> Example:
        config = self.config
        captions = read_fixed(record.metadata, config=config)
        waveform = sound(record, config, seconds=config.eval_seconds)
        language = str(record.metadata.get(LANGUAGE_FIELD, DEFAULT_LANGUAGE))
        return {"waveform": waveform, "captions": captions, "language": language, "fields": record.metadata}


def _example(record: Record, group: int, make: Callable[[], Example]) -> Example:
    example = {
        "key": record.key,
        "shard": record.shard,
        # Many corpora number their keys anew in each shard, whose folder may differ between machines.
        "clip": identity(record.shard.rpartition("/")[2], record.key),
        "group": group,
        **_VOID,
    }
    try:
        if record.problem is not None:
            raise record.problem
        return example | make()
    except BadClip as bad:
        return void(example, bad.reason, bad.detail)


def void(example: Example, reason: str, detail: str) -> Example:
    """The example of a clip that cannot be used."""
    return example | _VOID | {"reason": reason, "detail": detail}


def identity(*names: str) -> int:
    """63 bits that tell recordings or captions apart: a hash of what they are called."""
    name = "\0".join(names).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
