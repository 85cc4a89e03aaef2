"""CLARA's text tower: post-norm transformer, mean + maximum over time (Noriy et al., 2023; CLARA faec8a5)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from glap_jax.audio.clara import OTHER_ARGUMENTS
from glap_jax.convert.constructor import Shapes, arguments, dimension, heads, layers
from glap_jax.convert.rules import Extra, Linear, Rule, Same, Table, dense, norm, prefixed
from glap_jax.drawing import require_rate
from glap_jax.layers import (
    Block,
    Encoded,
    Remat,
    Stack,
    layer_norm,
    linear,
    masked_mean,
    require_positions,
)

Mode = Literal["sound", "clara"]


@dataclasses.dataclass(frozen=True)
class ClaraTextConfig:
    """Sizes of CLARA's text tower.

    Attributes:
        width: of the pooled vector.
        embedding: transformer width D.
        channels: width of the tokens that come out.
        layers: number of blocks L.
        heads: attention heads H.
        hidden: width of the feed-forward part; the reference leaves it at 1024 whatever D is.
        vocabulary: rows of the embedding.
        max_tokens: longest input.
        mode: `sound` (default): padding never changes a result. `clara` reproduces the reference for
            verification: it has no mask, so padding is attended to and pooled.
        dropout: share of what attention and MLP add that training sets to zero. (CLARA: 0.5, which acts on
            attention weights and the hidden values of the MLP, too.)
    """

    width: int = 512
    embedding: int = 512
    channels: int = 512
    layers: int = 5
    heads: int = 4
    hidden: int = 1024
    vocabulary: int = 50_373
    max_tokens: int = 4096
    mode: Mode = "sound"
    dropout: float = 0.0
    family: Literal["clara_text"] = "clara_text"

    def __post_init__(self) -> None:
        require_rate("dropout", self.dropout)

    @classmethod
    def m60(cls) -> "ClaraTextConfig":
        """39 M parameters, 5 layers: the tower of CLARA 60M."""
        return cls()

    @classmethod
    def m100(cls) -> "ClaraTextConfig":
        """49 M parameters, 10 layers: the tower of CLARA 100M."""
        return cls(layers=10, heads=8)

    @classmethod
    def m600(cls) -> "ClaraTextConfig":
        """163 M parameters, 64 layers: the tower of CLARA 600M."""
        return cls(layers=64, heads=32)

    @classmethod
    def tiny(cls, vocabulary: int) -> "ClaraTextConfig":
        """192/2/3: for samples, tests and laptops."""
        return cls(192, 192, 192, 2, 3, 768, vocabulary, 512)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "ClaraText":
        """A module with fresh parameters that computes in `dtype`."""
        return ClaraText(self, dtype=dtype, remat=remat, rngs=rngs)


class ClaraText(nnx.Module):
    """Token ids `<|language|> <|speech|> pieces` -> tokens, and a vector pooled from them.

    The vector is leaky ReLU (slope 0.01) of a linear layer over mean + maximum over time.
    """

    def __init__(self, config: ClaraTextConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        self.draws = config.dropout > 0
        width = config.embedding

        def embedding(rows: int) -> nnx.Embed:
            return nnx.Embed(rows, width, dtype=dtype, param_dtype=jnp.float32, rngs=rngs)

        def scale(width: int) -> nnx.Module:
            return layer_norm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)

        def make_block(rngs: nnx.Rngs) -> Block:
            return Block(
                width,
                config.heads,
                config.hidden,
                activation="relu",
                epsilon=1e-5,
                placement="post",
                dropout=config.dropout,
                dtype=dtype,
                rngs=rngs,
            )

        self.word, self.position = embedding(config.vocabulary), embedding(config.max_tokens)
        self.blocks = Stack(make_block, config.layers, remat=remat, rngs=rngs)
        self.blocks_norm = scale(width)
        self.project = linear(width, config.channels, dtype=dtype, rngs=rngs)
        self.project_norm, self.norm = scale(config.channels), scale(config.channels)
        self.out = linear(config.channels, config.width, dtype=dtype, rngs=rngs)

    def __call__(
        self, ids: Int[Array, "B N"], mask: Bool[Array, "B N"], *, key: Key[Array, " B"] | None = None
    ) -> Encoded:
        """Encodes rows of token ids; `mask` is True where a token is real.

        With a `key` for each row, as in training, dropout acts; it draws for all from the first one.

        Raises:
            GlapError: rows longer than the table of positions.
        """
        require_positions(ids.shape[1], self.config.max_tokens)
        seen = jnp.ones_like(mask) if self.config.mode == "clara" else mask
        x = self.word(ids) + self.position(jnp.arange(ids.shape[1]))
        x = self.blocks_norm(self.blocks(x, seen, key=None if key is None else key[0]))
        x = self.norm(self.project_norm(self.project(x)))
        pooled = self.out((masked_mean(x, seen) + _masked_max(x, seen)).astype(x.dtype))
        return Encoded(x, mask, jax.nn.leaky_relu(pooled.astype(jnp.float32), 0.01))


def _masked_max(tokens: Float[Array, "B N D"], mask: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """Largest of the real tokens in each channel, in float32; zero where a row has none."""
    real = mask[..., None]
    found = jnp.max(jnp.where(real, tokens.astype(jnp.float32), -jnp.inf), axis=1)
    return jnp.where(real.any(axis=1), found, 0.0)


BLOCK_TORCH_RULES: Table = (
    Rule("self_attn.in_proj_weight", "attention/qkv/kernel", Linear),
    Rule("self_attn.in_proj_bias", "attention/qkv/bias", Same),
    *dense("self_attn.out_proj", "attention/out"),
    *norm("norm1", "attention_norm"),
    *dense("linear1", "mlp/up"),
    *dense("linear2", "mlp/down"),
    *norm("norm2", "mlp_norm"),
)

_ENCODER = "text_encoder.transformer_encoder"
_LAYERS = f"{_ENCODER}.transformer_encoder.layers."
TOWER_TORCH_RULES: Table = (
    Rule("text_embedding.weight", "word/embedding", Same),
    Rule("text_positional_embedding.weight", "position/embedding", Same),
    *prefixed(BLOCK_TORCH_RULES, f"{_LAYERS}{{layer}}.", "blocks/layers/"),
    *norm(f"{_ENCODER}.transformer_encoder.norm", "blocks_norm"),
    *dense(f"{_ENCODER}.project", "project"),
    *norm("text_encoder.ln", "project_norm"),
    *norm("text_layer_norm", "norm"),
    *dense("text_fc1", "out"),
)

# `model.` stands before every key in checkpoints of the reference's trainer.
TORCH_RULES: Table = prefixed(
    (
        *TOWER_TORCH_RULES,
        Extra("text_tempeture"),
        *(Extra(f"text_transform.sequential.0.{kind}") for kind in ("weight", "bias")),
    ),
    "(|model.)",
    "",
)

Config, Module = ClaraTextConfig, ClaraText

_NAMES = {
    "width": "text_encoder_project",
    "embedding": "text_encoder_embedding",
    "channels": "text_encoder_out_channels",
    "layers": "text_encoder_layers",
    "heads": "text_encoder_heads",
    "vocabulary": "vocab_size",
    "max_tokens": "text_encoder_pos_embedding_size",
}
# The reference's constructor takes a width and does not use it.
_IGNORED = (
    *("text_encoder_width", "text_encoder_project_dropout_prob", "text_encoder_seq_dropout_prob"),
    *("n_mels", "sample_rate", *OTHER_ARGUMENTS),
)
# Heads of the published models, all 512 wide, by their number of layers.
_HEADS = {5: 4, 10: 8, 64: 32}


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> ClaraTextConfig:
    """Sizes from CLARA's constructor arguments (those of its audio tower are passed over) or tensor shapes.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    own = {name: value for name, value in given.items() if not name.startswith("audio_")}
    known = arguments(own, family="clara_text", sizes=_NAMES.values(), fixed={}, ignored=_IGNORED)
    found = {
        "width": lambda: dimension(shapes, "text_fc1.weight", 0),
        "embedding": lambda: dimension(shapes, "text_embedding.weight", 1),
        "channels": lambda: dimension(shapes, "text_fc1.weight", 1),
        "layers": lambda: layers(shapes, _LAYERS),
        "vocabulary": lambda: dimension(shapes, "text_embedding.weight", 0),
        "max_tokens": lambda: dimension(shapes, "text_positional_embedding.weight", 0),
    }
    sizes: dict[str, Any] = {field: known.get(_NAMES[field]) or read() for field, read in found.items()}
    published = {512: _HEADS[sizes["layers"]]} if sizes["layers"] in _HEADS else {}
    return ClaraTextConfig(
        heads=heads(sizes["embedding"], known.get("text_encoder_heads"), published, family="clara_text"),
        hidden=dimension(shapes, f"{_LAYERS}0.linear1.weight", 0),
        **sizes,
    )


def config_to_torch(config: ClaraTextConfig) -> dict[str, Any]:
    """The constructor arguments that `config_from_torch` reads as `config`."""
    return {name: getattr(config, field) for field, name in _NAMES.items()}


def compat(config: ClaraTextConfig) -> ClaraTextConfig:
    """`config` with the reference's lack of a mask."""
    return dataclasses.replace(config, mode="clara")
