"""Evaluation batches: every good clip of a test group once, in order, unchanged."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Float, Int

from glap_jax.pipeline import handover, loader, packing
from glap_jax.pipeline.bad import Ledger
from glap_jax.pipeline.captions import Caption, check_language
from glap_jax.pipeline.config import DataConfig, GroupConfig
from glap_jax.pipeline.examples import EvaluationExample, Example, Tokenizer
from glap_jax.pipeline.shards import find_shards
from glap_jax.pipeline.sources import ShardSource

# Smaller test groups are decoded before a process has started.
WORTH_PROCESSES = 2000
# Evaluation lengths as shares of the longest, so that a model compiles this many shapes at most.
BUCKETS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclasses.dataclass(frozen=True)
class Clip:
    """What an evaluation knows of a clip besides its samples.

    Attributes:
        key: its key in `shard`.
        shard: path of the shard.
        group: name of the test group.
        language: NLLB code of its own captions.
        captions: all captions of the clip, each with the NLLB code that the text tower is told.
        translations: its captions in other languages.
        ids: token row of each caption, at most `max_tokens` long.
        fields: its json.
    """

    key: str
    shard: str
    group: str
    language: str
    captions: tuple[Caption, ...]
    translations: tuple[Caption, ...]
    ids: tuple[list[int], ...]
    fields: dict[str, Any]


class EvaluationBatch(NamedTuple):
    """Clips of a test group in order; rows of silence that are not `valid` fill up the last batch."""

    waveform: Float[np.ndarray, "B T"]
    lengths: Int[np.ndarray, " B"]
    valid: Bool[np.ndarray, " B"]
    clips: tuple[Clip, ...]


def evaluation(
    config: DataConfig,
    group: GroupConfig,
    *,
    batch: int,
    tokenizer: Tokenizer,
    rows: Sequence[int] | None = None,
    window: int = 1,
) -> Iterator[EvaluationBatch]:
    """All good clips of a test group, once and in order, from their start and up to `eval_seconds`.

    T is the shortest of five fixed lengths that a batch fits into; `clips` has one entry a valid row. With
    `rows`, only the pairs of these numbers in the group's shards are read. With a `window` of several
    batches, the clips of so many are read and sorted by length, so that less of a batch is padding.

    Raises:
        GlapError: shards that cannot be read, too many bad clips, or no good one.
    """
    check_language(config)
    source = ShardSource(find_shards(group.shards, config.root))
    records = grain.MapDataset.source(source)
    if rows is not None:
        records = grain.MapDataset.source(rows).map(source.__getitem__)
    stream = records.map(EvaluationExample(config, 0))
    ledger = Ledger(config.bad_share, f"test group '{group.name}'")
    longest = round(config.eval_seconds * config.sample_rate)
    workers = config.workers if len(stream) >= WORTH_PROCESSES else 0
    elements = handover.read(stream, workers, ahead=2 * batch, samples=longest)
    waiting: list[Example] = []
    try:
        for example in elements:
            if loader.is_good(example, ledger):
                waiting.append(example)
            if len(waiting) == batch * window:
                for found in _parts(waiting, batch):
                    yield _evaluation_batch(found, batch, longest, config, group.name, tokenizer)
                waiting = []
        for found in _parts(waiting, batch):
            yield _evaluation_batch(found, batch, longest, config, group.name, tokenizer)
    finally:
        elements.close()
    if ledger.read == ledger.bad:
        raise ledger.too_many()


def _parts(window: list[Example], batch: int) -> Iterator[list[Example]]:
    """The examples in batches, clips of like length together where there are several batches."""
    ordered = window if len(window) <= batch else sorted(window, key=lambda each: len(each["waveform"]))
    for start in range(0, len(ordered), batch):
        yield ordered[start : start + batch]


def _evaluation_batch(
    found: list[Example], rows: int, longest: int, config: DataConfig, group: str, tokenizer: Tokenizer
) -> EvaluationBatch:
    need = max(len(example["waveform"]) for example in found)
    samples = packing.bucket(need, longest, BUCKETS)
    arrays = packing.waveforms(found, rows=rows, samples=samples)
    clips = []
    for example in found:
        captions = example["captions"]
        encoded = [tokenizer.encode(caption.text, language=caption.language) for caption in captions.own]
        ids = tuple(tokenizer.cut(row, config.max_tokens) for row in encoded)
        place = (example["key"], example["shard"], group, example["language"])
        translations = tuple(itertools.chain(*captions.translations))
        clips.append(Clip(*place, captions.own, translations, ids, example["fields"]))
    return EvaluationBatch(arrays["waveform"], arrays["lengths"], np.arange(rows) < len(found), tuple(clips))
