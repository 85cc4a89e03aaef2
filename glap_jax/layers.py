"""Transformer parts that every tower shares: attention, MLP, block, and a scanned, rematerialised stack."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from glap_jax import fused
from glap_jax.drawing import dropout
from glap_jax.errors import GlapError
from glap_jax.kernels import attend
from glap_jax.parallel.sharding import spread

Activation = Literal["gelu", "relu", "geglu", "silu"]
Remat = Literal["none", "dots", "full"]
Placement = Literal["pre", "post"]
# Which tokens of a row see which: all those that are real, or those of the same number.
Seen = Bool[Array, "B N"] | Int[Array, "B N"]


def _gated(x: Array) -> Array:
    values, gates = jnp.split(x, 2, axis=-1)
    return values * jax.nn.gelu(gates, approximate=False)


# Exact (erf) GELU: what every reference system here uses. In GEGLU the second half gates the first.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "geglu": _gated,
}


def compute_dtype(name: Literal["auto", "float32", "bfloat16"] = "auto") -> jnp.dtype:
    """The type that towers compute in; `auto` is bfloat16 on TPU and GPU, float32 on CPU."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


# What the backward pass keeps of a layer: everything, the results of matrix products (and of fused attention,
# which shows none), or only its input.
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(fused.NAME),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Encoded(NamedTuple):
    """What an encoder returns: tokens, a mask that is True where a token is real, and their pooled form."""

    tokens: Float[Array, "B N D"]
    mask: Bool[Array, "B N"]
    pooled: Float[Array, "B D"]


def require_positions(tokens: int, most: int) -> None:
    """Raises GlapError where rows of text are longer than a table of `most` positions."""
    if tokens > most:
        raise GlapError(
            f"text: rows of {tokens} tokens, and this model has positions for {most}; cut them, or lower "
            "'max_tokens' of the data"
        )


