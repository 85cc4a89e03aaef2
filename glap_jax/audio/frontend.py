"""Waveform to log-mel, in float32, such that neither padding nor batch mates change a clip's result."""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from glap_jax.audio import packed
from glap_jax.convert.rules import Buffer, Table, batch_norm
from glap_jax.layers import BatchNorm

DECIBEL_FLOOR = 1e-10

# The low-pass of `resample`: zero crossings of its sinc on each side, where it falls to a half as a share of
# the lower rate's Nyquist frequency, and the Kaiser window's beta (100 dB). What lies above 0.95 + 0.05 of
# that frequency is gone, what lies below 0.95 - 0.05 of it is kept.
_CROSSINGS, _ROLLOFF, _BETA = 64, 0.95, 10.06


def _htk(hertz: np.ndarray | float) -> np.ndarray | float:
    return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)


def _slaney(hertz: np.ndarray | float) -> np.ndarray | float:
    """Linear to 1000 Hz (15 mel), then 27 mel to every factor of 6.4."""
    hertz = np.asarray(hertz)
    return np.where(
        hertz < 1000.0, hertz * 0.015, 15.0 + 27.0 * np.log(np.maximum(hertz, 1e-3) / 1000.0) / np.log(6.4)
    )


@functools.cache
def mel_filters(
    bins: int, mels: int, low: float, high: float, sample_rate: int, scale: Literal["htk", "slaney"] = "htk"
) -> Float[np.ndarray, "bins mels"]:
    """Triangular mel filters, frequencies in Hz.

    Args:
        bins: bins of the spectrum, from 0 to half of `sample_rate`.
        mels: how many filters.
        low: where the first one begins.
        high: where the last one ends.
        sample_rate: of the waveform.
        scale: `htk` without area normalisation (torchaudio `melscale_fbanks(norm=None, mel_scale="htk")`:
            Dasheng, CED, GLAP), or `slaney` with it (librosa's default: Whisper, CLARA).
    """
    if scale == "htk":
        points = np.linspace(_htk(low), _htk(high), mels + 2)
        edges = 700.0 * (10.0 ** (points / 2595.0) - 1.0)
    else:
        points = np.linspace(_slaney(low), _slaney(high), mels + 2)
        edges = np.where(points < 15.0, points / 0.015, 1000.0 * 6.4 ** ((points - 15.0) / 27.0))
    slopes = edges[None, :] - np.linspace(0.0, sample_rate // 2, bins)[:, None]
    widths = np.diff(edges)
    falling = -slopes[:, :-2] / widths[:-1]
    rising = slopes[:, 2:] / widths[1:]
    filters = np.maximum(0.0, np.minimum(falling, rising))
    if scale == "slaney":
        filters *= 2.0 / (edges[2:] - edges[:-2])
    return filters.astype(np.float32)


@functools.cache
def hann(size: int) -> Float[np.ndarray, " size"]:
    """The periodic Hann window (torch's default)."""
    return (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(size) / size)).astype(np.float32)


def clean(
    waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None
) -> tuple[Float[Array, "B T"], Int[Array, " B"]]:
    """Float32 rows that are zero beyond their length, and these lengths, all of T where none are given."""
    waveform, samples = waveform.astype(jnp.float32), waveform.shape[1]
    if lengths is None:
        return waveform, jnp.full(waveform.shape[:1], samples, jnp.int32)
    ends = jnp.clip(lengths.astype(jnp.int32), 1, samples)
    return jnp.where(jnp.arange(samples) < ends[:, None], waveform, 0.0), ends


@functools.cache
def _low_pass(up: int, down: int) -> Float[np.ndarray, "taps up"]:
    """Weights of the samples around a block of `down` for each of the `up` samples that replace it."""
    cutoff = _ROLLOFF * min(1.0, up / down)
    half = _CROSSINGS / cutoff
    reach = math.ceil(half)
    time = np.arange(-reach, down + reach)[:, None] - np.arange(up)[None, :] * (down / up)
    window = np.i0(_BETA * np.sqrt(np.maximum(0.0, 1.0 - np.square(time / half)))) / np.i0(_BETA)
    taps = cutoff * np.sinc(cutoff * time) * window
    return np.where(np.abs(time) <= half, taps, 0.0).astype(np.float32)


