"""SONAR's speech encoder against recorded states and embeddings, and ones that padding does not change.

The numbers are those of sonar-space 0.4.0 over fairseq2 0.4.5 itself, at a tiny size with random weights.
"""

import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.conformer import by_distance, stacked_fbank
from glap_jax.audio.sonar_speech import (
    TORCH_RULES,
    SonarSpeechConfig,
    compat,
    config_from_torch,
    config_to_torch,
)
from glap_jax.convert.engine import export
from glap_jax.errors import GlapError
from glap_jax.families import from_torch, to_torch

GOLDEN = Path(__file__).parents[1] / "golden" / "sonar_speech"
RECORDED = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
# Of the reference's features: its tokens are 1.3e-5 from its own in float64 at most, its embeddings 2.3e-6.
STATES, POOLED = 3e-5, 1e-5
# Of the waveform: 3.4e-4 for features (a band's variance is small where the log stands at its floor), 2.2e-4
# for tokens and 3.1e-5 for embeddings.
FEATURES_HEARD, STATES_HEARD, POOLED_HEARD = 7e-4, 5e-4, 1.5e-4

encode = nnx.jit(lambda module, waveform, lengths: module(waveform, lengths))


def old_names(tensors):
    """Tensors by the names that fairseq gives them, as SONAR's own converter reads these."""
    return {old: tensors[new] for old, new in RECORDED["fairseq_names"].items()}


@pytest.fixture(scope="module")
def load(weights):
    return lambda **options: from_torch(
        "sonar_speech", weights("sonar_speech"), RECORDED["constructor"], **options
    )


@pytest.fixture(scope="module")
def module(load):
    return load()


def test_the_features(golden, clip, close):
    found, mask = jax.jit(stacked_fbank)(jnp.asarray(clip("c0_5s"))[None], jnp.array([8000], jnp.int32))
    assert mask.all()
    close(found.reshape(48, 80), golden("sonar_speech")["c0_5s/fbank"], FEATURES_HEARD)


def test_every_stage_agrees_with_the_trace(module, golden, close):
    @nnx.jit
    def stages(module, features, real):
        x = module.projection(module.feature_norm(features))
        graph, layers = nnx.split(module.blocks.layers)
        block = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], layers))
        first = block.first(block.first_norm(x))
        after = x + 0.5 * first
        attention = block.attention(block.attention_norm(after), real)
        after = after + attention
        found = {
            "frontend": x,
            "layer0/ffn1": first,
            "layer0/attention": attention,
            "layer0/conv": block.convolution(block.convolution_norm(after), real),
            "pool_query": module.pooler.query()[None, None],
        }
        return found, module.encode(features, real)

    io = golden("sonar_speech")
    features = jnp.asarray(io["c0_5s/fbank"].reshape(1, 24, 160))
    found, encoded = stages(module, features, jnp.ones((1, 24), bool))
    for name, value in found.items():
        close(value[0], io[f"trace/{name}"], STATES)
    close(encoded.tokens[0], io["trace/norm"], STATES)
    close(encoded.pooled, io["c0_5s/pooled"], POOLED)


def test_the_reference_s_batch(module, golden, padded, close):
    """Rows of even and odd numbers of frames."""
    io = golden("sonar_speech")
    batch, lengths = padded([tuple(part) for part in RECORDED["batch"]])
    found = encode(module, jnp.asarray(batch), jnp.asarray(lengths))
    np.testing.assert_array_equal(found.mask.sum(axis=1), io["batch/lengths"])
    close(found.pooled, io["batch/pooled"], POOLED_HEARD)
    for row, name in enumerate(("c3s", "c0_5s")):
        count = int(io["batch/lengths"][row])
        close(found.tokens[row, :count], io[f"{name}/0/tokens"], STATES_HEARD)


def test_a_single_clip(module, golden, clip, close):
    io = golden("sonar_speech")
    found = encode(module, jnp.asarray(clip("c0_5s"))[None], None)
    assert found.mask.all()
    close(found.pooled, io["c0_5s/pooled"], POOLED_HEARD)
    close(found.tokens[0], io["c0_5s/0/tokens"], STATES_HEARD)


# Two frames end at 560 samples, and every two from there take 320 more.
@pytest.mark.parametrize(("samples", "count"), [(1, 1), (879, 1), (5000, 14)])
def test_padding_and_batch_mates_change_nothing(module, clip, samples, count):
    """Over a noise floor: without it all features of a silent token are alike, and their norm amplifies the
    last bits."""
    generator = np.random.default_rng(samples)
    one = clip("c3s", 9000, 9000 + samples) + generator.normal(0, 1e-3, samples).astype(np.float32)
    alone = encode(module, jnp.asarray(one)[None], None)
    batch = generator.uniform(-1, 1, (2, 6000)).astype(np.float32)
    batch[0, :samples] = one
    together = encode(module, jnp.asarray(batch), jnp.array([samples, 6000], jnp.int32))
    assert int(together.mask[0].sum()) == alone.tokens.shape[1] == count
    np.testing.assert_allclose(together.tokens[0, :count], alone.tokens[0], atol=1e-4)
    np.testing.assert_allclose(together.pooled[0], alone.pooled[0], atol=2e-5)


