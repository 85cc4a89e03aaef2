"""Training batches of fixed shape, group-balanced and endless.

Order and content of training examples are a function of (seed, place in the group's stream) alone: example i
is row i mod B of batch i // B, however many machines, processes or threads share the work. Bad clips come out
of the decoders as marked examples; the consumer counts them and leaves their rows void. Another clip in their
place would make the order depend on who decodes what, or machines wait for each other to agree on it. A
training iterator's state is the number of its batches and its counts.
"""

import dataclasses
import hashlib
import weakref
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Bool

from glap_jax.errors import GlapError
from glap_jax.parallel import processes
from glap_jax.pipeline import audio_cache, handover, mixing, packing, text_cache
from glap_jax.pipeline.augment import Augmenter
from glap_jax.pipeline.bad import Ledger
from glap_jax.pipeline.captions import check_language
from glap_jax.pipeline.config import DataConfig
from glap_jax.pipeline.examples import Example, Tokenizer, TrainingExample
from glap_jax.pipeline.record import Record
from glap_jax.pipeline.vectors import Vectors
from glap_jax.text import tokenizers


def examples(config: DataConfig, *, seed: int, tokenizer: Tokenizer) -> mixing.Mixture:
    """The endless stream of training examples, by number, before it is split over processes and batched.

    Each group is shuffled anew every epoch with a seed made from its name, and the groups are interleaved by
    weight, example by example: changing one group's weight or shards does not reorder another group. Within a
    group, corpora and languages are such streams too, where the group weighs them.

    Raises:
        GlapError: no groups, weights, language or background groups that make no sense, shards that cannot be
            read.
    """
    if not config.train:
        raise GlapError("config: 'data.train' names no groups; give at least one GroupConfig")
    check_language(config)
    augment, parts = Augmenter.open(config), []
    for number, group in enumerate(config.train):
        make = TrainingExample(config, number, tokenizer, augment)
        found = [
            _mixed(name, weight, [_part(each, group.name, make, seed) for each in slices])
            for name, weight, slices in mixing.corpora(group, config)
        ]
        parts.append(_mixed(group.name, group.weight, found))
    return mixing.Mixture(parts)


def _part(each: mixing.Slice, group: str, make: TrainingExample, seed: int) -> mixing.Part:
    """What is shuffled together, endlessly, anew each epoch."""
    names = (group, *each.names)
    stream = Pairs(each.source).shuffle(seed=_seed(seed, *names, "order"))
    stream = stream.random_map(make, seed=_seed(seed, *names, "draws")).repeat()
    return mixing.Part(names[-1], each.weight, stream, len(each.source))


def _mixed(name: str, weight: float, parts: Sequence[mixing.Part]) -> mixing.Part:
    """Several parts as one; a single one stays what it is."""
    if len(parts) == 1:
        return dataclasses.replace(parts[0], name=name, weight=weight)
    return mixing.Part(name, weight, mixing.Mixture(parts), sum(part.size for part in parts))


def training(
    config: DataConfig,
    *,
    batch: int,
    seed: int,
    tokenizer: Tokenizer,
    rows: Sequence[int] | np.ndarray | None = None,
    arrange: packing.Arrange | None = None,
) -> "TrainingIterator":
    """Endless batches, or the rows of them that one process makes. See `TrainingIterator` for what they hold.

    Args:
        config: shards and how examples are made from them.
        batch: pairs a step over all processes.
        seed: of order and draws.
        tokenizer: as `glap_jax.SonarTokenizer`.
        rows: numbers of this process's rows within a batch; by default all.
        arrange: lays out what is heard, as `config.layout` says; by default for one device, and not packed.

    Raises:
        GlapError: as `examples`, and a cache that is none, or of something else.
    """
    rows = range(batch) if rows is None else rows
    vectors = Vectors.open(config)
    stream = OwnRows(examples(config, seed=seed, tokenizer=tokenizer), batch, [int(row) for row in rows])
    return TrainingIterator(stream, config, vectors, rows=len(rows), arrange=arrange)


class Pairs(grain.MapDataset[Record]):
    """What Grain's own makes of a source, without its counting of bytes and times, which costs as much as
    reading a clip's json does."""

    def __init__(self, source: mixing.Source):
        super().__init__()
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        return self.slice(index) if isinstance(index, slice) else self._source[index % len(self._source)]


class OwnRows(grain.MapDataset[Example]):
    """Of a stream that is cut into batches, the same `rows` of each batch, in order."""

    def __init__(self, parent: mixing.Mixture, batch: int, rows: Sequence[int]):
        super().__init__(parent)
        self._mixture = parent
        self._batch = batch
        self._rows = rows

    def positions(self, batches: int) -> dict[str, Any]:
        """Where each group stands after so many batches; see `Mixture.positions`."""
        return self._mixture.positions(batches * self._batch)

    def __len__(self) -> int:
        return len(self._parent) // self._batch * len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        number, place = divmod(index, len(self._rows))
        return self._parent[number * self._batch + self._rows[place]]