def masked_mean(tokens: Float[Array, "B N D"], mask: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """Mean over the real tokens, in float32; zero where a row has none."""
    weight = mask.astype(jnp.float32)[..., None]
    total = jnp.sum(tokens.astype(jnp.float32) * weight, axis=1)
    return total / jnp.maximum(jnp.sum(weight, axis=1), 1.0)


def linear(inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs, bias: bool = True) -> nnx.Linear:
    """A linear layer with float32 parameters that computes in `dtype`."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=dtype,
        param_dtype=jnp.float32,
        kernel_init=nnx.initializers.xavier_uniform(),
        rngs=rngs,
    )


class LayerNorm(nnx.LayerNorm):
    """LayerNorm in float32 (two passes, like the references) with output in `output`."""

    def __init__(self, width: int, *, epsilon: float, output: DTypeLike, rngs: nnx.Rngs):
        super().__init__(width, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)
        self.output = output

    def __call__(self, x: Float[Array, "*axes D"], **rest: Any) -> Float[Array, "*axes D"]:
        return super().__call__(x.astype(jnp.float32), **rest).astype(self.output)


def layer_norm(width: int, *, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs) -> LayerNorm:
    """LayerNorm with float32 parameters and statistics, and output in `dtype`."""
    return LayerNorm(width, epsilon=epsilon, output=dtype, rngs=rngs)


class RunningStat(nnx.BatchStat):
    """A statistic that steps update: a run carries it in its state, beside what the optimizer trains."""


class BatchNorm(nnx.Module):
    """BatchNorm over the last axis with stored statistics (torch's inference form), in float32.

    The statistics are never updated by a step, so that gradient accumulation is exact and an embedding does
    not depend on batch mates; a model that starts from nothing measures those of its input once before
    training. A subclass that learns them in training says so by their type, `STATISTIC`.
    """

    STATISTIC: type[nnx.BatchStat] = nnx.BatchStat

    def __init__(self, features: int, *, epsilon: float = 1e-5):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.mean = self.STATISTIC(jnp.zeros((features,), jnp.float32))
        self.variance = self.STATISTIC(jnp.ones((features,), jnp.float32))

    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        slope = jax.lax.rsqrt(self.variance[...] + self.epsilon) * self.scale[...]
        return ((x.astype(jnp.float32) - self.mean[...]) * slope + self.bias[...]).astype(x.dtype)


class Attention(nnx.Module):
    """Self-attention with one fused projection (queries, keys, values; heads contiguous inside each).

    Args:
        width: D of what comes in and goes out.
        heads: H.
        head_width: K; D / H unless given.
        bias: whether the fused projection has one.
        dtype: compute type.
        rngs: for fresh parameters.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        head_width: int | None = None,
        bias: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.heads = heads
        inner = width if head_width is None else heads * head_width
        self.qkv = linear(width, 3 * inner, bias=bias, dtype=dtype, rngs=rngs)
        self.out = linear(inner, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Seen | None,
        bias: Float[Array, "#B H N N"] | None = None,
    ) -> Float[Array, "B N D"]:
        """`mask` is True where a key is real; `bias` is added to the scaled logits.

        A mask of integers parts each row: tokens see those of their own number.
        """
        batch, tokens, _ = x.shape
        # Parted before heads are: the other way round costs a TPU two more copies.
        q, k, v = (part.reshape(batch, tokens, self.heads, -1) for part in jnp.split(self.qkv(x), 3, axis=-1))
        bias, q = self.adjusted(bias, x, q), self.asked(q)
        if mask is None or mask.dtype == bool:
            # Only keys are masked: a row without any real key attends uniformly instead of giving NaN.
            x = attend(q, k, v, bias=bias, mask=None if mask is None else mask[:, None, None, :])
        else:
            x = attend(q, k, v, bias=bias, segments=mask)
        return self.out(x.reshape(batch, tokens, -1))

    def adjusted(
        self,
        bias: Float[Array, "#B H N N"] | None,
        x: Float[Array, "B N D"],
        queries: Float[Array, "B N H K"],
    ) -> Float[Array, "#B H N N"] | None:
        """`bias` as this layer uses it: unchanged, unless a subclass makes it depend on the input."""
        return bias

    def asked(self, queries: Float[Array, "B N H K"]) -> Float[Array, "B N H K"]:
        """`queries` as they meet the keys: unchanged, unless a subclass shifts them."""
        return queries


class CrossAttention(nnx.Module):
    """Attention of queries `B M D` to a context `B N C`; `bias` says whether their projections have one."""

    def __init__(
        self,
        width: int,
        context: int,
        heads: int,
        head_width: int,
        *,
        bias: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.heads = heads
        inner = heads * head_width
        self.query = linear(width, inner, bias=bias, dtype=dtype, rngs=rngs)
        self.key_value = linear(context, 2 * inner, bias=bias, dtype=dtype, rngs=rngs)
        self.out = linear(inner, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B M D"], context: Float[Array, "B N C"], mask: Bool[Array, "B N"]
    ) -> Float[Array, "B M D"]:
        """`mask` is True where a token of the context is real."""
        batch, tokens, _ = context.shape
        q = self.query(x).reshape(batch, x.shape[1], self.heads, -1)
        k, v = jnp.unstack(self.key_value(context).reshape(batch, tokens, 2, self.heads, -1), axis=2)
        found = attend(q, k, v, mask=mask[:, None, None, :])
        return self.out(found.reshape(batch, x.shape[1], -1))


class Mlp(nnx.Module):
    """Linear, activation (to width `hidden`), linear."""

    def __init__(self, width: int, hidden: int, *, activation: Activation, dtype: DTypeLike, rngs: nnx.Rngs):
        self.activation: Activation = activation
        self.up = linear(width, 2 * hidden if activation == "geglu" else hidden, dtype=dtype, rngs=rngs)
        self.down = linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class Block(nnx.Module):
    """A transformer layer.

    Its placement of norms is `pre`, x + attention(norm(x)) and x + mlp(norm(x)), or `post`,
    norm(residual * x + attention(x)) and norm(residual * x + mlp(x)).

    Args:
        attention: replaces plain self-attention.
        residual: weight of the unchanged path under `post`; DeepNorm (Wang et al., 2022) takes (2 L)^(1/4).
        dropout: share of what attention and MLP add that training sets to zero.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        activation: Activation,
        epsilon: float,
        placement: Placement = "pre",
        attention: Attention | None = None,
        residual: float = 1.0,
        dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.placement: Placement = placement
        self.residual = residual
        self.dropout = dropout
        self.attention_norm = layer_norm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.attention = attention or Attention(width, heads, dtype=dtype, rngs=rngs)
        self.mlp_norm = layer_norm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, hidden, activation=activation, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Seen | None,
        bias: Float[Array, "#B H N N"] | None = None,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B N D"]:
        """`mask` is as `Attention` takes it; without a `key` nothing is dropped."""
        first, second = (None, None) if key is None else jax.random.split(key)
        if self.placement == "post":
            more = dropout(self.attention(x, mask, bias), self.dropout, first)
            x = self.attention_norm(self.residual * x + more)
            return self.mlp_norm(self.residual * x + dropout(self.mlp(x), self.dropout, second))
        x = x + dropout(self.attention(self.attention_norm(x), mask, bias), self.dropout, first)
        return x + dropout(self.mlp(self.mlp_norm(x)), self.dropout, second)


class Stack(nnx.Module):
    """`layers` blocks whose parameters are stacked on a leading axis L and run by one compiled loop.

    Args:
        make_block: builds one block from an `nnx.Rngs`.
        layers: how many.
        remat: what the backward pass keeps: `none` recomputes nothing, `dots` keeps matrix products, `full`
            keeps only each layer's input.
    """

    def __init__(
        self, make_block: Callable[[nnx.Rngs], nnx.Module], layers: int, *, remat: Remat, rngs: nnx.Rngs
    ):
        self.remat: Remat = remat
        # So many of the first layers take no backward pass, nor does what is before them.
        self.resting = 0
        self.layers = nnx.split_rngs(splits=layers)(nnx.vmap(make_block, in_axes=(0,), out_axes=0))(rngs)

    def __call__(
        self, x: Float[Array, "B *N D"], *shared: Any, key: Key[Array, ""] | None = None
    ) -> Float[Array, "B *N D"]:
        """Runs `block(x, *shared)` for every layer; `shared` (mask, bias) is the same for all.

        With a `key` each block gets one of its own, as `key=`.
        """
        return self.watched(lambda x: None, x, *shared, key=key)[0]

    def watched(
        self,
        watch: Callable[[Float[Array, "B *N D"]], Any],
        x: Float[Array, "B *N D"],
        *shared: Any,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B *N D"], Any]:
        """As a call; with it comes what `watch` makes of each layer's output, on a leading axis L."""
        graph, parameters = nnx.split(self.layers)
        count = len(jax.tree.leaves(parameters)[0])
        keys = {} if key is None else {"key": jax.random.split(key, count)}

        def step(x: Array, layer: tuple[Any, dict[str, Array]]) -> tuple[Array, Any]:
            parameters, drawn = layer
            x = nnx.merge(graph, parameters)(spread(x), *shared, **drawn)
            return x, watch(x)

        run: Any = step
        if self.remat != "none":
            run = jax.checkpoint(step, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        if not self.resting:
            return jax.lax.scan(run, x, (parameters, keys))
        still, moved = (
            jax.tree.map(lambda each, part=part: each[part], (parameters, keys))
            for part in (slice(self.resting), slice(self.resting, None))
        )
        x, below = jax.lax.scan(run, *jax.lax.stop_gradient((x, still)))
        x, above = jax.lax.scan(run, jax.lax.stop_gradient(x), moved)
        return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), below, above)
