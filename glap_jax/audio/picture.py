"""A spectrogram as the picture that CLASP shows to an image network: decibels in matplotlib's colours."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from glap_jax.audio.frontend import clean, hann, power_spectrogram

SAMPLE_RATE = 22_050
SIZE, HOP = 2048, 512
# Amplitudes below this count as it (librosa `amplitude_to_db`), and decibels this far under the loudest.
FLOOR, TOP_DB = 1e-5, 80.0
# Where librosa's logarithmic frequency axis becomes linear: C2, in Hz.
LINEAR_BELOW = 65.40639


def decibels(
    waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None
) -> tuple[Float[Array, "B S bins"], Bool[Array, "B S"]]:
    """Spectrogram in dB, with zeros around the clip, and which frames belong to it: 1 + n // 512."""
    waveform, ends = clean(waveform, lengths)
    padded = jnp.pad(waveform, ((0, 0), (SIZE // 2, SIZE // 2)))
    power = power_spectrogram(padded, window=hann(SIZE), hop=HOP)
    level = 10.0 * jnp.log10(jnp.maximum(power, FLOOR**2))
    real = jnp.arange(level.shape[1]) < 1 + ends[:, None] // HOP
    peak = jnp.max(jnp.where(real[..., None], level, -jnp.inf), axis=(1, 2), keepdims=True)
    return jnp.maximum(level, peak - TOP_DB), real


@functools.cache
def _rows(height: int) -> Int[np.ndarray, " Y"]:
    """The bin that each row of pixels shows, the highest frequency first."""
    top = 1.0 + np.log2(SAMPLE_RATE / 2 / LINEAR_BELOW)
    place = (height - 0.5 - np.arange(height)) / height * top
    hertz = LINEAR_BELOW * np.where(place < 1.0, place, 2.0 ** (place - 1.0))
    return np.clip(np.round(hertz * SIZE / SAMPLE_RATE), 0, SIZE // 2).astype(np.int32)


@functools.cache
def _colours(name: str) -> Float[np.ndarray, "256 3"]:
    """Blue, green and red, 0 to 255, of one of matplotlib's colour maps."""
    import matplotlib

    return (255.0 * matplotlib.colormaps[name](np.arange(256))[:, 2::-1]).astype(np.float32)


def draw(
    waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None, *, height: int, width: int
) -> Float[Array, "B Y X 3"]:
    """Pictures of one size for clips of any length, at 22.05 kHz: blue, green and red, 0 to 255.

    As with librosa's `specshow`, time runs over the whole width, frequency is logarithmic above C2, and the
    colours span each clip's own decibels: `coolwarm` where these change sign, `magma` elsewhere. Axes and
    labels, which the reference leaves in its pictures, are not drawn.
    """
    level, real = decibels(waveform, lengths)
    frames = jnp.sum(real, axis=1, dtype=jnp.int32)
    columns = (2 * jnp.arange(width, dtype=jnp.int32) + 1) * frames[:, None] // (2 * width)
    level = jnp.take_along_axis(level, columns[..., None], axis=1)
    low, high = (edge(level, axis=(1, 2), keepdims=True) for edge in (jnp.min, jnp.max))
    share = (level - low) / jnp.maximum(high - low, 1e-6)
    colour = jnp.minimum((share * 256.0).astype(jnp.int32), 255)[:, :, _rows(height)].swapaxes(1, 2)
    both = (low < 0.0) & (high > 0.0)
    return jnp.where(
        both[..., None], jnp.asarray(_colours("coolwarm"))[colour], jnp.asarray(_colours("magma"))[colour]
    )
