"""Packed batches teach what padded ones do: real clips, in parts, on several devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glap_jax.audio.whisper import WhisperConfig
from glap_jax.config import GroupConfig, LayoutConfig
from glap_jax.drawing import Masking
from glap_jax.errors import GlapError
from glap_jax.parallel.sharding import make_mesh, over_batch, replicated
from glap_jax.train import batches
from glap_jax.train import state as states
from glap_jax.train.step import make_loss, step_key, value_and_gradient

# As long a window as the other tower's chunk.
WHISPER = WhisperConfig(16, layers=2, heads=2, hidden=32, positions=24, window="clip", pooling="layers")


@pytest.fixture
def real(small_run, changed):
    """The tiny model on embedded clips of all groups, up to 0.48 s of each, as long as the model's chunk."""
    groups = (GroupConfig("all", ("train-*.tar",)),)
    return changed(small_run, batch=16, data={"train": groups, "crop_seconds": 0.48})


def packed(changed, config, **values):
    return changed(config, data={"layout": LayoutConfig("packed", row_seconds=0.96)}, **values)


def gradient(config, parts, mesh):
    """Loss, gradient and rows (by clip) of the first batch, computed as a step does, and that batch."""
    data, _ = batches.open_data(config, mesh)
    batch, _ = batches.next_batch(data, mesh, "pair")
    data.close()
    design = states.design(config, mesh)
    weights = (parts.trainable, parts.frozen)
    places = jax.tree.map(lambda x: x.sharding, (design.state.trainable, design.frozen))
    run = functools.partial(
        value_and_gradient, parts, loss=make_loss(config.loss, mesh), accumulation=config.accumulation
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        where = (*places, over_batch(mesh), replicated(mesh))
        key = jax.device_put(step_key(0, jnp.int32(0)), replicated(mesh))
        found = jax.jit(run, in_shardings=where)(*jax.device_put(weights, places), batch, key)
    value, tree, rows = jax.tree.map(np.asarray, found[:3])
    order = np.argsort(batch["identity"])
    return (value, tree, [side[order] for side in rows]), batch


def norm(tree):
    return float(np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(tree))))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dasheng", "whisper"])
def test_loss_gradients_and_embeddings_are_those_of_padded_clips(real, random_module, changed, family):
    """Of one device; those of packed clips of four in two parts, where two share a copy of the parameters.

    They differ by the noise of float32: embeddings by 1e-5, the loss by 1e-6 and gradients by 2e-5 of
    themselves at most.
    """
    # What is blanked of a clip is the same wherever it lies.
    masked = dataclasses.replace(real.model.audio, masking=Masking(times=1, bands=1))
    real = changed(real, model={"audio": WHISPER if family == "whisper" else masked})
    parts = states.part(random_module(lambda: states.fresh(real)), real.frozen)
    (value, expected, rows), _ = gradient(real, parts, make_mesh(real.parallel, jax.devices()[:1]))
    config = packed(changed, real, accumulation=2, parallel={"fsdp": 2})
    mesh = make_mesh(config.parallel, jax.devices()[:4])
    (its_value, its_gradient, its_rows), batch = gradient(config, parts, mesh)
    # Eight cells of two clips each, that fit into a row or take two.
    assert batch["waveform"].shape in ((8, 24 * 640), (16, 24 * 640))
    assert its_value == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(its_rows[0], rows[0], atol=1e-5)
    np.testing.assert_allclose(its_rows[1], rows[1], atol=1e-6)
    assert norm(jax.tree.map(np.subtract, its_gradient, expected)) < 2e-5 * norm(expected)


def test_towers_that_cannot_be_packed(real, changed):
    config = packed(changed, real)
    with pytest.raises(
        GlapError, match=r"'data.crop_seconds' is longer than the 0.48 s .* set it to bucketed"
    ):
        batches.open_data(changed(config, data={"crop_seconds": 0.5}))
    silence = dataclasses.replace(WHISPER, window="silence")
    with pytest.raises(GlapError, match=r"'model\.audio\.window' is silence"):
        batches.open_data(changed(config, model={"audio": silence}))
