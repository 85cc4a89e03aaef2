"""w2v-BERT 2.0: a Conformer with causal convolutions (Barrault et al., 2023; `transformers` 5.23)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from flax import nnx
from jax.typing import DTypeLike

from glap_jax.audio.conformer import (
    EPSILON,
    FEATURES,
    ConformerEncoder,
    DistanceAttention,
    GatedConvolution,
)
from glap_jax.audio.speech_torch import HEAD_KEYS, IGNORED
from glap_jax.convert.constructor import Shapes, arguments, dimension, heads, layers
from glap_jax.convert.rules import (
    Extra,
    Kernel,
    Pointwise,
    Rule,
    Same,
    Table,
    dense,
    fused,
    norm,
    prefixed,
)
from glap_jax.layers import Remat


@dataclasses.dataclass(frozen=True)
class W2vBertConfig:
    """Sizes of a w2v-BERT 2.0 encoder.

    Attributes:
        width: transformer width D.
        layers: Conformer layers L.
        heads: attention heads H.
        hidden: width of the MLPs.
        taps: kernel of the causal convolutions.
        before: tokens to the left from which on all distances share a key.
        after: the same to the right.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 4096
    taps: int = 31
    before: int = 64
    after: int = 8
    family: Literal["w2v_bert"] = "w2v_bert"

    @classmethod
    def v2(cls) -> "W2vBertConfig":
        """580 M parameters, 1024/24/16: facebook/w2v-bert-2.0."""
        return cls()

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "W2vBert":
        """A module with fresh parameters that computes in `dtype`."""
        return W2vBert(self, dtype=dtype, remat=remat, rngs=rngs)


class W2vBert(ConformerEncoder):
    """A `ConformerEncoder` with causal convolutions and learned keys for distances."""

    def __init__(self, config: W2vBertConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        super().__init__(
            width=config.width,
            hidden=config.hidden,
            layers=config.layers,
            attention=lambda rngs: DistanceAttention(
                config.width,
                config.heads,
                before=config.before,
                after=config.after,
                dtype=dtype,
                rngs=rngs,
            ),
            convolution=lambda rngs: GatedConvolution(
                config.width, config.taps, causal=True, norm="layer", dtype=dtype, rngs=rngs
            ),
            dtype=dtype,
            remat=remat,
            rngs=rngs,
        )


BLOCK_TORCH_RULES: Table = (
    *norm("ffn1_layer_norm", "first_norm"),
    *dense("ffn1.intermediate_dense", "first/up"),
    *dense("ffn1.output_dense", "first/down"),
    *norm("self_attn_layer_norm", "attention_norm"),
    *fused(*(f"self_attn.linear_{part}" for part in "qkv"), "attention/qkv"),
    *dense("self_attn.linear_out", "attention/out"),
    Rule("self_attn.distance_embedding.weight", "attention/distances", Same),
    *norm("conv_module.layer_norm", "convolution_norm"),
    Rule("conv_module.pointwise_conv1.weight", "convolution/up/kernel", Pointwise),
    Rule("conv_module.depthwise_conv.weight", "convolution/taps", Kernel),
    *norm("conv_module.depthwise_layer_norm", "convolution/norm"),
    Rule("conv_module.pointwise_conv2.weight", "convolution/down/kernel", Pointwise),
    *norm("ffn2_layer_norm", "second_norm"),
    *dense("ffn2.intermediate_dense", "second/up"),
    *dense("ffn2.output_dense", "second/down"),
    *norm("final_layer_norm", "norm"),
)

# `wav2vec2_bert.` stands before the encoder's keys in models that have a head.
TORCH_RULES: Table = (
    *prefixed(
        (
            Extra("masked_spec_embed"),
            *norm("feature_projection.layer_norm", "feature_norm"),
            *dense("feature_projection.projection", "projection"),
            *prefixed(BLOCK_TORCH_RULES, "encoder.layers.{layer}.", "blocks/layers/"),
        ),
        "(|wav2vec2_bert.)",
        "",
    ),
    *(Extra(key) for key in HEAD_KEYS),
)

Config, Module = W2vBertConfig, W2vBert

_SIZES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "taps": "conv_depthwise_kernel_size",
    "before": "left_max_position_embeddings",
    "after": "right_max_position_embeddings",
}
_FIXED: dict[str, Any] = {
    "model_type": "wav2vec2-bert",
    "feature_projection_input_dim": FEATURES,
    "hidden_act": "swish",
    "layer_norm_eps": EPSILON,
    "position_embeddings_type": "relative_key",
    "add_adapter": False,
    "use_intermediate_ffn_before_adapter": False,
}
# Besides what wav2vec 2.0 has: training, other kinds of positions, and the adapter.
_OTHER = ("conformer_conv_dropout", "rotary_embedding_base", "max_source_positions", "adapter_act")


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> W2vBertConfig:
    """Sizes from an HF config.json, the rest from tensor shapes.

    Raises:
        GlapError: an entry that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    found = arguments(given, family="w2v_bert", sizes=_SIZES.values(), fixed=_FIXED, ignored=IGNORED + _OTHER)
    width = dimension(shapes, "feature_projection.projection.weight", 0)
    block = "encoder.layers."
    after = found.get("right_max_position_embeddings", W2vBertConfig.after)
    distances = dimension(shapes, f"{block}0.self_attn.distance_embedding.weight", 0)
    derived: dict[str, Any] = {
        "width": width,
        "layers": layers(shapes, block),
        "heads": heads(width, found.get("num_attention_heads"), {1024: 16}, family="w2v_bert"),
        "hidden": dimension(shapes, f"{block}0.ffn1.intermediate_dense.weight", 0),
        "taps": dimension(shapes, f"{block}0.conv_module.depthwise_conv.weight", 2),
        "before": distances - 1 - after,
    }
    return W2vBertConfig(**derived | {field: found[name] for field, name in _SIZES.items() if name in found})


def config_to_torch(config: W2vBertConfig) -> dict[str, Any]:
    """The HF config.json that `config_from_torch` reads as `config`."""
    return {**_FIXED, **{name: getattr(config, field) for field, name in _SIZES.items()}}


def compat(config: W2vBertConfig) -> W2vBertConfig:
    """`config` itself: there is no quirk to reproduce."""
    return config
