"""Kept tokens keep their share, blank stretches stay inside the clip, and nothing depends on padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glap_jax.audio.ced import CedConfig
from glap_jax.audio.clara import ClaraAudioConfig
from glap_jax.drawing import Masking, dropout, keep
from glap_jax.errors import GlapError
from glap_jax.text.clara import ClaraTextConfig

KEYS = jax.random.split(jax.random.key(0), 4000)


@pytest.mark.parametrize(("tokens", "rate", "kept"), [(63, 0.25, 48), (4, 0.25, 3), (7, 0.5, 4), (1, 0.9, 1)])
def test_keep_takes_as_many_as_without_padding(tokens, rate, kept):
    lengths = np.array([tokens, 0, 1, tokens // 2])
    mask = jnp.arange(tokens) < lengths[:, None]
    index, real = keep(KEYS[:4], mask, rate)
    assert index.shape == real.shape == (4, kept)
    np.testing.assert_array_equal(real.sum(axis=1), lengths - (lengths * rate).astype(int))
    for row, (places, counted) in enumerate(zip(np.asarray(index), np.asarray(real), strict=True)):
        assert len(set(places.tolist())) == kept
        assert (places[counted] < lengths[row]).all()


def test_keep_draws_every_token_equally_often_and_each_row_alone():
    index, _ = keep(KEYS, jnp.ones((4000, 8), bool), 0.25)
    share = np.bincount(np.asarray(index).ravel(), minlength=8) / 4000
    # Five standard deviations of a share of 0.75 in 4000 draws.
    np.testing.assert_allclose(share, 0.75, atol=5 * np.sqrt(0.75 * 0.25 / 4000))
    again, _ = keep(KEYS, jnp.ones((4000, 8), bool), 0.25)
    np.testing.assert_array_equal(index, again)


def test_masking_blanks_stretches_among_real_frames_and_leaves_some():
    masking = Masking(times=2, time_share=0.3, bands=1, band_share=0.5)
    real = np.tile([0, 1, 2, 10, 40], 40)
    frames = jnp.arange(40) < real[:, None]
    mel = masking(jnp.ones((200, 40, 8)), frames, KEYS[:200])
    blank = np.asarray(mel) == 0
    times, bands = blank.all(axis=2), blank.all(axis=1)
    np.testing.assert_array_equal(blank, times[:, :, None] | bands[:, None, :])
    assert not (times & ~np.asarray(frames)).any()
    # At most two stretches of 0.3 of the clip, and one of half of the bins.
    assert (times.sum(axis=1) <= 2 * np.floor(0.3 * real)).all()
    assert times[real == 40].sum(axis=1).max() > 12
    assert set(bands.sum(axis=1)) == {0, 1, 2, 3, 4}
    edges = np.abs(np.diff(np.pad(times, ((0, 0), (1, 1))).astype(int), axis=1)).sum(axis=1)
    assert set(edges) == {0, 2, 4}


def test_masking_is_off_by_default():
    mel = jnp.ones((2, 5, 4))
    assert not Masking().acts
    np.testing.assert_array_equal(Masking()(mel, jnp.ones((2, 5), bool), KEYS[:2]), mel)


def test_dropout_keeps_the_mean():
    x = dropout(jnp.ones(100_000), 0.2, KEYS[0])
    assert set(np.unique(x)) == {0.0, 1.25}
    assert float(x.mean()) == pytest.approx(1.0, abs=0.01)
    np.testing.assert_array_equal(dropout(x, 0.2, None), x)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: CedConfig(patch_dropout=1.0), "patch_dropout"),
        (lambda: ClaraAudioConfig(sequence_dropout=-0.1), "sequence_dropout"),
        (lambda: ClaraTextConfig(dropout=2.0), "dropout"),
        (lambda: Masking(times=4, time_share=0.25), "times"),
        (lambda: Masking(bands=-1), "bands"),
    ],
)
def test_shares_that_leave_nothing_are_refused(make, field):
    with pytest.raises(GlapError, match=f"config: '{field}' is"):
        make()
