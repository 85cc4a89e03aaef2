"""Encoders by name, and towers exchanged on the command line."""

import jax.numpy as jnp
import pytest
from flax import nnx

import glap_jax
from glap_jax import config as configs
from glap_jax import encoders, inference
from glap_jax.audio.ced import CedConfig
from glap_jax.audio.clara import ClaraAudioConfig
from glap_jax.audio.dasheng import DashengConfig
from glap_jax.audio.efficientnet import EfficientNetConfig
from glap_jax.audio.hubert import HubertConfig
from glap_jax.audio.whisper import WhisperConfig
from glap_jax.batching import ceiling
from glap_jax.config import TrainConfig
from glap_jax.errors import GlapError
from glap_jax.text.bert import BertConfig
from glap_jax.text.sonar import SonarConfig


def test_names_are_what_variant_takes():
    known = encoders.names({**encoders.AUDIO, **encoders.TEXT})
    assert {"whisper.base", "whisper", "efficientnet.b7", "wav2vec2.xls_r_2b", "bert.labse"} <= set(known)
    for name in known:
        found = encoders.variant(name, vocabulary=50)
        assert found.family == name.partition(".")[0]
    assert glap_jax.encoders.variant("whisper.large_v3") == WhisperConfig.large_v3()
    assert encoders.variant("ced") == CedConfig()
    assert encoders.variant("sonar.tiny", vocabulary=50) == SonarConfig.tiny(50)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wisper.base", r"'wisper\.base' is no encoder here; did you mean 'whisper\.base'\? There are dash"),
        ("whisper.build", "is no encoder here"),
        ("whisper.", "is no encoder here"),
        ("bert.base", "is no encoder here(?!.*xlm_roberta)"),
    ],
)
def test_unknown_names_tell_the_nearest_and_all(name, message):
    with pytest.raises(GlapError, match=message):
        encoders.variant(name, kinds=encoders.AUDIO)


def test_a_variant_without_a_tokenizer_asks_for_its_vocabulary():
    with pytest.raises(GlapError, match=r"'sonar\.tiny' takes the vocabulary"):
        encoders.variant("sonar.tiny")


def test_sample_rates():
    assert encoders.sample_rate(WhisperConfig.base()) == 16_000
    assert encoders.sample_rate(EfficientNetConfig.b0()) == 22_050
    assert encoders.sample_rate(encoders.variant("clara_audio")) == 16_000


def test_towers_are_exchanged_before_other_overrides():
    words = (
        "--model.audio.layers 2 --audio-encoder whisper.base --model.text.pooling mean "
        "--text-encoder=bert.labse --batch 64 --model.audio.window clip"
    ).split()
    config = configs.override(TrainConfig(), words)
    assert config.model.audio == WhisperConfig(layers=2, window="clip")
    assert config.model.text == BertConfig(vocabulary=501_153, pooling="mean")
    assert config.batch == 64
    tiny = configs.override(config, ["--text_encoder", "bert.tiny"])
    assert tiny.model.text == BertConfig.tiny(501_153)


def test_an_audio_tower_brings_its_rate():
    config = configs.override(TrainConfig(), ["--audio-encoder", "efficientnet.b0"])
    assert config.data.sample_rate == 22_050
    words = "--audio-encoder efficientnet --data.sample-rate 8000 --model.audio.classes 32".split()
    config = configs.override(TrainConfig(), words)
    assert config.data.sample_rate == 8000
    assert config.model.audio.width == 32


@pytest.mark.parametrize(
    ("words", "initial", "parts"),
    [
        ("--audio-encoder whisper.base", None, (("text", "models/glap"),)),
        ("--text-encoder bert.labse", None, (("audio", "models/glap"),)),
        ("--audio-encoder whisper --text-encoder bert", None, ()),
        ("--audio-encoder whisper --initial models/whisper", "models/whisper", ()),
        ("--audio-encoder dasheng.base", "models/glap", ()),
        ("--audio-encoder whisper --parts audio models/whisper", None, (("audio", "models/whisper"),)),
    ],
)
def test_the_tower_that_stays_begins_as_before(words, initial, parts):
    config = configs.override(TrainConfig(initial="models/glap"), words.split())
    assert config.initial == initial
    assert config.parts == parts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--audio-encoder", "bert.base"], "config: 'bert.base' is no encoder here"),
        (["--text-encoder", "labse"], "did you mean 'bert.labse'"),
        (["--audio-encoder"], "config: argument --audio-encoder.* expected one argument, such as"),
        (["--audio-encoder", "whisper", "--model.audio.chunk-tokens", "3"], "chunk-tokens"),
    ],
)
def test_mistakes_are_one_line(words, message):
    with pytest.raises(GlapError, match=message) as caught:
        configs.override(TrainConfig(), words)
    assert "\n" not in str(caught.value)


def test_help_lists_every_encoder(capsys):
    with pytest.raises(SystemExit):
        configs.override(TrainConfig(), ["--audio-encoder", "whisper.base", "--help"])
    printed = capsys.readouterr().out
    assert "--audio-encoder NAME" in printed
    assert "--model.audio.positions" in printed
    for family in (*encoders.AUDIO, *encoders.TEXT):
        assert f"  {family} " in printed
    assert ".xls_r_1b" in printed


@pytest.mark.parametrize(
    ("audio", "seconds"),
    [
        (DashengConfig(), {3: 5, 10: 10.08, 31: 40.32}),
        (CedConfig(), {9.9: 10.12, 31: 40.48}),
        # A window of 30 s: what is padded beyond it costs another one.
        (WhisperConfig(), {6: 10.08, 15: 20.16, 21: 30, 30: 30, 31: 60}),
        # 262.144 s is the longest that it hears.
        (ClaraAudioConfig(), {15: 20.16, 260: 262.144}),
        (HubertConfig(), {15: 20.16, 31: 40.32}),
    ],
)
def test_clips_are_padded_to_what_the_tower_encodes_at_once(audio, seconds):
    tower = nnx.eval_shape(lambda: audio.build(dtype=jnp.float32, remat="none", rngs=nnx.Rngs(0)))
    steps = inference.padded_steps(tower)
    found = {clip: ceiling(round(clip * 16_000), steps) / 16_000 for clip in seconds}
    assert found == seconds
