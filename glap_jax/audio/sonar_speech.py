"""SONAR's speech encoder: w2v-BERT's Conformer and a decoder that pools (Duquenne et al., 2023).

Sizes, computation and key names are those of facebookresearch/SONAR 8da24c2 (`models/sonar_speech`: factory,
configurations, and the converter from fairseq's names, which the first release demanded of its files) over
fairseq2 0.4.5 (`models/wav2vec2`, `models/w2vbert`, `models/conformer`, `nn/transformer`).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from glap_jax.audio.conformer import (
    EPSILON,
    FEATURES,
    MELS,
    STACKED,
    ConformerEncoder,
    GatedConvolution,
    SinusoidAttention,
)
from glap_jax.convert.constructor import Shapes, arguments, dimension, heads, layers
from glap_jax.convert.rules import (
    Extra,
    Kernel,
    Linear,
    Pointwise,
    Rule,
    Same,
    Table,
    batch_norm,
    dense,
    fused,
    norm,
    prefixed,
)
from glap_jax.errors import GlapError
from glap_jax.layers import Attention, CrossAttention, Encoded, Mlp, Remat, Stack, layer_norm, linear


@dataclasses.dataclass(frozen=True)
class SonarSpeechConfig:
    """Sizes of a SONAR speech encoder.

    Attributes:
        width: transformer width D, also of the sentence embedding.
        layers: Conformer layers L.
        heads: attention heads H of these.
        hidden: width of their MLPs.
        taps: kernel of their convolutions.
        pool_layers: layers of the pooling decoder.
        pool_heads: attention heads of these.
        pool_hidden: width of their MLPs.
        start: row of the pooling decoder's embedding that it starts from (`bos_idx`).
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 4096
    taps: int = 31
    pool_layers: int = 3
    pool_heads: int = 16
    pool_hidden: int = 4096
    start: int = 2
    family: Literal["sonar_speech"] = "sonar_speech"

    @classmethod
    def english(cls) -> "SonarSpeechConfig":
        """658 M parameters, 1024/24/16 and 3 layers that pool: spenc.eng."""
        return cls()

    @classmethod
    def non_english(cls) -> "SonarSpeechConfig":
        """708 M parameters, the same with 6 layers that pool: spenc.v3ap and v5ap, one for each language."""
        return cls(pool_layers=6)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "SonarSpeech":
        """A module with fresh parameters that computes in `dtype`."""
        return SonarSpeech(self, dtype=dtype, remat=remat, rngs=rngs)


class PoolLayer(nnx.Module):
    """A decoder layer: self-attention, attention to a context, MLP with ReLU; norms after each."""

    def __init__(self, width: int, heads: int, hidden: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.attention_norm = layer_norm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.cross = CrossAttention(width, width, heads, width // heads, bias=True, dtype=dtype, rngs=rngs)
        self.cross_norm = layer_norm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, hidden, activation="relu", dtype=dtype, rngs=rngs)
        self.mlp_norm = layer_norm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B M D"], context: Float[Array, "B N D"], mask: Bool[Array, "B N"]
    ) -> Float[Array, "B M D"]:
        """`mask` is True where a token of the context is real."""
        x = self.attention_norm(x + self.attention(x, None))
        x = self.cross_norm(x + self.cross(x, context, mask))
        return self.mlp_norm(x + self.mlp(x))


