"""Clips that share rows: which slot of a row is whose, and each clip's own frames, maximum and mean.

A row is cut into slots, as many samples as make a token. A clip begins at a slot, takes whole ones, and is
heard as if it were alone. All but the last step, `pooled`, stays within a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from glap_jax.drawing import Masking


class Spans(NamedTuple):
    """Where B clips lie in R rows, each of which holds P at most.

    Attributes:
        starts: first slot of each clip of a row.
        lengths: its real samples; 0 where the row holds no more clips.
        place: of each clip in the order of the batch, P times its row and which one of that row it is.
    """

    starts: Int[Array, "R P"]
    lengths: Int[Array, "R P"]
    place: Int[Array, " B"]


class Slots(NamedTuple):
    """What is in each of N places of the rows.

    Attributes:
        inside: whether it belongs to each of the row's clips.
        number: which clip it belongs to, from 1 on; 0 is none.
        offset: how far in that clip it is; 0 for none.
    """

    inside: Bool[Array, "R P N"]
    number: Int[Array, "R N"]
    offset: Int[Array, "R N"]

    def of_clip(self, values: Float[Array, "R P"] | Int[Array, "R P"]) -> Array:
        """The value of the clip that each place belongs to; zero for none."""
        zero = jnp.zeros((), values.dtype)
        return jnp.sum(jnp.where(self.inside, values[..., None], zero), axis=1)

    def only(self, stay: Bool[Array, "R N"]) -> "Slots":
        """The same without places that do not stay, which belong to none."""
        return Slots(self.inside & stay[:, None], self.number * stay.astype(jnp.int32), self.offset)

    def most(self, values: Float[Array, "R N"]) -> Float[Array, "R P"]:
        """The largest value of each clip's places; minus infinity where there are none."""
        return jnp.max(jnp.where(self.inside, values[:, None], -jnp.inf), axis=2)


def slots(starts: Int[Array, "R P"], counts: Int[Array, "R P"], size: int) -> Slots:
    """What is in the `size` places of each row where clips take `counts` from `starts` on."""
    at = jnp.arange(size, dtype=jnp.int32)
    inside = (at >= starts[..., None]) & (at < (starts + counts)[..., None])
    numbers = jnp.arange(1, starts.shape[1] + 1, dtype=jnp.int32)[:, None]
    number = jnp.sum(jnp.where(inside, numbers, 0), axis=1)
    offset = jnp.where(number > 0, at - jnp.sum(jnp.where(inside, starts[..., None], 0), axis=1), 0)
    return Slots(inside, number, offset)


