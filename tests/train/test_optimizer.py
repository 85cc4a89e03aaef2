"""Schedule values, rules of decay and rate, clipping over everything, no state for what is frozen."""

import dataclasses

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
    schedule = optimizers.schedule(config, 10)
    adam = optimizers.adam(config, schedule, parts.trainable, parts.paths)
    updates, _ = adam.update(gradient, adam.init(parts.trainable), parts.trainable)
    return by_path(updates)


def test_schedule_values():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4, final_share=0.1)
    rate = optimizers.schedule(config, 12)
    # Update number 4 takes the peak, number 8 is half-way down the cosine, number 12 takes the end.
    expected = {0: 0.5, 1: 1.0, 3: 2.0, 7: 1.1, 11: 0.2}
    for count, value in expected.items():
        assert float(rate(count)) == pytest.approx(value, rel=1e-6)


def test_restarts_warm_up_and_fall_in_every_period():
    config = OptimizerConfig(
        learning_rate=2.0, schedule="restarts", warmup_steps=2, final_share=0.1, period=6
    )
    rate = optimizers.schedule(config, 100)
    # Up from 0.2, the peak at update number 2, half-way down at number 4, back at 0.2 at number 6.
    expected = [1.1, 2.0, 1.1 + 0.9 * np.cos(np.pi / 4), 1.1, 1.1 - 0.9 * np.cos(np.pi / 4), 0.2]
    for count in range(18):
        assert float(rate(count)) == pytest.approx(expected[count % 6], rel=1e-6)


def test_stairs():
    config = OptimizerConfig(learning_rate=2.0, schedule="stairs", warmup_steps=2, period=3, drop=0.5)
    rate = optimizers.schedule(config, 9)
    expected = [1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    assert [float(rate(count)) for count in range(9)] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": "restarts", "warmup_steps": 6}, r"is 6 in a period of 6 steps; .* 'optimizer.period'"),
        ({"schedule": "stairs", "period": 0}, "'optimizer.period' is 0"),
    ],
)
def test_periods_that_cannot_be_are_refused(change, words):
    with pytest.raises(GlapError, match=words):
        optimizers.schedule(OptimizerConfig(**{"warmup_steps": 2, "period": 6} | change), 100)


@pytest.mark.parametrize("warmup", [10, 11, -1])
def test_warmup_longer_than_run_is_refused(warmup):
    with pytest.raises(GlapError, match="warmup_steps"):
        optimizers.schedule(OptimizerConfig(warmup_steps=warmup), 10)


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


def test_layers_learn_the_more_slowly_the_lower_they_are(parts):
    """Every parameter; with a rule of `scale`, and with a frozen tower."""
    config = dataclasses.replace(FLAT, layer_decay=0.5, scale=(("^text/", 0.1), (".*", 1.0)))
    ones = jax.tree.map(jnp.ones_like, parts.trainable)
    updates = first_update(parts, config, ones)
    assert updates.keys() == set(parts.paths)
    for path, update in updates.items():
        tower = 0.1 if path.startswith("text/") else 1.0
        if "/layers/" in path:
            # Two layers: 1/4 and 1/2; below them 1/8.
            factors = np.array([0.25, 0.5]).reshape(-1, *[1] * (update.ndim - 1))
        elif path.startswith(("audio/", "text/")) and not path.startswith("audio/norm/"):
            factors = 0.125
        else:
            factors = 1.0
        expected = np.broadcast_to(-0.1 * tower * factors, update.shape)
        np.testing.assert_allclose(update, expected, rtol=1e-5, err_msg=path)

    module = nnx.merge(parts.graph, parts.trainable, parts.frozen)
    held = states.part(module, ((r"^text/|^audio/blocks/.*kernel", True), (".*", False)))
    factors = by_path(optimizers.layer_factors(config, held.trainable, held.paths))
    assert factors["audio/patch/kernel"] == 0.125
    assert factors["audio/blocks/layers/mlp/up/bias"].ravel().tolist() == [0.25, 0.5]


def test_lower_layers_rest(parts):
    """They and what is before them stay as they are; the layers above have the gradient that they had."""
    config = dataclasses.replace(FLAT, learning_layers=1, layer_decay=0.5, weight_decay=0.1)
    ones = jax.tree.map(jnp.ones_like, parts.trainable)
    updates, free = first_update(parts, config, ones), dataclasses.replace(config, learning_layers=None)
    for path, expected in first_update(parts, free, ones).items():
        if "/layers/" in path:
            expected = expected * np.array([0, 1]).reshape(-1, *[1] * (expected.ndim - 1))
        elif path.startswith(("audio/", "text/")) and not path.startswith("audio/norm/"):
            expected = 0 * expected
        np.testing.assert_array_equal(updates[path], expected, err_msg=path)

    module = nnx.merge(parts.graph, parts.trainable, parts.frozen)
    clip = jax.random.normal(jax.random.key(0), (2, 8000))

    def energy(module) -> jax.Array:
        return jnp.square(module.audio(clip, None).tokens).sum()

    whole, whole_gradient = nnx.value_and_grad(energy)(module)
    optimizers.rest(module, config)
    value, gradient = nnx.value_and_grad(energy)(module)
    assert float(value) == pytest.approx(float(whole), rel=1e-6)
    whole_gradient, gradient = by_path(whole_gradient), by_path(gradient)
    for path in ("audio/patch/kernel", "audio/time_position"):
        assert whole_gradient[path].any()
        assert not gradient[path].any()
    path = "audio/blocks/layers/attention/qkv/kernel"
    assert not gradient[path][0].any()
    np.testing.assert_allclose(gradient[path][1], whole_gradient[path][1], rtol=1e-4, atol=1e-5)

    with pytest.raises(GlapError, match="learning_layers' is 0; 'frozen' says which towers rest"):
        optimizers.rest(module, dataclasses.replace(config, learning_layers=0))


def test_rule_that_matches_nothing_is_refused(parts):
    config = OptimizerConfig(warmup_steps=0, scale=(("^txet/", 0.25), (".*", 1.0)))
    with pytest.raises(GlapError, match=r"optimizer.scale.*txet"):
        optimizers.adam(config, optimizers.schedule(config, 10), parts.trainable, parts.paths)


def test_clipping_counts_every_parameter_and_the_scalars(parts):
    config = OptimizerConfig(warmup_steps=0, clip=1.0)
    adam = optimizers.adam(config, optimizers.schedule(config, 10), parts.trainable, parts.paths)
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
    adam = optimizers.adam(config, optimizers.schedule(config, 10), held.trainable, held.paths)
    _, moments, *_ = adam.init(held.trainable)
    for tree in (moments.mu, moments.nu):
        assert not [path for path in by_path(tree) if path.startswith("text/")]
        assert {"audio/norm/scale", "text_head/out/kernel", "temperature"} <= by_path(tree).keys()
        assert "audio/frontend/norm/mean" not in by_path(tree)


def test_freezing_everything_is_refused(parts):
    module = nnx.merge(parts.graph, parts.trainable, parts.frozen)
    with pytest.raises(GlapError, match="every parameter"):
        states.part(module, ((".*", True),))
