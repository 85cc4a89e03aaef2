"""WavLM: HuBERT with a gated relative position bias (Chen et al., 2022)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from flax import nnx
from jax.typing import DTypeLike

from glap_jax.audio.context import gate
from glap_jax.audio.speech import LARGE, SpeechConfig, SpeechEncoder
from glap_jax.audio.speech_torch import (
    config_from_transformers,
    config_to_transformers,
    reference,
    torch_rules,
)
from glap_jax.convert.constructor import Shapes
from glap_jax.convert.rules import Rule, Same
from glap_jax.layers import Remat


@dataclasses.dataclass(frozen=True)
class WavLMConfig(SpeechConfig):
    """Sizes of a WavLM encoder; the other fields are explained in `SpeechConfig`.

    Attributes:
        buckets: of relative positions.
        farthest: tokens from which on all positions share a bucket.
    """

    buckets: int = 320
    farthest: int = 800
    family: Literal["wavlm"] = "wavlm"

    @classmethod
    def base(cls) -> "WavLMConfig":
        """94 M parameters, 768/12/12; it was trained on waveforms as they are."""
        return cls(normalise=False)

    @classmethod
    def base_plus(cls) -> "WavLMConfig":
        """The sizes of `base`, trained on more speech."""
        return cls.base()

    @classmethod
    def large(cls) -> "WavLMConfig":
        """316 M parameters, 1024/24/16."""
        return cls(**LARGE, conv_norm="layer", placement="pre")

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "WavLM":
        """A module with fresh parameters that computes in `dtype`."""
        return WavLM(self, dtype=dtype, remat=remat, rngs=rngs)


class WavLM(SpeechEncoder):
    """A `SpeechEncoder` whose layers share a relative bias and gate it by their own input."""

    @staticmethod
    def relative(config: WavLMConfig) -> dict[str, Any]:
        """A bias gated by the layer's input."""
        return {"gate": "input", "buckets": config.buckets, "farthest": config.farthest}


TORCH_RULES = torch_rules(
    "wavlm",
    attention=gate("attention.gru_rel_pos_linear", "attention.gru_rel_pos_const", "attention"),
    shared=(Rule("encoder.layers.0.attention.rel_attn_embed.weight", "context/relative/embedding", Same),),
)

Config, Module = WavLMConfig, WavLM

_SIZES = {"buckets": "num_buckets", "farthest": "max_bucket_distance"}


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> WavLMConfig:
    """Sizes from an HF config.json, the rest from tensor shapes; see `config_from_transformers`."""
    config = config_from_transformers(WavLMConfig, shapes, given, family="wavlm", sizes=_SIZES)
    told = "do_normalize" in given
    if not told and dataclasses.replace(config, normalise=False) == WavLMConfig.base():
        return WavLMConfig.base()
    return config


def config_to_torch(config: WavLMConfig) -> dict[str, Any]:
    """The HF config.json that `config_from_torch` reads as `config`."""
    return config_to_transformers(config, family="wavlm", sizes=_SIZES)


compat = reference
