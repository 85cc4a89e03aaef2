"""Schedule values, rules of decay and rate, clipping over everything, no state for what is frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.config import OptimizerConfig
from glap_jax.errors import GlapError
from glap_jax.train import optimizer as optimizers
from glap_jax.train import state as states

FLAT = OptimizerConfig(learning_rate=0.1, warmup_steps=0, final_share=1.0, clip=None)


def by_path(tree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {optimizers.parameter_path(path): np.asarray(leaf) for path, leaf in leaves}


def first_update(parts, config: OptimizerConfig, gradient) -> dict[str, np.ndarray]:
    schedule = optimizers.cosine(config, 10)
    adam = optimizers.adam(config, schedule, parts.trainable, parts.paths)
    updates, _ = adam.update(gradient, adam.init(parts.trainable), parts.trainable)
    return by_path(updates)


def test_schedule_values():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4, final_share=0.1)
    rate = optimizers.cosine(config, 12)
    # Update number 4 takes the peak, number 8 is half-way down the cosine, number 12 takes the end.
    expected = {0: 0.5, 1: 1.0, 3: 2.0, 7: 1.1, 11: 0.2}
    for count, value in expected.items():
        assert float(rate(count)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("warmup", [10, 11, -1])
def test_warmup_longer_than_run_is_refused(warmup):
    with pytest.raises(GlapError, match="warmup_steps"):
        optimizers.cosine(OptimizerConfig(warmup_steps=warmup), 10)


def test_weight_decay_follows_its_rules(parts):
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, final_share=1.0, clip=None, weight_decay=0.5)
    still = jax.tree.map(jnp.zeros_like, parts.trainable)
    updates, values = first_update(parts, config, still), by_path(parts.trainable)
    kernel = "audio/blocks/layers/mlp/up/kernel"
    np.testing.assert_allclose(updates[kernel], -0.1 * 0.5 * values[kernel], rtol=1e-6)
    for path in ("audio/norm/scale", "text/blocks/layers/mlp/up/bias", "audio/time_position", "temperature"):
        assert not updates[path].any(), path


def test_rate_follows_its_rules(parts):
    config = OptimizerConfig(
        learning_rate=0.1,
        warmup_steps=0,
        final_share=1.0,
        clip=None,
        scale=(("^text/", 0.25), (".*", 1.0)),
    )
    ones = jax.tree.map(jnp.ones_like, parts.trainable)
    updates = first_update(parts, config, ones)
    # Adam's first update of a constant gradient is the learning rate itself.
    np.testing.assert_allclose(updates["text/norm/scale"], -0.025, rtol=1e-5)
    np.testing.assert_allclose(updates["audio/norm/scale"], -0.1, rtol=1e-5)


def test_rule_that_matches_nothing_is_refused(parts):
    config = OptimizerConfig(warmup_steps=0, scale=(("^txet/", 0.25), (".*", 1.0)))
    with pytest.raises(GlapError, match=r"optimizer.scale.*txet"):
        optimizers.adam(config, optimizers.cosine(config, 10), parts.trainable, parts.paths)


def test_clipping_counts_every_parameter_and_the_scalars(parts):
    config = OptimizerConfig(warmup_steps=0, clip=1.0)
    adam = optimizers.adam(config, optimizers.cosine(config, 10), parts.trainable, parts.paths)
    gradient = jax.tree.map(jnp.ones_like, parts.trainable)
    gradient["temperature"][...] = jnp.asarray(1e4, jnp.float32)
    _, (_, moments, *_) = adam.update(gradient, adam.init(parts.trainable), parts.trainable)
    mean = by_path(moments.mu)
    count = sum(leaf.size for leaf in jax.tree.leaves(parts.trainable))
    norm = np.sqrt(count - 1 + 1e8)
    assert mean["temperature"] == pytest.approx(0.1 * 1e4 / norm, rel=1e-5)
    np.testing.assert_allclose(mean["audio/norm/scale"], 0.1 / norm, rtol=1e-5)


def test_frozen_parameters_and_statistics_hold_no_state(parts):
    module = nnx.merge(parts.graph, parts.trainable, parts.frozen)
    config = FLAT
    held = states.part(module, (("^text/", True), (".*", False)))
    adam = optimizers.adam(config, optimizers.cosine(config, 10), held.trainable, held.paths)
    _, moments, *_ = adam.init(held.trainable)
    for tree in (moments.mu, moments.nu):
        assert not [path for path in by_path(tree) if path.startswith("text/")]
        assert {"audio/norm/scale", "text_head/out/kernel", "temperature"} <= by_path(tree).keys()
        assert "audio/frontend/norm/mean" not in by_path(tree)


def test_freezing_everything_is_refused(parts):
    module = nnx.merge(parts.graph, parts.trainable, parts.frozen)
    with pytest.raises(GlapError, match="every parameter"):
        states.part(module, ((".*", True),))
