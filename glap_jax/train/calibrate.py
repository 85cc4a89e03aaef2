"""Input statistics of a fresh model: what a BatchNorm would have learnt, measured once on real clips."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from glap_jax.model import DualEncoder

# Decibels squared. A band that holds next to nothing (above the bandwidth of telephone speech, say) varies
# less; dividing by its own deviation would only amplify noise.
LEAST_VARIANCE = 1.0


def calibrate(module: DualEncoder, batches: Iterable[dict[str, np.ndarray]]) -> bool:
    """Sets mean and variance of the audio frontend's norm, per mel bin, from the real frames of `batches`.

    Args:
        module: changed in place.
        batches: dicts with `waveform` B T and `lengths` B.

    Returns:
        Whether this model has such statistics (a family that normalises the waveform has none) and a frame
        to measure them on.
    """
    frontend = getattr(module.audio, "frontend", None)
    norm = getattr(frontend, "norm", None)
    if frontend is None or norm is None:
        return False
    graph, state = nnx.split(frontend)

    @jax.jit
    def moments(waveform: Float[Array, "B T"], lengths: Array) -> tuple[Array, Array, Array]:
        level, mask = nnx.merge(graph, state).decibels(waveform, lengths)
        weight = mask.astype(jnp.float32)[..., None]
        count = jnp.sum(weight)
        mean = jnp.sum(level * weight, axis=(0, 1)) / jnp.maximum(count, 1.0)
        return count, mean, jnp.sum(jnp.square(level - mean) * weight, axis=(0, 1))

    # Chan's update: batch means and squared deviations add up without cancellation, in float64 on the host.
    count, mean, square = 0.0, np.zeros(norm.mean.shape), np.zeros(norm.mean.shape)
    for batch in batches:
        found = moments(jnp.asarray(batch["waveform"]), jnp.asarray(batch["lengths"]))
        more, its_mean, its_square = (np.asarray(value, np.float64) for value in found)
        total = count + float(more)
        if total:
            step = its_mean - mean
            square += its_square + step**2 * (count * float(more) / total)
            mean = mean + step * (float(more) / total)
            count = total
    if not count:
        return False
    norm.mean[...] = jnp.asarray(mean, jnp.float32)
    norm.variance[...] = jnp.asarray(np.maximum(square / count, LEAST_VARIANCE), jnp.float32)
    return True
