"""Adapters start as nothing, learn in place of their kernels, and are gone from what is published."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from glap_jax import folder
from glap_jax.errors import GlapError
from glap_jax.rules import path_name
from glap_jax.train import loop, lora
from glap_jax.train import optimizer as optimizers
from glap_jax.train import state as states

RANKS = ((r"^audio/.*attention", 3), (r"^text_head/out", 2), (".*", 0))
ATTENTION = "audio/blocks/layers/attention"


@pytest.fixture(scope="module")
def module(parts):
    return nnx.merge(parts.graph, parts.trainable, parts.frozen)


@pytest.fixture(scope="module")
def adapted(module):
    """Both towers frozen but for adapters."""
    made = lora.adapters(module, RANKS, seed=1)
    return states.part(module, (("^(audio|text)/", True), (".*", False)), made, alpha=6.0)


def named(tree) -> dict[str, jax.Array]:
    return {path_name(path): leaf[...] for path, leaf in nnx.to_flat_state(tree)}


def test_adapters_stand_beside_their_kernels_which_rest(adapted):
    shapes = {path: x.shape for path, x in named(adapted.trainable).items()}
    assert {path: shape for path, shape in shapes.items() if "lora" in path} == {
        f"{ATTENTION}/qkv/lora_a": (2, 16, 3),
        f"{ATTENTION}/qkv/lora_b": (2, 3, 48),
        f"{ATTENTION}/out/lora_a": (2, 16, 3),
        f"{ATTENTION}/out/lora_b": (2, 3, 16),
        "text_head/out/lora_a": (16, 2),
        "text_head/out/lora_b": (2, 16),
    }
    assert shapes.keys() == adapted.learning <= set(adapted.paths)
    # Not frozen by a rule, yet adapted.
    assert "text_head/out/kernel" in named(adapted.frozen)
    assert "text_head/out/bias" in shapes
    assert adapted.learns("audio")
    assert not adapted.learns("text")


def test_the_start_is_the_model_itself(adapted, module):
    again = adapted.merge(adapted.trainable, adapted.frozen)
    mine, theirs = (jax.tree_util.tree_leaves_with_path(nnx.state(each)) for each in (again, module))
    assert [path for path, _ in mine] == [path for path, _ in theirs]
    for (path, x), (_, y) in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=str(path))


def test_products_are_added_layer_by_layer(adapted):
    draw = np.random.default_rng(0)
    fill = lambda x: jnp.asarray(draw.normal(size=x.shape), jnp.float32)  # noqa: E731
    trainable = jax.tree.map(fill, adapted.trainable)
    kernel = adapted.merge(trainable, adapted.frozen).audio.blocks.layers.attention.qkv.kernel[...]
    before, values = named(adapted.frozen), named(trainable)
    a, b = (np.asarray(values[f"{ATTENTION}/qkv/lora_{which}"], np.float64) for which in "ab")
    for layer in range(2):
        expected = before[f"{ATTENTION}/qkv/kernel"][layer] + 6.0 / 3 * a[layer] @ b[layer]
        np.testing.assert_allclose(kernel[layer], expected, atol=1e-5)
    np.testing.assert_array_equal(
        named(adapted.frozen)[f"{ATTENTION}/qkv/kernel"], before[f"{ATTENTION}/qkv/kernel"]
    )


def test_a_is_seeded_and_within_its_bounds(module):
    one, same, other = (lora.adapters(module, RANKS, seed=seed) for seed in (1, 1, 2))
    for path, x in one.items():
        np.testing.assert_array_equal(x[...], same[path][...])
        if path[-1] == "lora_a":
            assert 0.2 < np.abs(x[...]).max() <= 0.25
            assert (x[...] != other[path][...]).any()


def test_rules_of_rate_and_decay_reach_adapters(adapted, tiny, changed):
    config = changed(
        tiny.optimizer,
        layer_decay=0.5,
        scale=(("lora_b$", 16.0), (".*", 1.0)),
        decay=(("lora_", False), (".*", True)),
        weight_decay=0.1,
        warmup_steps=0,
        clip=None,
    )
    adam = optimizers.adam(config, lambda _: 0.1, adapted.trainable, adapted.paths)
    ones = jax.tree.map(jnp.ones_like, adapted.trainable)
    updates, _ = adam.update(ones, adam.init(adapted.trainable), adapted.trainable)
    found = named(updates)
    for which, scale in (("a", 1.0), ("b", 16.0)):
        rates = [float(layer.mean()) for layer in found[f"{ATTENTION}/out/lora_{which}"]]
        assert rates == pytest.approx([-0.1 * scale * 0.25, -0.1 * scale * 0.5], rel=1e-5)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (((r"attenshun", 4), (".*", 0)), "lora: 'attenshun' matches no parameter"),
        (((r"attention", 4),), "lora: no rule covers 'audio"),
        (((r"^audio/patch", 17), (".*", 0)), "lora: rank 17 for 'audio/patch/kernel', which is 256 x 16"),
        (((".*", -1),), "lora: rank -1"),
    ],
)
def test_rules_that_cannot_be(module, ranks, words):
    with pytest.raises(GlapError, match=words):
        lora.adapters(module, ranks, seed=0)


@pytest.mark.slow
def test_a_run_keeps_adapters_and_publishes_a_plain_model(small_run, changed):
    frozen = (("^(audio|text)/", True), (".*", False))
    config = changed(
        small_run, lora=RANKS, lora_alpha=6.0, frozen=frozen, steps=2, optimizer={"warmup_steps": 0}
    )
    result = loop.train(config, devices=jax.devices()[:1])
    reader = ocp.StandardCheckpointer()
    base = reader.restore(result.out.absolute() / "frozen")
    state = reader.restore(result.out.absolute() / "checkpoints" / "2" / "state")["trainable"]
    heads = {"audio_head", "text_head", "temperature", "bias"}
    assert state.keys() == heads | {"audio"}
    assert jax.tree.leaves(state["audio"])
    assert set(state["audio"]["blocks"]["layers"]["attention"]["qkv"]) == {"lora_a", "lora_b"}

    module, _ = folder.load_module(result.model)
    found, stored = module.audio.blocks.layers.attention.qkv.kernel[...], base["audio"]["blocks"]["layers"]
    a, b = (
        np.asarray(state["audio"]["blocks"]["layers"]["attention"]["qkv"][f"lora_{x}"]["value"]) for x in "ab"
    )
    assert np.abs(b).max() > 0
    kernel = stored["attention"]["qkv"]["kernel"]["value"]
    np.testing.assert_allclose(found, kernel + 6.0 / 3 * a @ b, atol=1e-6)
    np.testing.assert_array_equal(
        module.audio.blocks.layers.mlp.up.kernel[...], stored["mlp"]["up"]["kernel"]["value"]
    )

    again = loop.train(config, resume=True, devices=jax.devices()[:1])
    assert (again.step, again.finished) == (2, True)
    reread, _ = folder.load_module(again.model)
    np.testing.assert_array_equal(reread.audio.blocks.layers.attention.qkv.kernel[...], found)
    with pytest.raises(GlapError, match="resume: 'lora' is"):
        loop.train(changed(config, lora=((".*", 0),)), resume=True, devices=jax.devices()[:1])
