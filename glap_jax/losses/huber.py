"""The Huber loss between embeddings (LASP)."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from glap_jax.losses.pairs import Rows, float32_pairs


def huber(audio: Rows, text: Rows, *, delta: float = 1.0) -> Float[Array, ""]:
    """Mean over all elements of the Huber loss of `audio - text`, in float32.

    Quadratic up to `delta`, linear beyond; both are `B E`, of any norm. Raises GlapError for rows that do
    not pair up.
    """
    audio, text = float32_pairs(audio, text)
    return jnp.mean(optax.losses.huber_loss(audio, text, delta=delta))
