"""Streams interleaved in exact shares, and groups cut into such streams: by corpus, by language."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import grain
import numpy as np
from jaxtyping import Int

from glap_jax.pipeline import files, index_cache
from glap_jax.pipeline.bad import BadClip
from glap_jax.pipeline.captions import DEFAULT_LANGUAGE, LANGUAGE_FIELD, TRUE_LANGUAGE, own_count
from glap_jax.pipeline.config import DataConfig, GroupConfig
from glap_jax.pipeline.record import Record
from glap_jax.pipeline.shards import find_shards, open_shard
from glap_jax.pipeline.sources import ShardSource

# Shares of languages are rounded to so many digits, so that no computer finds others.
DIGITS = 6

T = TypeVar("T", str, int)


@dataclasses.dataclass(frozen=True)
class Part:
    """A stream of a mixture.

    Attributes:
        name: what the mixture calls it.
        weight: its share of the examples, relative to the others'.
        stream: its examples; endless.
        size: clips of an epoch.
    """

    name: str
    weight: float
    stream: grain.MapDataset
    size: int


class Mixture(grain.MapDataset):
    """Parts interleaved evenly, in exact shares: of as many examples as the weights sum to, written as whole
    numbers, each gives its weight. What a part yields, and in which order, does not depend on the others."""

    def __init__(self, parts: Sequence[Part]):
        super().__init__([part.stream for part in parts])
        self._parts = tuple(parts)
        self._streams = [part.stream for part in parts]
        # Weights as they are written: 0.7 and 0.3 are 7 to 3.
        shares = [Fraction(repr(float(part.weight))) for part in parts]
        scale = math.lcm(*(share.denominator for share in shares))
        self._shares = [int(share * scale) for share in shares]

    def __len__(self) -> int:
        return min(map(len, self._streams))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        number, place = self.place(index)
        return self._streams[number][place]

    def counts(self, total: int) -> list[int]:
        """How many of the first `total` examples each part gives."""
        left, weight, found = total, sum(self._shares), []
        for share in self._shares:
            others = left * (weight - share) // weight
            found.append(left - others)
            left, weight = others, weight - share
        return found

    def place(self, index: int) -> tuple[int, int]:
        """Which part gives example `index`, and the how-manieth of that part it is, from 0."""
        before, after = self.counts(index), self.counts(index + 1)
        number = next(place for place, count in enumerate(before) if after[place] > count)
        return number, before[number]

    def positions(self, total: int) -> dict[str, Any]:
        """Where each part stands after `total` examples, as JSON values: examples, whole epochs, clips of the
        next; or its own parts."""
        found = {}
        for part, count in zip(self._parts, self.counts(total), strict=True):
            inner = part.stream
            if isinstance(inner, Mixture):
                found[part.name] = {"examples": count, "parts": inner.positions(count)}
            else:
                epoch, clip = divmod(count, part.size)
                found[part.name] = {"examples": count, "epoch": epoch, "clip": clip}
        return found


class Subset(grain.sources.RandomAccessDataSource[Record]):
    """Some pairs of a source, or a pair several times, each time with another of its captions.

    Args:
        source: of the pairs.
        rows: their numbers.
        captions: place of the caption of each; by default it is left to be drawn.
    """

    def __init__(
        self, source: ShardSource, rows: Int[np.ndarray, " n"], captions: Int[np.ndarray, " n"] | None = None
    ):
        self._source = source
        self._rows = rows
        self._captions = captions

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Subset({len(self._rows)} pairs of {self._source!r})"

    def __getitem__(self, index: int) -> Record:
        record = self._source[int(self._rows[index])]
        if self._captions is None:
            return record
        return dataclasses.replace(record, caption=int(self._captions[index]))


Source = ShardSource | Subset


@dataclasses.dataclass(frozen=True)
class Slice:
    """What of a group is shuffled together: `names` are its corpus and language, if the group is cut so."""

    names: tuple[str, ...]
    weight: float
    source: Source


def corpora(group: GroupConfig, config: DataConfig) -> list[tuple[str, float, list[Slice]]]:
    """Name, weight and slices of each corpus of a group; a slice is a language, or all of the corpus.

    With an audio cache their records have no recordings.

    Raises:
        GlapError: shards that cannot be found or read.
    """
    if not group.weights:
        return [(group.name, 1.0, _slices((), group, group.shards, config))]
    return [
        (shards, weight, _slices((shards,), group, (shards,), config))
        for shards, weight in zip(group.shards, group.weights, strict=True)
    ]


def _slices(
    names: tuple[str, ...], group: GroupConfig, patterns: Sequence[str], config: DataConfig
) -> list[Slice]:
    paths = find_shards(patterns, config.root)
    source = ShardSource(paths, audio=config.audio_cache is None)
    rows, captions = np.arange(len(source)), None
    if config.captions == "each":
        counts = np.concatenate([captions_of(path, config) for path in paths])
        rows = np.repeat(rows, counts)
        captions = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    if group.language_temperature == 1:
        return [Slice(names, 1.0, source if captions is None else Subset(source, rows, captions))]
    codes = np.concatenate([languages_of(path) for path in paths])[rows]
    known, sizes = np.unique(codes[codes != ""], return_counts=True)
    # Clips that do not tell are bad: among the most they weigh least.
    codes[codes == ""] = known[sizes.argmax()] if len(known) else DEFAULT_LANGUAGE
    found = []
    for code, size in zip(*np.unique(codes, return_counts=True), strict=True):
        weight = float(f"{float(size) ** (1 / group.language_temperature):.{DIGITS}g}")
        mine = codes == code
        part = Subset(source, rows[mine], None if captions is None else captions[mine])
        found.append(Slice((*names, str(code)), weight, part))
    return found


def languages_of(path: Path | str) -> np.ndarray:
    """NLLB code of every pair's own captions, "" where it is not told readably; read once, then kept."""
    return _of_each(
        path, "languages", lambda metadata: str(metadata.get(LANGUAGE_FIELD, DEFAULT_LANGUAGE)), ""
    )


def captions_of(path: Path | str, config: DataConfig) -> np.ndarray:
    """How many captions of every pair training chooses among, 1 where it is bad; read once, then kept."""
    what = (
        config.language == TRUE_LANGUAGE,
        config.caption_language,
        config.max_characters,
        config.templates,
    )
    name = f"captions-{hashlib.blake2b(repr(what).encode(), digest_size=8).hexdigest()}"
    return _of_each(path, name, lambda metadata: own_count(metadata, config=config), 1)


def _of_each(path: Path | str, name: str, read: Callable[[dict[str, Any]], T], bad: T) -> np.ndarray:
    """What `read` makes of the json of every pair, or `bad`; kept in the cache under a name."""
    stamp = files.stamp(path)
    kept = dataclasses.replace(stamp, path=f"{stamp.path}#{name}")
    if (found := index_cache.load(kept)) is not None:
        return found["codes"][found["places"]]
    shard, values = open_shard(stamp), []
    for row in range(len(shard)):
        try:
            values.append(read(shard.metadata(row)))
        except BadClip:
            values.append(bad)
    known, places = np.unique(np.asarray(values, type(bad)), return_inverse=True)
    index_cache.store(kept, {"codes": known, "places": places})
    return known[places]
