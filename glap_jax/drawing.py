"""What encoders draw in training, on the device: tokens to leave out, stretches of a spectrogram to blank."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from glap_jax.errors import GlapError


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
        self, mel: Float[Array, "B S F"], frames: Bool[Array, "B S"], key: Key[Array, ""]
    ) -> Float[Array, "B S F"]:
        """`mel` with zeros in the stretches drawn from `key` for each clip alone.

        In a normalised spectrogram zero is the middle. `frames` is True where a frame is real: stretches lie
        among these, and at least one frame and one bin of them stay.
        """
        time, band = jax.random.split(key)
        real = jnp.sum(frames, axis=1)
        blank_time = _stretches(time, real, mel.shape[1], self.times, self.time_share)
        bins = jnp.full(real.shape, mel.shape[2])
        blank_band = _stretches(band, bins, mel.shape[2], self.bands, self.band_share)
        blank = blank_time[:, :, None] | blank_band[:, None, :]
        return jnp.where(blank, jnp.zeros((), mel.dtype), mel)


def _stretches(
    key: Key[Array, ""], real: Int[Array, " B"], size: int, count: int, share: float
) -> Bool[Array, "B size"]:
    """True in `count` stretches of 0 to `share * real` places, among the first `real` ones of each row."""
    if count == 0:
        return jnp.zeros((real.shape[0], size), bool)
    drawn = jax.random.uniform(key, (2, real.shape[0], count))
    longest = jnp.floor(share * real.astype(jnp.float32))[:, None]
    length = jnp.floor(drawn[0] * (longest + 1.0))
    start = jnp.floor(drawn[1] * (real[:, None].astype(jnp.float32) - length + 1.0))
    place = jnp.arange(size, dtype=jnp.float32)[:, None]
    inside = (place >= start[:, None]) & (place < (start + length)[:, None])
    return inside.any(axis=2)


def keep(
    key: Key[Array, ""], mask: Bool[Array, "B N"], rate: float
) -> tuple[Int[Array, "B M"], Bool[Array, "B M"]]:
    """Which M = N - int(N * rate) of N tokens a training step keeps, in no order, and which are real.

    Of r real tokens in a row it keeps r - int(r * rate), as many as if there were no padding, so at least
    one; they are drawn for each row alone.

    Args:
        key: what to draw from.
        mask: True where a token is real.
        rate: share that is left out, 0 or more and under 1.
    """
    kept = mask.shape[1] - int(mask.shape[1] * rate)
    # Real tokens in random order, then padding.
    order = jnp.argsort(jax.random.uniform(key, mask.shape) + jnp.where(mask, 0.0, 1.0), axis=1)
    real = jnp.sum(mask, axis=1)
    quota = real - jnp.floor(real.astype(jnp.float32) * rate).astype(real.dtype)
    return order[:, :kept], jnp.arange(kept) < quota[:, None]


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
