"""CLARA as a whole against recorded embeddings, temperatures and loss."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax import losses
from glap_jax.audio.clara import ClaraAudioConfig
from glap_jax.config import ModelConfig
from glap_jax.errors import GlapError
from glap_jax.families import family_of, from_torch, to_checkpoint, to_torch
from glap_jax.model import DualEncoder
from glap_jax.text.clara import ClaraTextConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "clara"
HPARAMS = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))["hparams"]
# The golden numbers' own limits for unit vectors, and for losses relative to their value.
EMBEDDING, LOSS = 3e-6, 1e-5

audio = nnx.jit(lambda module, waveform, lengths: module.encode_audio(waveform, lengths))
text = nnx.jit(lambda module, ids, mask: module.encode_text(ids, mask))


@pytest.fixture(scope="module")
def reference(weights):
    return from_torch("clara", weights("clara"), HPARAMS, compat=True)


@pytest.fixture(scope="module")
def rows(golden):
    io = golden("clara")
    ids = jnp.asarray(io["text/tokens"].astype(np.int32))
    return ids, jnp.arange(ids.shape[1]) < io["text/lengths"].astype(np.int32)[:, None]


@pytest.mark.parametrize("name", ["c3s", "c23_7s"])
def test_recordings(reference, golden, clip, close, name):
    found = audio(reference, jnp.asarray(clip(name))[None], None)
    close(found[0], golden("clara")[f"audio/{name}/emb"], EMBEDDING)


def test_texts(reference, golden, rows, close):
    close(text(reference, *rows), golden("clara")["text/emb"], EMBEDDING)


def test_a_batch_its_temperatures_and_its_loss(reference, golden, padded, rows, close):
    io = golden("clara")
    batch, lengths = padded([("c0_5s", 0, None), ("c3s", 0, None), ("zeros", 0, None)])
    sound = audio(reference, jnp.asarray(batch), jnp.asarray(lengths))
    words = text(reference, rows[0][:3], rows[1][:3])
    close(sound, io["batch/audio_emb"], EMBEDDING)
    close(words, io["batch/text_emb"], EMBEDDING)
    scalars = reference.scalars()
    np.testing.assert_allclose(1 / scalars["temperature"], io["batch/audio_temperature"], rtol=1e-6)
    np.testing.assert_allclose(1 / scalars["text_temperature"], io["batch/text_temperature"], rtol=1e-6)
    loss = losses.infonce(sound, words, log_scale=reference.log_scale())
    np.testing.assert_allclose(loss, io["batch/loss"], rtol=LOSS)


def test_there_and_back(weights):
    tensors = weights("clara")
    for prefix in ("", "model."):
        named = {prefix + key: value for key, value in tensors.items()}
        module = from_torch("clara", named, HPARAMS)
        found = to_torch(module)
        assert {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in named.items()}
    assert from_torch("clara", to_checkpoint(module)).config == module.config


def test_a_fresh_module_knows_its_family():
    towers = ModelConfig(ClaraAudioConfig.tiny(), ClaraTextConfig.tiny(50), joint=24, family="clara")
    module = nnx.eval_shape(lambda: DualEncoder(towers, rngs=nnx.Rngs(0)))
    assert family_of(module) == "clara"
    assert module.log_scales.shape == (2,)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (HPARAMS | {"output_dim": 25}, r"should be \[25, 30\]"),
        (HPARAMS | {"vocabulary": 7}, "'vocabulary' is unknown"),
        (HPARAMS | {"text_width": 7}, "'text_width' is unknown"),
    ],
)
def test_arguments_that_cannot_be_honoured(weights, given, words):
    with pytest.raises(GlapError, match=words):
        from_torch("clara", weights("clara"), given)


def test_arguments_tower_by_tower(weights):
    parts = {
        "audio": {name: value for name, value in HPARAMS.items() if name.startswith("audio_")},
        "text": {name: value for name, value in HPARAMS.items() if name.startswith(("text_", "vocab"))},
        "embed_size": HPARAMS["output_dim"],
    }
    expected = from_torch("clara", weights("clara"), HPARAMS).config
    assert from_torch("clara", weights("clara"), parts).config == expected