class Pooler(nnx.Module):
    """A decoder over one fixed token, whose outcome is the clip's embedding.

    Its embedding has a row for each of D symbols, as in the checkpoints; only row `start` is used.
    """

    def __init__(self, config: SonarSpeechConfig, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs):
        self.start, self.dtype = config.start, dtype
        width = config.width
        shape, scale = (width, width), nnx.initializers.normal(width**-0.5)
        self.embedding = nnx.Param(scale(rngs.params(), shape, jnp.float32))

        def make_layer(rngs: nnx.Rngs) -> PoolLayer:
            return PoolLayer(width, config.pool_heads, config.pool_hidden, dtype=dtype, rngs=rngs)

        self.layers = Stack(make_layer, config.pool_layers, remat=remat, rngs=rngs)
        self.out = linear(width, width, bias=False, dtype=dtype, rngs=rngs)

    def query(self) -> Float[Array, " D"]:
        """The token: its embedding times the root of D, and the sinusoids of position 0, [sin | cos]."""
        row = self.embedding[self.start]
        width = row.shape[0]
        return row * math.sqrt(width) + (jnp.arange(width) >= width // 2).astype(jnp.float32)

    def __call__(self, tokens: Float[Array, "B N D"], mask: Bool[Array, "B N"]) -> Float[Array, "B D"]:
        batch, _, width = tokens.shape
        x = jnp.broadcast_to(self.query().astype(self.dtype), (batch, 1, width))
        return self.out(self.layers(x, tokens, mask))[:, 0].astype(jnp.float32)


class SonarSpeech(ConformerEncoder):
    """A `ConformerEncoder` whose `pooled` is the sentence embedding in SONAR's space.

    The reference's only quirk is not kept: a band without any variation (digital silence) makes NaN there,
    zeros here.
    """

    def __init__(self, config: SonarSpeechConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        width = config.width
        super().__init__(
            width=width,
            hidden=config.hidden,
            layers=config.layers,
            attention=lambda rngs: SinusoidAttention(width, config.heads, dtype=dtype, rngs=rngs),
            convolution=lambda rngs: GatedConvolution(
                width, config.taps, causal=False, norm="batch", dtype=dtype, rngs=rngs
            ),
            dtype=dtype,
            remat=remat,
            rngs=rngs,
        )
        self.norm = layer_norm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.pooler = Pooler(config, dtype=dtype, remat=remat, rngs=rngs)

    def encode(self, features: Float[Array, "B N F"], mask: Bool[Array, "B N"]) -> Encoded:
        """Encodes what `stacked_fbank` gives."""
        x = self.norm(super().encode(features, mask).tokens)
        return Encoded(x, mask, self.pooler(x, mask))


# fairseq's names come first, fairseq2's second.
BLOCK_TORCH_RULES: Table = (
    *norm("(ffn1.layer_norm|ffn1_layer_norm)", "first_norm"),
    *dense("ffn1.(w_1|inner_proj)", "first/up"),
    *dense("ffn1.(w_2|output_proj)", "first/down"),
    *norm("self_attn_layer_norm", "attention_norm"),
    *fused(*(f"self_attn.(linear_{part}|{part}_proj)" for part in "qkv"), "attention/qkv"),
    *dense("self_attn.(linear_out|output_proj)", "attention/out"),
    Rule("self_attn.(linear_pos|sdpa.r_proj).weight", "attention/position/kernel", Linear),
    Rule("self_attn.(pos_bias_u|sdpa.u_bias)", "attention/content_query", Same),
    Rule("self_attn.(pos_bias_v|sdpa.v_bias)", "attention/position_query", Same),
    *norm("(conv_module.layer_norm|conv_layer_norm)", "convolution_norm"),
    Rule("(conv_module|conv).pointwise_conv1.weight", "convolution/up/kernel", Pointwise),
    Rule("(conv_module|conv).depthwise_conv.weight", "convolution/taps", Kernel),
    *batch_norm("(conv_module|conv).batch_norm", "convolution/norm"),
    Rule("(conv_module|conv).pointwise_conv2.weight", "convolution/down/kernel", Pointwise),
    *norm("(ffn2.layer_norm|ffn2_layer_norm)", "second_norm"),
    *dense("ffn2.(w_1|inner_proj)", "second/up"),
    *dense("ffn2.(w_2|output_proj)", "second/down"),
    *norm("(final_layer_norm|layer_norm)", "norm"),
)

_CROSS = "(encoder_attn|encoder_decoder_attn)"
POOL_TORCH_RULES: Table = (
    *fused(*(f"self_attn.{part}_proj" for part in "qkv"), "attention/qkv"),
    *dense("self_attn.(out_proj|output_proj)", "attention/out"),
    *norm("self_attn_layer_norm", "attention_norm"),
    *dense(f"{_CROSS}.q_proj", "cross/query"),
    *fused(f"{_CROSS}.k_proj", f"{_CROSS}.v_proj", "cross/key_value"),
    *dense(f"{_CROSS}.(out_proj|output_proj)", "cross/out"),
    *norm("(encoder_attn_layer_norm|encoder_decoder_attn_layer_norm)", "cross_norm"),
    *dense("(fc1|ffn.inner_proj)", "mlp/up"),
    *dense("(fc2|ffn.output_proj)", "mlp/down"),
    *norm("(final_layer_norm|ffn_layer_norm)", "mlp_norm"),
)

_OLD = "encoder.w2v_model"
TORCH_RULES: Table = (
    *norm(f"({_OLD}.layer_norm|encoder_frontend.post_extract_layer_norm)", "feature_norm"),
    *dense(f"({_OLD}.post_extract_proj|encoder_frontend.model_dim_proj)", "projection"),
    *prefixed(BLOCK_TORCH_RULES, f"({_OLD}.encoder|encoder).layers.{{layer}}.", "blocks/layers/"),
    *norm(f"({_OLD}.encoder.layer_norm|layer_norm)", "norm"),
    Rule("(decoder.embed_tokens|encoder_pooler.decoder_frontend.embed).weight", "pooler/embedding", Same),
    *prefixed(POOL_TORCH_RULES, "(decoder|encoder_pooler.decoder).layers.{layer}.", "pooler/layers/layers/"),
    Rule("(decoder.embed_out|encoder_pooler.projection_out.weight)", "pooler/out/kernel", Linear),
    # What SONAR's converter throws away: of pre-training, of an encoder without relative positions, and of
    # fairseq itself.
    Extra(f"{_OLD}.mask_emb"),
    *(Extra(f"{_OLD}.encoder.pos_conv.0.{part}") for part in ("bias", "weight_g", "weight_v")),
    *(Extra(f"{part}.version") for part in ("encoder", "decoder")),
    *(Extra(f"{part}.embed_positions._float_tensor") for part in ("encoder", "decoder")),
)

Config, Module = SonarSpeechConfig, SonarSpeech

_HEADS = {1024: 16}
_ENCODER_SIZES = {
    "width": "model_dim",
    "layers": "num_encoder_layers",
    "heads": "num_encoder_attn_heads",
    "hidden": "ffn_inner_dim",
    "taps": "depthwise_conv_kernel_size",
}
_ENCODER_FIXED: dict[str, Any] = {
    "feature_dim": FEATURES,
    "use_fbank": True,
    "num_fbank_channels": MELS,
    "fbank_stride": STACKED,
    "sample_fbank_every_k": 1,
    "layer_norm_features": False,
    "pos_encoder_type": "relative",
    "use_conformer": True,
    "norm_order": "POST",
}
# These act in training only, on parts that a Conformer over a filterbank does without, or limit lengths.
_ENCODER_IGNORED = (
    *("max_seq_len", "first_pass_dropout_p", "dropout_p", "attn_dropout_p", "ffn_inner_dropout_p"),
    *("layer_drop_p", "feature_extractor_layer_descs", "feature_extractor_bias", "feature_gradient_scale"),
    *("feature_extractor_layer_norm_convs", "pos_encoder_depth", "pos_conv_kernel_size"),
    "num_pos_conv_groups",
)
_SIZES = {
    "width": "model_dim",
    "pool_layers": "num_decoder_layers",
    "pool_heads": "num_decoder_attn_heads",
    "pool_hidden": "ffn_inner_dim",
    "start": "bos_idx",
}
_FIXED = {"decoder_norm_order": "POST"}
_IGNORED = ("max_seq_len", "pad_idx", "final_dropout_p", "dropout_p")
_ENCODER = "w2v2_encoder_config"


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> SonarSpeechConfig:
    """Sizes from SONAR's `SonarSpeechEncoderConfig` as a dict, the rest from tensor shapes.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    inner = given.get(_ENCODER, {})
    if not isinstance(inner, Mapping):
        raise GlapError(
            f"config of sonar_speech: '{_ENCODER}' must be a dict, not {inner!r}; mend that entry"
        )
    outer = {name: value for name, value in given.items() if name != _ENCODER}
    found = arguments(
        _named(outer), family="sonar_speech", sizes=_SIZES.values(), fixed=_FIXED, ignored=_IGNORED
    )
    encoder = arguments(
        _named(inner),
        family="sonar_speech",
        sizes=_ENCODER_SIZES.values(),
        fixed=_ENCODER_FIXED,
        ignored=_ENCODER_IGNORED,
    )
    width = dimension(shapes, f"{_OLD}.encoder.layer_norm.weight", 0)
    block = f"{_OLD}.encoder.layers."
    derived: dict[str, Any] = {
        "width": width,
        "layers": layers(shapes, block),
        "heads": heads(width, encoder.get("num_encoder_attn_heads"), _HEADS, family="sonar_speech"),
        "hidden": dimension(shapes, f"{block}0.ffn1.w_1.weight", 0),
        "taps": dimension(shapes, f"{block}0.conv_module.depthwise_conv.weight", 2),
        "pool_layers": layers(shapes, "decoder.layers."),
        "pool_heads": heads(width, found.get("num_decoder_attn_heads"), _HEADS, family="sonar_speech"),
        "pool_hidden": dimension(shapes, "decoder.layers.0.fc1.weight", 0),
    }
    derived |= {field: encoder[name] for field, name in _ENCODER_SIZES.items() if name in encoder}
    derived |= {field: found[name] for field, name in _SIZES.items() if name in found}
    return SonarSpeechConfig(**derived)


def _named(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with fairseq2's enumerations by their names."""
    return {key: getattr(value, "name", value) for key, value in given.items()}


def config_to_torch(config: SonarSpeechConfig) -> dict[str, Any]:
    """The arguments that `config_from_torch` reads as `config`."""
    encoder = {name: getattr(config, field) for field, name in _ENCODER_SIZES.items()}
    outer = {name: getattr(config, field) for field, name in _SIZES.items()}
    return {_ENCODER: {**_ENCODER_FIXED, **encoder}, **_FIXED, **outer}


def compat(config: SonarSpeechConfig) -> SonarSpeechConfig:
    """`config` itself: there is no quirk to reproduce."""
    return config
