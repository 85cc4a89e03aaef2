"""CLARA's audio tower against recorded spectrograms, states and features."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.clara import ClaraAudio, ClaraAudioConfig
from glap_jax.convert.engine import export
from glap_jax.errors import GlapError
from glap_jax.families import family_module, from_torch, to_checkpoint, to_torch

GOLDEN = Path(__file__).parents[1] / "golden" / "clara"
HPARAMS = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))["hparams"]
# The golden numbers' own limits.
MEL, FEATURES, EMBEDDING = (3e-3, 1e-4), 2e-5, 3e-6

encode = nnx.jit(lambda module, waveform, lengths: module(waveform, lengths))


@pytest.fixture(scope="module")
def tensors(weights):
    """Those of the audio side, its part of the joint model included."""
    return {key: value for key, value in weights("clara").items() if key.startswith(("audio_", "conv"))}


@pytest.fixture(scope="module")
def sound(tensors):
    return from_torch("clara_audio", tensors, HPARAMS)


@pytest.mark.parametrize("name", ["c0_5s", "c3s", "c3s_as_22050", "c3s_as_48000", "c23_7s", "zeros"])
def test_log_mel(sound, golden, clip, close, name):
    io = golden("clara")
    name, _, rate = name.partition("_as_")
    module = nnx.clone(sound)
    module.config = dataclasses.replace(sound.config, sample_rate=int(rate or 16_000))
    mel, real = module.features(jnp.asarray(clip(name))[None], None)
    stem = f"mel/{name}_as_{rate}" if rate else f"mel/{name}"
    assert mel.shape[1] == io[f"{stem}/num_frames"]
    assert real.all()
    close(mel[0, io[f"{stem}/frame_index"]], io[f"{stem}/logmel"], *MEL)


@pytest.mark.parametrize("name", ["c0_5s", "c3s"])
def test_features_of_recorded_spectrograms(sound, golden, close, name):
    io = golden("clara")
    mel = jnp.asarray(io[f"mel/{name}/logmel"])[None]
    found = sound.from_features(mel, jnp.ones(mel.shape[:2], bool))
    close(found.pooled[0], io[f"audio/{name}/features"], FEATURES)


@pytest.mark.parametrize("name", ["c23_7s", "zeros"])
def test_features_of_recordings(sound, golden, clip, close, name):
    found = encode(sound, jnp.asarray(clip(name))[None], None)
    close(found.pooled[0], golden("clara")[f"audio/{name}/features"], FEATURES)


def test_the_reference_s_batch_with_its_padding(tensors, golden, padded, close):
    io = golden("clara")
    reference = from_torch("clara_audio", tensors, HPARAMS, compat=True)
    batch, lengths = padded([("c0_5s", 0, None), ("c3s", 0, None), ("zeros", 0, None)])
    features = np.asarray(encode(reference, jnp.asarray(batch), jnp.asarray(lengths)).pooled)
    joint = features @ tensors["audio_transform.sequential.0.weight"].T
    joint += tensors["audio_transform.sequential.0.bias"]
    close(joint / np.linalg.norm(joint, axis=1, keepdims=True), io["batch/audio_emb"], EMBEDDING)


def test_every_layer_agrees_with_the_trace(sound, golden, close):
    io = golden("clara")
    mel = jnp.asarray(io["mel/c0_5s/logmel"])[None]
    first, second = sound.convolutions
    x = jax.nn.gelu(first(mel), approximate=False)
    close(first(mel)[0].T, io["trace/audio/conv1"], FEATURES)
    close(second(x)[0].T, io["trace/audio/conv2"], FEATURES)
    tokens = jax.nn.gelu(second(x), approximate=False) + sound.position[:8]
    x = sound.latents[...][None]
    found = sound.cross(sound.cross_norm(x), sound.context_norm(tokens), jnp.ones((1, 8), bool))
    close(found[0], io["trace/audio/cross_attn"], FEATURES)
    x = x + found
    found = sound.cross_mlp(sound.cross_mlp_norm(x))
    close(found[0], io["trace/audio/cross_ff"], FEATURES)
    x = x + found
    graph, layers = nnx.split(sound.blocks.layers)
    for number in range(2):
        block = nnx.merge(graph, jax.tree.map(lambda leaf, number=number: leaf[number], layers))
        found = block.attention(block.attention_norm(x), None)
        close(found[0], io[f"trace/audio/layer{number}.self_attn"], FEATURES)
        x = x + found
        found = block.mlp(block.mlp_norm(x))
        close(found[0], io[f"trace/audio/layer{number}.ff"], FEATURES)
        x = x + found
    close(x[0], io["trace/audio/perceiver"], FEATURES)
    close(sound.norm(x)[0], io["trace/audio/audio_layer_norm"], FEATURES)


# Frames: 1 + samples // 512; an even and an odd number of them, and the least.
@pytest.mark.parametrize("samples", [1, 8191, 8192])
def test_padding_and_batch_mates_change_nothing(sound, clip, samples, alone_and_together):
    alone, together = alone_and_together(encode, sound, clip("c3s")[:samples], 9_000)
    np.testing.assert_allclose(together.tokens[0], alone.tokens[0], atol=2e-5)
    np.testing.assert_allclose(together.pooled[0], alone.pooled[0], atol=2e-5)


def test_there_and_back(sound, tensors):
    """With the trainer's prefix too; the joint model's own tensors are kept."""
    for prefix in ("", "model."):
        named = {prefix + key: value for key, value in tensors.items()}
        module = from_torch("clara_audio", named, HPARAMS)
        found = to_torch(module)
        assert {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in named.items()}
    assert from_torch("clara_audio", to_checkpoint(sound)).config == sound.config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"audio_encoder_num_latents": 43}, "43 latents of width 44"),
        ({"audio_encoder_weight_tie_layers": True}, "must be False"),
        ({"n_mels": 64}, "'n_mels' must be 80"),
        ({"audio_encoder_latent_heads": 5}, "5 heads of width 6 do not make the 24 rows"),
        ({"audio_encoder_depth": 2}, "'audio_encoder_depth' is unknown"),
    ],
)
def test_arguments_that_cannot_be_honoured(tensors, change, words):
    with pytest.raises(GlapError, match=words):
        from_torch("clara_audio", tensors, HPARAMS | change)


def test_clips_beyond_the_positions_are_refused(sound):
    with pytest.raises(GlapError, match="hears 26 s at most"):
        sound(jnp.zeros((1, 1024 * 401)))


PUBLISHED = {"60M": ClaraAudioConfig.m60(), "100M": ClaraAudioConfig.m100(), "600M": ClaraAudioConfig.m600()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_follow_from_their_shapes(name):
    config = PUBLISHED[name]
    home = family_module("clara_audio")
    module = nnx.eval_shape(lambda: config.build(dtype=jnp.dtype("float32"), remat="none", rngs=nnx.Rngs(0)))
    shapes = {
        key: tensor.shape for key, tensor in export(module, home.TORCH_RULES, family="clara_audio").items()
    }
    assert shapes["audio_encoder.layers.0.0.fn.to_kv.weight"] == (2 * 64 * config.heads, 512)
    assert home.config_from_torch(shapes, {}) == config
    assert home.config_from_torch(shapes, home.config_to_torch(config)) == config


def test_bfloat16_stays_near_float32(tensors, sound, clip):
    wave = jnp.asarray(clip("c0_5s"))[None]
    low = from_torch("clara_audio", tensors, HPARAMS, dtype=jnp.bfloat16)
    found, exact = encode(low, wave, None).pooled, encode(sound, wave, None).pooled
    assert found.dtype == jnp.float32
    assert np.vdot(found, exact) / (np.linalg.norm(found) * np.linalg.norm(exact)) > 0.999


def test_training_hides_half_of_the_tokens_from_the_latents(sound, clip, monkeypatch):
    module = nnx.clone(sound)
    module.config = dataclasses.replace(sound.config, sequence_dropout=0.5)
    mel, frames = module.features(jnp.asarray(clip("c0_5s"))[None], None)
    seen = []
    latents = ClaraAudio._latents
    monkeypatch.setattr(
        ClaraAudio, "_latents", lambda self, x, mask: seen.append((x, mask)) or latents(self, x, mask)
    )
    keys = jax.random.split(jax.random.key(0), (2, 1))
    found = [module.from_features(mel, frames, key).pooled for key in (None, *keys)]
    (every, _), (half, mask), (other, _) = seen
    assert (every.shape[1], half.shape[1]) == (8, 4)
    assert mask.all()
    # Tokens with the positions that they have among all.
    rows = np.abs(np.asarray(half[0])[:, None] - np.asarray(every[0])[None]).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(half[0], every[0, rows])
    assert np.abs(half - other).max() > 0
    np.testing.assert_array_equal(found[0], sound.from_features(mel, frames).pooled)
    assert np.isfinite(found).all()
    assert np.abs(found[1] - found[0]).max() > 0
