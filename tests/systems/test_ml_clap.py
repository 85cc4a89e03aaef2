"""ML-CLAP: CED's recorded tower and ML-CLAP's recorded heads and loss, with a SONAR tower beside them."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax import losses
from glap_jax.errors import GlapError
from glap_jax.families import family_of, from_torch, to_checkpoint, to_torch

GIVEN = {"audio": {"num_heads": 4}, "text": {"num_heads": 4}, "embed_size": 40}
# The golden numbers' own limits for a unit vector of a recording and of a text, and for losses.
AUDIO, TEXT, LOSS = 5e-5, 3e-6, 1e-5


@pytest.fixture(scope="module")
def tensors(weights):
    """The text tower is GLAP's recorded one, 48 wide where the recorded head takes 28."""
    heads = weights("ml_clap")
    wide = np.pad(heads["text_proj.0.weight"], ((0, 0), (0, 20)))
    prefix = "text_encoder.model."
    sonar = {key: value for key, value in weights("glap").items() if key.startswith(prefix)}
    ced = {f"audio_encoder.model.{key}": value for key, value in weights("ced").items()}
    return {**ced, **sonar, **heads, "text_proj.0.weight": wide}


@pytest.fixture(scope="module")
def reference(tensors):
    return from_torch("ml_clap", tensors, GIVEN, compat=True)


def test_recordings_texts_and_loss(reference, golden, padded, close):
    io = golden("ml_clap")
    batch, _ = padded([("c0_5s", 0, None), ("c3s", 0, None), ("zeros", 0, None), ("c10s", 0, 100000)])
    sound = nnx.jit(lambda module, waveform: module.encode_audio(waveform))(reference, jnp.asarray(batch))
    close(sound, io["batch_audio_emb"], AUDIO)
    words = reference.text_head(jnp.pad(jnp.asarray(io["text_features"]), ((0, 0), (0, 20))))
    close(words, io["text_emb"], TEXT)


def test_the_loss_of_recorded_rows(reference, golden):
    io = golden("ml_clap")
    rows = jnp.asarray(io["batch_audio_emb"]), jnp.asarray(io["text_emb"][:4])
    found = losses.infonce(*rows, log_scale=reference.log_scale(), regularise=True)
    np.testing.assert_allclose(found, io["loss_batch"], rtol=LOSS)


def test_there_and_back(reference, tensors):
    found = to_torch(reference)
    assert {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in tensors.items()}
    assert family_of(reference) == "ml_clap"
    again = from_torch("ml_clap", to_checkpoint(reference), compat=True)
    assert again.config == reference.config


def test_a_file_without_its_temperature(tensors):
    bare = {key: value for key, value in tensors.items() if key != "temperature"}
    module = from_torch("ml_clap", bare, GIVEN)
    assert float(module.temperature[...]) == np.float32(0.07)
    assert set(to_torch(module)) == set(bare)


def test_arguments_of_a_released_configuration(tensors):
    released = {
        "audio_encoder": {"encoder_type": "ced_base", "pretrained": False, "time_patch_out": 0.0},
        "embed_regularization": True,
        "temperature": 0.07,
        "training": False,
    }
    assert from_torch("ml_clap", tensors, GIVEN | released).config.joint == 40
    with pytest.raises(GlapError, match="'encoder_type' is 'htsat'"):
        from_torch("ml_clap", tensors, GIVEN | {"audio_encoder": {"encoder_type": "htsat"}})
    with pytest.raises(GlapError, match="'embed_dim' is unknown"):
        from_torch("ml_clap", tensors, GIVEN | {"embed_dim": 40})
