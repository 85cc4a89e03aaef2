"""Audio files and arrays to float32 mono waveforms of one rate."""

import io
import math
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from glap_jax.pipeline.bad import BadClip

# What libsndfile notes down (and then reads on) when a WAV file ends before its header says.
_SHORT_CHUNK = re.compile(r"data : (\d+) \(should be (\d+)\)")
# Header, segment table and segments of the longest Ogg page (RFC 3533, section 6).
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
# A writer that cannot know its length yet (a pipe) puts the largest 32-bit sizes into a WAV header.
_UNKNOWN_SIZE = 0xFFFF_F000
CLIPPED_PEAK = 0.99
# Rates in Hz that a recording may have.
RATES = (1, 1_000_000)
# What libsndfile finds in files of these names, where that is sure.
_FORMATS = {
    "flac": ("FLAC", "OGG"),
    "wav": ("WAV", "WAVEX", "RF64"),
    "ogg": ("OGG",),
    "opus": ("OGG",),
    "mp3": ("MP3",),
}


def decode(
    data: bytes | str | Path,
    *,
    sample_rate: int,
    seconds: float | None = None,
    position: float = 0.0,
    min_seconds: float = 0.0,
    rates: tuple[int, int] = RATES,
    suffix: str = "",
) -> Float[np.ndarray, " T"]:
    """Reads a flac, wav, ogg, opus or mp3 file as float32 mono: its channels' mean, resampled by soxr (HQ).

    Args:
        data: the file, or its path.
        sample_rate: Hz of the result.
        seconds: read at most so much; only that part is decoded. None reads all.
        position: where the part lies: 0 at the start, 1 at the end of the clip.
        min_seconds: shortest clip that is of use.
        rates: lowest and highest rate of the file that is of use, in Hz.
        suffix: what its name says that the file is, such as `flac`, to be compared with what it is.

    Raises:
        BadClip: missing, empty, not_audio, unreadable, truncated, too_short, not_finite, wrong_rate or
            mislabelled.
    """
    try:
        with soundfile.SoundFile(_readable(data)) as file:
            rate = file.samplerate
            if file.format not in _FORMATS.get(suffix, (file.format,)):
                raise BadClip("mislabelled", f"the file is {file.format} and its name ends in .{suffix}")
            if not rates[0] <= rate <= rates[1]:
                raise BadClip("wrong_rate", f"{rate} Hz is not within {rates[0]} to {rates[1]}")
            if file.format == "OGG":
                _check_ogg(data)
            elif file.format in ("WAV", "WAVEX", "RF64"):
                _check_wav(file)
            frames = file.frames
            if frames == 0:
                raise BadClip("empty", "the file holds no samples")
            if frames < min_seconds * rate:
                raise BadClip("too_short", f"{frames / rate:.3f} s is less than {min_seconds:g} s")
            wanted = frames if seconds is None else min(frames, max(1, round(seconds * rate)))
            if start := int(position * (frames - wanted + 1)) if wanted < frames else 0:
                file.seek(min(start, frames - wanted))
            samples = file.read(wanted, dtype="float32")
    except soundfile.LibsndfileError as error:
        if "not recognised" in error.error_string or "does not exist" in error.error_string:
            raise BadClip("not_audio", "no audio format that libsndfile knows") from None
        raise BadClip("unreadable", f"damaged or cut off ({error.error_string})") from None
    if len(samples) < wanted:
        raise BadClip("truncated", f"{len(samples)} of {wanted} samples can be read")
    waveform = samples if samples.ndim == 1 else samples.mean(axis=1)
    return _finish(waveform, rate, sample_rate, seconds)


def as_waveform(array: np.ndarray, rate: int, sample_rate: int) -> Float[np.ndarray, " T"]:
    """An array of samples as float32 mono at `sample_rate` Hz.

    Args:
        array: floats in [-1, 1] or integers of full scale, of shape (T,) or two-dimensional; the shorter axis
            of a two-dimensional array holds the channels.
        rate: Hz of `array`.
        sample_rate: Hz of the result.

    Raises:
        BadClip: empty, not_audio or not_finite.
    """
    array = np.asarray(array)
    if rate < 1:
        raise BadClip("not_audio", f"a rate of {rate} Hz")
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise BadClip("not_audio", f"an array of shape {array.shape}, {array.dtype}; give (T,) numbers")
    if array.size == 0:
        raise BadClip("empty", "the array holds no samples")
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        middle = 0.0 if array.dtype.kind == "i" else (limits.max + 1) / 2
        array = (array.astype(np.float64) - middle) / ((float(limits.max) - limits.min + 1) / 2)
    waveform = array.astype(np.float32, copy=False)
    if waveform.ndim == 2:
        waveform = waveform.mean(axis=int(np.argmin(waveform.shape)))
    return _finish(waveform, rate, sample_rate, None)


def check_peak(waveform: Float[np.ndarray, " T"]) -> None:
    """GLAP's optional test for clipping: a peak of 0.99 or more.

    Raises:
        BadClip: clipped.
    """
    peak = peak_of(waveform)
    if peak >= CLIPPED_PEAK:
        raise BadClip("clipped", f"peak {peak:.3f}")


def check_silence(waveform: Float[np.ndarray, " T"], peak: float) -> None:
    """A test for silence: a peak of at most `peak`.

    Raises:
        BadClip: silent.
    """
    found = peak_of(waveform)
    if found <= peak:
        raise BadClip("silent", f"peak {found:.2g}")


def peak_of(waveform: Float[np.ndarray, " T"]) -> float:
    """Largest absolute value, NaN where there is one: without an array of absolute values, which for a long
    clip takes longer to get from the system than to look through."""
    return max(float(waveform.max()), -float(waveform.min()))


def _readable(data: bytes | str | Path) -> io.BytesIO | str:
    if isinstance(data, bytes):
        if not data:
            raise BadClip("empty", "the file has no bytes")
        return io.BytesIO(data)
    path = Path(data)
    if not path.is_file():
        raise BadClip("missing", f"no file '{path}'")
    if path.stat().st_size == 0:
        raise BadClip("empty", "the file has no bytes")
    return str(path)


def _check_wav(file: soundfile.SoundFile) -> None:
    short = _SHORT_CHUNK.search(file.extra_info)
    if short and int(short[2]) < int(short[1]) < _UNKNOWN_SIZE:
        raise BadClip("truncated", f"{short[2]} of {short[1]} bytes of samples are there")


def _check_ogg(data: bytes | str | Path) -> None:
    """Refuses a file that ends inside a page, which libsndfile leaves out silently."""
    if isinstance(data, bytes):
        tail = data[-_OGG_PAGE_BYTES:]
    else:
        with Path(data).open("rb") as file:
            file.seek(-min(_OGG_PAGE_BYTES, file.seek(0, io.SEEK_END)), io.SEEK_END)
            tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    count = page[26] if len(page) > 26 else 255
    if len(page) < 27 + count + sum(page[27 : 27 + count]):
        raise BadClip("truncated", "the Ogg stream ends inside a page")


def _finish(
    waveform: Float[np.ndarray, " T"], rate: int, sample_rate: int, seconds: float | None
) -> Float[np.ndarray, " T_resampled"]:
    if not math.isfinite(peak_of(waveform)):
        raise BadClip("not_finite", "the samples hold NaN or infinity")
    if rate != sample_rate:
        waveform = soxr.resample(waveform, rate, sample_rate, quality="HQ")
        if not len(waveform):
            raise BadClip("too_short", "nothing is left after resampling")
    return waveform if seconds is None else waveform[: max(1, round(seconds * sample_rate))]
