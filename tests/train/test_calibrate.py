"""Input statistics are those of the real frames, whatever the padding and the batches."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glap_jax.train.calibrate import LEAST_VARIANCE, calibrate


def test_statistics_are_those_of_all_real_frames(parts, noise):
    module = nnx.merge(parts.graph, parts.trainable, parts.frozen)
    batches = [jax.tree.map(np.asarray, noise(4, seed)) for seed in range(3)]
    assert calibrate(module, batches)
    frames = []
    for batch in batches:
        for wave, length in zip(batch["waveform"], batch["lengths"], strict=True):
            level, _ = module.audio.frontend.decibels(jnp.asarray(wave[None, :length]), None)
            frames.append(np.asarray(level[0], np.float64))
    frames = np.concatenate(frames)
    norm = module.audio.frontend.norm
    np.testing.assert_allclose(norm.mean[...], frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.variance[...], frames.var(0), rtol=1e-4)


def test_empty_bands_keep_a_least_variance(parts):
    module = nnx.merge(parts.graph, parts.trainable, parts.frozen)
    silence = {"waveform": np.zeros((2, 4000), np.float32), "lengths": np.full(2, 4000, np.int32)}
    assert calibrate(module, [silence])
    norm = module.audio.frontend.norm
    np.testing.assert_allclose(norm.mean[...], -100.0, rtol=1e-6)
    np.testing.assert_array_equal(norm.variance[...], np.float32(LEAST_VARIANCE))


def test_nothing_to_measure_changes_nothing(parts):
    module = nnx.merge(parts.graph, parts.trainable, parts.frozen)
    before = jnp.array(module.audio.frontend.norm.mean[...])
    assert not calibrate(module, [])
    np.testing.assert_array_equal(module.audio.frontend.norm.mean[...], before)
