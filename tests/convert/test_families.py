"""Sizes from constructor arguments and shapes, hints about the right family, and the published key tables."""

import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax import families
from glap_jax.audio.beats import BeatsConfig
from glap_jax.audio.ced import CedConfig
from glap_jax.audio.dasheng import DashengConfig
from glap_jax.config import ModelConfig
from glap_jax.convert.engine import export
from glap_jax.convert.rules import Extra
from glap_jax.errors import GlapError
from glap_jax.text.sonar import SonarConfig

GOLDEN = Path(__file__).parents[1] / "golden"
TABLES = json.loads((GOLDEN / "manifests" / "state_dicts.json").read_text(encoding="utf-8"))
PUBLISHED = {
    "dasheng_base": ("dasheng", DashengConfig.base()),
    "dasheng_06B": ("dasheng", DashengConfig.b0_6()),
    "dasheng_12B": ("dasheng", DashengConfig.b1_2()),
    "ced_tiny": ("ced", CedConfig.tiny()),
    "ced_mini": ("ced", CedConfig.mini()),
    "ced_small": ("ced", CedConfig.small()),
    "ced_base": ("ced", CedConfig.base()),
    "beats_base": ("beats", BeatsConfig.base()),
    "sonar_text_encoder": ("sonar", SonarConfig.base()),
    "glap": ("glap", ModelConfig()),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_key_and_shape_is_explained(name):
    """Sizes follow from the published shapes, and such a module is written under just these keys."""
    family, config = PUBLISHED[name]
    home = families.family_module(family)
    table = {key: tuple(shape) for key, shape in TABLES[name]["state_dict"].items()}
    assert sum(map(math.prod, table.values())) == TABLES[name]["parameters_and_buffers"]
    assert home.config_from_torch(table, {}) == config
    module = nnx.eval_shape(lambda: home.Module(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)))
    if family == "glap":
        module.temperature.set_value(np.float32(0.07))
        module.bias.set_value(np.float32(-10))
    written = export(module, home.TORCH_RULES, family=family)
    # A module made here has no classifier, which published encoders carry along.
    extras = {entry.source for entry in home.TORCH_RULES if isinstance(entry, Extra)}
    assert {key: tensor.shape for key, tensor in written.items()} == {
        key: shape for key, shape in table.items() if key not in extras
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_constructor_arguments_are_written_as_they_are_read(name):
    family, config = PUBLISHED[name]
    home = families.family_module(family)
    shapes = {key: tuple(shape) for key, shape in TABLES[name]["state_dict"].items()}
    assert home.config_from_torch(shapes, home.config_to_torch(config)) == config
    assert home.config_from_torch(shapes, TABLES[name]["constructor"]) == config
    assert home.config_from_torch(shapes, home.config_to_torch(home.compat(config))) == config


@pytest.mark.parametrize("item", ["dasheng", "glap"])
def test_the_recorded_constructor_arguments(item, weights):
    config = json.loads((GOLDEN / item / "config.json").read_text(encoding="utf-8"))
    if item == "dasheng":
        given = config["constructor_all_defaults"]
    else:
        given = {"audio": config["audio_constructor"], "text": config["text_constructor"], "embed_size": 40}
    assert families.from_torch(item, weights(item), given).torch_layout.family == item
    again = families.to_checkpoint(families.from_torch(item, weights(item), given))
    assert families.from_torch(item, again).config == families.from_torch(item, weights(item), given).config


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"patch_size": [16, 16]}, r"'patch_size' must be \[64, 4\]"),
        ({"qkv_bias": False}, "'qkv_bias' must be True"),
        ({"depht": 3}, "'depht' is unknown"),
        ({"depth": 0}, "'depth' must be a positive"),
        ({"num_heads": 5}, "cannot be divided by 5 heads"),
        ({}, "heads are unknown"),
        ({"num_heads": 4, "depth": 2}, r"no place for: blocks\.2"),
        ({"num_heads": 4, "depth": 4}, r"missing: blocks\.3"),
        ({"num_heads": 4, "target_length": 1012}, r"should be \[1, 96, 1, 253\]"),
    ],
)
def test_arguments_that_cannot_be_honoured(weights, given, words):
    with pytest.raises(GlapError, match=words) as raised:
        families.from_torch("dasheng", weights("dasheng"), given)
    assert "\n" not in str(raised.value)


def test_a_released_configuration_may_name_other_encoders(weights):
    given = {"train_data": [], "model_args": {"audio_encoder": "BEATsWrapper", "embed_size": 40}}
    with pytest.raises(GlapError, match="'audio_encoder' is 'BEATsWrapper'"):
        families.from_torch("glap", weights("glap"), given)


def test_a_checkpoint_of_another_model_is_recognised(weights):
    with pytest.raises(GlapError, match="looks like family 'glap'"):
        families.from_torch("dasheng", weights("glap"))
    with pytest.raises(GlapError, match="looks like family 'dasheng'"):
        families.from_torch("glap", weights("dasheng"))
    with pytest.raises(GlapError, match="no known family fits"):
        families.from_torch("glap", {"conv.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(GlapError, match="0 of its 0 tensors"):
        families.from_torch("glap", {})


def test_an_unknown_family_and_a_foreign_value(weights):
    with pytest.raises(GlapError, match="choose one of dasheng, "):
        families.from_torch("daheng", weights("dasheng"))
    with pytest.raises(GlapError, match="'norm' is no array"):
        families.from_torch("dasheng", {"norm": "words"})
    with pytest.raises(GlapError, match="no model of a known family"):
        families.to_torch(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))


def test_compat_turns_the_quirks_on(weights):
    tensors = weights("glap")
    given = {"audio": {"num_heads": 4}, "text": {"num_heads": 4}}
    assert families.from_torch("glap", tensors, given, compat=True).config.audio.mode == "glap"
    assert families.from_torch("glap", tensors, given).config.audio.mode == "sound"
    dasheng = families.from_torch("dasheng", weights("dasheng"), {"num_heads": 4}, compat=True)
    assert dasheng.config.mode == "dasheng"
