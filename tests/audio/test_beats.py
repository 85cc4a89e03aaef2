"""BEATs against recorded tokens and probabilities, and tokens that padding does not change."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.frontend import kaldi_filters, povey
from glap_jax.errors import GlapError
from glap_jax.families import from_torch, to_torch

GOLDEN = Path(__file__).parents[1] / "golden"
PARTS = [("c3s", 0, 48000), ("c0_5s", 0, None), ("c10s", 8000, 35300), ("zeros", 0, 20000)]
# The golden numbers' own limits: normalised filterbank and tokens (largest, rms), probabilities.
FBANK, TOKENS, PROBABILITIES = (3e-2, 2e-4), (8e-3, 3e-4), 3e-5

encode = nnx.jit(lambda module, waveform, lengths: module(waveform, lengths))
probabilities = nnx.jit(lambda module, waveform, lengths: module.probabilities(waveform, lengths))


@pytest.fixture(scope="module")
def load(weights):
    def make(item, **options):
        config = json.loads((GOLDEN / item / "config.json").read_text(encoding="utf-8"))
        return from_torch("beats", weights(item), config, **options)

    return make


@pytest.fixture(scope="module")
def sound(load):
    return load("beats")


def test_kaldi_s_filters_and_window(golden):
    """torchaudio computes its filters in float32, whose last bits are 1e-5 of a filter's height there."""
    io = golden("beats")
    np.testing.assert_allclose(
        kaldi_filters(128)[:256].T[::8], io["kaldi/mel_bank_every_8th"], rtol=0, atol=2e-5
    )
    np.testing.assert_allclose(povey(), io["kaldi/povey_window_400"], rtol=0, atol=3e-7)


def test_the_filterbank(sound, golden, clip, close):
    io = golden("beats")
    for name in ("c0_5s", "c3s"):
        found = sound.frontend(jnp.asarray(clip(name))[None], None)[0]
        close(found[io.get(f"{name}/frame_index", slice(None))], io[f"{name}/fbank_norm"], *FBANK)


@pytest.mark.parametrize("name", ["c0_5s", "c3s", "zeros", "c10s"])
def test_tokens_of_single_clips(sound, golden, clip, close, name):
    io = golden("beats")
    found = encode(sound, jnp.asarray(clip(name))[None], None)
    assert found.mask.all()
    close(found.pooled[0], io[f"{name}/out_mean"], *TOKENS)
    if f"{name}/out" in io:
        close(found.tokens[0], io[f"{name}/out"], *TOKENS)


def test_the_reference_s_batch_with_its_quirks(load, golden, padded, close):
    io, module = golden("beats"), load("beats", compat=True)
    batch, lengths = padded(PARTS)
    found = encode(module, jnp.asarray(batch), jnp.asarray(lengths))
    np.testing.assert_array_equal(found.mask, ~io["batch/token_padding_mask"])
    close(found.tokens, io["batch/out_masked"], *TOKENS)
    close(found.pooled, io["wrapper/batch_with_length"], *TOKENS)
    found = encode(module, jnp.asarray(batch), jnp.full((4,), 48000, jnp.int32))
    assert found.mask.all()
    close(found.pooled, io["wrapper/batch_no_length"], *TOKENS)


@nnx.jit
def trace(module, wave):
    """The stages in one program, by the names that they were recorded under, and the relative bias."""
    context, found = module.context, {}
    x = module.patch(module._patches(module.frontend(wave, None)))
    found["patch_embedding"] = x.swapaxes(1, 2)
    x = found["layer_norm_in"] = module.patch_norm(x)
    x = found["post_extract_proj"] = module.projection(x)
    positions = context.positions(x)
    found["pos_conv"] = positions.swapaxes(1, 2)
    x = found["encoder.layer_norm"] = context.norm(x + positions)
    bias = context.relative(x.shape[1])
    graph, layers = nnx.split(context.blocks.layers)
    for number in range(3):
        block = nnx.merge(graph, jax.tree.map(lambda leaf, number=number: leaf[number], layers))
        if number == 0:
            found["layer0.self_attn"] = block.attention(x, None, bias)
        x = found[f"layer{number}"] = block(x, None, bias)
    return found, bias


