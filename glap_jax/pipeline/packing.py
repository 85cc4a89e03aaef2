"""How the clips of a training batch lie in rows: padded, in buckets, or packed one behind the other.

Which pairs a batch holds, and in which order, is the same for each; only shapes differ. All processes take
the same shape at a step: the largest that one of them needs.
"""

import dataclasses
import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from glap_jax.errors import GlapError
from glap_jax.pipeline.config import DataConfig
from glap_jax.pipeline.examples import Example

Arrange = Callable[[list[Example]], dict[str, np.ndarray]]
Agree = Callable[[int], int]

# Lengths of bucketed rows as shares of the longest.
BUCKETS = tuple(number / 8 for number in range(1, 9))
# From one number of packed rows to the next, so that few shapes are compiled.
GROWTH = 1.03
# Clips of a row, at most.
MOST_CLIPS = 32


def arrangement(
    config: DataConfig,
    *,
    slot: int | None = None,
    shares: int = 1,
    parts: int = 1,
    rows: Sequence[int] | np.ndarray | None = None,
    agree: Agree = lambda n: n,
) -> Arrange:
    """What makes the arrays of sound of a batch from this process's examples, as `config.layout` says.

    Args:
        config: length and rate of clips, and their layout.
        slot: samples that the audio tower makes a token of, for packed rows.
        shares: devices of this process; each holds as many of the examples.
        parts: that a step encodes one after the other: clip i of a device is in part i mod `parts`.
        rows: numbers of this process's examples within a batch; by default all.
        agree: gives all processes the largest of the numbers that they call it with.

    Raises:
        GlapError: packed rows that no longest clip fits into.
    """
    longest = round(config.crop_seconds * config.sample_rate)
    if config.layout.kind == "padded":
        return lambda found: waveforms(found, rows=len(found), samples=longest)
    if config.layout.kind == "bucketed":
        return lambda found: _bucketed(found, longest, agree)
    if slot is None:
        raise GlapError(
            "config: 'data.layout.kind' is packed, and no audio tower says how; set it to bucketed"
        )
    size = _slots(round(config.layout.row_seconds * config.sample_rate), slot)
    if _slots(longest, slot) > size:
        raise GlapError(
            f"config: 'data.crop_seconds' is {config.crop_seconds:g} and 'data.layout.row_seconds' "
            f"{config.layout.row_seconds:g}; no row is to be shorter than a clip"
        )
    return _Packed(slot, size, shares, parts, None if rows is None else np.asarray(rows), agree)


def bucket(need: int, longest: int, shares: Sequence[float] = BUCKETS) -> int:
    """The least of a few fixed lengths, up to `longest`, that is not below `need`."""
    return next(size for share in shares if (size := round(share * longest)) >= need)


def waveforms(found: list[Example], *, rows: int, samples: int) -> dict[str, np.ndarray]:
    """`waveform` (rows, samples) and `lengths`. Rows beyond the examples and those of bad ones are silence of
    full length, because an encoder needs some samples to look at."""
    waveform = np.zeros((rows, samples), np.float32)
    lengths = np.full(rows, samples, np.int32)
    for row, example in enumerate(found):
        length = len(example["waveform"])
        waveform[row, :length] = example["waveform"]
        lengths[row] = length or samples
    return {"waveform": waveform, "lengths": lengths}


def _bucketed(found: list[Example], longest: int, agree: Agree) -> dict[str, np.ndarray]:
    need = max(len(example["waveform"]) for example in found)
    return waveforms(found, rows=len(found), samples=agree(bucket(need, longest)))


@dataclasses.dataclass(frozen=True)
class _Packed:
    """Rows of `size` slots for each device and part; see `arrangement`."""

    slot: int
    size: int
    shares: int
    parts: int
    rows: Int[np.ndarray, " B"] | None
    agree: Agree

    def __call__(self, found: list[Example]) -> dict[str, np.ndarray]:
        lengths = np.asarray([len(example["waveform"]) or self.slot for example in found], np.int32)
        within = np.arange(len(found)) if self.rows is None else self.rows
        # Devices, clips of a part, parts: as a step cuts a batch.
        numbers = balanced(lengths, self.shares * self.parts).reshape(self.shares, self.parts, -1)
        numbers = numbers.swapaxes(1, 2)
        laid = {
            (share, part): first_fit(_slots(lengths[numbers[share, :, part]], self.slot), self.size)
            for share in range(self.shares)
            for part in range(self.parts)
        }
        rows = self.agree(ladder(max(int(row.max()) + 1 for row, _, _ in laid.values())))
        shape = (self.shares, rows, self.parts)
        waveform = np.zeros((*shape, self.size * self.slot), np.float32)
        starts, sizes, of_batch = np.zeros((3, *shape, MOST_CLIPS), np.int32)
        place = np.zeros(numbers.shape, np.int32)
        for (share, part), (row, which, start) in laid.items():
            own = numbers[share, :, part]
            starts[share, row, part, which], sizes[share, row, part, which] = start, lengths[own]
            of_batch[share, row, part, which] = within[own]
            place[share, :, part] = (share * rows + row) * MOST_CLIPS + which
            for number, at, first in zip(own, row, start * self.slot, strict=True):
                sound = found[number]["waveform"]
                waveform[share, at, part, first : first + len(sound)] = sound
        flat: Callable[[np.ndarray], np.ndarray] = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
        return {
            "waveform": flat(waveform),
            "lengths": lengths,
            "starts": flat(starts),
            "sizes": flat(sizes),
            "numbers": flat(of_batch),
            "place": place.reshape(-1),
            "order": numbers.reshape(-1),
        }


def balanced(lengths: Int[np.ndarray, " B"], cells: int) -> Int[np.ndarray, "cells rest"]:
    """Numbers of as many clips for each cell, as long together: each, longest first, goes where least is."""
    if cells == 1:
        return np.arange(len(lengths))[None]
    held: list[list[int]] = [[] for _ in range(cells)]
    least = [(0, cell) for cell in range(cells)]
    for number in np.argsort(-lengths, kind="stable"):
        total, cell = heapq.heappop(least)
        held[cell].append(int(number))
        if len(held[cell]) * cells < len(lengths):
            heapq.heappush(least, (total + int(lengths[number]), cell))
    return np.sort(np.asarray(held), axis=1)


def first_fit(
    needs: Int[np.ndarray, " B"], size: int
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """Row, place among the clips of that row, and first slot of each clip: first fit, longest first.

    Args:
        needs: slots of each clip, at most `size`.
        size: slots of a row, which holds `MOST_CLIPS` at most.
    """
    row, which, start = np.zeros((3, len(needs)), np.int64)
    used, clips = np.zeros((2, len(needs)), np.int64)
    for number in np.argsort(-needs, kind="stable"):
        at = int(np.argmax((used + needs[number] <= size) & (clips < MOST_CLIPS)))
        row[number], which[number], start[number] = at, clips[at], used[at]
        used[at] += needs[number]
        clips[at] += 1
    return row, which, start


def ladder(need: int) -> int:
    """The least number of rows from a few, each 3 % more than the one before, that is not below `need`."""
    rows = 1
    while rows < need:
        rows = max(rows + 1, int(rows * GROWTH))
    return rows


def _slots(samples: Any, slot: int) -> Any:
    """Slots that so many samples (an int or an array) take."""
    return -(-samples // slot)