def silenced(waveform: Float[Array, "R T"], spans: Spans, slot: int) -> Float[Array, "R T"]:
    """Float32 rows that are zero wherever there is no clip; `slot` is samples a slot."""
    rows, samples = waveform.shape
    where = slots(spans.starts, (spans.lengths + slot - 1) // slot, samples // slot)
    left = where.of_clip(spans.lengths) - where.offset * slot
    real = jnp.arange(slot) < left[..., None]
    parted = waveform.astype(jnp.float32).reshape(rows, -1, slot)
    return jnp.where(real, parted, 0.0).reshape(rows, samples)


def centred(
    waveform: Float[Array, "R T"],
    begins: Int[Array, "R P"],
    lengths: Int[Array, "R P"],
    counts: Int[Array, "R P"],
    where: Slots,
    spectrum: Callable[[Float[Array, "B T"]], Float[Array, "B S F"]],
    *,
    window: int,
    hop: int,
) -> tuple[Float[Array, "R S F"], Float[Array, "R P F"]]:
    """What `spectrum` makes of each clip's centred frames; and of its last one, which may have no place.

    Args:
        waveform: rows of samples, zero wherever there is no clip.
        begins: first sample of each clip.
        lengths: samples of each clip, padding that counts included; as `edges` takes them.
        counts: 1 + `lengths` // `hop`, all of the clip's frames; any number where there is no clip.
        where: of the T / `hop` places for frames in a row.
        spectrum: of frames that lie wholly inside its rows.
        window: samples of a frame, even.
        hop: samples from one to the next.
    """
    inner = spectrum(jnp.pad(waveform, ((0, 0), (window // 2,) * 2)))[:, :-1]
    outer = spectrum(edges(waveform, begins, lengths, window=window, hop=hop))
    rows, frames, mels = inner.shape
    # Of each clip the first and the last two frames, which reach over its ends, stand behind all others.
    found = jnp.concatenate([inner, outer.reshape(rows, -1, mels)], axis=1)
    from_end = where.offset - where.of_clip(counts) + 4
    edge = jnp.where(where.offset < 2, where.offset, jnp.where(from_end >= 2, from_end, -1))
    at_edge = frames + 4 * (where.number - 1) + edge
    index = jnp.where((where.number > 0) & (edge >= 0), at_edge, jnp.arange(frames))
    return jnp.take_along_axis(found, index[..., None], axis=1), found[:, frames + 3 :: 4]


def edges(
    waveform: Float[Array, "R T"],
    begins: Int[Array, "R P"],
    lengths: Int[Array, "R P"],
    *,
    window: int,
    hop: int,
) -> Float[Array, "RP2 W"]:
    """The samples of each clip's two first and two last centred frames, the clip reflected at its own ends.

    Two rows a clip, of `window` + `hop` samples, which hold two frames each. Clips have at least three times
    `hop` samples; or twice, and then the last frame but one, which is the second, is right there alone.
    `window` is under four times `hop`.

    Args:
        waveform: rows of samples.
        begins: first sample of each clip.
        lengths: samples of each clip, padding that counts included.
        window: samples of a frame, even.
        hop: samples from one to the next.
    """
    half, size = window // 2, window + hop

    def pieces(rows: Array, starts: Array, length: int) -> Array:
        cut = jax.vmap(lambda row, start: jax.lax.dynamic_slice(row, (start,), (length,)), (None, 0))
        return jax.vmap(cut)(rows, starts)

    longest = half + 2 * hop
    room = jnp.pad(waveform, ((0, 0), (longest, half)))
    head = pieces(room, begins + longest, half + hop)
    shortest = jnp.pad(head[..., : 2 * hop], ((0, 0), (0, 0), (0, half - hop)), mode="reflect")
    head = jnp.where((lengths > 2 * hop)[..., None], head, shortest)
    head = jnp.pad(head, ((0, 0), (0, 0), (half, 0)), mode="reflect")
    # The last frame but one begins `half` before its centre, at most 2 * hop - 1 before the end.
    tail = pieces(room, begins + lengths, longest)
    tail = jnp.pad(tail, ((0, 0), (0, 0), (0, half)), mode="reflect")
    starts = (hop - lengths % hop)[..., None]
    tail = jax.vmap(lambda rows, starts: pieces(rows, starts, size))(tail, starts)[:, :, 0]
    return jnp.stack([head, tail], axis=2).reshape(-1, size)


def with_neighbours(x: Float[Array, "R N D"], number: Int[Array, "R N"]) -> Float[Array, "R N D3"]:
    """What stands before each place, the place itself, and what stands after it, side by side.

    There are zeros where that is not of the same clip, as `number` says. A convolution of three taps is a
    product of this with its kernel.
    """
    zero = jnp.zeros((), x.dtype)
    follows = jnp.pad(number[:, 1:] == number[:, :-1], ((0, 0), (1, 0)))[..., None]
    before = jnp.where(follows, jnp.roll(x, 1, axis=1), zero)
    after = jnp.roll(jnp.where(follows, x, zero), -1, axis=1)
    return jnp.concatenate([before, x, after], axis=-1)


def blanked(
    masking: Masking,
    mel: Float[Array, "R S F"],
    where: Slots,
    counts: Int[Array, "R P"],
    key: Key[Array, "R P"],
) -> Float[Array, "R S F"]:
    """As `masking` blanks clips in rows of their own: those of `counts` frames, each from its own key."""
    times, bands = masking.stretches(counts, mel.shape[2], key)
    at, in_time = where.offset.astype(jnp.float32), jnp.zeros(where.offset.shape, bool)
    for start, end in zip(*(jnp.unstack(x, axis=-1) for x in times), strict=True):
        in_time |= (at >= where.of_clip(start)) & (at < where.of_clip(end))
    of_clip = bands.hold(jnp.arange(mel.shape[2])).astype(jnp.float32)
    in_band = jnp.einsum("rps,rpf->rsf", where.inside.astype(jnp.float32), of_clip) > 0.0
    return jnp.where(in_time[..., None] | in_band, jnp.zeros((), mel.dtype), mel)


def pooled(x: Float[Array, "R N D"], where: Slots, place: Int[Array, " B"]) -> Float[Array, "B D"]:
    """Each clip's mean over its own tokens, in float32, in the order of the batch.

    On a mesh that is set, rows and the clips that lie in them are on the same device.
    """
    weight = where.inside.astype(jnp.float32)
    total = jnp.einsum("rpn,rnd->rpd", weight, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    means = total / jnp.maximum(jnp.sum(weight, axis=2), 1.0)[..., None]

    def pick(means: Array, place: Array) -> Array:
        found = means.reshape(-1, means.shape[-1])
        # Places count from the first row of all devices; these here are equally many on each.
        return found[place % found.shape[0]]

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return pick(means, place)
    rows = PartitionSpec(mesh.axis_names)
    return jax.shard_map(pick, in_specs=rows, out_specs=rows)(means, place)
