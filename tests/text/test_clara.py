"""CLARA's text tower against recorded states and features."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.convert.engine import export
from glap_jax.errors import GlapError
from glap_jax.families import family_module, from_torch, to_checkpoint, to_torch
from glap_jax.text.clara import ClaraTextConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "clara"
HPARAMS = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))["hparams"]
# The golden numbers' own limit for features.
FEATURES = 2e-5

encode = nnx.jit(lambda module, ids, mask: module(ids, mask))


@pytest.fixture(scope="module")
def tensors(weights):
    """Those of the text side, its part of the joint model included."""
    return {key: value for key, value in weights("clara").items() if key.startswith("text_")}


@pytest.fixture(scope="module")
def sound(tensors):
    return from_torch("clara_text", tensors, HPARAMS)


@pytest.fixture(scope="module")
def rows(golden):
    io = golden("clara")
    ids = jnp.asarray(io["text/tokens"].astype(np.int32))
    return ids, jnp.arange(ids.shape[1]) < io["text/lengths"].astype(np.int32)[:, None]


def test_a_padded_batch_as_the_rows_alone(sound, golden, rows, close):
    found = encode(sound, *rows)
    close(found.pooled, golden("clara")["text/single_unpadded_features"], FEATURES)
    ids, mask = rows
    garbage = encode(sound, jnp.where(mask, ids, 77), mask)
    np.testing.assert_allclose(garbage.pooled, found.pooled, atol=1e-6)


def test_the_reference_without_a_mask(tensors, golden, rows, close):
    io = golden("clara")
    reference = from_torch("clara_text", tensors, HPARAMS, compat=True)
    found = encode(reference, *rows)
    close(found.pooled, io["text/features"], FEATURES)
    close(found.tokens[:2], io["trace/text/text_layer_norm"], FEATURES)


def test_every_part_agrees_with_the_trace(sound, golden, rows, close):
    io = golden("clara")
    ids = rows[0][:2]
    x = sound.word(ids)
    close(x, io["trace/text/text_embedding"], FEATURES)
    x = sound.blocks_norm(sound.blocks(x + sound.position(jnp.arange(27)), jnp.ones(ids.shape, bool)))
    close(x, io["trace/text/transformer"], FEATURES)
    close(sound.project(x), io["trace/text/project"], FEATURES)
    close(sound.project_norm(sound.project(x)), io["trace/text/ln"], FEATURES)


def test_a_row_without_a_token_is_finite(sound):
    found = sound(jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 4), bool))
    assert np.isfinite(np.asarray(found.pooled)).all()


def test_there_and_back(sound, tensors):
    found = to_torch(sound)
    assert {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in tensors.items()}
    assert from_torch("clara_text", to_checkpoint(sound)).config == sound.config


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "heads are unknown"),
        (HPARAMS | {"vocab_size": 121}, r"should be \[121, 32\]"),
        (HPARAMS | {"text_encoder_depth": 2}, "'text_encoder_depth' is unknown"),
    ],
)
def test_arguments_that_cannot_be_honoured(tensors, given, words):
    with pytest.raises(GlapError, match=words):
        from_torch("clara_text", tensors, given)


def test_rows_beyond_the_positions_are_refused(sound):
    with pytest.raises(GlapError, match="rows of 65 tokens"):
        sound(jnp.zeros((1, 65), jnp.int32), jnp.ones((1, 65), bool))


PUBLISHED = {"60M": ClaraTextConfig.m60(), "100M": ClaraTextConfig.m100(), "600M": ClaraTextConfig.m600()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_follow_from_their_shapes(name):
    config = PUBLISHED[name]
    home = family_module("clara_text")
    module = nnx.eval_shape(lambda: config.build(dtype=jnp.dtype("float32"), remat="none", rngs=nnx.Rngs(0)))
    shapes = {
        key: tensor.shape for key, tensor in export(module, home.TORCH_RULES, family="clara_text").items()
    }
    assert shapes["text_embedding.weight"] == (50_373, 512)
    assert home.config_from_torch(shapes, {}) == config
    assert home.config_from_torch(shapes, home.config_to_torch(config)) == config


def test_dropout_acts_in_training_alone(sound, rows):
    module = nnx.clone(sound)
    module.blocks.layers.dropout = 0.5
    train = nnx.jit(lambda module, key: module(*rows, key=key).pooled)
    keys = jax.random.split(jax.random.key(0), (2, len(rows[0])))
    plain, one, other = (train(module, key) for key in (None, *keys))
    np.testing.assert_allclose(plain, encode(sound, *rows).pooled, atol=1e-6)
    assert np.abs(one - plain).max() > 1e-3
    assert np.abs(one - other).max() > 1e-3
