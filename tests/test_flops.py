"""FLOPs counted from jaxprs are those counted by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, PartitionSpec

from glap_jax import flops
from glap_jax.audio.dasheng import DashengConfig
from glap_jax.audio.whisper import WhisperConfig
from glap_jax.config import DataConfig, LossConfig, ModelConfig, TrainConfig
from glap_jax.text.sonar import SonarConfig

SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)
ONE = 2 * 8**3


def loop(x, length):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=length)[0]


def test_a_scan_counts_as_often_as_it_runs():
    assert flops.count(lambda x: jax.jit(loop, static_argnums=1)(x, 5), SQUARE) == 5 * ONE


def test_a_gradient_counts_twice_its_forward_pass_and_remat_once_more():
    def loss(x, kernels, remat):
        def layer(x, kernel):
            return jnp.tanh(x @ kernel), None

        return jnp.sum(jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, kernels)[0])

    kernels = jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)
    gradient = jax.grad(loss, argnums=(0, 1))
    assert flops.count(lambda *inputs: gradient(*inputs, False), SQUARE, kernels) == 3 * 3 * ONE
    assert flops.count(lambda *inputs: gradient(*inputs, True), SQUARE, kernels) == 3 * 4 * ONE


def test_custom_derivatives_are_looked_into():
    @jax.custom_vjp
    def squared(x):
        return x @ x

    squared.defvjp(lambda x: (squared(x), x), lambda x, g: (g @ x.T + x.T @ g,))
    assert flops.count(squared, SQUARE) == ONE
    assert flops.count(jax.grad(lambda x: jnp.sum(squared(x))), SQUARE) == 3 * ONE


def test_of_a_choice_the_largest_branch_counts():
    def choice(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: loop(x, 2), lambda x: x @ x, x)

    assert flops.count(choice, SQUARE) == 2 * ONE


def test_a_sharded_function_counts_for_all_devices():
    mesh = Mesh(jax.devices(), ("data",))
    rows = PartitionSpec("data")
    run = jax.shard_map(
        lambda x, y: x @ y, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows, check_vma=False
    )
    assert flops.count(run, SQUARE, SQUARE) == ONE


@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions(groups):
    """12 outputs of 16 features, each of 5 taps times the 8 (or 2) inputs of its group."""

    def convolve(x, kernel):
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1,), "VALID", dimension_numbers=numbers, feature_group_count=groups
        )

    x = jax.ShapeDtypeStruct((3, 16, 8), jnp.float32)
    kernel = jax.ShapeDtypeStruct((5, 8 // groups, 16), jnp.float32)
    assert flops.count(convolve, x, kernel) == 2 * (3 * 12 * 16) * (5 * 8 // groups)


def test_products_in_a_loop_of_unknown_length_are_refused():
    def unknown(x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="unknown length"):
        flops.count(unknown, SQUARE)


@pytest.fixture(scope="module")
def small() -> TrainConfig:
    """Half a second is 51 frames of 257 bins, 12 tokens of 256 values."""
    return TrainConfig(
        model=ModelConfig(
            audio=DashengConfig(width=32, layers=3, heads=2, mlp_ratio=4.0),
            text=SonarConfig(width=16, layers=2, heads=4, hidden=64, vocabulary=100),
            joint=24,
        ),
        data=DataConfig(crop_seconds=0.5, max_tokens=10),
        batch=4,
    )


def block(tokens, width, hidden):
    """Projections to queries, keys, values and out; logits and their values; up and down."""
    return 2 * tokens * (4 * width**2 + 2 * tokens * width + 2 * width * hidden)


AUDIO = 2 * 51 * 257 * 64 + 2 * 12 * 256 * 32 + 3 * block(12, 32, 128)
TEXT = 2 * block(10, 16, 64)
HEADS = 2 * (32 * 24 + 16 * 24 + 2 * 24**2)


def test_forward_of_a_small_model_by_hand(small):
    assert flops.forward(small, 3) == flops.Flops(3 * AUDIO, 3 * TEXT, 3 * HEADS)


def test_heads_take_what_the_towers_pool(small):
    """Of Whisper, the mean of each layer and of what goes into the first."""
    layers = WhisperConfig(width=32, layers=3, heads=2, hidden=64, window="clip", pooling="layers")
    wide = dataclasses.replace(small, model=dataclasses.replace(small.model, audio=layers))
    assert flops.forward(wide).heads == HEADS + 2 * 3 * 32 * 24


def test_a_step_counts_three_times_what_learns(small):
    loss = 3 * 2 * 4 * 4 * 24
    found = flops.train(small)
    assert found == flops.Flops(12 * AUDIO, 12 * TEXT, 12 * HEADS, loss)
    assert found.model == 12 * (AUDIO + TEXT + HEADS)


def test_a_frozen_tower_counts_once(small):
    frozen = dataclasses.replace(small, frozen=(("^text/", True), (".*", False)))
    assert flops.train(frozen).text == 4 * TEXT
    adapted = dataclasses.replace(frozen, lora=(("^text/blocks", 2), (".*", 0)))
    assert flops.train(adapted).text == 12 * TEXT


def test_neither_remat_nor_accumulation_counts(small):
    parted = dataclasses.replace(small, remat="full", accumulation=2)
    assert flops.train(parted) == flops.train(small)


def test_the_huber_loss_makes_no_products(small):
    huber = dataclasses.replace(small, loss=LossConfig(kind="huber", regularise=False))
    assert flops.train(huber).loss == 0
