"""Dasheng against recorded tokens, and embeddings that neither padding nor batch mates change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.dasheng import DashengConfig
from glap_jax.families import from_torch

CLIPS = {"c0_5s": 1, "c3s": 1, "zeros": 1, "c10s": 3, "c10_08s": 3, "c23_7s": 3}
CUTS = ("cut480", "cut639", "cut1000", "cut161119", "cut161279", "cut161280", "cut161760", "cut322560")
# The golden numbers' own limits for tokens: largest and rms difference.
TOKENS = (1e-3, 1.5e-4)

encode = nnx.jit(lambda module, waveform, lengths: module(waveform, lengths))


@pytest.fixture(scope="module")
def reference(weights):
    return from_torch("dasheng", weights("dasheng"), {"num_heads": 4}, compat=True)


@pytest.fixture(scope="module")
def sound(weights):
    return from_torch("dasheng", weights("dasheng"), {"num_heads": 4})


@pytest.mark.parametrize("name", CLIPS)
def test_tokens_of_single_clips(sound, golden, clip, close, name):
    found = encode(sound, jnp.asarray(clip(name))[None], None)
    close(found.tokens[0, :: CLIPS[name]], golden("dasheng")[f"{name}/tokens"], *TOKENS)
    assert found.mask.all()


@pytest.mark.parametrize("name", CUTS)
def test_tokens_around_patch_and_chunk_edges(sound, golden, clip, close, name):
    io = golden("dasheng")
    found = encode(sound, jnp.asarray(clip(name))[None], None)
    tokens = np.asarray(found.tokens[0])
    assert len(tokens) == io[f"{name}/num_tokens"]
    close(tokens[-6:], io[f"{name}/tokens_tail"], *TOKENS)
    close(tokens.mean(axis=0), io[f"{name}/tokens_mean"], *TOKENS)
    close(found.pooled[0], io[f"{name}/tokens_mean"], *TOKENS)


@pytest.mark.parametrize("name", ["c0_5s", "c23_7s"])
def test_the_reference_s_ragged_last_chunk(reference, golden, clip, close, name):
    found = encode(reference, jnp.asarray(clip(name))[None], None)
    close(found.tokens[0, :: CLIPS[name]], golden("dasheng")[f"{name}/tokens"], *TOKENS)


BATCHES = {
    "batchA": [("c0_5s", 0, None), ("c3s", 0, 48000), ("zeros", 0, None), ("c10s", 16000, 63300)],
    "batchB": [("c3s", 0, 48000), ("c23_7s", 0, 192000), ("c10s", 0, 150001)],
    "batchC": [("c10s", 0, 64000), ("c10s", 0, 64000)],
}


@pytest.mark.parametrize("name", BATCHES)
def test_the_reference_s_batches_with_its_quirks(reference, golden, padded, close, name):
    io = golden("dasheng")
    batch, _ = padded(BATCHES[name])
    index = io.get(f"{name}/token_index", slice(None))
    told = io[f"{name}/lengths"].astype(np.int32)
    found = encode(reference, jnp.asarray(batch), jnp.asarray(told))
    close(np.asarray(found.tokens)[:, index], io[f"{name}/tokens_with_length"], *TOKENS)
    if f"{name}/tokens_no_length" in io:
        found = encode(reference, jnp.asarray(batch), None)
        close(np.asarray(found.tokens)[:, index], io[f"{name}/tokens_no_length"], *TOKENS)


def test_every_layer_agrees_with_the_trace(reference, golden, clip, close):
    io = golden("dasheng")
    mel, _ = reference.frontend(jnp.asarray(clip("c0_5s"))[None], None)
    x = reference._embed(mel[:, :48])
    close(x[0].T[:, None], io["trace/patch_embed"], *TOKENS)
    x = x + reference.time_position[:12] + reference.frequency_position[...]
    graph, layers = nnx.split(reference.blocks.layers)
    for number in range(3):
        block = nnx.merge(graph, jax.tree.map(lambda leaf, number=number: leaf[number], layers))
        attended = block.attention(block.attention_norm(x), None)
        close(attended[0], io[f"trace/block{number}.attn"], *TOKENS)
        x = x + attended
        close(block.mlp(block.mlp_norm(x))[0], io[f"trace/block{number}.mlp"], *TOKENS)
        x = x + block.mlp(block.mlp_norm(x))
        close(x[0], io[f"trace/block{number}"], *TOKENS)
    close(reference.norm(x)[0], io["trace/out"], *TOKENS)


# Frames: 1 + samples // 160; 1008 of them fill a chunk.
EDGES = (480, 639, 640, 8000, 161119, 161120, 161279, 161280)


@pytest.mark.parametrize("samples", EDGES)
def test_padding_and_batch_mates_change_nothing(sound, clip, samples, alone_and_together):
    alone, together = alone_and_together(encode, sound, clip("c23_7s")[:samples], 170_000)
    count = alone.tokens.shape[1]
    assert int(together.mask[0].sum()) == count == max(1, (1 + samples // 160) // 4)
    np.testing.assert_allclose(together.tokens[0, :count], alone.tokens[0], atol=2e-5)
    np.testing.assert_allclose(together.pooled[0], alone.pooled[0], atol=5e-6)


def test_batches_equal_the_clips_alone(sound, golden, padded, close):
    """The golden tokens of single clips come out of a padded batch too."""
    batch, lengths = padded([("c0_5s", 0, None), ("zeros", 0, None), ("c3s", 0, None)])
    found = encode(sound, jnp.asarray(batch), jnp.asarray(lengths))
    for row, name in enumerate(("c0_5s", "zeros", "c3s")):
        expected = golden("dasheng")[f"{name}/tokens"]
        close(found.tokens[row, : len(expected)], expected, *TOKENS)


def test_full_lengths_equal_no_lengths(sound, clip):
    wave = jnp.asarray(clip("c0_5s"))[None]
    plain = encode(sound, wave, None)
    told = encode(sound, wave, jnp.array([wave.shape[1]], jnp.int32))
    np.testing.assert_allclose(told.pooled, plain.pooled, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 479])
def test_a_clip_shorter_than_a_token_gives_one(sound, samples):
    found = encode(sound, jnp.full((1, samples), 0.1, jnp.float32), None)
    assert found.tokens.shape == (1, 1, 96)
    assert np.isfinite(np.asarray(found.pooled)).all()


def test_the_quirks_are_off_by_default():
    assert DashengConfig().mode == DashengConfig.tiny().mode == "sound"


def test_bfloat16_stays_near_float32(weights, sound, clip):
    wave = jnp.asarray(clip("c0_5s"))[None]
    low = from_torch("dasheng", weights("dasheng"), {"num_heads": 4}, dtype=jnp.bfloat16)
    found, exact = encode(low, wave, None), encode(sound, wave, None)
    assert found.tokens.dtype == jnp.bfloat16
    assert found.pooled.dtype == jnp.float32
    cosine = np.vdot(found.pooled, exact.pooled)
    cosine /= np.linalg.norm(found.pooled) * np.linalg.norm(exact.pooled)
    assert cosine > 0.999