def test_every_stage_agrees_with_the_trace(sound, golden, clip, close):
    io = golden("beats")
    found, bias = trace(sound, jnp.asarray(clip("c0_5s"))[None])
    for name, value in found.items():
        close(value[0], io[f"trace/{name}"].reshape(value.shape[1:]), *TOKENS)
    close(bias[0], io["trace/relative_bias_layer0"], 1e-6)


def test_probabilities_of_a_fine_tuned_model(load, golden, clip, padded, close):
    """Its layers norm before attention and MLP; the classes' mean takes real tokens only."""
    io, module = golden("beats_finetuned"), load("beats_finetuned")
    for name in ("c0_5s", "c3s", "zeros", "c10s"):
        close(
            probabilities(module, jnp.asarray(clip(name))[None], None)[0], io[f"{name}/probs"], PROBABILITIES
        )
    batch, lengths = (jnp.asarray(part) for part in padded(PARTS))
    close(probabilities(module, batch, lengths)[1], io["c0_5s/probs"], PROBABILITIES)
    module = load("beats_finetuned", compat=True)
    close(probabilities(module, batch, lengths), io["batch/probs_masked"], PROBABILITIES)
    full = jnp.full((4,), 48000, jnp.int32)
    close(probabilities(module, batch, full), io["batch/probs_unmasked"], PROBABILITIES)


def test_a_pretrained_model_has_no_probabilities(sound):
    with pytest.raises(GlapError, match="fine-tuned"):
        sound.probabilities(jnp.zeros((1, 3000), jnp.float32))


# 16 frames end at 2800 samples and every 2560 samples from there.
@pytest.mark.parametrize("samples", [1, 2799, 2800, 5359, 5360])
def test_padding_and_batch_mates_change_nothing(sound, clip, samples, alone_and_together):
    alone, together = alone_and_together(encode, sound, clip("c3s")[:samples], 9_000)
    count = alone.tokens.shape[1]
    assert int(together.mask[0].sum()) == count == (16 if samples == 5360 else 8)
    np.testing.assert_allclose(together.tokens[0, :count], alone.tokens[0], atol=1e-4)
    np.testing.assert_allclose(together.pooled[0], alone.pooled[0], atol=1e-5)


@pytest.mark.parametrize("item", ["beats", "beats_finetuned"])
def test_the_way_back_is_bit_for_bit(load, weights, item):
    original, back = weights(item), to_torch(load(item))
    assert set(back) == set(original)
    assert all(back[key].tobytes() == value.tobytes() for key, value in original.items())


def test_the_shared_bias_may_be_stored_once_but_not_differ(weights):
    tensors = weights("beats")
    repeated = "encoder.layers.2.self_attn.relative_attention_bias.weight"
    given = {"encoder_attention_heads": 4}
    less = {key: value for key, value in tensors.items() if key != repeated}
    assert set(to_torch(from_torch("beats", less, given))) == set(less)
    with pytest.raises(GlapError, match=r"layers\.2\.self_attn\.relative_attention_bias.*differs"):
        from_torch("beats", tensors | {repeated: tensors[repeated] + 1}, given)


def test_sizes_come_from_shapes_alone(sound, weights):
    assert from_torch("beats", weights("beats"), {"encoder_attention_heads": 4}).config == sound.config


def test_bfloat16_stays_near_float32(load, sound, clip):
    wave = jnp.asarray(clip("c0_5s"))[None]
    low, exact = encode(load("beats", dtype=jnp.bfloat16), wave, None), encode(sound, wave, None)
    assert low.tokens.dtype == jnp.bfloat16
    cosine = np.vdot(low.pooled, exact.pooled)
    assert cosine > 0.999 * np.linalg.norm(low.pooled) * np.linalg.norm(exact.pooled)
