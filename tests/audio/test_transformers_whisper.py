"""Whisper's encoder against `transformers`: a small model from the waveform on, and published sizes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.whisper import WhisperConfig
from glap_jax.convert.engine import export
from glap_jax.families import family_module, from_torch, to_torch

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="install the extra 'torch'")
transformers = pytest.importorskip("transformers", reason="install the extra 'dev'")

# A window of one second; the decoder, which is left out, is as small as can be.
DECODER = {
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8,
    "max_target_positions": 4,
    "vocab_size": 8,
    "pad_token_id": 0,
}
SMALL = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "max_source_positions": 50,
    **DECODER,
}
LENGTHS = np.array([16_000, 5000], np.int32)
# The recorded numbers' limits for log-mel and states.
MEL, STATES = 2e-3, 5e-5

encode = nnx.jit(lambda module, waveform, lengths: module(waveform, lengths))


@pytest.fixture(scope="module")
def clips(padded):
    return padded([("c3s", 0, int(LENGTHS[0])), ("c10s", 4000, 4000 + int(LENGTHS[1]))])[0]


@pytest.fixture(scope="module")
def features(clips):
    extractor = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    rows = [row[:length] for row, length in zip(clips, LENGTHS, strict=True)]
    return extractor(rows, sampling_rate=16_000, return_tensors="pt").input_features


def test_a_random_model_computes_the_same_and_is_written_back(clips, features, close):
    torch.manual_seed(0)
    reference = transformers.WhisperModel(transformers.WhisperConfig(**SMALL)).encoder.eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            centre = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
        states = reference(features).last_hidden_state.numpy()
    tensors = {f"encoder.{key}": value for key, value in reference.state_dict().items()}
    ours = from_torch("whisper", tensors, reference.config.to_dict())
    mel = ours.log_mel(ours._windows(jnp.asarray(clips), jnp.asarray(LENGTHS))[0], None)
    close(mel, features.numpy().transpose(0, 2, 1), MEL)
    close(encode(ours, jnp.asarray(clips), jnp.asarray(LENGTHS)).tokens, states, STATES)
    words = DECODER | family_module("whisper").config_to_torch(ours.config)
    again = transformers.WhisperModel(transformers.WhisperConfig(**words)).encoder.eval()
    written = to_torch(ours).items()
    again.load_state_dict({key.removeprefix("encoder."): torch.from_numpy(np.array(x)) for key, x in written})
    with torch.no_grad():
        np.testing.assert_array_equal(again(features).last_hidden_state.numpy(), states)


@pytest.mark.parametrize("name", ["tiny", "small", "large_v3"])
def test_every_key_and_shape_of_the_full_sizes_is_explained(name):
    config = getattr(WhisperConfig, name)()
    home = family_module("whisper")
    words = home.config_to_torch(config)
    with torch.device("meta"):
        reference = transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(**words | DECODER)
        )
    shapes = {
        key: tuple(tensor.shape)
        for key, tensor in reference.state_dict().items()
        if key.startswith("model.encoder.")
    }
    assert home.config_from_torch(shapes, words) == config
    module = nnx.eval_shape(lambda: home.Module(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)))
    written = export(module, home.TORCH_RULES, family="whisper")
    assert {key: tensor.shape for key, tensor in written.items()} == shapes
