"""The transformer over audio tokens that wav2vec 2.0, HuBERT, WavLM and BEATs share ("context network").

Its tokens learn where they are from a wide convolution and, in the latter two, from a gated relative bias of
the attention's logits.
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from glap_jax.convert.rules import Kernel, Rule, Same, Table, Transform, dense
from glap_jax.layers import ACTIVATIONS, Attention, Block, Placement, Remat, Stack, layer_norm, linear

Gate = Literal["input", "query"]
EPSILON = 1e-5


class ConvPositions(nnx.Module):
    """GELU of a grouped convolution over time, added to tokens as their position (wav2vec 2.0, section 2).

    Its kernel is weight-normed along time: each tap has a length of its own and a direction. An even kernel
    sees one token more to the left than to the right.
    """

    def __init__(self, width: int, kernel: int, groups: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.groups = groups
        self.dtype = dtype
        scale = 2.0 / math.sqrt(kernel * width)
        shape = (kernel, width // groups, width)
        self.direction = nnx.Param(nnx.initializers.normal(scale)(rngs.params(), shape, jnp.float32))
        self.magnitude = nnx.Param(jnp.sqrt(jnp.sum(jnp.square(self.direction[...]), axis=(1, 2))))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def kernel(self) -> Float[Array, "W I D"]:
        """The kernel in use: every tap scaled to its magnitude."""
        direction = self.direction[...]
        length = jnp.sqrt(jnp.sum(jnp.square(direction), axis=(1, 2)))
        return direction * (self.magnitude[...] / length)[:, None, None]

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        kernel = self.kernel().astype(self.dtype)
        before = kernel.shape[0] // 2
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel,
            window_strides=(1,),
            padding=((before, kernel.shape[0] - 1 - before),),
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.groups,
        )
        return ACTIVATIONS["gelu"](x + self.bias[...].astype(self.dtype))


@functools.cache
def relative_buckets(tokens: int, buckets: int, farthest: int) -> Int[np.ndarray, "N N"]:
    """Bucket of every (query, key) pair: exact for near keys, then logarithmic up to `farthest` tokens.

    Half the buckets are for keys after the query (T5's scheme; WavLM, section 3.1). Rounded in float32, as
    the references do.
    """
    offset = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(farthest / exact)) * np.float32(half - exact)
    far = np.minimum(exact + ratio.astype(np.int32), half - 1)
    return (np.where(distance < exact, distance, far) + half * (offset > 0)).astype(np.int32)


class RelativeBias(nnx.Module):
    """One learned number a head for every bucket of relative positions; all layers share it."""

    def __init__(self, buckets: int, heads: int, farthest: int, *, rngs: nnx.Rngs):
        self.farthest = farthest
        xavier = nnx.initializers.xavier_normal()
        self.embedding = nnx.Param(xavier(rngs.params(), (buckets, heads), jnp.float32))

    def __call__(self, tokens: int) -> Float[Array, "1 H N N"]:
        embedding = self.embedding[...]
        index = relative_buckets(tokens, embedding.shape[0], self.farthest)
        return embedding[index].transpose(2, 0, 1)[None]


class GatedAttention(Attention):
    """Self-attention that scales the shared relative bias by a gate of each token and head (WavLM, eq. 4-6).

    Args:
        gate: what the gate is computed from, split by heads: the layer's `input` (WavLM) or the projected
            `query` before scaling (BEATs).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        gate: Gate,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(width, heads, dtype=dtype, rngs=rngs)
        self.source: Gate = gate
        self.gate = linear(width // heads, 8, dtype=jnp.float32, rngs=rngs)
        self.gate_scale = nnx.Param(jnp.ones((heads,), jnp.float32))

    def adjusted(
        self,
        bias: Float[Array, "#B H N N"] | None,
        x: Float[Array, "B N D"],
        queries: Float[Array, "B N H K"],
    ) -> Float[Array, "B H N N"] | None:
        """`bias` times the gate, in float32; rows of the gate belong to queries."""
        if bias is None:
            return None
        source = queries if self.source == "query" else x.reshape(queries.shape)
        groups = self.gate(source.astype(jnp.float32)).reshape(*queries.shape[:3], 2, 4).sum(axis=-1)
        update, reset = jnp.unstack(jax.nn.sigmoid(groups), axis=-1)
        gate = update * (reset * self.gate_scale[...] - 1.0) + 2.0
        return gate.transpose(0, 2, 1)[..., None] * bias


class Context(nnx.Module):
    """Convolutional positions, blocks, and one more norm: before the blocks under `post`, else after them.

    Args:
        sizes: the encoder's configuration, with `width`, `heads`, `hidden` and `layers` of the blocks,
            `placement` of their norms, `position_taps` and `position_groups` of the convolutional positions.
        gate: what gates a relative bias that all layers share; none means that there is no such bias.
        buckets, farthest: of the relative bias; see `relative_buckets`.
        residual: weight of the blocks' unchanged path.
        dtype: compute type.
        remat: what the backward pass keeps of a layer.
        rngs: for fresh parameters.
    """

    def __init__(
        self,
        sizes: Any,
        *,
        gate: Gate | None = None,
        buckets: int = 0,
        farthest: int = 0,
        residual: float = 1.0,
        dtype: DTypeLike,
        remat: Remat,
        rngs: nnx.Rngs,
    ):
        width, heads = sizes.width, sizes.heads
        self.placement: Placement = sizes.placement
        self.positions = ConvPositions(
            width, sizes.position_taps, sizes.position_groups, dtype=dtype, rngs=rngs
        )
        self.relative = None if gate is None else RelativeBias(buckets, heads, farthest, rngs=rngs)

        def make_block(rngs: nnx.Rngs) -> Block:
            gated = None
            if gate is not None:
                gated = GatedAttention(width, heads, gate=gate, dtype=dtype, rngs=rngs)
            return Block(
                width,
                heads,
                sizes.hidden,
                activation="gelu",
                epsilon=EPSILON,
                placement=sizes.placement,
                attention=gated,
                residual=residual,
                dtype=dtype,
                rngs=rngs,
            )

        self.blocks = Stack(make_block, sizes.layers, remat=remat, rngs=rngs)
        self.norm = layer_norm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B N D"], real: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        """Tokens in their context; those that are not `real` are unseen by the others."""
        x = jnp.where(real[..., None], x, 0)
        x = x + self.positions(x)
        if self.placement == "post":
            x = self.norm(x)
        x = self.blocks(x, real, None if self.relative is None else self.relative(x.shape[1]))
        return self.norm(x) if self.placement == "pre" else x


_TAPS = Transform(lambda x: x[0][0, 0], lambda x: (x[None, None, :],))
_HEADS = Transform(lambda x: x[0][0, :, 0, 0], lambda x: (x[None, :, None, None],))


def conv_positions(source: str, target: str, *, old: bool = False) -> Table:
    """Rules of weight-normed convolutional positions.

    torch has written their keys in two ways; `old` says which of them new models are written in.
    """
    spellings = (
        ("weight_g", "parametrizations.weight.original0"),
        ("weight_v", "parametrizations.weight.original1"),
    )
    magnitude, direction = ("|".join(keys if old else keys[::-1]) for keys in spellings)
    return (
        Rule(f"{source}.bias", f"{target}/bias", Same),
        Rule(f"{source}.({magnitude})", f"{target}/magnitude", _TAPS),
        Rule(f"{source}.({direction})", f"{target}/direction", Kernel),
    )


def gate(linear: str, scale: str, target: str) -> Table:
    """Rules of a `GatedAttention`'s gate."""
    return (*dense(linear, f"{target}/gate"), Rule(scale, f"{target}/gate_scale", _HEADS))
