"""CLARA: a Perceiver and a text transformer joined by InfoNCE (Noriy et al., 2023; CLARA faec8a5)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from glap_jax import composed
from glap_jax.audio import clara as audio
from glap_jax.audio.clara import ClaraAudioConfig
from glap_jax.config import ModelConfig
from glap_jax.convert.constructor import Shapes, arguments, dimension
from glap_jax.convert.rules import Rule, Table, Transform, dense, prefixed
from glap_jax.model import DualEncoder
from glap_jax.text import clara as text
from glap_jax.text.clara import ClaraTextConfig

_Pair = Transform(np.stack, lambda x: tuple(x.reshape(2, 1)[number].reshape(()) for number in (0, 1)))

_HEADS: Table = (
    *dense("audio_transform.sequential.0", "audio_head/out"),
    *dense("text_transform.sequential.0", "text_head/out"),
    Rule(("audio_tempeture", "text_tempeture"), "log_scales", _Pair),
)

# `model.` stands before every key in checkpoints of the reference's trainer.
TORCH_RULES: Table = prefixed(
    (
        *prefixed(audio.TOWER_TORCH_RULES, "", "audio/"),
        *prefixed(text.TOWER_TORCH_RULES, "", "text/"),
        *_HEADS,
    ),
    "(|model.)",
    "",
)

Config, Module = ModelConfig, DualEncoder


def composed_torch_rules(given: Mapping[str, Any]) -> Table | None:
    """The table of other towers than CLARA's own, where `given` names such."""
    return composed.torch_rules(given, _HEADS) if composed.is_composed(given, "clara") else None


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> ModelConfig:
    """Sizes from the reference's constructor arguments, the rest from tensor shapes.

    The arguments may also come as `{"audio": {...}, "text": {...}, "embed_size": n}`, or name other towers
    (see `glap_jax.composed`).

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    if composed.is_composed(given, "clara"):
        return composed.config_from_torch(shapes, given, _HEADS)
    joint = {"output_dim": given["embed_size"]} if "embed_size" in given else {}
    rest = {name: value for name, value in given.items() if name not in ("audio", "text", "embed_size")}
    given = {**rest, **(given.get("audio") or {}), **(given.get("text") or {}), **joint}
    others = [name for name in given if name != "output_dim"]
    known = arguments(given, family="clara", sizes=("output_dim",), fixed={}, ignored=others)
    return ModelConfig(
        audio=audio.config_from_torch(shapes, given),
        text=text.config_from_torch(shapes, given),
        joint=known.get("output_dim") or dimension(shapes, "audio_transform.sequential.0.weight", 0),
        family="clara",
    )


def config_to_torch(config: ModelConfig) -> dict[str, Any]:
    """The constructor arguments that `config_from_torch` reads as `config`."""
    if not (isinstance(config.audio, ClaraAudioConfig) and isinstance(config.text, ClaraTextConfig)):
        return composed.config_to_torch(config)
    towers = {**audio.config_to_torch(config.audio), **text.config_to_torch(config.text)}
    return {**towers, "output_dim": config.joint}


def compat(config: ModelConfig) -> ModelConfig:
    """`config` with the quirks of both towers' reference."""
    return composed.compat(config)
