"""XLM-RoBERTa and multilingual E5 base and large: BERT whose positions count the real tokens from 2.

Source: transformers 5.23 `XLMRobertaModel`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int

from glap_jax.convert.constructor import Shapes
from glap_jax.convert.rules import Extra, Table, prefixed
from glap_jax.layers import Remat
from glap_jax.text import bert
from glap_jax.text.bert import Bert, BertSizes


@dataclasses.dataclass(frozen=True)
class XlmRobertaConfig(BertSizes):
    """Sizes of an XLM-RoBERTa encoder; see `BertSizes`."""

    vocabulary: int = 250_002
    types: int = 1
    epsilon: float = 1e-5
    family: Literal["xlm_roberta"] = "xlm_roberta"

    @classmethod
    def base(cls) -> "XlmRobertaConfig":
        """278 M parameters, 768/12/12, 100 languages."""
        return cls()

    @classmethod
    def large(cls) -> "XlmRobertaConfig":
        """560 M parameters, 1024/24/16, 100 languages."""
        return cls(width=1024, layers=24, heads=16, hidden=4096)

    @classmethod
    def e5_base(cls) -> "XlmRobertaConfig":
        """`base` pooled by its mean: multilingual-e5-base."""
        return cls(pooling="mean", prefix="query: ")

    @classmethod
    def e5_large(cls) -> "XlmRobertaConfig":
        """`large` pooled by its mean: multilingual-e5-large."""
        return dataclasses.replace(cls.large(), pooling="mean", prefix="query: ")

    @classmethod
    def tiny(cls, vocabulary: int) -> "XlmRobertaConfig":
        """192/2/3, mean: for samples, tests and laptops."""
        return cls(192, 2, 3, 768, vocabulary, pooling="mean", pooler=False)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "XlmRoberta":
        """A module with fresh parameters that computes in `dtype`."""
        return XlmRoberta(self, dtype=dtype, remat=remat, rngs=rngs)


class XlmRoberta(Bert):
    """Token ids `<s> pieces </s>` -> tokens and their pooled form. `</s>` is 2, padding 1."""

    PAD = 1
    FIRST_POSITION = PAD + 1

    def positions(self, ids: Int[Array, "B N"], mask: Bool[Array, "B N"]) -> Int[Array, "#B N"]:
        """2, 3, 4 ... over the real tokens, wherever they stand; 1 for padding, by mask or by id."""
        real = (mask & (ids != self.PAD)).astype(jnp.int32)
        return self.PAD + jnp.cumsum(real, axis=1) * real


# `roberta.` stands before the encoder where the head of pre-training comes with it.
TORCH_RULES: Table = (
    *prefixed(bert.MODEL_TORCH_RULES, "(|roberta.)", ""),
    Extra("lm_head.bias"),
    *(
        Extra(f"lm_head.{part}.{k}")
        for part in ("dense", "layer_norm", "decoder")
        for k in ("weight", "bias")
    ),
)

Config, Module = XlmRobertaConfig, XlmRoberta


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> XlmRobertaConfig:
    """Sizes from an HF config.json, the rest from tensor shapes; see `bert.sizes_from_torch`.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    sizes = bert.sizes_from_torch(
        shapes,
        given,
        family="xlm_roberta",
        model_type="xlm-roberta",
        before=XlmRoberta.FIRST_POSITION,
        epsilon=1e-5,
    )
    return XlmRobertaConfig(**sizes)


def config_to_torch(config: XlmRobertaConfig) -> dict[str, Any]:
    """The HF config.json that `config_from_torch` reads as `config`."""
    return bert.sizes_to_torch(config, model_type="xlm-roberta", before=XlmRoberta.FIRST_POSITION)


def compat(config: XlmRobertaConfig) -> XlmRobertaConfig:
    """`config` itself: there is no quirk to reproduce."""
    return config
