"""CLASP and LASP: speech and its spectrogram, fused into the space of a frozen sentence encoder.

Published is the fusion alone, a module that the notebook pickled: never unpickle a stranger's file, ask for
its state dict. Family `clasp` takes that for the fusion that it is (as `clasp_fusion` does). Of a whole model
there is no published layout; here it is that of `glap_jax.composed`, with `clasp_audio` and the text
encoder. CLASP and LASP differ in the loss only.

Source: github language-modeling-lab/CLASP 905ce97 (Abootorabi and Asgari, 2024).
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from glap_jax import composed
from glap_jax.config import ModelConfig
from glap_jax.convert.constructor import Shapes
from glap_jax.convert.rules import Rule, Same, Table
from glap_jax.model import DualEncoder

# The notebook multiplies cosines by 0.07.
TEMPERATURE = 1 / 0.07

_SCALARS: Table = (Rule("temperature", "temperature", Same, default=TEMPERATURE),)
_PUBLISHED = {"model_type": "clasp", "audio_encoder": "clasp_audio", "text_encoder": "bert"}

TORCH_RULES: Table = composed.torch_rules(_PUBLISHED, _SCALARS)

Config, Module = ModelConfig, DualEncoder


def part_of(keys: Iterable[str]) -> str | None:
    """`clasp_fusion` where `keys` are those of the fusion alone."""
    return "clasp_fusion" if "image_seq.0.weight" in keys else None


def composed_torch_rules(given: Mapping[str, Any]) -> Table:
    """The table of the towers that `given` names, those of the published model where it names none."""
    return composed.torch_rules({**_PUBLISHED, **given}, _SCALARS)


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> ModelConfig:
    """Sizes from a configuration as `glap_jax.composed` describes it, the rest from tensor shapes.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    config = composed.config_from_torch(shapes, {**_PUBLISHED, **given}, _SCALARS)
    return dataclasses.replace(config, temperature=TEMPERATURE)


config_to_torch, compat = composed.config_to_torch, composed.compat