class TrainingIterator(grain.DatasetIterator[dict[str, np.ndarray]]):
    """Batches of `rows` examples in the order of the stream.

    A batch holds `waveform` float32 (B, T), of `crop_seconds` or a bucket, zero where a clip is shorter; or
    packed rows (R, T) with `starts` and `sizes` int32 (R, P) and `place` int32 (B,) of
    `audio.packed.Spans`, and `numbers` int32 (R, P) of their clips in the batch of all processes, whose clips
    are the batch's in another `order` int64 (B,), which fills devices evenly; `lengths` int32 (B,), real
    samples; `ids` int32 (B, N) and `text_mask` bool (B, N), or, with a text cache, `text_pooled` float32
    (B, D), what the text tower makes of these; with an audio cache `audio_pooled` float32 (B, D) in the
    waveform's place, and lengths of 0; `pair_mask` bool (B,), False where the clip was bad and the row is
    void: silence, and a text of one token, or ones; `clip` int64 (B,), equal for equal recordings; `caption`
    int64 (B,), equal for equal captions in the same language; `group` int32 (B,), place in `config.train`.
    Keys of the newest batch are in `keys`, counts in `ledger`. Call `close` in the end.

    The state is saved and restored between batches; it depends on neither `config.workers` nor the rows.
    """

    def __init__(
        self,
        stream: OwnRows,
        config: DataConfig,
        vectors: Vectors,
        *,
        rows: int,
        arrange: packing.Arrange | None = None,
    ):
        super().__init__()
        self._stream = stream
        self._config = config
        self._rows = rows
        self._arrange = packing.arrangement(config) if arrange is None else arrange
        self._vectors = vectors
        self._batches = 0
        # The decoders, none before the first batch. A run that ends with an error does not call `close`, so
        # they also end with the interpreter, before its modules are taken apart.
        self._running: list[handover.Examples] = []
        self._finish = weakref.finalize(self, _stop, self._running)
        self.ledger = Ledger(config.bad_share, "the training data")
        self.keys: list[str] = []

    def __next__(self) -> dict[str, np.ndarray]:
        self._assert_not_closed()
        if not self._running:
            rest = self._stream[self._batches * self._rows :]
            longest = round(self._config.crop_seconds * self._config.sample_rate)
            samples = longest if self._vectors.audio is None else 0
            options = {"ahead": 2 * self._rows, "samples": samples, "finish": self._vectors}
            self._running.append(handover.read(rest, self._config.workers, **options))
        found = [next(self._running[0]) for _ in range(self._rows)]
        good = [is_good(example, self.ledger) for example in found]
        self._refuse_uncached(found)
        self._batches += 1
        self.keys = [example["key"] for example in found]
        return self._batch(found, np.asarray(good))

    def _batch(self, found: list[Example], good: Bool[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        return {
            **self._sounds(found),
            **self._texts(found),
            "pair_mask": good,
            "clip": np.asarray([example["clip"] for example in found], np.int64),
            "caption": np.asarray([example["caption"] for example in found], np.int64),
            "group": np.asarray([example["group"] for example in found], np.int32),
        }

    def _sounds(self, found: list[Example]) -> dict[str, np.ndarray]:
        """Waveforms and their lengths, or what an audio cache has in their place."""
        if self._vectors.audio is None:
            return self._arrange(found)
        pooled = _stacked(found, "heard", self._vectors.audio.stamp["width"])
        return {"audio_pooled": pooled, "lengths": np.zeros(len(found), np.int32)}

    def _texts(self, found: list[Example]) -> dict[str, np.ndarray]:
        """Token rows and their mask, or what a text cache has in their place."""
        if self._vectors.text is not None:
            return {"text_pooled": _stacked(found, "pooled", self._vectors.text.stamp["width"])}
        # A tower needs something to look at, and the batch norms of some a row like any other.
        rows = [example["ids"].tolist() or [tokenizers.PAD] for example in found]
        ids, mask = tokenizers.pad(rows, self._config.max_tokens)
        return {"ids": ids, "text_mask": mask}

    def _refuse_uncached(self, found: list[Example]) -> None:
        for example in found:
            if what := example["uncached"]:
                folder, kind = self._config.text_cache, text_cache.KIND
                if what == "clip":
                    folder, kind = self._config.audio_cache, audio_cache.KIND
                raise GlapError(
                    f"{kind.name}: '{folder}' lacks the {what} of {example['shard']}:{example['key']}; "
                    f"{kind.command} with the options of this run adds it"
                )

    def get_state(self) -> dict[str, Any]:
        """Batches so far, where each group stands in its epochs, and the counts of all processes, which must
        all ask, as JSON values."""
        counts = Ledger.sum(processes.gather(self.ledger.get_state()))
        mixed = self._stream.positions(self._batches)
        return {"batches": self._batches, "mixed": mixed, "ledger": counts}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `get_state` was called; of several processes, the first carries the counts on."""
        _stop(self._running)
        self._batches = state["batches"]
        self.ledger.set_state(state["ledger"] if processes.leads() else Ledger.sum([]))

    def close(self) -> None:
        """Ends the decoding threads or processes."""
        self._finish()
        super().close()


def _stop(running: list[handover.Examples]) -> None:
    """Closes and forgets decoders."""
    while running:
        running.pop().close()


def is_good(example: Example, ledger: Ledger) -> bool:
    """Counts the example, and as bad each recording that was to be mixed into it; False where it is bad."""
    for name, reason, detail in example["refused"]:
        ledger.skip(name, reason, detail)
    if example["reason"]:
        ledger.skip(f"{example['shard']}:{example['key']}", example["reason"], example["detail"])
        return False
    ledger.good(cut=example["cut"])
    return True


def _stacked(found: list[Example], field: str, width: int) -> np.ndarray:
    """Rows (B, D) of a field that a cache filled; ones where the clip was bad."""
    void = np.ones(width, np.float32)
    return np.stack([example[field] if example[field].size else void for example in found])


def _seed(seed: int, *names: str) -> int:
    """A 32-bit seed that differs with every name."""
    text = "\0".join((str(seed), *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
