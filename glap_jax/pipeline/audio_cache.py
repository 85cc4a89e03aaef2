"""Vectors of a frozen audio tower on disk: one for each clip; see `vector_cache`."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from glap_jax.pipeline import files
from glap_jax.pipeline.config import DataConfig
from glap_jax.pipeline.vector_cache import FORMAT, Key, Kind, Stamp, VectorCache, key_of

COMMAND = "`glap-jax data embed-audio CONFIG`"
KIND = Kind("audio cache", "data.audio_cache", COMMAND, "audio tower")
# What decides which part of a clip the tower hears, and which clips are bad.
_FIELDS = (
    *("sample_rate", "eval_seconds", "min_seconds", "drop_clipped", "silent_peak", "drop_mislabelled"),
    "rates",
)


def settings(config: DataConfig) -> Stamp:
    """The part of a stamp that the data decides."""
    told = {name: getattr(config, name) for name in _FIELDS}
    return {"format": FORMAT, **told, "rates": list(config.rates)}


def part_number(shard: Path | str) -> int:
    """64 bits that name the part of a shard as it is now, in whichever folder."""
    stamp = files.stamp(shard)
    name = repr((stamp.path.rpartition("/")[2], stamp.size, stamp.modified))
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def clip_key(part: int, key: str) -> Key:
    """What tells a clip from others: its shard's part, and its key there."""
    return key_of(part.to_bytes(8) + key.encode("utf-8", "surrogateescape"))


class AudioCache(VectorCache):
    """A folder of the vectors of clips, open for reading; arguments and errors as of `VectorCache`."""

    def __init__(self, folder: str | Path, wanted: Mapping[str, Any]):
        super().__init__(KIND, folder, wanted)
        self._parts: dict[str, int] = {}

    def take(
        self, clips: Sequence[tuple[str, str]]
    ) -> tuple[Float32[np.ndarray, "B D"], Bool[np.ndarray, " B"]]:
        """The vectors of clips, named by shard and key, and which are there; other rows say nothing."""
        return self.find([clip_key(self._part(shard), key) for shard, key in clips])

    def embedded(self, shard: str) -> bool:
        """Whether a shard, as it is now, was embedded: then clips of it that are not there were bad."""
        return self.has(self._part(shard))

    def _part(self, shard: str) -> int:
        if shard not in self._parts:
            self._parts[shard] = part_number(shard)
        return self._parts[shard]
