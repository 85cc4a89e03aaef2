"""wav2vec 2.0: self-supervised speech (Baevski et al., 2020; XLS-R: Babu et al., 2021)."""

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
class Wav2Vec2Config(SpeechConfig):
    """Sizes of a wav2vec 2.0 encoder; the fields are explained in `SpeechConfig`."""

    family: Literal["wav2vec2"] = "wav2vec2"

    @classmethod
    def base(cls) -> "Wav2Vec2Config":
        """95 M parameters, 768/12/12: wav2vec2-base and -base-960h."""
        return cls()

    @classmethod
    def large(cls) -> "Wav2Vec2Config":
        """317 M parameters, 1024/24/16: wav2vec2-large and -large-960h."""
        return cls(**LARGE)

    @classmethod
    def large_lv60(cls) -> "Wav2Vec2Config":
        """317 M parameters with layer norms: wav2vec2-large-lv60, XLSR-53 and XLS-R 0.3B."""
        return cls(**LARGE, **LAYER_NORMED)

    @classmethod
    def xls_r_1b(cls) -> "Wav2Vec2Config":
        """1 B parameters, 1280/48/16: XLS-R 1B."""
        return cls(**XLARGE, **LAYER_NORMED)

    @classmethod
    def xls_r_2b(cls) -> "Wav2Vec2Config":
        """2 B parameters, 1920/48/16: XLS-R 2B."""
        return cls(width=1920, layers=48, heads=16, hidden=7680, **LAYER_NORMED)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "Wav2Vec2":
        """A module with fresh parameters that computes in `dtype`."""
        return Wav2Vec2(self, dtype=dtype, remat=remat, rngs=rngs)


class Wav2Vec2(SpeechEncoder):
    """A `SpeechEncoder` with plain self-attention."""


TORCH_RULES = torch_rules("wav2vec2")

Config, Module = Wav2Vec2Config, Wav2Vec2


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> Wav2Vec2Config:
    """Sizes from an HF config.json, the rest from tensor shapes; see `config_from_transformers`."""
    return config_from_transformers(Wav2Vec2Config, shapes, given, family="wav2vec2")


def config_to_torch(config: Wav2Vec2Config) -> dict[str, Any]:
    """The HF config.json that `config_from_torch` reads as `config`."""
    return config_to_transformers(config, family="wav2vec2")


compat = reference
