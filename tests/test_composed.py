"""Systems with other towers than their papers have: there and back in the published form, bit for bit."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from glap_jax import encoders
from glap_jax.audio.beats import BeatsConfig
from glap_jax.audio.ced import CedConfig
from glap_jax.audio.clara import ClaraAudioConfig
from glap_jax.audio.clasp import ClaspFusionConfig
from glap_jax.audio.clasp_tower import ClaspAudioConfig
from glap_jax.audio.dasheng import DashengConfig
from glap_jax.audio.efficientnet import EfficientNetConfig, StageConfig
from glap_jax.audio.hubert import HubertConfig
from glap_jax.audio.sonar_speech import SonarSpeechConfig
from glap_jax.audio.w2v_bert import W2vBertConfig
from glap_jax.audio.wav2vec2 import Wav2Vec2Config
from glap_jax.audio.wavlm import WavLMConfig
from glap_jax.audio.whisper import WhisperConfig
from glap_jax.config import ModelConfig
from glap_jax.errors import GlapError
from glap_jax.families import from_torch, to_checkpoint, to_torch
from glap_jax.model import DualEncoder
from glap_jax.rules import path_name
from glap_jax.text.bert import BertConfig
from glap_jax.text.clara import ClaraTextConfig
from glap_jax.text.sonar import SonarConfig
from glap_jax.text.xlm_roberta import XlmRobertaConfig

SPEECH = {"width": 16, "layers": 2, "heads": 2, "hidden": 24, "conv_width": 8}
POSITIONS = {"position_taps": 4, "position_groups": 2}
AUDIO = {
    "dasheng": DashengConfig(width=16, layers=2, heads=2),
    "ced": CedConfig(width=16, layers=2, heads=2, chunk_frames=64),
    "beats": BeatsConfig(width=16, layers=2, heads=2, hidden=24, patch_width=8, **POSITIONS),
    "whisper": WhisperConfig(width=16, layers=2, heads=2, hidden=24, positions=20),
    "wav2vec2": Wav2Vec2Config(**SPEECH, **POSITIONS),
    "hubert": HubertConfig(**SPEECH, **POSITIONS, conv_norm="layer", conv_bias=True, placement="pre"),
    "wavlm": WavLMConfig(**SPEECH, **POSITIONS, normalise=False),
    "sonar_speech": SonarSpeechConfig(16, 2, 2, 24, 3, 1, 2, 24),
    "w2v_bert": W2vBertConfig(16, 2, 2, 24, 3, 4, 2),
    "clara_audio": ClaraAudioConfig(16, 16, 8, 2, heads=2, head_width=4, max_tokens=32, sample_rate=48_000),
    "efficientnet": EfficientNetConfig((StageConfig(1, 3, 2, 8, 8, 1),), classes=16),
}
AUDIO["clasp_audio"] = ClaspAudioConfig(
    AUDIO["hubert"], AUDIO["efficientnet"], ClaspFusionConfig("gating", 16, 16, 12, 12, 8, 16)
)
TEXT = {
    "sonar": SonarConfig(width=16, layers=2, heads=2, hidden=24, vocabulary=50),
    "bert": BertConfig(16, 2, 2, 24, 50),
    "xlm_roberta": XlmRobertaConfig(16, 2, 2, 24, 50, pooling="mean", prefix="query: "),
    "clara_text": ClaraTextConfig(16, 16, 16, 2, 2, 24, 50, 32),
}
GLAP = [(audio, "sonar") for audio in AUDIO] + [("dasheng", text) for text in TEXT if text != "sonar"]
SYSTEMS = [
    *(("glap", *towers) for towers in GLAP),
    *(("ml_clap", "whisper", "bert"), ("ml_clap", "ced", "clara_text")),
    *(("clara", "whisper", "sonar"), ("clara", "clara_audio", "bert")),
]


def random_model(family, audio, text):
    """A module with random parameters, but for those that are constants."""
    config = ModelConfig(AUDIO[audio], TEXT[text], joint=12, family=family)
    draw = np.random.default_rng(0)
    module = nnx.eval_shape(lambda: DualEncoder(config, rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(module))
    for _, variable in flat:
        variable.set_value(jax.numpy.asarray(draw.standard_normal(variable.shape), variable.dtype))
    # Whisper's keys have no bias, which is all that the middle third of this parameter can hold.
    for path, variable in flat:
        if audio == "whisper" and path_name(path) == "audio/blocks/layers/attention/qkv/bias":
            variable.set_value(variable.get_value().at[:, 16:32].set(0.0))
    nnx.update(module, nnx.from_flat_state(flat))
    return module


def values(module):
    return {path_name(path): np.asarray(x.get_value()) for path, x in nnx.to_flat_state(nnx.state(module))}


@pytest.mark.parametrize(("family", "audio", "text"), SYSTEMS)
def test_there_and_back(family, audio, text):
    module = random_model(family, audio, text)
    written = to_checkpoint(module)
    tensors = dict(written)
    again = from_torch(family, tensors, written.config)
    picture = {"picture": AUDIO[audio].picture} if audio == "efficientnet" else {}
    assert dataclasses.replace(again.config.audio, **picture) == module.config.audio
    assert again.config.text == module.config.text
    before, after = values(module), values(again)
    assert before.keys() == after.keys()
    assert all(before[path].tobytes() == after[path].tobytes() for path in before)
    assert {k: v.tobytes() for k, v in to_torch(again).items()} == {
        k: v.tobytes() for k, v in tensors.items()
    }


def test_every_encoder_is_there():
    assert set(AUDIO) == set(encoders.AUDIO)
    assert set(TEXT) == set(encoders.TEXT)


def test_the_released_layout_is_kept_for_the_released_towers():
    names = set(to_checkpoint(random_model("glap", "dasheng", "sonar")))
    assert "audio_encoder.model.patch_embed.proj.weight" in names
    other = to_checkpoint(random_model("glap", "whisper", "sonar"))
    assert {"audio_encoder.model.encoder.conv1.weight", "text_encoder.layer_norm.weight"} <= set(other)
    assert other.config["model_type"] == "glap"
    assert other.config["audio_encoder"] == "whisper"
    assert other.config["audio_encoder_args"]["d_model"] == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_encoder": "wisper"}, "'audio_encoder' is 'wisper'; only dasheng, ced"),
        ({"text_encoder": "whisper"}, "'text_encoder' is 'whisper'; only sonar, bert"),
        ({"embed_sise": 3}, "'embed_sise' is unknown"),
        ({"audio_encoder_args": {"d_modle": 3}}, "config of whisper: 'd_modle' is unknown"),
        ({"audio_encoder": "ced", "audio_encoder_args": {}}, "convert: the checkpoint has no tensor"),
    ],
)
def test_configurations_that_cannot_be_honoured(change, message):
    written = to_checkpoint(random_model("glap", "whisper", "sonar"))
    with pytest.raises(GlapError, match=message):
        from_torch("glap", dict(written), written.config | change)


def test_quirks_are_each_tower_s_own():
    written = to_checkpoint(random_model("glap", "whisper", "sonar"))
    assert from_torch("glap", dict(written), written.config, compat=True).config.audio.mode == "glap"
    written = to_checkpoint(random_model("ml_clap", "ced", "clara_text"))
    config = from_torch("ml_clap", dict(written), written.config, compat=True).config
    assert (config.audio.mode, config.text.mode) == ("ced", "clara")
    without = {name: value for name, value in written.config.items() if name != "embed_size"}
    assert from_torch("ml_clap", dict(written), without).config.joint == 12
