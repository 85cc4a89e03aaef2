"""CLASP and LASP as a whole: no heads, unit vectors, and the tensors there and back."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax import config as configs
from glap_jax import families, folder, losses
from glap_jax.audio.clasp import ClaspFusion, ClaspFusionConfig
from glap_jax.audio.clasp_tower import ClaspAudioConfig
from glap_jax.audio.efficientnet import EfficientNetConfig, StageConfig
from glap_jax.audio.hubert import HubertConfig
from glap_jax.audio.wav2vec2 import Wav2Vec2Config
from glap_jax.config import ModelConfig
from glap_jax.errors import GlapError
from glap_jax.heads import unit
from glap_jax.model import DualEncoder
from glap_jax.systems.clasp import TEMPERATURE
from glap_jax.text.bert import BertConfig
from glap_jax.text.xlm_roberta import XlmRobertaConfig
from glap_jax.train import state as states
from glap_jax.train.step import embed, make_loss

ROOT = Path(__file__).parents[2]
SMALL = {"width": 16, "layers": 1, "heads": 2, "hidden": 32, "conv_width": 8, "position_groups": 2}
IMAGE = EfficientNetConfig((StageConfig(1, 3, 1, 8, 8, 1),), classes=10, epsilon=1e-3, picture=(24, 32))
FUSION = ClaspFusionConfig("concat", 16, 10, 12, 12, 8, 12, (14, 10))
HUBERT = ClaspAudioConfig(HubertConfig(**SMALL, position_taps=8), IMAGE, FUSION)
WAV2VEC2 = ClaspAudioConfig(
    Wav2Vec2Config(**SMALL, position_taps=8),
    IMAGE,
    dataclasses.replace(FUSION, kind="gating", mix=(1024, 800)),
)
LABSE = BertConfig(12, 1, 2, 24, 40, 32)
CLASP = ModelConfig(HUBERT, LABSE, joint=12, temperature=TEMPERATURE, family="clasp")
XLM = dataclasses.replace(CLASP, audio=WAV2VEC2, text=XlmRobertaConfig(12, 1, 2, 24, 40, 32))


def build(config):
    return lambda: DualEncoder(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))


# A text tower that pools all of its layers, the embeddings among them: 24 numbers of its width of 12.
LAYERS = dataclasses.replace(
    CLASP,
    audio=dataclasses.replace(HUBERT, fusion=dataclasses.replace(FUSION, width=24)),
    text=dataclasses.replace(LABSE, pooling="layers"),
    joint=24,
)


@pytest.mark.parametrize("config", [CLASP, XLM], ids=["concat", "gating"])
def test_there_and_back(random_module, config):
    module = random_module(build(config))
    tensors = families.to_torch(module)
    assert families.family_of(module) == families.guess_family(tensors) == "clasp"
    again = families.from_torch("clasp", families.to_checkpoint(module))
    assert again.config == config
    found = families.to_torch(again)
    assert {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in tensors.items()}
    assert {key.split(".")[0] for key in tensors} == {"audio_encoder", "text_encoder", "temperature"}
    assert ("audio_encoder.mix_seq.0.weight" in tensors) == (config is CLASP)


def test_the_joint_width_is_what_the_text_tower_pools_to(random_module):
    module = random_module(build(LAYERS))
    written = families.to_checkpoint(module)
    without = {name: value for name, value in written.config.items() if name != "embed_size"}
    assert families.from_torch("clasp", dict(written), without).config == module.config


def test_a_fusion_alone_is_what_the_notebook_saves(weights, tmp_path):
    tensors = weights("clasp")
    module = families.from_torch("clasp", tensors)
    assert isinstance(module, ClaspFusion)
    assert families.family_of(module) == "clasp_fusion"
    assert families.to_torch(module).keys() == tensors.keys()
    folder.save(tmp_path / "fusion", module, module.config)
    assert folder.load_module(tmp_path / "fusion")[1] == module.config


def test_unit_vectors_without_heads(random_module):
    module = random_module(build(CLASP))
    ids = jnp.arange(8, dtype=jnp.int32).reshape(2, 4)
    rows = module.encode_text(ids, jnp.ones((2, 4), bool))
    np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    pooled = module.text(ids, jnp.ones((2, 4), bool)).pooled
    np.testing.assert_array_equal(module.audio_head.project(pooled), pooled)
    assert not nnx.to_flat_state(nnx.state(module.audio_head))


def test_the_published_temperature_multiplies_by_seven_hundredths(golden):
    io = golden("losses")
    assert configs.load(ROOT / "configs" / "clasp.py").model.temperature == TEMPERATURE
    rows = jnp.asarray(io["b16/audio"]), jnp.asarray(io["b16/text"])
    found = losses.infonce(*rows, log_scale=-jnp.log(jnp.float32(TEMPERATURE)))
    np.testing.assert_allclose(found, io["b16/clasp_contrastive/value"], rtol=1e-5)


@pytest.mark.parametrize("name", ["clasp", "lasp"])
def test_the_recipes_train_the_fusion_alone(name):
    config = configs.load(ROOT / "configs" / f"{name}.py")
    module = nnx.eval_shape(lambda: DualEncoder(config.model, rngs=nnx.Rngs(0)))
    held = states.part(module, config.frozen)
    assert all(path.startswith("audio/fusion/") for path in held.learning)
    sizes = [sum(math.prod(x.shape) for x in jax.tree.leaves(tree)) for tree in (held.trainable, held.frozen)]
    # The notebook's fusion, and HuBERT large, EfficientNet-B7 (with statistics) and LaBSE.
    assert sizes[0] == 6_344_608
    assert 850e6 < sizes[1] < 860e6
    assert {place for place, _ in config.parts} == {"audio/speech", "audio/image", "text"}


def test_huber_compares_raw_clips_with_unit_texts(random_module):
    module = random_module(build(CLASP))
    config = configs.load(ROOT / "configs" / "lasp.py")
    draw = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 12)), jnp.float32)
    inputs = {"audio": 3 * draw[0], "text": draw[1]}
    clips, texts = embed(module, inputs, raw=True)
    np.testing.assert_array_equal(clips, inputs["audio"])
    np.testing.assert_array_equal(texts, unit(draw[1]))
    batch = {"identity": jnp.arange(4, dtype=jnp.int32), "pair_mask": jnp.ones(4, bool)}
    found = make_loss(config.loss)(module, clips, texts, batch)
    difference = np.abs(np.asarray(clips - texts, np.float64))
    expected = np.where(difference < 0.6, difference**2 / 2, 0.6 * (difference - 0.3)).mean()
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_what_does_not_fit(random_module):
    with pytest.raises(GlapError, match=r"'model\.joint' 12, 'audio' 12, 'text' 24"):
        build(dataclasses.replace(CLASP, text=dataclasses.replace(LABSE, width=24)))()
    tensors = dict(families.to_torch(random_module(build(CLASP))))
    given = families.family_module("clasp").config_to_torch(CLASP)
    other = {"audio_encoder_args": given["audio_encoder_args"] | {"speech": {"model_type": "wavlm"}}}
    with pytest.raises(GlapError, match="'model_type' of 'speech' is 'wavlm'; give hubert or wav2vec2"):
        families.from_torch("clasp", tensors, given | other)
    del tensors["audio_encoder.speech_encoder.encoder.layer_norm.bias"]
    tensors["audio_encoder.image_encoder.classifier.1.bias"] = np.zeros(3, np.float32)
    tensors["odd"] = np.zeros(1, np.float32)
    with pytest.raises(GlapError, match=r"1 missing: audio.*place for: odd.*classifier\.1\.bias is \[3\]"):
        families.from_torch("clasp", tensors, given)
