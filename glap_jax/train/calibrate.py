"""Statistics of a fresh model's inputs and of what its heads take: measured once, on real clips."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from glap_jax.layers import BatchNorm
from glap_jax.model import DualEncoder
from glap_jax.train.step import prepare

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

    measured = Moments(norm)
    for batch in batches:
        measured.add(*moments(jnp.asarray(batch["waveform"]), jnp.asarray(batch["lengths"])))
    return measured.put(LEAST_VARIANCE)


def calibrate_heads(module: DualEncoder, batches: Iterable[dict[str, np.ndarray]]) -> None:
    """Sets mean and variance of what each head standardises, from what the towers, or caches, pool.

    Args:
        module: changed in place; its heads standardise.
        batches: as a step takes them, without void rows.
    """
    heads: dict[str, Any] = {"audio": module.audio_head, "text": module.text_head}
    measured = {side: Moments(head.norm) for side, head in heads.items()}
    graph, state = nnx.split(module)

    @jax.jit
    def pooled(state: Any, batch: dict[str, Array]) -> dict[str, Array]:
        return prepare(nnx.merge(graph, state), batch, {}, audio=False, text=False)

    for batch in batches:
        for side, rows in pooled(state, batch).items():
            found = np.asarray(rows, np.float64)
            mean = found.mean(axis=0)
            measured[side].add(len(found), mean, np.square(found - mean).sum(axis=0))
    for moments in measured.values():
        moments.put(0.0)


class Moments:
    """Mean and variance of a norm's input, added up batch by batch."""

    def __init__(self, norm: BatchNorm):
        self._norm = norm
        self._count, self._mean, self._square = 0.0, np.zeros(norm.mean.shape), np.zeros(norm.mean.shape)

    def add(self, count: Any, mean: Any, square: Any) -> None:
        """Adds `count` rows of this mean and these summed squares of deviations from it."""
        # Chan's update: means and squared deviations add up without cancellation, in float64 on the host.
        more, its_mean, its_square = (np.asarray(value, np.float64) for value in (count, mean, square))
        total = self._count + float(more)
        if total:
            step = its_mean - self._mean
            self._square += its_square + step**2 * (self._count * float(more) / total)
            self._mean = self._mean + step * (float(more) / total)
            self._count = total

    def put(self, least: float) -> bool:
        """Writes them into the norm, no variance below `least`; False where there were no rows."""
        if not self._count:
            return False
        self._norm.mean[...] = jnp.asarray(self._mean, jnp.float32)
        variance = np.maximum(self._square / self._count, least)
        self._norm.variance[...] = jnp.asarray(variance, jnp.float32)
        return True