def test_silence_is_finite_whatever_its_padding(module):
    """The reference divides silence by zero."""
    alone = encode(module, jnp.zeros((1, 5000), jnp.float32), None)
    told = encode(module, jnp.zeros((2, 6000), jnp.float32), jnp.array([5000, 6000], jnp.int32))
    assert np.isfinite(told.tokens).all()
    np.testing.assert_allclose(told.pooled[0], alone.pooled[0], atol=1e-5)


def test_logits_of_distances_reach_their_keys():
    """Entry (i, j) of N x N is the logit of i - j, counted down from N - 1."""
    for tokens in (1, 2, 5):
        logits = np.random.default_rng(0).normal(size=(1, 2, tokens, 2 * tokens - 1)).astype(np.float32)
        found = by_distance(jnp.asarray(logits))
        for i in range(tokens):
            for j in range(tokens):
                np.testing.assert_array_equal(found[..., i, j], logits[..., i, tokens - 1 - i + j])


@pytest.mark.parametrize("rename", [dict, old_names], ids=["fairseq2", "fairseq"])
def test_the_way_back_is_bit_for_bit(weights, rename):
    original = rename(weights("sonar_speech"))
    back = to_torch(from_torch("sonar_speech", original, RECORDED["constructor"]))
    assert set(back) == set(original)
    assert all(back[key].tobytes() == value.tobytes() for key, value in original.items())


def test_both_names_give_the_same_module(module, weights):
    old = from_torch("sonar_speech", old_names(weights("sonar_speech")), RECORDED["constructor"])
    assert old.config == module.config
    for a, b in zip(jax.tree.leaves(nnx.state(old)), jax.tree.leaves(nnx.state(module)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_pre_training_leaves_behind_is_kept(weights):
    """SONAR's converter names these, and throws them away."""
    original = old_names(weights("sonar_speech"))
    original["encoder.w2v_model.mask_emb"] = np.arange(24, dtype=np.float32)
    original["encoder.w2v_model.encoder.pos_conv.0.weight_g"] = np.ones((1, 1, 128), np.float32)
    back = to_torch(from_torch("sonar_speech", original, RECORDED["constructor"]))
    assert all(back[key].tobytes() == value.tobytes() for key, value in original.items())


def test_all_that_does_not_fit_is_said_in_one_line(weights):
    tensors = weights("sonar_speech")
    del tensors["encoder.layers.1.conv.batch_norm.running_var"]
    tensors["encoder.layers.0.self_attn.sdpa.u_bias"] = np.zeros((4, 6), np.float32)
    tensors["quantizer.weight"] = np.zeros((2,), np.float32)
    with pytest.raises(
        GlapError, match=r"1 missing: encoder\.layers\.1\.conv\.batch_norm\.running_var.*quantizer.*u_bias"
    ) as raised:
        from_torch("sonar_speech", tensors, RECORDED["constructor"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"w2v2_encoder_config": {"use_conformer": False, "colour": 1}},
            r"'use_conformer'.*'colour' is unknown",
        ),
        ({"w2v2_encoder_config": 3}, "must be a dict, not 3"),
        ({"decoder_norm_order": "PRE"}, "'decoder_norm_order' must be 'POST'"),
        ({}, "attention heads are unknown"),
    ],
)
def test_what_cannot_be_honoured_is_said_in_one_line(weights, given, words):
    with pytest.raises(GlapError, match=words) as raised:
        from_torch("sonar_speech", weights("sonar_speech"), given)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["english", "non_english"])
def test_every_key_and_shape_of_the_full_sizes_is_explained(name):
    """Against the reference's own constructor; of its stacked layers the first ones were recorded."""
    config = getattr(SonarSpeechConfig, name)()
    full = nnx.eval_shape(lambda: config.build(dtype=jnp.dtype("float32"), remat="none", rngs=nnx.Rngs(0)))
    written = {key: tensor.shape for key, tensor in export(full, TORCH_RULES, family="sonar_speech").items()}
    recorded = RECORDED["full"][name]
    assert sum(map(math.prod, written.values())) == recorded["parameters_and_buffers"]
    names = {new: old for old, new in RECORDED["fairseq_names"].items()}
    first = {key: shape for key, shape in written.items() if not re.search(r"layers\.(?!0\.)", key)}
    assert first == {names[key]: tuple(shape) for key, shape in recorded["shapes"].items()}
    assert config_from_torch(written, {}) == config
    assert config_from_torch(written, config_to_torch(config)) == config
    if name == "english":
        assert config_from_torch(written, RECORDED["full_constructor"]) == config
    assert compat(config) == config


def test_bfloat16_stays_near_float32(load, module, clip):
    wave = jnp.asarray(clip("c0_5s"))[None]
    low, exact = encode(load(dtype=jnp.bfloat16), wave, None), encode(module, wave, None)
    assert low.tokens.dtype == jnp.bfloat16
    assert low.pooled.dtype == jnp.float32
    cosine = np.vdot(low.pooled, exact.pooled)
    assert cosine > 0.999 * np.linalg.norm(low.pooled) * np.linalg.norm(exact.pooled)
