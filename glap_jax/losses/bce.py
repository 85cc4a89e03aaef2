"""Binary cross-entropy of every clip with every caption of the batch (an option of GLAP's released code)."""

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from glap_jax.losses.pairs import Rows, Scalar, cosines, embedding_regulariser, float32_pairs


def bce(
    audio: Rows,
    text: Rows,
    *,
    temperature: Scalar,
    targets: Float[Array | np.ndarray, "B B"] | None = None,
    regularise: bool = False,
) -> Float[Array, ""]:
    """Mean over all B * B pairs of the binary cross-entropy of `cosine / temperature`, in float32.

    Both directions have the same pairs, so this is their mean too. `temperature` > 0 is the divisor itself
    (learnable), as in `sigmoid`, and there is no bias, as in the released code. `targets` (in [0, 1]) and
    `regularise` are those of `infonce`. Raises GlapError for rows that do not pair up.
    """
    audio, text = float32_pairs(audio, text)
    weights = (
        jnp.eye(audio.shape[0], dtype=jnp.float32) if targets is None else jnp.asarray(targets, jnp.float32)
    )
    logits = cosines(audio, text) / jnp.asarray(temperature, jnp.float32)
    loss = jnp.mean(optax.losses.sigmoid_binary_cross_entropy(logits, weights))
    return loss + embedding_regulariser(audio, text) if regularise else loss
