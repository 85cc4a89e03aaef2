"""Vectors of a frozen tower on disk, found by 128 bits that stand for what the tower was given.

DIR/stamp.json                  what computed them
DIR/parts/PART.{rows,keys}.npy  those of a shard: vectors (n, D), keys (n, 2) uint64
DIR/index.npy                   key, part and row of every vector, in the order of the keys

All arrays are read by memory mapping; those in a store are copied into the cache folder first.
`glap_jax.offline.vectors` writes them.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt64

from glap_jax.errors import GlapError
from glap_jax.pipeline import files, local_copy
from glap_jax.pipeline.config import DataConfig

FORMAT = 1
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("part", "<u8"), ("row", "<u4")])
OPEN_PARTS = 1024

Stamp = dict[str, Any]


Key = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a cache is of, as messages name it.

    Attributes:
        name: of the cache.
        field: of the configuration, which names the folder.
        command: what fills it.
        tower: the tower.
        entries: (entry of the stamp, what it is called) where that is not the run's field of its name.
    """

    name: str
    field: str
    command: str
    tower: str
    entries: tuple[tuple[str, str], ...] = ()

    def entry(self, key: str) -> str:
        """What a message calls an entry of the stamp."""
        return {"tower": self.tower, **_NAMES, **dict(self.entries)}.get(key, f"'data.{key}'")


_NAMES = {"format": "format", "computed": "compute type", "stored": "stored type", "width": "width"}


def key_of(data: bytes) -> Key:
    """128 bits that tell what towers are given apart, as two numbers."""
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


class VectorCache:
    """A folder of vectors, open for reading; it may be pickled into workers.

    Args:
        kind: what it is of.
        folder: path or URL.
        wanted: entries that its stamp must have.

    Raises:
        GlapError: none is there, it is not complete, or it was made with something else than `wanted`.
    """

    def __init__(self, kind: Kind, folder: str | Path, wanted: Mapping[str, Any]):
        self.kind = kind
        self.folder = str(folder) if files.is_url(folder) else os.path.abspath(folder)
        index = os.path.join(self.folder, "index.npy")
        if not files.exists(index):
            raise GlapError(
                f"{kind.name}: '{self.folder}' is none, or not complete; {kind.command} makes it, "
                "and goes on where it was stopped"
            )
        self._written = files.stamp(index).modified
        self.stamp = read_stamp(kind, self.folder)
        self.require(wanted)

    def require(self, wanted: Mapping[str, Any]) -> None:
        """Raises GlapError unless the stamp has the entries `wanted`."""
        refuse_another(self.kind, self.folder, self.stamp, wanted)

    def has(self, part: int) -> bool:
        """Whether a part is there."""
        return files.exists(part_path(self.folder, part, "keys"))

    def find(self, keys: Sequence[Key]) -> tuple[Float32[np.ndarray, "B D"], Bool[np.ndarray, " B"]]:
        """The vectors of keys, read at once, and which are there; other rows say nothing."""
        vectors = np.empty((len(keys), self.stamp["width"]), np.float32)
        entries, there = self._entries(np.asarray(keys, np.uint64).reshape(-1, 2))
        parts, rows = entries["part"].tolist(), entries["row"].tolist()
        for number in np.flatnonzero(there).tolist():
            part = self._mapped(part_path(self.folder, parts[number], "rows"))
            vectors[number] = part[rows[number]]
        return vectors, there

    def _entries(self, keys: UInt64[np.ndarray, "B 2"]) -> tuple[np.ndarray, Bool[np.ndarray, " B"]]:
        """Entries of the index, and whether they are those of the keys: a search by halves for all at once,
        which reads little of an index that may be larger than memory."""
        index = self._mapped(os.path.join(self.folder, "index.npy"))
        if not len(index):
            return np.zeros(len(keys), ENTRY), np.zeros(len(keys), bool)
        high, low = keys.T
        first, behind = np.zeros(len(keys), np.int64), np.full(len(keys), len(index) - 1)
        while (searched := first < behind).any():
            middle = (first + behind) // 2
            entry = index[middle]
            before = (entry["high"] < high) | ((entry["high"] == high) & (entry["low"] < low))
            before &= searched
            first, behind = np.where(before, middle + 1, first), np.where(before, behind, middle)
        entry = index[first]
        return entry, (entry["high"] == high) & (entry["low"] == low)

    def _mapped(self, path: str) -> np.ndarray:
        return _mapped(path, self._written, self.kind)


def part_path(folder: str, number: int, kind: str) -> str:
    """Where the `rows` or `keys` of a part are."""
    return os.path.join(folder, "parts", f"{number:016x}.{kind}.npy")


def read_stamp(kind: Kind, folder: str) -> Stamp:
    """What computed the vectors of a folder.

    Raises:
        GlapError: it does not say.
    """
    try:
        return dict(json.loads(files.read_all(os.path.join(folder, "stamp.json"))))
    except (OSError, ValueError, TypeError):
        raise GlapError(
            f"{kind.name}: '{folder}' has no readable stamp.json; remove it, {kind.command} makes it anew"
        ) from None


def refuse_another(kind: Kind, folder: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises GlapError unless a folder's stamp has the entries `wanted`."""
    for key, value in wanted.items():
        if (its := found.get(key)) != value:
            raise GlapError(
                f"{kind.name}: '{folder}' was made with another {kind.entry(key)} ({its}, here {value}); "
                f"name another folder by '{kind.field}', which {kind.command} fills"
            )


@functools.lru_cache(OPEN_PARTS)
def _mapped(path: str, written: int, kind: Kind) -> np.ndarray:
    """The array in a file; `written` is part of the key so that a cache that grew is opened anew."""
    del written
    try:
        local = local_copy.of(files.stamp(path)).path if files.is_url(path) else path
        # A plain view: slices of NumPy's own class for such files cost more than what they hold.
        return np.load(local, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise GlapError(
            f"{kind.name}: '{path}' cannot be read ({error}); remove it, {kind.command} makes it anew"
        ) from None


def folder_of(config: DataConfig, name: str) -> str:
    """A folder of vectors by its name, relative to the configuration's root; or a URL."""
    return name if files.is_url(name) else os.path.join(config.root, name)
