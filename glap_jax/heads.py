"""Projection heads: from a tower's pooled vector to a unit vector of the joint space."""

import abc

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from glap_jax.layers import BatchNorm, linear


def unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """Rows scaled to length one in float32, with torch's guard of 1e-12 against zero rows."""
    x = x.astype(jnp.float32)
    # The guard sits inside the root as well, so that an all-zero row has a zero gradient and no NaN.
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


class Head(nnx.Module):
    """What joins a tower to the joint space: `project`, then unit norm."""

    @abc.abstractmethod
    def project(self, pooled: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """The pooled vector in the joint space, of any length."""

    def __call__(self, pooled: Float[Array, "B D"]) -> Float[Array, "B E"]:
        return unit(self.project(pooled))


class UnitHead(Head):
    """Unit norm alone: the tower's own vector lies in the joint space (CLASP)."""

    def project(self, pooled: Float[Array, "B D"]) -> Float[Array, "B E"]:
        return pooled


class MlpHead(Head):
    """GLAP's head: Linear d -> E, ReLU, Linear E -> E, unit norm (dasheng-glap `audio_proj`, `text_proj`).

    With `standardise`, what comes in is standardised first, by statistics that are measured before training.
    """

    def __init__(
        self, width: int, joint: int, *, standardise: bool = False, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.norm = BatchNorm(width, epsilon=1e-6) if standardise else None
        self.hidden = linear(width, joint, dtype=dtype, rngs=rngs)
        self.out = linear(joint, joint, dtype=dtype, rngs=rngs)

    def project(self, pooled: Float[Array, "B D"]) -> Float[Array, "B E"]:
        standard = pooled if self.norm is None else self.norm(pooled)
        return self.out(jax.nn.relu(self.hidden(standard)))


class LinearHead(Head):
    """CLARA's head: Linear d -> E, unit norm (CLARA `audio_transform`, `text_transform`)."""

    def __init__(self, width: int, joint: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.out = linear(width, joint, dtype=dtype, rngs=rngs)

    def project(self, pooled: Float[Array, "B D"]) -> Float[Array, "B E"]:
        return self.out(pooled)
