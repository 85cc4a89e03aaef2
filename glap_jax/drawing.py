"""What encoders draw in training, on the device: tokens to leave out, stretches of a spectrogram to blank."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from glap_jax.errors import GlapError


class Stretches(NamedTuple):
    """M stretches of places, from `start` on and before `end`; whole numbers."""

    start: Float[Array, "*B M"]
    end: Float[Array, "*B M"]

    @classmethod
    def drawn(cls, key: Key[Array, "*B"], real: Int[Array, "*B"], count: int, share: float) -> "Stretches":
        """`count` stretches of 0 to `share * real` places, among the first `real` ones."""
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (2, count)))(key.reshape(-1))
        drawn = drawn.reshape(*key.shape, 2, count)
        size = real[..., None].astype(jnp.float32)
        length = jnp.floor(drawn[..., 0, :] * (jnp.floor(share * size) + 1.0))
        start = jnp.floor(drawn[..., 1, :] * (size - length + 1.0))
        return cls(start, start + length)

    def hold(self, place: Int[Array, "... N"]) -> Bool[Array, "... N"]:
        """Whether each place is in any of them."""
        place = place[..., None].astype(jnp.float32)
        return ((place >= self.start[..., None, :]) & (place < self.end[..., None, :])).any(axis=-1)


@dataclasses.dataclass(frozen=True)
class Masking:
    """Blank stretches of a spectrogram (SpecAugment, arXiv:1904.08779), by default none.

    Attributes:
        times: stretches of time in each clip.
        time_share: length of the longest over the clip's frames.
        bands: stretches of mel bins in each clip.
        band_share: width of the widest over all bins.
    """

    times: int = 0
    time_share: float = 0.1
    bands: int = 0
    band_share: float = 0.2

    def __post_init__(self) -> None:
        for count, share in (("times", "time_share"), ("bands", "band_share")):
            total = getattr(self, count) * getattr(self, share)
            if not (getattr(self, count) >= 0 and getattr(self, share) >= 0 and total < 1):
                raise GlapError(
                    f"config: '{count}' is {getattr(self, count)} and '{share}' {getattr(self, share)} in a "
                    "'masking'; neither may be negative, and their product must be under 1, so that "
                    "something remains"
                )

    @property
    def acts(self) -> bool:
        """Whether it blanks anything."""
        return self.times + self.bands > 0

    def __call__(
        self, mel: Float[Array, "B S F"], frames: Bool[Array, "B S"], key: Key[Array, " B"]
    ) -> Float[Array, "B S F"]:
        """`mel` with zeros in the stretches drawn for each clip from its `key`.

        In a normalised spectrogram zero is the middle. `frames` is True where a frame is real: stretches lie
        among these, and at least one frame and one bin of them stay.
        """
        times, bands = self.stretches(jnp.sum(frames, axis=1), mel.shape[2], key)
        in_time, in_band = times.hold(jnp.arange(mel.shape[1])), bands.hold(jnp.arange(mel.shape[2]))
        return jnp.where(in_time[:, :, None] | in_band[:, None], jnp.zeros((), mel.dtype), mel)

    def stretches(
        self, real: Int[Array, "*B"], mels: int, key: Key[Array, "*B"]
    ) -> tuple[Stretches, Stretches]:
        """Those of time and of mel bins for clips of `real` frames."""
        time, band = split(key)
        bins = jnp.full(real.shape, mels, real.dtype)
        return (
            Stretches.drawn(time, real, self.times, self.time_share),
            Stretches.drawn(band, bins, self.bands, self.band_share),
        )


def fold(key: Key[Array, "..."], number: Int[Array, "..."]) -> Key[Array, "..."]:
    """`jax.random.fold_in`, each key with its number."""
    shape = jnp.broadcast_shapes(key.shape, number.shape)
    key, number = (jnp.broadcast_to(x, shape).reshape(-1) for x in (key, number))
    return jax.vmap(jax.random.fold_in)(key, number).reshape(shape)


def split(key: Key[Array, "*B"]) -> tuple[Key[Array, "*B"], Key[Array, "*B"]]:
    """Two keys of each."""
    return fold(key, jnp.zeros((), jnp.int32)), fold(key, jnp.ones((), jnp.int32))


def chances(key: Key[Array, "..."], place: Int[Array, "..."]) -> Float[Array, "..."]:
    """A number from 0 to 1, without 1, for each place of what has that key."""
    each = fold(key, place)
    return jax.vmap(jax.random.uniform)(each.reshape(-1)).reshape(each.shape)


def quota(real: Int[Array, "*B"], rate: float) -> Int[Array, "*B"]:
    """How many of so many tokens stay, real - int(real * rate), so at least one."""
    return real - jnp.floor(real.astype(jnp.float32) * rate).astype(real.dtype)


def least(
    chance: Float[Array, "*B N"], group: Int[Array, "*B N"], quota: Int[Array, "*B N"]
) -> Bool[Array, "*B N"]:
    """Whether each is one of the least in its group, as many as its quota; of equals the first ones."""
    one, other = chance[..., :, None], chance[..., None, :]
    first = jnp.tri(chance.shape[-1], k=-1, dtype=bool)
    before = (other < one) | ((other == one) & first)
    same = group[..., :, None] == group[..., None, :]
    return jnp.sum(before & same, axis=-1) < quota


def keep(
    key: Key[Array, " B"], mask: Bool[Array, "B N"], rate: float
) -> tuple[Int[Array, "B M"], Bool[Array, "B M"]]:
    """Which M = N - int(N * rate) of N tokens a training step keeps, in no order, and which are real.

    Of the real tokens in a row it keeps their `quota`, as many as if there were no padding; they are drawn
    for each row from its key.

    Args:
        key: what to draw from.
        mask: True where a token is real.
        rate: share that is left out, 0 or more and under 1.
    """
    tokens = mask.shape[1]
    kept = tokens - int(tokens * rate)
    # Real tokens in random order, then padding.
    drawn = chances(key[:, None], jnp.arange(tokens)[None])
    order = jnp.argsort(drawn + jnp.where(mask, 0.0, 1.0), axis=1)
    return order[:, :kept], jnp.arange(kept) < quota(jnp.sum(mask, axis=1), rate)[:, None]


def dropout(x: Float[Array, "*axes"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "*axes"]:
    """`x` with a share of zeros, the rest grown by 1 / (1 - rate); unchanged without a key."""
    if key is None or not rate:
        return x
    stays = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(stays, x / (1.0 - rate), jnp.zeros((), x.dtype))


def require_rate(name: str, rate: float) -> None:
    """Raises GlapError unless `rate`, the configuration's field `name`, is at least 0 and under 1."""
    if not 0 <= rate < 1:
        raise GlapError(f"config: '{name}' is {rate}; it is a share, 0 or more and under 1")
