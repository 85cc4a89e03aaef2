"""The log-mel frontend against recorded numbers, and its independence of padding and batch mates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soxr

from glap_jax.audio.frontend import LogMel, hann, power_spectrogram, reflect, resample
from glap_jax.families import from_torch

CLIPS = ("c0_5s", "c3s", "c23_7s", "zeros")


@pytest.fixture(scope="module")
def frontend(weights):
    return from_torch("dasheng", weights("dasheng"), {"num_heads": 4}).frontend


def test_the_window_and_the_filters_are_torchaudio_s(weights):
    recorded = weights("dasheng")
    np.testing.assert_allclose(hann(512), recorded["front_end.0.spectrogram.window"], rtol=0, atol=4e-7)
    np.testing.assert_allclose(LogMel.filters(), recorded["front_end.0.mel_scale.fb"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["c0_5s", "c3s"])
def test_mel_power_agrees_with_the_reference(golden, clip, name):
    io = golden("dasheng")
    row = reflect(jnp.asarray(clip(name))[None], None, 256)
    power = np.asarray(power_spectrogram(row, window=hann(512), hop=160) @ LogMel.filters())[0].T
    recorded = io[f"{name}/mel"]
    difference = np.abs(power[:, io[f"{name}/frame_index"]] - recorded)
    assert (difference <= 1e-4 * np.abs(recorded) + 2e-5 * np.sqrt(np.square(recorded).mean())).all()


@pytest.mark.parametrize("name", CLIPS)
def test_decibels_agree_with_the_reference(frontend, golden, clip, close, name):
    io = golden("dasheng")
    level, mask = frontend.decibels(jnp.asarray(clip(name))[None], None)
    assert level.shape[1] == io[f"{name}/num_frames"]
    assert mask.all()
    close(np.asarray(level)[0].T[:, io[f"{name}/frame_index"]], io[f"{name}/db"], 0.1, 5e-3)


@pytest.mark.parametrize("name", ["c0_5s", "c3s", "zeros"])
def test_normalised_frames_agree_with_the_reference(frontend, golden, clip, close, name):
    io = golden("dasheng")
    mel, _ = frontend(jnp.asarray(clip(name))[None], None)
    close(np.asarray(mel)[0].T[:, io[f"{name}/frame_index"]], io[f"{name}/bn"], 6e-3, 4e-4)


def test_the_batch_wide_clamp_is_the_reference_s(golden, padded, close):
    batch, _ = padded([("c0_5s", 0, None), ("c3s", 0, 48000), ("zeros", 0, None), ("c10s", 16000, 63300)])
    level, _ = LogMel(batch_wide=True).decibels(jnp.asarray(batch), None)
    close(
        np.asarray(level).transpose(0, 2, 1)[:, :, ::20], golden("dasheng")["batchA/db_frames20"], 0.1, 5e-3
    )


@pytest.mark.parametrize("samples", [480, 481, 640, 799, 8000])
def test_padding_whatever_it_holds_changes_no_frame(clip, samples):
    frontend = LogMel()
    one = clip("c3s")[:samples]
    row = np.random.default_rng(0).normal(size=(2, 9000)).astype(np.float32)
    row[0, :samples] = one
    alone, _ = frontend.decibels(jnp.asarray(one)[None], None)
    together, mask = frontend.decibels(jnp.asarray(row), jnp.array([samples, 9000], jnp.int32))
    frames = 1 + samples // 160
    assert mask[0].sum() == frames == alone.shape[1]
    np.testing.assert_allclose(together[0, :frames], alone[0], atol=2e-3)


def test_full_lengths_equal_no_lengths(clip):
    wave = jnp.asarray(clip("c0_5s"))[None]
    plain, _ = LogMel().decibels(wave, None)
    told, _ = LogMel().decibels(wave, jnp.array([wave.shape[1]], jnp.int32))
    np.testing.assert_array_equal(plain, told)


@pytest.mark.parametrize("samples", [1, 2, 100, 479])
def test_a_very_short_clip_gives_four_finite_frames(samples):
    wave = jnp.full((1, samples), 0.25, jnp.float32)
    plain, mask = LogMel().decibels(wave, None)
    assert plain.shape == (1, 4, 64)
    assert mask.all()
    padded = jnp.pad(wave, ((0, 0), (0, 700)), constant_values=0.9)
    told, mask = LogMel().decibels(padded, jnp.array([samples], jnp.int32))
    assert int(mask.sum()) == 4
    assert np.isfinite(np.asarray(told)).all()
    np.testing.assert_allclose(told[:, :4], plain, atol=2e-3)


def test_silence_has_a_finite_gradient():
    gradient = jax.grad(lambda wave: LogMel()(wave, None)[0].sum())(jnp.zeros((1, 800), jnp.float32))
    assert np.isfinite(np.asarray(gradient)).all()


down = jax.jit(lambda waveform, lengths: resample(waveform, lengths, source=22_050, target=16_000))


def test_resampling_is_exact_below_its_edge():
    """Against the periodic signal itself, given by its Fourier series, and against soxr."""
    samples = 22_050
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=samples))
    spectrum[7200:] = 0
    signal = np.fft.irfft(spectrum, samples)
    ideal = np.fft.irfft(spectrum[:8001], 16_000) * (16_000 / samples)
    scale = np.abs(signal).max()
    rows, lengths = down(jnp.asarray(signal / scale, jnp.float32)[None], None)
    assert rows.shape == (1, 16_000)
    assert lengths.tolist() == [16_000]
    inside = slice(500, -500)
    np.testing.assert_allclose(rows[0, inside], ideal[inside] / scale, rtol=0, atol=3e-6)
    other = soxr.resample((signal / scale).astype(np.float32), 22_050, 16_000, quality="HQ")
    np.testing.assert_allclose(rows[0, inside], other[inside], rtol=0, atol=3e-4)


def test_resampling_removes_what_the_lower_rate_cannot_hold():
    time = np.arange(22_050) / 22_050
    for hertz in (8100, 9000, 10_900):
        rows, _ = down(jnp.asarray(np.sin(2 * np.pi * hertz * time), jnp.float32)[None], None)
        assert float(jnp.abs(rows[0, 500:-500]).max()) < 1e-5


def test_resampling_does_not_see_padding():
    draw = np.random.default_rng(1).normal(size=(2, 5000)).astype(np.float32)
    alone, length = down(jnp.asarray(draw[:1, :3001]), None)
    together, lengths = down(jnp.asarray(draw), jnp.array([3001, 5000], jnp.int32))
    # ceil(n * 320 / 441).
    assert lengths.tolist() == [2178, 3629]
    assert length.tolist() == [2178]
    np.testing.assert_allclose(together[0, :2178], alone[0], rtol=0, atol=1e-6)
    assert not together[0, 2178:].any()