def resample(
    waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None, *, source: int, target: int
) -> tuple[Float[Array, "B T2"], Int[Array, " B"]]:
    """Rows at `target` Hz from rows at `source` Hz, and their lengths, ceil(n * target / source).

    A polyphase filter: a windowed sinc (Smith, "Digital Audio Resampling", 2002). Clips are zero beyond their
    lengths before and after, so that a padded clip equals the clip alone. From 22.05 kHz to 16 kHz, what lies
    below 7.2 kHz comes out exact to 3e-6 of full scale; soxr's HQ differs from that by up to 3e-4.
    """
    waveform, ends = clean(waveform, lengths)
    common = math.gcd(source, target)
    up, down = target // common, source // common
    taps = _low_pass(up, down)
    reach = (taps.shape[0] - down) // 2
    batch, samples = waveform.shape
    blocks = -(-samples // down)
    padded = jnp.pad(waveform, ((0, 0), (reach, blocks * down + reach - samples)))
    index = down * np.arange(blocks)[:, None] + np.arange(taps.shape[0])[None, :]
    rows = jnp.matmul(padded[:, index], taps, precision=jax.lax.Precision.HIGHEST).reshape(batch, -1)
    # In two terms, lest a product of a long clip's length and `up` overflow.
    counts = ends // down * up + (ends % down * up + down - 1) // down
    rows = rows[:, : -(-samples * up // down)]
    return jnp.where(jnp.arange(rows.shape[1]) < counts[:, None], rows, 0.0), counts


def reflect(
    waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None, pad: int
) -> Float[Array, "B T_padded"]:
    """Reflects each clip at its own two ends by `pad` samples.

    Every length must exceed `pad`, and rows must be zero beyond their length. Reflecting at the true end, not
    at the end of the padded row, is what makes a padded clip equal to the clip alone.
    """
    if lengths is None:
        return jnp.pad(waveform, ((0, 0), (pad, pad)), mode="reflect")
    batch = waveform.shape[0]
    mirrored = lengths[:, None] - 2 - jnp.arange(pad)
    tail = jnp.take_along_axis(waveform, mirrored, axis=1)
    head = waveform[:, pad:0:-1]
    row = jnp.concatenate([head, waveform, jnp.zeros((batch, pad), waveform.dtype)], axis=1)
    place = jax.vmap(lambda line, end, start: jax.lax.dynamic_update_slice(line, end, (start,)))
    return place(row, tail, lengths + pad)


def power_spectrogram(
    padded: Float[Array, "B T"], *, window: Float[np.ndarray, " W"], hop: int
) -> Float[Array, "B S bins"]:
    """|STFT|^2 of frames that start every `hop` samples and lie wholly inside the row."""
    size = window.shape[0]
    frames = 1 + (padded.shape[1] - size) // hop
    index = hop * np.arange(frames)[:, None] + np.arange(size)[None, :]
    spectrum = jnp.fft.rfft(padded[:, index] * window, axis=-1)
    return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def decibels(
    power: Float[Array, "B S F"], mask: Bool[Array, "B S"], *, top: float, batch_wide: bool = False
) -> Float[Array, "B S F"]:
    """10 log10, floored at 1e-10, then at `top` dB under the loudest bin of the clip's real frames.

    `batch_wide` takes that maximum over the whole batch, padding included, as torchaudio does for a batch.
    """
    level = _level(power)
    if batch_wide:
        return jnp.maximum(level, level.max() - top)
    peak = jnp.max(jnp.where(mask[..., None], level, -jnp.inf), axis=(1, 2), keepdims=True)
    return jnp.maximum(level, peak - top)


def _level(power: Float[Array, "B S F"]) -> Float[Array, "B S F"]:
    return 10.0 * jnp.log10(jnp.maximum(power, DECIBEL_FLOOR))


# Kaldi's filterbank without dither, as torchaudio 2.11, transformers 5.23 and fairseq2 0.4.5 compute it:
# windows of 25 ms, padded to 512 samples, every 10 ms.
KALDI_WINDOW = 400
KALDI_HOP = 160
_KALDI_FFT = 512
_PREEMPHASIS = 0.97
_KALDI_FLOOR = float(np.finfo(np.float32).eps)


@functools.cache
def kaldi_filters(mels: int) -> Float[np.ndarray, "bins F"]:
    """Triangles on Kaldi's mel scale, 20 to 8000 Hz; their slopes are straight in mel, not in Hz."""
    to_mel = lambda hertz: 1127.0 * np.log(1.0 + hertz / 700.0)  # noqa: E731
    edges = np.linspace(to_mel(20.0), to_mel(8000.0), mels + 2)
    mel = to_mel(np.arange(_KALDI_FFT // 2 + 1) * (16_000 / _KALDI_FFT))[:, None]
    width = edges[1] - edges[0]
    rising, falling = (mel - edges[None, :-2]) / width, (edges[None, 2:] - mel) / width
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


@functools.cache
def povey() -> Float[np.ndarray, " W"]:
    """Kaldi's window: a symmetric Hann window to the power 0.85."""
    phase = 2.0 * np.pi * np.arange(KALDI_WINDOW) / (KALDI_WINDOW - 1)
    return np.power(0.5 - 0.5 * np.cos(phase), 0.85).astype(np.float32)


def kaldi_frames(samples: Any) -> Any:
    """Frames that lie wholly inside `samples` samples (an int or an array), at least 400."""
    return 1 + (samples - KALDI_WINDOW) // KALDI_HOP


def kaldi_fbank(waveform: Float[Array, "B T"], mels: int) -> Float[Array, "B S F"]:
    """Log filterbank of samples in [-1, 1] at 16 kHz (scaled to 16 bits); 1 + (T - 400) // 160 frames."""
    index = KALDI_HOP * np.arange(kaldi_frames(waveform.shape[1]))[:, None] + np.arange(KALDI_WINDOW)[None, :]
    x = waveform[:, index] * 32768.0
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x - _PREEMPHASIS * jnp.concatenate([x[..., :1], x[..., :-1]], axis=-1)
    spectrum = jnp.fft.rfft(x * povey(), n=_KALDI_FFT, axis=-1)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    mel = jnp.matmul(power, kaldi_filters(mels), precision=jax.lax.Precision.HIGHEST)
    return jnp.log(jnp.maximum(mel, _KALDI_FLOOR))


def peak_log_mel(
    waveform: Float[Array, "B T"],
    lengths: Int[Array, " B"] | None,
    *,
    sample_rate: int,
    size: int,
    hop: int,
    mels: int,
    top: float = 80.0,
) -> tuple[Float[Array, "B S F"], Bool[Array, "B S"]]:
    """CLARA's log-mel (librosa's filters), zero in frames beyond the clip, and which frames are not.

    Those are the first 1 + length // `hop`. dB under the clip's loudest bin, floored at `top`, then
    (x + 40) / 40; frames of `size` samples are centred between zeros (librosa from 0.10 on).
    """
    batch, samples = waveform.shape
    waveform = waveform.astype(jnp.float32)
    lengths = jnp.full((batch,), samples, jnp.int32) if lengths is None else lengths.astype(jnp.int32)
    waveform = jnp.where(jnp.arange(samples) < lengths[:, None], waveform, 0.0)
    padded = jnp.pad(waveform, ((0, 0), (size // 2, size // 2)))
    power = power_spectrogram(padded, window=hann(size), hop=hop)
    filters = mel_filters(size // 2 + 1, mels, 0.0, 8000.0, sample_rate, "slaney")
    power = jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)
    real = jnp.arange(power.shape[1]) < 1 + lengths[:, None] // hop
    level = decibels(power, real, top=top)
    peak = jnp.max(jnp.where(real[..., None], level, -jnp.inf), axis=(1, 2), keepdims=True)
    return jnp.where(real[..., None], (level - peak + 40.0) / 40.0, 0.0), real


class LogMel(nnx.Module):
    """The frontend of Dasheng, GLAP and CED: 16 kHz, 512/512/160, 64 HTK mels 0-8000 Hz, dB, BatchNorm.

    Args:
        batch_wide: the references' clamp of `top_db` against one maximum for the whole batch.
        shortest: samples that shorter clips are padded to with zeros; a patch of Dasheng unless said.
    """

    SAMPLE_RATE = 16_000
    SIZE = 512
    HOP = 160
    MELS = 64
    TOP_DB = 120.0

    def __init__(self, *, batch_wide: bool = False, shortest: int = 480):
        self.batch_wide = batch_wide
        self.shortest = shortest
        self.norm = BatchNorm(self.MELS)

    @classmethod
    def filters(cls) -> Float[np.ndarray, "bins F"]:
        """The mel filter matrix."""
        return mel_filters(cls.SIZE // 2 + 1, cls.MELS, 0.0, 8000.0, cls.SAMPLE_RATE)

    def decibels(
        self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None
    ) -> tuple[Float[Array, "B S F"], Bool[Array, "B S"]]:
        """Log-mel in dB before the BatchNorm, and which frames belong to the clip: 1 + length // 160."""
        waveform = waveform.astype(jnp.float32)
        if lengths is not None:
            lengths = lengths.astype(jnp.int32)
            waveform = jnp.where(jnp.arange(waveform.shape[1]) < lengths[:, None], waveform, 0.0)
        waveform = jnp.pad(waveform, ((0, 0), (0, max(0, self.shortest - waveform.shape[1]))))
        if lengths is not None:
            lengths = jnp.clip(lengths, self.shortest, waveform.shape[1])
        power = self._power(reflect(waveform, lengths, self.SIZE // 2))
        frames = jnp.arange(power.shape[1])[None, :]
        real = power.shape[1] if lengths is None else 1 + lengths[:, None] // self.HOP
        mask = jnp.broadcast_to(frames < real, power.shape[:2])
        return decibels(power, mask, top=self.TOP_DB, batch_wide=self.batch_wide), mask

    def _power(self, padded: Float[Array, "B T"]) -> Float[Array, "B S F"]:
        power = power_spectrogram(padded, window=hann(self.SIZE), hop=self.HOP)
        return jnp.matmul(power, self.filters(), precision=jax.lax.Precision.HIGHEST)

    def frames(self, lengths: Int[Array, "R P"]) -> Int[Array, "R P"]:
        """Frames of clips of so many samples; 0 for none."""
        return jnp.where(lengths > 0, 1 + jnp.maximum(lengths, self.shortest) // self.HOP, 0)

    def of_packed(
        self, waveform: Float[Array, "R T"], spans: packed.Spans, *, slot: int
    ) -> tuple[Float[Array, "R S F"], packed.Slots]:
        """Normalised log-mel of clips that share rows, and whose its frames are; each as if it were alone.

        A row has T / 160 frames, and slots of `slot` samples. One more frame, which a clip of whole slots
        has, counts in its loudest bin.
        """
        begins, counts = spans.starts * slot, self.frames(spans.lengths)
        lengths = jnp.where(counts > 0, jnp.maximum(spans.lengths, self.shortest), 0)
        waveform = packed.silenced(waveform, spans, slot)
        room = (spans.lengths + slot - 1) // slot * (slot // self.HOP)
        where = packed.slots(begins // self.HOP, jnp.minimum(counts, room), waveform.shape[1] // self.HOP)
        level, last = packed.centred(
            waveform,
            begins,
            lengths,
            counts,
            where,
            lambda padded: _level(self._power(padded)),
            window=self.SIZE,
            hop=self.HOP,
        )
        loudest = jnp.maximum(where.most(jnp.max(level, axis=2)), jnp.max(last, axis=2))
        floor = where.of_clip(loudest - self.TOP_DB)
        return self.norm(jnp.maximum(level, floor[..., None])), where

    def __call__(
        self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None
    ) -> tuple[Float[Array, "B S F"], Bool[Array, "B S"]]:
        """Normalised log-mel and its frame mask. `waveform` in [-1, 1] at 16 kHz; `lengths` in samples."""
        level, mask = self.decibels(waveform, lengths)
        return self.norm(level), mask


# `.1` is the position inside torch's Sequential, which the Hugging Face layout of CED does without.
LOG_MEL_TORCH_RULES: Table = (
    Buffer("front_end.0.spectrogram.window", lambda: hann(LogMel.SIZE)),
    Buffer("front_end.0.mel_scale.fb", LogMel.filters),
    *batch_norm("init_bn(.1|)", "norm"),
)

# Constructor arguments of the encoders with this frontend that are built in.
LOG_MEL_ARGUMENTS: dict[str, Any] = {
    "n_fft": LogMel.SIZE,
    "n_mels": LogMel.MELS,
    "hop_size": LogMel.HOP,
    "win_size": LogMel.SIZE,
    "f_min": 0,
    "f_max": 8000,
    "center": True,
}
