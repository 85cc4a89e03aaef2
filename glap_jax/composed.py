"""The published form of a system with other towers than its paper has: GLAP with Whisper, say.

Each tower keeps its own family's keys, below `audio_encoder.` and `text_encoder.`; heads and scalars are
named as in the system's own layout. The configuration is like the released GLAP's config.json: it names the
towers (`audio_encoder`, `text_encoder`: families) and their arguments (`audio_encoder_args`,
`text_encoder_args`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from glap_jax import encoders
from glap_jax.config import ModelConfig
from glap_jax.convert.constructor import HUGGING_FACE, Shapes, arguments, below, dimension
from glap_jax.convert.rules import Rule, Table, prefixed
from glap_jax.errors import GlapError
from glap_jax.families import family_module

_TOWERS = {"audio": encoders.AUDIO, "text": encoders.TEXT}


def is_composed(given: Mapping[str, Any], family: str) -> bool:
    """Whether a configuration names both towers' families."""
    return given.get("model_type") == family and all(
        isinstance(given.get(f"{tower}_encoder"), str) for tower in _TOWERS
    )


def torch_rules(given: Mapping[str, Any], rest: Table) -> Table:
    """The table of a composed configuration.

    Args:
        given: names the towers.
        rest: rules of heads and scalars, as in the system's own layout.

    Raises:
        GlapError: an encoder that does not exist.
    """
    towers = (
        prefixed(_home(given, tower).TORCH_RULES, f"{tower}_encoder.", f"{tower}/") for tower in _TOWERS
    )
    return (*(rule for table in towers for rule in table), *rest)


def config_from_torch(shapes: Shapes, given: Mapping[str, Any], rest: Table) -> ModelConfig:
    """Sizes from a composed configuration, the rest from tensor shapes; `rest` as in `torch_rules`.

    Raises:
        GlapError: an encoder or argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    told = [f"{tower}_encoder{part}" for tower in _TOWERS for part in ("", "_args")]
    family, ignored = given["model_type"], (*told, *HUGGING_FACE)
    known = arguments(given, family=family, sizes=("embed_size",), fixed={}, ignored=ignored)
    audio, text = (
        _home(given, tower).config_from_torch(
            below(shapes, f"{tower}_encoder."), given.get(f"{tower}_encoder_args") or {}
        )
        for tower in _TOWERS
    )
    heads = [rule for rule in rest if isinstance(rule, Rule) and rule.target == "text_head/out/bias"]
    # A system without heads has towers that pool to the joint width.
    width = dimension(shapes, heads[0].sources[0], 0) if heads else encoders.pooled_width(text)
    joint = known.get("embed_size") or width
    standard = "text_norm.weight" in shapes
    return ModelConfig(audio=audio, text=text, joint=joint, family=family, standardise=standard)


def config_to_torch(config: ModelConfig) -> dict[str, Any]:
    """The composed configuration that `config_from_torch` reads as `config`."""
    found: dict[str, Any] = {"model_type": config.family}
    for tower in _TOWERS:
        part = getattr(config, tower)
        found[f"{tower}_encoder"] = part.family
        found[f"{tower}_encoder_args"] = family_module(part.family).config_to_torch(part)
    return {**found, "embed_size": config.joint}


def compat(config: ModelConfig) -> ModelConfig:
    """`config` with the quirks of each tower's own reference."""
    quirky = {tower: getattr(config, tower) for tower in _TOWERS}
    quirky = {tower: family_module(part.family).compat(part) for tower, part in quirky.items()}
    return dataclasses.replace(config, **quirky)


def _home(given: Mapping[str, Any], tower: str) -> Any:
    """The module that defines the family of a tower."""
    family, kinds = given[f"{tower}_encoder"], _TOWERS[tower]
    if family not in kinds:
        raise GlapError(
            f"config of {given['model_type']}: '{tower}_encoder' is {family!r}; only {', '.join(kinds)} can "
            "be built"
        )
    return family_module(family)
