"""What may be done to a waveform: each a function of its arguments and, where it draws, of a generator."""

import math

import numpy as np
import soxr
from jaxtyping import Float

Waveform = Float[np.ndarray, " T"]

# Noise that is made up has no power below: nobody hears it, and brown noise would have most of it there.
LOWEST_HERTZ = 20.0
_DECIBELS_PER_OCTAVE = 20.0 * math.log10(2.0)
# Length of the windows that a waveform is cut into where its pitch is moved.
_WINDOW_SECONDS = 0.05


def add_noise(waveform: Waveform, noise: Waveform, *, decibels: float) -> Waveform:
    """`waveform` plus `noise`, scaled to `decibels` less power; unchanged where either is silent."""
    power, noise_power = _energy(waveform), _energy(noise)
    if not power or not noise_power:
        return waveform
    return waveform + noise * np.float32(math.sqrt(power / noise_power) * 10.0 ** (-decibels / 20.0))


def coloured_noise(
    samples: int, rng: np.random.Generator, *, sample_rate: int, slope: float
) -> Float[np.ndarray, " T"]:
    """Gaussian noise whose power spectrum changes by `slope` dB an octave, from 20 Hz up; of any scale."""
    frequencies = np.fft.rfftfreq(samples, 1.0 / sample_rate).astype(np.float32)
    heard = frequencies >= LOWEST_HERTZ
    amplitudes = np.zeros_like(frequencies)
    amplitudes[heard] = (frequencies[heard] / np.float32(LOWEST_HERTZ)) ** np.float32(
        slope / _DECIBELS_PER_OCTAVE
    )
    spectrum = np.empty(len(frequencies), np.complex64)
    spectrum.real, spectrum.imag = amplitudes * rng.standard_normal((2, len(frequencies)), np.float32)
    return np.fft.irfft(spectrum, samples)


def reverberate(
    waveform: Waveform, rng: np.random.Generator, *, sample_rate: int, seconds: float, decibels: float
) -> Waveform:
    """The waveform as heard in a room, no longer than before.

    The room's response is the direct sound and, after it, white noise that decays exponentially (Polack
    1988), scaled to unit energy together.

    Args:
        waveform: the clip.
        rng: of the noise.
        sample_rate: Hz.
        seconds: time in which the room's sound falls by 60 dB.
        decibels: energy of the direct sound over that of the room's.
    """
    length = max(2, round(seconds * sample_rate))
    response = rng.standard_normal(length, np.float32)
    response *= np.exp(np.linspace(0.0, -3.0 * math.log(10.0), length, dtype=np.float32))
    response[0] = 0.0
    response *= np.float32(10.0 ** (-decibels / 20.0) / math.sqrt(_energy(response)))
    response[0] = 1.0
    response /= np.float32(math.sqrt(_energy(response)))
    # A power of two is quick to transform.
    size = 1 << (len(waveform) + length - 2).bit_length()
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(waveform)].astype(np.float32)


def cut_peaks(waveform: Waveform, *, decibels: float) -> Waveform:
    """The waveform hard-clipped `decibels` below its highest peak: an overload without its gain."""
    limit = np.abs(waveform).max(initial=0.0) * np.float32(10.0 ** (-decibels / 20.0))
    return waveform.clip(-limit, limit)


def silence(waveform: Waveform, *, start: int, samples: int) -> Waveform:
    """A copy of the waveform that is zero from `start` on for `samples`."""
    masked = waveform.copy()
    masked[start : start + samples] = 0.0
    return masked


def shift_pitch(waveform: Waveform, *, semitones: float, sample_rate: int) -> Waveform:
    """The waveform with its pitch moved by `semitones`, as long as before: stretched, then played faster."""
    factor = 2.0 ** (semitones / 12.0)
    window = 1 << round(math.log2(max(8.0, _WINDOW_SECONDS * sample_rate)))
    longer = stretch(waveform, factor=factor, window=window)
    moved = soxr.resample(longer, sample_rate * factor, sample_rate, quality="LQ")[: len(waveform)]
    return np.pad(moved, (0, len(waveform) - len(moved)))


def stretch(waveform: Waveform, *, factor: float, window: int) -> Float[np.ndarray, " T2"]:
    """The waveform `factor` times as long, its pitch kept: a phase vocoder (Flanagan and Golden 1966).

    Args:
        waveform: the clip.
        factor: length of the result over that of the clip.
        window: samples of a Hann window, a multiple of 4; windows overlap by three quarters.
    """
    hop = window // 4
    hann = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(window) / window)).astype(np.float32)
    # Half a window of zeros puts the middle of the first window on the first sample, of clip and result.
    padded = np.pad(waveform, (window // 2, 2 * window))
    frames = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * hann)
    places = np.arange(0.0, len(frames) - 1.0, 1.0 / factor)
    before = places.astype(np.int64)
    share = (places - before).astype(np.float32)[:, None]
    amplitudes, phases = np.abs(frames), np.angle(frames)
    amplitude = amplitudes[before] * (1.0 - share) + amplitudes[before + 1] * share
    # Two windows of the result lie as far apart as two of the clip, so its phase moves on as there.
    advance = phases[before + 1] - phases[before]
    phase = phases[0] + np.cumsum(advance, axis=0) - advance
    pieces = np.fft.irfft(amplitude * np.exp(1j * phase), window) * hann
    result, weight = _overlap(pieces, hop), _overlap(np.broadcast_to(hann**2, pieces.shape), hop)
    kept = slice(window // 2, window // 2 + round(factor * len(waveform)))
    return result[kept] / weight[kept]


def _overlap(pieces: Float[np.ndarray, "S N"], hop: int) -> Float[np.ndarray, " T"]:
    """Sum of pieces of 4 hops that each start a hop after the one before."""
    result = np.zeros((len(pieces) + 3, hop), np.float32)
    for quarter in range(4):
        result[quarter : quarter + len(pieces)] += pieces[:, quarter * hop : (quarter + 1) * hop]
    return result.reshape(-1)


def _energy(waveform: Waveform) -> float:
    return float(np.dot(waveform, waveform))
