"""Random changes of training clips: what each does, and that none of them touches another's draws."""

import dataclasses

import numpy as np
import pytest

from glap_jax.config import DataConfig
from glap_jax.pipeline.augment import augment

OFF = DataConfig(crop_seconds=1.0)


@pytest.fixture
def tone():
    """Half a second of 440 Hz."""
    return np.sin(2 * np.pi * 440 * np.arange(8000) / 16000).astype(np.float32)


def changed(tone, seed=0, **options):
    return augment(tone, np.random.default_rng(seed), config=dataclasses.replace(OFF, **options))


def test_off_is_the_clip_itself(tone):
    assert changed(tone) is tone


def test_gain_scales_within_its_bounds(tone):
    ratios = [np.abs(changed(tone, seed, gain_decibels=6.0)).max() for seed in range(50)]
    assert 0.5 < min(ratios) < 0.7
    assert 1.4 < max(ratios) < 2.0


def test_speed_moves_length_and_pitch_together(tone):
    for seed in range(5):
        faster = changed(tone, seed, speed=0.2)
        factor = len(tone) / len(faster)
        assert 0.8 <= factor <= 1.2
        peak = np.abs(np.fft.rfft(faster)).argmax() * 16000 / len(faster)
        assert peak == pytest.approx(440 * factor, rel=0.01)


def test_speed_never_exceeds_the_row():
    row = np.ones(16000, np.float32)
    assert max(len(changed(row, seed, speed=0.3)) for seed in range(20)) == 16000


def test_shift_puts_silence_before(tone):
    lengths = []
    for seed in range(50):
        moved = changed(tone, seed, shift_seconds=0.25)
        lead = len(moved) - len(tone)
        np.testing.assert_array_equal(moved[lead:], tone)
        assert not moved[:lead].any()
        lengths.append(lead)
    assert min(lengths) < 800
    assert 3200 < max(lengths) <= 4000


def test_shift_respects_the_room():
    full = np.ones(16000, np.float32)
    assert len(changed(full, shift_seconds=0.5)) == 16000


def test_one_change_leaves_the_others_as_they_were(tone):
    shift = changed(tone, 3, shift_seconds=0.25)
    both = changed(tone, 3, shift_seconds=0.25, gain_decibels=6.0)
    assert len(shift) == len(both)
