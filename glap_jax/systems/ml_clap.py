"""ML-CLAP: CED and SONAR joined by InfoNCE (Yan et al., 2024; github zyyan4/ml-clap 154393e)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from glap_jax.audio import ced
from glap_jax.audio.ced import CedConfig
from glap_jax.config import ModelConfig
from glap_jax.convert.constructor import Shapes, arguments, dimension
from glap_jax.convert.rules import Rule, Same, Table, prefixed
from glap_jax.errors import GlapError
from glap_jax.model import AUDIO, TEXT, TEXT_AND_HEADS_TORCH_RULES, DualEncoder, below, published
from glap_jax.text import sonar
from glap_jax.text.sonar import SonarConfig

# A released file may do without its temperature.
TORCH_RULES: Table = (
    *prefixed(ced.TORCH_RULES, "audio_encoder(.model|).", "audio/"),
    *TEXT_AND_HEADS_TORCH_RULES,
    Rule("temperature", "temperature", Same, default=0.07),
)

Config, Module = ModelConfig, DualEncoder

# How the reference trains, and the start of a temperature that the file then replaces.
_IGNORED = ("embed_regularization", "training", "temperature")
_ENCODERS = ("ced_tiny", "ced_mini", "ced_small", "ced_base")


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> ModelConfig:
    """Sizes from `given`, the rest from tensor shapes.

    `given` is `{"audio": {...}, "text": {...}, "embed_size": n}` with the towers' constructor arguments, or
    the `mlclap` part of a released configuration.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    audio, text = given.get("audio") or {}, given.get("text") or {}
    encoder = (given.get("audio_encoder") or {}).get("encoder_type", "ced_base")
    if encoder not in _ENCODERS:
        raise GlapError(f"config of ml_clap: 'encoder_type' is {encoder!r}; give {' or '.join(_ENCODERS)}")
    rest = {name: x for name, x in given.items() if name not in ("audio", "text", "audio_encoder")}
    known = arguments(rest, family="ml_clap", sizes=("embed_size",), fixed={}, ignored=_IGNORED)
    return ModelConfig(
        audio=ced.config_from_torch(below(shapes, AUDIO), audio),
        text=sonar.config_from_torch(below(shapes, TEXT), text),
        joint=known.get("embed_size") or dimension(shapes, "audio_proj.0.weight", 0),
        family="ml_clap",
    )


def config_to_torch(config: ModelConfig) -> dict[str, Any]:
    """The constructor arguments that `config_from_torch` reads as `config`."""
    audio, text = published(config, CedConfig, SonarConfig)
    towers = {"audio": ced.config_to_torch(audio), "text": sonar.config_to_torch(text)}
    return {**towers, "embed_size": config.joint}


def compat(config: ModelConfig) -> ModelConfig:
    """`config` with the quirks of its audio tower's reference."""
    audio, _ = published(config, CedConfig, SonarConfig)
    return dataclasses.replace(config, audio=ced.compat(audio))
