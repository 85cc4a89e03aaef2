"""SONAR's multilingual text encoder (Duquenne et al., 2023; as in dasheng-glap, without fairseq2)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from glap_jax.convert.constructor import Shapes, arguments, dimension, heads, layers
from glap_jax.convert.rules import Extra, Rule, Same, Table, Transform, dense, fused, norm, prefixed
from glap_jax.layers import Block, Encoded, Remat, Stack, layer_norm, masked_mean


@dataclasses.dataclass(frozen=True)
class SonarConfig:
    """Sizes of a SONAR text encoder.

    Attributes:
        width: transformer width D.
        layers: number of blocks L.
        heads: attention heads H.
        hidden: width of the feed-forward part.
        vocabulary: rows of the embedding: 1 for padding, the SentencePiece pieces, 202 languages, 3 markers.
        max_tokens: longest input; the tokenizer cuts longer ones and says so.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 8192
    vocabulary: int = 256_206
    max_tokens: int = 514
    family: Literal["sonar"] = "sonar"

    @classmethod
    def base(cls) -> "SonarConfig":
        """766 M parameters: the published encoder, GLAP's text tower."""
        return cls()

    @classmethod
    def tiny(cls, vocabulary: int) -> "SonarConfig":
        """192/2/3: for samples, tests and laptops."""
        return cls(width=192, layers=2, heads=3, hidden=768, vocabulary=vocabulary)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "Sonar":
        """A module with fresh parameters that computes in `dtype`."""
        return Sonar(self, dtype=dtype, remat=remat, rngs=rngs)


def sinusoids(tokens: int, width: int) -> Float[np.ndarray, "N D"]:
    """fairseq's position table: all sines, then all cosines, the first row being position 2."""
    half = width // 2
    frequency = np.exp(np.arange(half) * -(np.log(10_000.0) / (half - 1)))
    angle = (np.arange(tokens)[:, None] + 2.0) * frequency[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


class Sonar(nnx.Module):
    """Token ids `[language, pieces + 1, 3]` -> tokens and their masked mean (language and EOS count)."""

    def __init__(self, config: SonarConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        self.embedding = nnx.Embed(
            config.vocabulary,
            config.width,
            dtype=dtype,
            param_dtype=jnp.float32,
            embedding_init=nnx.initializers.normal(config.width**-0.5),
            rngs=rngs,
        )

        def make_block(rngs: nnx.Rngs) -> Block:
            return Block(
                config.width,
                config.heads,
                config.hidden,
                activation="relu",
                epsilon=1e-5,
                dtype=dtype,
                rngs=rngs,
            )

        self.blocks = Stack(make_block, config.layers, remat=remat, rngs=rngs)
        self.norm = layer_norm(config.width, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(self, ids: Int[Array, "B N"], mask: Bool[Array, "B N"]) -> Encoded:
        """Encodes rows of token ids; `mask` is True where a token is real.

        Ids outside the vocabulary cannot be seen under jit; the tokenizer is what keeps them out.
        """
        x = self.embedding(ids) * self.config.width**0.5
        x = x + jnp.asarray(sinusoids(ids.shape[1], self.config.width), x.dtype)
        x = self.norm(self.blocks(x, mask))
        return Encoded(x, mask, masked_mean(x, mask))


def _block(out: str, mlp_norm: str, up: str, down: str) -> Table:
    """The table of a layer, of which these names differ between layouts."""
    return (
        *norm("self_attn_layer_norm", "attention_norm"),
        *fused(*(f"self_attn.{part}_proj" for part in "qkv"), "attention/qkv"),
        *dense(f"self_attn.{out}", "attention/out"),
        *norm(mlp_norm, "mlp_norm"),
        *dense(up, "mlp/up"),
        *dense(down, "mlp/down"),
    )


BLOCK_TORCH_RULES = _block("output_proj", "ffn_layer_norm", "ffn.inner_proj", "ffn.output_proj")

TORCH_RULES: Table = (
    Rule("encoder_frontend.embed.weight", "embedding/embedding", Same),
    *prefixed(BLOCK_TORCH_RULES, "encoder.layers.{layer}.", "blocks/layers/"),
    *norm("layer_norm", "norm"),
)

# Places of the control tokens in fairseq's dictionary (BOS, PAD, EOS, UNK), in SentencePiece's order.
_CONTROL = [1, 3, 0, 2]


def _reordered(rows: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """`rows`, the first of them in another order; in place if they are nobody else's."""
    # A view of a single value, which stands for a shape, is the same in any order.
    if not any(rows.strides):
        return rows
    rows = rows if rows.flags.writeable else rows.copy()
    rows[: len(order)] = rows[list(order)]
    return rows


_EMBEDDING = Transform(
    lambda x: _reordered(x[0], _CONTROL), lambda x: (_reordered(x, np.argsort(_CONTROL).tolist()),)
)

FAIRSEQ_BLOCK_TORCH_RULES = _block("out_proj", "final_layer_norm", "fc1", "fc2")

# `state_dict` of the encoder that facebookresearch/SONAR publishes, as its `sonar_text/handler.py` (8da24c2)
# reads it: fairseq's names, which the two markers of version and position table come with.
FAIRSEQ_TORCH_RULES: Table = (
    Rule("embed_tokens.weight", "embedding/embedding", _EMBEDDING),
    *prefixed(FAIRSEQ_BLOCK_TORCH_RULES, "layers.{layer}.", "blocks/layers/"),
    *norm("layer_norm", "norm"),
    Extra("version"),
    Extra("embed_positions._float_tensor"),
)
OTHER_TORCH_RULES = (FAIRSEQ_TORCH_RULES,)

Config, Module = SonarConfig, Sonar

_FIXED: dict[str, Any] = {"pad_idx": 0, "legacy_pad_idx_in_positions": 1}


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> SonarConfig:
    """Sizes from the constructor arguments of glap-model's `SonarTextEncoder`, the rest from tensor shapes.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    names = ("model_dim", "num_layers", "num_heads", "ffn_inner_dim", "vocab_size", "max_seq_len")
    sizes = arguments(given, family="sonar", sizes=names, fixed=_FIXED, ignored=("dropout_p",))
    if "embed_tokens.weight" in shapes:
        embedding, stack, inner = "embed_tokens.weight", "layers.", "fc1"
    else:
        embedding, stack, inner = "encoder_frontend.embed.weight", "encoder.layers.", "ffn.inner_proj"
    width = sizes.get("model_dim") or dimension(shapes, embedding, 1)
    hidden = sizes.get("ffn_inner_dim")
    return SonarConfig(
        width=width,
        layers=sizes.get("num_layers") or layers(shapes, stack),
        heads=heads(width, sizes.get("num_heads"), {1024: 16}, family="sonar"),
        hidden=hidden or dimension(shapes, f"{stack}0.{inner}.weight", 0),
        vocabulary=sizes.get("vocab_size") or dimension(shapes, embedding, 0),
        max_tokens=sizes.get("max_seq_len") or SonarConfig.max_tokens,
    )


def config_to_torch(config: SonarConfig) -> dict[str, Any]:
    """The constructor arguments that `config_from_torch` reads as `config`."""
    return {
        "model_dim": config.width,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "ffn_inner_dim": config.hidden,
        "vocab_size": config.vocabulary,
        "max_seq_len": config.max_tokens,
    }


def compat(config: SonarConfig) -> SonarConfig:
    """`config` itself: there is no quirk to reproduce."""
    return config
