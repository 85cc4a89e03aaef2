"""The recipes of systems, shrunk, take a step on the embedded samples and leave a model that loads."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers

from glap_jax import config as configs
from glap_jax import inference
from glap_jax.audio.ced import CedConfig
from glap_jax.audio.clara import ClaraAudioConfig
from glap_jax.config import GroupConfig
from glap_jax.errors import GlapError
from glap_jax.text.clara import ClaraTextConfig
from glap_jax.text.sonar import SonarConfig
from glap_jax.text.tokenizers import SonarTokenizer
from glap_jax.train.loop import train
from glap_jax.train.writers import read

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "data" / "samples"


def shrunk(name: str, out: Path, **model) -> configs.TrainConfig:
    """The recipe with a tiny model, on clips of the samples, for one step; all else as published."""
    config = configs.load(ROOT / "configs" / f"{name}.py")
    data = dataclasses.replace(
        config.data,
        root=str(SAMPLES),
        train=(GroupConfig("speech", ("train-speech_english-*.tar",)),),
        test=(),
        tokenizer="spm.model",
        crop_seconds=0.5,
        max_tokens=32,
        workers=0,
    )
    sizes = {"joint": 16}
    for side, tower in model.items():
        # What the recipe leaves out in training stays left out.
        of_recipe = vars(getattr(config.model, side)).items()
        kept = {key: value for key, value in of_recipe if key.endswith("dropout")}
        sizes[side] = dataclasses.replace(tower, **kept)
    return dataclasses.replace(
        config,
        out=str(out),
        model=dataclasses.replace(config.model, **sizes),
        data=data,
        steps=1,
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=0),
        batch=4,
        calibrate_batches=0,
        log_every=1,
    )


def step_and_load(config: configs.TrainConfig) -> tuple[dict[str, float], inference.Model]:
    result = train(config, devices=jax.devices()[:1])
    assert result.step == 1
    (row,) = read(Path(config.out) / "metrics.csv")
    assert np.isfinite(row["loss"])
    assert row["grad_norm"] > 0
    model = inference.load(config.out)
    assert model.config == config.model
    assert model.encode_text(["a dog barks"]).shape == (1, 16)
    with pytest.raises(GlapError, match="learned no bias"):
        model.probability(np.ones((1, 16), np.float32), np.ones((1, 16), np.float32))
    return row, model


@pytest.mark.slow
def test_ml_clap(tmp_path):
    vocabulary = SonarTokenizer(SAMPLES / "spm.model", compact=True).vocabulary
    config = shrunk(
        "ml_clap",
        tmp_path / "run",
        audio=CedConfig(width=16, layers=1, heads=2, chunk_frames=64),
        text=SonarConfig(width=16, layers=1, heads=2, hidden=32, vocabulary=vocabulary),
    )
    assert config.model.audio.patch_dropout == 0.25
    row, _ = step_and_load(config)
    assert row["temperature"] == pytest.approx(0.07)
    assert "bias" not in row


@pytest.mark.slow
def test_clara(tmp_path):
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bytewise = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, [])
    )
    bytewise.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.add_special_tokens(["<|en|>", "<|speech|>"])
    path = tmp_path / "tokenizer.json"
    bytewise.save(str(path))
    config = shrunk(
        "clara",
        tmp_path / "run",
        audio=ClaraAudioConfig(
            width=16, embedding=16, latents=16, layers=1, heads=2, head_width=8, max_tokens=64
        ),
        text=ClaraTextConfig(16, 16, 16, 1, 2, 32, vocabulary=258, max_tokens=32),
    )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer=str(path)))
    with pytest.raises(GlapError, match="works at 16000 Hz"):
        train(config, devices=jax.devices()[:1])
    data = dataclasses.replace(config.data, sample_rate=16_000)
    row, _ = step_and_load(dataclasses.replace(config, data=data))
    assert row["temperature"] == pytest.approx(0.07)
    assert row["text_temperature"] == pytest.approx(0.07)


def test_a_loss_that_the_family_has_no_scalars_for():
    config = configs.load(ROOT / "configs" / "clara.py")
    with pytest.raises(GlapError, match=r"set 'loss\.kind' to infonce"):
        dataclasses.replace(config, loss=configs.LossConfig(kind="sigmoid"))
