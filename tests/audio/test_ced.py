"""CED against recorded tokens, and embeddings that neither padding nor batch mates change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.ced import CedConfig
from glap_jax.families import from_torch, to_torch

# Clips of one chunk, and every how many of their tokens are recorded.
CLIPS = {"c0_5s": 1, "c3s": 1, "zeros": 1, "c10s": 3, "c10_08s": 3}
# Samples around the edges of a chunk: 1012 frames, 1013, 2023, 2024 (thrown away), 2025.
EDGES = ("cut161919", "cut161920", "cut323679", "cut323680", "cut323840")
# The golden numbers' own limits: tokens (largest and rms difference), pooled.
TOKENS, POOLED = (2e-3, 3e-4), 3e-4
HEADS = {"num_heads": 4}

encode = nnx.jit(lambda module, waveform, lengths: module(waveform, lengths))


@pytest.fixture(scope="module")
def reference(weights):
    return from_torch("ced", weights("ced"), HEADS, compat=True)


@pytest.fixture(scope="module")
def sound(weights):
    return from_torch("ced", weights("ced"), HEADS)


@pytest.mark.parametrize("name", CLIPS)
def test_tokens_of_single_clips(sound, golden, clip, close, name):
    found = encode(sound, jnp.asarray(clip(name))[None], None)
    close(found.tokens[0, :: CLIPS[name]], golden("ced")[f"{name}/tokens"], *TOKENS)
    close(found.pooled[0], golden("ced")[f"{name}/pool_cat"], POOLED)
    assert found.mask.all()


@pytest.mark.parametrize("name", ["c23_7s", *EDGES])
def test_the_reference_s_chunks_with_their_quirks(reference, golden, clip, close, name):
    found = encode(reference, jnp.asarray(clip(name))[None], None)
    close(found.pooled[0], golden("ced")[f"{name}/pool_cat"], POOLED)


def test_the_reference_s_batch(reference, golden, padded, close):
    batch, lengths = padded([("c0_5s", 0, None), ("c3s", 0, None), ("zeros", 0, None), ("c10s", 0, 100000)])
    found = encode(reference, jnp.asarray(batch), jnp.asarray(lengths))
    close(found.pooled, golden("ced")["batch/pool"], POOLED)


def test_every_layer_agrees_with_the_trace(sound, golden, clip, close):
    io = golden("ced")
    mel, frames = sound.frontend(jnp.asarray(clip("c0_5s"))[None], None)
    x, _ = sound._embed(mel, frames)
    position = sound.frequency_position[:, None] + sound.time_position[None, :3]
    patches = (x - position.reshape(1, 12, -1)).reshape(4, 3, -1)
    close(patches.transpose(2, 0, 1), io["trace/patch_embed"], *TOKENS)
    graph, layers = nnx.split(sound.blocks.layers)
    for number in range(3):
        block = nnx.merge(graph, jax.tree.map(lambda leaf, number=number: leaf[number], layers))
        close(block.attention(block.attention_norm(x), None)[0], io[f"trace/block{number}.attn"], *TOKENS)
        x = block(x, None)
        close(x[0], io[f"trace/block{number}"], *TOKENS)


# Frames: 1 + samples // 160; 16 of them are a token, 1012 a chunk.
@pytest.mark.parametrize("samples", [2400, 4959, 161919, 164320])
def test_padding_and_batch_mates_change_nothing(sound, clip, samples, alone_and_together):
    alone, together = alone_and_together(encode, sound, clip("c23_7s")[:samples], 170_000)
    np.testing.assert_allclose(
        together.tokens[0][together.mask[0]], alone.tokens[0][alone.mask[0]], atol=2e-5
    )
    np.testing.assert_allclose(together.pooled[0], alone.pooled[0], atol=5e-6)


def test_a_nearly_empty_last_chunk_hardly_counts(sound, golden, clip):
    """One frame more than a chunk: the reference averages a second chunk that holds hardly anything."""
    io = golden("ced")
    before, after = (
        encode(sound, jnp.asarray(clip(f"cut{n}"))[None], None).pooled[0] for n in (161919, 161920)
    )
    jump = np.abs(io["cut161920/pool_cat"] - io["cut161919/pool_cat"]).max()
    assert np.abs(np.asarray(after - before)).max() < 0.02 * jump


def test_a_clip_shorter_than_a_token_gives_one_per_band(sound):
    found = encode(sound, jnp.full((1, 1), 0.1, jnp.float32), None)
    assert found.tokens.shape == (1, 4, 48)
    assert np.isfinite(np.asarray(found.pooled)).all()


def test_there_and_back_in_both_layouts(weights):
    original = weights("ced")
    published = {
        key if key.startswith("outputlayer") else f"encoder.{key.replace('init_bn.1', 'init_bn')}": value
        for key, value in original.items()
        if "front_end" not in key
    }
    for tensors in (original, published):
        found = to_torch(from_torch("ced", tensors, {**HEADS, "model_type": "ced", "outputdim": 11}))
        assert set(found) == set(tensors)
        assert all(found[key].tobytes() == value.tobytes() for key, value in tensors.items())


def test_the_quirks_are_off_by_default():
    assert CedConfig().mode == CedConfig.tiny().mode == "sound"


@pytest.fixture(scope="module")
def thinning(sound):
    """The module with a quarter of the patches left out in training."""
    module = nnx.clone(sound)
    module.config = dataclasses.replace(module.config, patch_dropout=0.25)
    module.draws = True
    return module


def test_patches_are_left_out_in_rows_and_columns_with_their_positions(thinning, clip, padded):
    batch, lengths = padded([("c3s", 0, None), ("c0_5s", 0, None)])
    x, real = thinning._embed(*thinning.frontend(jnp.asarray(batch), jnp.asarray(lengths)))
    kept, kept_real = thinning._thinned(x, real, jax.random.split(jax.random.key(1)))
    steps = x.shape[1] // 4
    assert kept.shape[1] == 3 * (steps - steps // 4)
    for row in range(2):
        # Where each kept patch stood: all patches differ, by their positions at least.
        place = [int(np.abs(np.asarray(x[row] - one)).sum(axis=1).argmin()) for one in kept[row]]
        np.testing.assert_array_equal(kept[row], x[row, jnp.array(place)])
        bands, times = np.unravel_index(np.array(place).reshape(3, -1), (4, steps))
        assert (bands == bands[:, :1]).all()
        assert (times == times[:1]).all()
        whole = int(real[row].sum()) // 4
        assert int(kept_real[row].sum()) == 3 * (whole - whole // 4)
        np.testing.assert_array_equal(np.asarray(real[row])[place] | ~np.asarray(kept_real[row]), True)


def test_training_encodes_fewer_tokens_and_evaluation_all(thinning, sound, padded):
    batch, lengths = map(jnp.asarray, padded([("c10s", 0, None), ("c0_5s", 0, None)]))
    train = nnx.jit(lambda module, key: module(batch, lengths, key=key))
    one, other = (train(thinning, jax.random.split(jax.random.key(seed))) for seed in (0, 1))
    assert one.tokens.shape[1] == 3 * (62 - 15)
    assert np.isfinite(one.pooled).all()
    assert np.abs(np.asarray(one.pooled - other.pooled)).max() > 1e-3
    plain, expected = encode(thinning, batch, lengths), encode(sound, batch, lengths)
    np.testing.assert_array_equal(plain.pooled, expected.pooled)
    # What is left out changes a clip's vector by much less than another clip does.
    difference = lambda a, b: float(jnp.linalg.norm(a - b))  # noqa: E731
    assert difference(one.pooled[0], plain.pooled[0]) < difference(plain.pooled[0], plain.pooled[1])
