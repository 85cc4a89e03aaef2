"""ML-CLAP: CED and SONAR joined by InfoNCE (Yan et al., 2024; github zyyan4/ml-clap 154393e)."""

from collections.abc import Mapping
from typing import Any

from glap_jax import composed
from glap_jax.audio import ced
from glap_jax.audio.ced import CedConfig
from glap_jax.config import ModelConfig
from glap_jax.convert.constructor import Shapes, arguments, below, dimension
from glap_jax.convert.rules import Rule, Same, Table, prefixed
from glap_jax.errors import GlapError
from glap_jax.model import AUDIO, HEADS_TORCH_RULES, TEXT, TEXT_AND_HEADS_TORCH_RULES, DualEncoder
from glap_jax.text import sonar
from glap_jax.text.sonar import SonarConfig

# A released file may do without its temperature.
_TEMPERATURE = Rule("temperature", "temperature", Same, default=0.07)
TORCH_RULES: Table = (
    *prefixed(ced.TORCH_RULES, "audio_encoder(.model|).", "audio/"),
    *TEXT_AND_HEADS_TORCH_RULES,
    _TEMPERATURE,
)

Config, Module = ModelConfig, DualEncoder

# How the reference trains, and the start of a temperature that the file then replaces.
_IGNORED = ("embed_regularization", "training", "temperature")
_ENCODERS = ("ced_tiny", "ced_mini", "ced_small", "ced_base")


def composed_torch_rules(given: Mapping[str, Any]) -> Table | None:
    """The table of other towers than CED and SONAR, where `given` names such."""
    if composed.is_composed(given, "ml_clap"):
        return composed.torch_rules(given, (*HEADS_TORCH_RULES, _TEMPERATURE))
    return None


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> ModelConfig:
    """Sizes from `given`, the rest from tensor shapes.

    `given` is `{"audio": {...}, "text": {...}, "embed_size": n}` with the towers' constructor arguments, or
    the `mlclap` part of a released configuration, or that of other towers (see `glap_jax.composed`).

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    if composed.is_composed(given, "ml_clap"):
        return composed.config_from_torch(shapes, given, HEADS_TORCH_RULES)
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
    if not (isinstance(config.audio, CedConfig) and isinstance(config.text, SonarConfig)):
        return composed.config_to_torch(config)
    towers = {"audio": ced.config_to_torch(config.audio), "text": sonar.config_to_torch(config.text)}
    return {**towers, "embed_size": config.joint}


def compat(config: ModelConfig) -> ModelConfig:
    """`config` with the quirks of its towers' references."""
    return composed.compat(config)
