"""Symmetric cross-entropy over a batch: InfoNCE with hard or soft targets, one or two temperatures."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from glap_jax.losses.pairs import Rows, Scalar, cosines, embedding_regulariser, float32_pairs


def infonce(
    audio: Rows,
    text: Rows,
    *,
    log_scale: Scalar | tuple[Scalar, Scalar],
    targets: Float[Array | np.ndarray, "B B"] | None = None,
    regularise: bool = False,
) -> Float[Array, ""]:
    """Mean of the cross-entropies of clips over captions and of captions over clips, in float32.

    Args:
        audio, text: `B E` unit rows; row i of one belongs to row i of the other.
        log_scale: the logarithm of what multiplies the cosines, `log(1 / temperature)`; learnable. A pair
            `(audio, text)` scales the two directions apart (CLARA's loss). ML-CLAP trains the temperature
            itself: give `-log(temperature)`. CLASP's notebook multiplies by 0.07: give `log(0.07)`.
        targets: `B B`, the weight of each clip (row) with each caption (column); captions use its columns.
            None is the identity. `joint_targets` and `diagonal_targets` serve batches with repeated
            clips. Gradients flow into targets that depend on the embeddings.
        regularise: adds `embedding_regulariser(audio, text)`.

    Raises GlapError for rows that do not pair up.
    """
    audio, text = float32_pairs(audio, text)
    audio_scale, text_scale = log_scale if isinstance(log_scale, tuple) else (log_scale, log_scale)
    weights = (
        jnp.eye(audio.shape[0], dtype=jnp.float32) if targets is None else jnp.asarray(targets, jnp.float32)
    )
    scores = cosines(audio, text)
    loss = 0.5 * (
        cross_entropy(scores * jnp.exp(jnp.asarray(audio_scale, jnp.float32)), weights)
        + cross_entropy(scores.T * jnp.exp(jnp.asarray(text_scale, jnp.float32)), weights.T)
    )
    return loss + embedding_regulariser(audio, text) if regularise else loss


def cross_entropy(logits: Float[Array, "B C"], targets: Float[Array, "B C"]) -> Float[Array, ""]:
    """Mean over rows of `-sum_j targets_j log softmax(logits)_j`; target rows need not sum to one."""
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits, axis=1), axis=1))
