"""HuBERT: speech by masked prediction of hidden units (Hsu et al., 2021)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from flax import nnx
from jax.typing import DTypeLike

from glap_jax.audio.speech import LARGE, LAYER_NORMED, XLARGE, SpeechConfig, SpeechEncoder
from glap_jax.audio.speech_torch import (
    config_from_transformers,
    config_to_transformers,
    reference,
    torch_rules,
)
from glap_jax.convert.constructor import Shapes
from glap_jax.layers import Remat


@dataclasses.dataclass(frozen=True)
class HubertConfig(SpeechConfig):
    """Sizes of a HuBERT encoder; the fields are explained in `SpeechConfig`."""

    family: Literal["hubert"] = "hubert"

    @classmethod
    def base(cls) -> "HubertConfig":
        """95 M parameters, 768/12/12: hubert-base-ls960."""
        return cls()

    @classmethod
    def large(cls) -> "HubertConfig":
        """317 M parameters, 1024/24/16: hubert-large-ll60k and -large-ls960-ft, CLASP's speech tower."""
        return cls(**LARGE, **LAYER_NORMED)

    @classmethod
    def xlarge(cls) -> "HubertConfig":
        """1 B parameters, 1280/48/16: hubert-xlarge-ll60k and -xlarge-ls960-ft."""
        return cls(**XLARGE, **LAYER_NORMED)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "Hubert":
        """A module with fresh parameters that computes in `dtype`."""
        return Hubert(self, dtype=dtype, remat=remat, rngs=rngs)


class Hubert(SpeechEncoder):
    """A `SpeechEncoder` with plain self-attention."""


TORCH_RULES = torch_rules("hubert")

Config, Module = HubertConfig, Hubert


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> HubertConfig:
    """Sizes from an HF config.json, the rest from tensor shapes; see `config_from_transformers`."""
    return config_from_transformers(HubertConfig, shapes, given, family="hubert")


def config_to_torch(config: HubertConfig) -> dict[str, Any]:
    """The HF config.json that `config_from_torch` reads as `config`."""
    return config_to_transformers(config, family="hubert")


compat = reference
