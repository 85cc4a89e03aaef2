"""What may be done to a waveform, against what each promises."""

import numpy as np
import pytest

from glap_jax.pipeline import effects

RATE = 16000


@pytest.fixture
def tone():
    """A second of 440 Hz."""
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def power(waveform):
    return float(np.mean(np.square(waveform, dtype=np.float64)))


@pytest.mark.parametrize("decibels", [-10.0, 0.0, 5.0, 30.0])
def test_noise_has_its_ratio(tone, decibels):
    noise = np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32)
    noisy = effects.add_noise(tone, noise, decibels=decibels)
    assert noisy.dtype == np.float32
    ratio = 10 * np.log10(power(tone) / power(noisy.astype(np.float64) - tone))
    assert ratio == pytest.approx(decibels, abs=0.01)


def test_silence_has_no_ratio(tone):
    silent = np.zeros_like(tone)
    assert effects.add_noise(tone, silent, decibels=5.0) is tone
    assert effects.add_noise(silent, tone, decibels=5.0) is silent


@pytest.mark.parametrize("slope", [-6.0, -3.0, 0.0])
def test_coloured_noise_slopes(slope):
    noise = effects.coloured_noise(10 * RATE + 1, np.random.default_rng(1), sample_rate=RATE, slope=slope)
    assert (noise.shape, noise.dtype) == ((10 * RATE + 1,), np.float32)
    spectrum = np.square(np.abs(np.fft.rfft(noise)))
    frequencies = np.fft.rfftfreq(len(noise), 1 / RATE)
    octaves = [
        10 * np.log10(spectrum[(frequencies >= low) & (frequencies < 2 * low)].mean())
        for low in 50.0 * 2.0 ** np.arange(7)
    ]
    np.testing.assert_allclose(np.diff(octaves), slope, atol=1.0)
    assert spectrum[frequencies < 19].max() < 1e-6 * spectrum.max()


def test_a_room_answers_a_click():
    click = np.zeros(2 * RATE, np.float32)
    click[100] = 1.0
    heard = effects.reverberate(click, np.random.default_rng(0), sample_rate=RATE, seconds=0.5, decibels=6.0)
    assert (heard.shape, heard.dtype) == (click.shape, np.float32)
    assert not heard[:100].round(6).any()
    assert not heard[100 + RATE // 2 :].round(6).any()
    assert power(heard) == pytest.approx(power(click), rel=1e-4)
    tail = heard[101 : 100 + RATE // 2]
    assert 20 * np.log10(heard[100] / np.sqrt(np.square(tail).sum())) == pytest.approx(6.0, abs=0.01)
    first, last = power(tail[:1000]), power(tail[5000:6000])
    # 60 dB in 0.5 s; the power of 1000 samples of noise is known to about 0.2 dB.
    assert 10 * np.log10(first / last) == pytest.approx(60 * 5000 / (0.5 * RATE), abs=1.0)


def test_a_room_leaves_loudness_alone():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(4 * RATE, np.float32)
    heard = effects.reverberate(noise, rng, sample_rate=RATE, seconds=0.4, decibels=0.0)
    assert 10 * np.log10(power(heard) / power(noise)) == pytest.approx(0.0, abs=0.5)


def test_peaks_are_cut_where_they_should_be(tone):
    cut = effects.cut_peaks(tone, decibels=6.0)
    limit = tone.max() * 10 ** (-6 / 20)
    assert cut.max() == pytest.approx(limit)
    assert cut.min() == pytest.approx(-limit)
    below = np.abs(tone) < 0.9 * limit
    np.testing.assert_array_equal(cut[below], tone[below])
    assert effects.cut_peaks(np.zeros(4, np.float32), decibels=6.0).tolist() == [0.0] * 4


def test_silence_is_where_it_is_put(tone):
    masked = effects.silence(tone, start=200, samples=300)
    assert not masked[200:500].any()
    np.testing.assert_array_equal(masked[:200], tone[:200])
    np.testing.assert_array_equal(masked[500:], tone[500:])
    assert tone[200:500].any()


@pytest.mark.parametrize("semitones", [-7.0, -0.5, 0.5, 7.0])
@pytest.mark.parametrize("samples", [RATE, 700])
def test_pitch_moves_and_length_stays(tone, semitones, samples):
    moved = effects.shift_pitch(tone[:samples], semitones=semitones, sample_rate=RATE)
    assert (moved.shape, moved.dtype) == ((samples,), np.float32)
    assert np.isfinite(moved).all()
    if samples == RATE:
        middle = moved[RATE // 8 : -RATE // 8] * np.hanning(RATE // 4 * 3)
        peak = np.abs(np.fft.rfft(middle, 8 * RATE)).argmax() / 8
        assert peak == pytest.approx(440 * 2 ** (semitones / 12), rel=0.003)
        # Bins move on by themselves and drift apart, which costs a sine up to a decibel.
        assert abs(10 * np.log10(power(moved) / power(tone))) < 1


def test_stretching_by_nothing_changes_nothing():
    noise = np.random.default_rng(0).standard_normal(5000, np.float32)
    same = effects.stretch(noise, factor=1.0, window=256)
    np.testing.assert_allclose(same, noise, atol=2e-3)


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_a_stretched_clip_keeps_its_places(factor):
    """A burst in the middle stays in the middle, up to the hop of the windows."""
    burst = np.zeros(RATE, np.float32)
    burst[7800:8200] = np.random.default_rng(0).standard_normal(400, np.float32)
    longer = np.square(effects.stretch(burst, factor=factor, window=512))
    assert len(longer) == round(factor * RATE)
    assert np.average(np.arange(len(longer)), weights=longer) == pytest.approx(8000 * factor, abs=128)
