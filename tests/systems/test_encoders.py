"""GLAP with every encoder: named on the command line, shrunk, one step on the samples, a model that loads."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from glap_jax import config as configs
from glap_jax import encoders
from glap_jax.audio.clasp import ClaspFusionConfig
from glap_jax.audio.clasp_tower import ClaspAudioConfig
from glap_jax.audio.efficientnet import EfficientNetConfig, StageConfig
from glap_jax.audio.hubert import HubertConfig
from glap_jax.config import GroupConfig
from glap_jax.text.tokenizers import SonarTokenizer

pytestmark = pytest.mark.usefixtures("little_compiled")

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "data" / "samples"
BLOCKS = "--model.{tower}.width 16 --model.{tower}.layers 1 --model.{tower}.heads 2"
SPEECH = f"{BLOCKS} --model.audio.hidden 16 --model.audio.position-taps 4 --model.audio.position-groups 2"
AUDIO = {
    "dasheng": BLOCKS,
    "ced": f"{BLOCKS} --model.audio.chunk-frames 64",
    "beats": f"{SPEECH} --model.audio.patch-width 8",
    "whisper": f"{BLOCKS} --model.audio.hidden 16 --model.audio.positions 20",
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm"), f"{SPEECH} --model.audio.conv-width 8"),
    "sonar_speech": f"{BLOCKS} --model.audio.hidden 16 --model.audio.taps 3 --model.audio.pool-layers 1 "
    "--model.audio.pool-heads 2 --model.audio.pool-hidden 16",
    "w2v_bert": f"{BLOCKS} --model.audio.hidden 16 --model.audio.taps 3",
    "clara_audio": f"{BLOCKS} --model.audio.embedding 16 --model.audio.latents 8 --model.audio.head-width 4",
    **dict.fromkeys(("efficientnet", "clasp_audio"), ""),
}
IMAGE = EfficientNetConfig((StageConfig(1, 3, 2, 8, 8, 1),), classes=16, picture=(32, 32))
# What takes many words to shrink.
SHRUNK = {
    "efficientnet": IMAGE,
    "clasp_audio": ClaspAudioConfig(
        HubertConfig(16, 1, 2, 16, conv_width=8, position_taps=4, position_groups=2),
        IMAGE,
        ClaspFusionConfig("gating", 16, 16, 12, 12, 8, 16),
    ),
}
TEXT = {
    "bert.tiny": f"{BLOCKS} --model.text.hidden 16",
    "xlm_roberta.tiny": f"{BLOCKS} --model.text.hidden 16",
    "clara_text.tiny": f"{BLOCKS} --model.text.embedding 16 --model.text.channels 16 --model.text.hidden 16",
}
# All but the tower that is exchanged. Training goes with sonar on half a second a clip.
RUN = (
    "--initial None --steps 1 --batch 4 --model.joint 16 --optimizer.warmup-steps 0 --checkpoint-every 1 "
    "--log-every 1 --calibrate-batches 1 --data.crop-seconds 0.5 --data.workers 0 --data.max-tokens 32"
).split()


@pytest.fixture(scope="session")
def bytewise(tmp_path_factory):
    """A tokenizer.json of bytes and CLARA's markers, which every family but SONAR can read."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<|en|>", "<|speech|>", "<|es|>"])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def shrunk(out: Path, words: list[str], *, tokenizer: Path = SAMPLES / "spm.model", vocabulary: int):
    """The recipe of GLAP with `words` as a user types them, on the samples."""
    config = configs.load(ROOT / "configs" / "glap.py")
    small = f"{BLOCKS.format(tower='text')} --model.text.hidden 16 --model.text.vocabulary {vocabulary}"
    config = configs.override(config, [*RUN, *small.split()])
    config = configs.override(config, ["--out", str(out), "--data.tokenizer", str(tokenizer), *words])
    groups = (GroupConfig("english", ("train-speech_english-*.tar",)),)
    data = dataclasses.replace(config.data, root=str(SAMPLES), train=groups, test=())
    return dataclasses.replace(config, data=data)


@pytest.mark.slow
@pytest.mark.parametrize("family", encoders.AUDIO)
def test_every_audio_encoder(family, tmp_path, step_and_load):
    rows = SonarTokenizer(SAMPLES / "spm.model", compact=True).vocabulary
    words = ["--audio-encoder", family, *AUDIO[family].format(tower="audio").split()]
    config = shrunk(tmp_path / "run", words, vocabulary=rows)
    if family in SHRUNK:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, audio=SHRUNK[family]))
    assert config.model.audio.family == family
    assert config.data.sample_rate == encoders.sample_rate(config.model.audio)
    _, model = step_and_load(config)
    found = model.encode_audio([np.sin(np.arange(9000.0) / 9, dtype=np.float32)], sample_rate=9000)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT)
def test_every_text_encoder(name, tmp_path, bytewise, step_and_load):
    words = ["--text-encoder", name, *BLOCKS.format(tower="audio").split()]
    words += TEXT[name].format(tower="text").split()
    config = shrunk(tmp_path / "run", words, tokenizer=bytewise, vocabulary=259)
    assert config.model.text.family == name.partition(".")[0]
    assert config.model.text.vocabulary == 259
    _, model = step_and_load(dataclasses.replace(config, frozen=((".*", False),)))
    found = model.encode_text(["a dog barks", "un perro ladra"], language=["eng_Latn", "spa_Latn"])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)


def test_no_encoder_is_forgotten():
    assert set(AUDIO) == set(encoders.AUDIO)
    assert {"sonar", *(name.partition(".")[0] for name in TEXT)} == set(encoders.TEXT)
