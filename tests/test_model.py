"""GLAP against recorded embeddings and scores, with the reference's quirks and without."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.config import ModelConfig
from glap_jax.families import from_torch

GOLDEN = Path(__file__).parent / "golden" / "glap"
CLIPS = ("c0_5s", "c3s", "c10s", "c10_08s", "c23_7s", "zeros")
# More than 1008 frames: here the reference pads to whole chunks and averages chunk means.
LONG = ("cut161280", "cut161919", "cut322399", "cut322559", "cut322560")
POOLED, EMBEDDING, TEXT, SCORE = 3e-4, 5e-5, 3e-6, 5e-3


@nnx.jit
def encode(module, waveform, lengths):
    pooled = module.audio(waveform, lengths).pooled
    return pooled, module.audio_head(pooled)


@pytest.fixture(scope="module")
def reference(weights, glap_config):
    return from_torch("glap", weights("glap"), glap_config, compat=True)


@pytest.fixture(scope="module")
def sound(weights, glap_config):
    return from_torch("glap", weights("glap"), glap_config)


@pytest.mark.parametrize("name", [*CLIPS, "cut1000", "cut161119", "cut161279", *LONG])
def test_audio_with_the_reference_s_quirks(reference, golden, clip, close, name):
    pooled, embedding = encode(reference, jnp.asarray(clip(name))[None], None)
    close(pooled[0], golden("glap")[f"audio/{name}/pooled"], POOLED)
    close(embedding[0], golden("glap")[f"audio/{name}/emb"], EMBEDDING)


@pytest.mark.parametrize("name", ["c0_5s", "c3s", "zeros", "c10s", "cut161279"])
def test_up_to_ten_seconds_the_sound_mode_agrees(sound, golden, clip, close, name):
    """From 1009 frames on it must not: there the reference averages padding."""
    _, embedding = encode(sound, jnp.asarray(clip(name))[None], None)
    close(embedding[0], golden("glap")[f"audio/{name}/emb"], EMBEDDING)


def test_the_sound_mode_hardly_moves_at_the_chunk_edge(sound, golden, clip):
    """One sample more than 1008 frames: the reference jumps, the sound mode does not."""
    io = golden("glap")
    before, after = (encode(sound, jnp.asarray(clip(f"cut{n}"))[None], None)[1] for n in (161279, 161280))
    jump = np.abs(io["audio/cut161280/emb"] - io["audio/cut161279/emb"]).max()
    assert np.abs(np.asarray(after - before)).max() < 0.02 * jump


def test_the_reference_s_batch(reference, golden, padded, close):
    io = golden("glap")
    parts = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))["batch_parts"]
    batch, lengths = padded(parts)
    pooled, embedding = encode(reference, jnp.asarray(batch), jnp.asarray(lengths))
    close(pooled, io["audio/batch/pooled"], POOLED)
    close(embedding, io["audio/batch/emb"], EMBEDDING)
    _, unaware = encode(reference, jnp.asarray(batch), None)
    close(unaware, io["audio/batch/emb_no_length"], EMBEDDING)


def test_text(sound, golden, close):
    io = golden("glap")
    ids, mask = jnp.asarray(io["text/batch/ids"]), jnp.asarray(~io["text/batch/padding_mask"])
    close(sound.encode_text(ids, mask), io["text/batch/emb"], TEXT)


def test_scores(reference, golden, clip, close):
    io = golden("glap")
    audio = jnp.concatenate([encode(reference, jnp.asarray(clip(name))[None], None)[1] for name in CLIPS])
    sentences = json.loads((GOLDEN / "tokenizer.json").read_text(encoding="utf-8"))["sentences"][:20]
    rows = [sentence["ids_reduced"] for sentence in sentences]
    ids = np.zeros((20, max(map(len, rows))), np.int32)
    for place, row in zip(ids, rows, strict=True):
        place[: len(row)] = row
    mask = np.arange(ids.shape[1]) < np.array(list(map(len, rows)))[:, None]
    text = reference.encode_text(jnp.asarray(ids), jnp.asarray(mask))
    close(reference.score(audio, text), io["score"], SCORE)


def test_embeddings_are_unit_vectors_that_padding_does_not_move(sound, padded):
    batch, lengths = padded([("c0_5s", 0, None), ("c3s", 0, None)])
    _, together = encode(sound, jnp.asarray(batch), jnp.asarray(lengths))
    _, alone = encode(sound, jnp.asarray(batch[:1, : lengths[0]]), None)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(together[0], alone[0], atol=2e-6)


def test_the_loss_scalars_start_at_the_released_values(sound):
    assert float(sound.temperature[...]) == pytest.approx(ModelConfig().temperature)
    assert float(sound.bias[...]) == ModelConfig().bias
