"""wav2vec 2.0, HuBERT and WavLM against recorded states, and tokens that padding does not change."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.context import relative_buckets
from glap_jax.audio.speech import normalised, tokens_of
from glap_jax.audio.wav2vec2 import Wav2Vec2Config
from glap_jax.audio.wavlm import TORCH_RULES, WavLMConfig, config_from_torch
from glap_jax.convert.engine import export
from glap_jax.convert.readers import open_checkpoint
from glap_jax.errors import GlapError
from glap_jax.families import from_torch, to_torch

GOLDEN = Path(__file__).parents[1] / "golden"
ITEMS = [f"hf_{family}_{norm}" for family in ("wav2vec2", "hubert", "wavlm") for norm in ("group", "layer")]
PARTS = [("c3s", 1000, 17000), ("c10s", 5000, 14600), ("c0_5s", 0, 8000)]
# The golden numbers' own limit for states.
STATES = 1e-4

encode = nnx.jit(lambda module, waveform, lengths: module(waveform, lengths))
encode_values = nnx.jit(lambda module, values, lengths: module.encode(values, lengths))


@pytest.fixture(scope="module")
def load(weights):
    def make(item, **options):
        config = json.loads((GOLDEN / item / "config.json").read_text(encoding="utf-8"))
        return from_torch(item.split("_")[1], weights(item), config, **options)

    return make


@pytest.fixture(scope="module")
def batch(padded):
    """Three clips and silence, padded to 16000 samples, as `input_values`, and their lengths."""
    wave, lengths = padded([*PARTS, ("zeros", 0, 8000)])
    real = np.arange(16000) < lengths[:, None]
    noise = np.random.default_rng(0).uniform(-1, 1, wave.shape).astype(np.float32)
    values = normalised(jnp.asarray(np.where(real, wave, noise)), jnp.asarray(real))
    return values, jnp.asarray(lengths)


@pytest.mark.parametrize("item", ITEMS)
def test_the_reference_and_clips_alone(load, golden, batch, close, item):
    """By default, what the reference makes of one clip alone comes out of a padded batch.

    The two modes differ in group norms only; without them, one module does for both.
    """
    io, module = golden(item), load(item, compat=item.endswith("group"))
    values, lengths = batch
    found = encode_values(module, values, lengths)
    np.testing.assert_array_equal(found.mask[:3], io["masked/feature_mask"])
    close(found.tokens[:3], io["masked/last_hidden_state"], STATES)
    # With all samples told to be real, nothing is masked.
    everything = encode_values(module, values, jnp.full((4,), 16000, jnp.int32))
    close(everything.tokens[:3], io["unmasked/last_hidden_state"], STATES)
    if item.endswith("group"):
        found = encode_values(load(item), values, lengths)
    assert found.mask.sum(axis=1).tolist() == [49, 29, 24, 24]
    close(found.tokens[1, :29], io["single1/last_hidden_state"], STATES)
    close(found.pooled[1], io["single1/mean_pooled"], STATES)
    close(found.tokens[3, :24], io["zeros/last_hidden_state"], STATES)


def test_padding_and_batch_mates_change_nothing(load, golden, clip, close):
    io, module = golden("hf_wavlm_group"), load("hf_wavlm_group")
    one = clip(*PARTS[1])
    alone = encode(module, jnp.asarray(one)[None], None)
    close(alone.tokens[0], io["single1/last_hidden_state"], STATES)
    rows = np.random.default_rng(0).uniform(-1, 1, (2, 12345)).astype(np.float32)
    rows[0, : len(one)] = one
    together = encode(module, jnp.asarray(rows), jnp.array([len(one), 12345], jnp.int32))
    np.testing.assert_allclose(together.tokens[0, :29], alone.tokens[0], atol=2e-5)
    np.testing.assert_allclose(together.pooled[0], alone.pooled[0], atol=5e-6)


@nnx.jit
def trace(module, wave):
    """The stages of a WavLM in one program, by the names that they were recorded under."""
    context, found = module.context, {}
    x = normalised(wave, jnp.ones(wave.shape, bool))[..., None]
    for index, convolution in enumerate(module.convolutions):
        x = convolution(x, None)
        found[f"conv{index}"] = (x[:, ::16] if index == 0 else x).swapaxes(1, 2)
    x = found["feature_projection"] = module.projection(module.feature_norm(x))
    found["pos_conv_embed"] = context.positions(x)
    x = x + found["pos_conv_embed"]
    bias = context.relative(x.shape[1])
    found["relative_bias"] = bias[:, :, :20, :20]
    graph, layers = nnx.split(context.blocks.layers)
    for number in range(2):
        block = nnx.merge(graph, jax.tree.map(lambda leaf, number=number: leaf[number], layers))
        found[f"layer{number}.attention"] = block.attention(block.attention_norm(x), None, bias)
        x = found[f"layer{number}"] = block(x, None, bias)
    return found


def test_every_stage_agrees_with_the_trace(load, golden, clip, close):
    io = golden("hf_wavlm_layer")
    found = trace(load("hf_wavlm_layer"), jnp.asarray(clip(*PARTS[1]))[None])
    names = ("conv0", "conv6", "feature_projection", "pos_conv_embed", "layer0.attention", "layer0", "layer1")
    for name in names:
        close(found[name][0], io[f"trace/{name}"], STATES)
    close(found["relative_bias"][0], io["trace/relative_bias"], 1e-6)


def test_the_waveform_is_normalised_over_real_samples(golden, padded, close):
    wave, lengths = padded(PARTS)
    found = normalised(jnp.asarray(wave), jnp.asarray(np.arange(16000) < lengths[:, None]))
    close(found[:, ::16], golden("hf_wav2vec2_group")["input_values_every_16th"], 2e-5)


def test_tokens_of_samples(golden):
    for samples, tokens in golden("hf_wav2vec2_group")["length_table"]:
        assert tokens_of(int(samples)) == tokens


def test_buckets_are_the_reference_s(golden):
    io = golden("hf_wavlm_layer")
    table = relative_buckets(1501, 320, 800)
    np.testing.assert_array_equal(table[0], io["bucket/bucket"][1500:])
    np.testing.assert_array_equal(table[-1], io["bucket/bucket"][:1501])


@pytest.mark.parametrize("item", ITEMS)
def test_the_way_back_is_bit_for_bit(load, weights, item):
    original, back = weights(item), to_torch(load(item))
    assert set(back) == set(original)
    assert all(back[key].tobytes() == value.tobytes() for key, value in original.items())


def test_older_keys_and_a_head_come_back_as_they_were(weights):
    """A recognition model: the encoder behind a prefix, weight norm in its old spelling, and a head."""
    old = {"original0": "weight_g", "original1": "weight_v"}
    tensors = {"lm_head.weight": np.ones((32, 48), np.float32), "lm_head.bias": np.ones(32, np.float32)}
    for key, value in weights("hf_wav2vec2_group").items():
        stem, _, end = key.rpartition(".parametrizations.weight.")
        tensors["wav2vec2." + (f"{stem}.{old[end]}" if stem else key)] = value
    del tensors["wav2vec2.masked_spec_embed"]
    module = from_torch("wav2vec2", tensors, {"num_attention_heads": 4})
    back = to_torch(module)
    assert set(back) == set(tensors)
    assert all(back[key].tobytes() == value.tobytes() for key, value in tensors.items())


def test_sizes_come_from_shapes_alone(load, weights):
    for item in ITEMS:
        told = load(item).config
        read = from_torch(item.split("_")[1], weights(item), {"num_attention_heads": 4}).config
        assert read == told


def test_what_cannot_be_honoured_is_said_in_one_line(weights):
    given = {"num_attention_heads": 4, "hidden_act": "relu", "add_adapter": True, "colour": 1}
    with pytest.raises(GlapError, match=r"hidden_act.*add_adapter.*colour"):
        from_torch("hubert", weights("hf_hubert_group"), given)


def test_wavlm_base_takes_waveforms_as_they_are():
    """Published: base and base+ were trained without normalisation, large with it."""
    base = WavLMConfig.base()
    module = nnx.eval_shape(lambda: base.build(dtype=jnp.dtype("float32"), remat="none", rngs=nnx.Rngs(0)))
    shapes = {key: tensor.shape for key, tensor in export(module, TORCH_RULES, family="wavlm").items()}
    assert config_from_torch(shapes, {}) == base
    assert config_from_torch(shapes, {"do_normalize": True}).normalise
    assert WavLMConfig.large().normalise


def test_a_published_folder_says_whether_waveforms_are_normalised(tmp_path):
    item = GOLDEN / "hf_wavlm_group"
    shutil.copy(item / "weights.safetensors", tmp_path / "model.safetensors")
    shutil.copy(item / "config.json", tmp_path)
    assert from_torch("wavlm", open_checkpoint(tmp_path)).config.normalise
    words = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": False, "feature_size": 1}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(words), encoding="utf-8")
    assert not from_torch("wavlm", open_checkpoint(tmp_path)).config.normalise


@pytest.mark.parametrize("samples", [1, 719])
def test_a_clip_shorter_than_a_token_gives_one(load, samples):
    module = load("hf_wav2vec2_group")
    wave = jnp.asarray(np.random.default_rng(0).normal(size=(1, samples)).astype(np.float32))
    alone = encode(module, wave, None)
    assert alone.tokens.shape == (1, 1, 48)
    longer = jnp.pad(wave, ((0, 0), (0, 720 - samples)))
    told = encode(module, longer, jnp.array([samples], jnp.int32))
    np.testing.assert_allclose(told.pooled, alone.pooled, atol=1e-5)


def test_bfloat16_stays_near_float32(load, clip):
    wave = jnp.asarray(clip("c0_5s"))[None]
    low = encode(load("hf_wavlm_group", dtype=jnp.bfloat16), wave, None)
    exact = encode(load("hf_wavlm_group"), wave, None)
    assert low.tokens.dtype == jnp.bfloat16
    assert low.pooled.dtype == jnp.float32
    cosine = np.vdot(low.pooled, exact.pooled)
    assert cosine > 0.999 * np.linalg.norm(low.pooled) * np.linalg.norm(exact.pooled)


def test_gradients_are_finite_on_silence_and_padding():
    """A silent row and a nearly empty one must not turn the others' gradients into NaN."""
    config = Wav2Vec2Config(width=16, layers=1, heads=2, hidden=16, conv_width=8, position_groups=4)
    module = nnx.jit(lambda: config.build(dtype=jnp.float32, remat="full", rngs=nnx.Rngs(0)))()
    wave = jnp.zeros((2, 2000), jnp.float32).at[1, :10].set(0.5)

    def loss(module):
        return module(wave, jnp.array([2000, 10], jnp.int32)).pooled.sum()

    gradients = jax.tree.leaves(nnx.jit(nnx.grad(loss))(module))
    assert gradients
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in gradients)
