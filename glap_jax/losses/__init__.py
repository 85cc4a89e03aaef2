"""Losses over a batch of audio-text pairs: pure functions of unit rows, always in float32."""

from glap_jax.losses.bce import bce
from glap_jax.losses.huber import huber
from glap_jax.losses.infonce import infonce
from glap_jax.losses.pairs import diagonal_targets, embedding_regulariser, joint_targets
from glap_jax.losses.sigmoid import convert_bias, sigmoid

__all__ = [
    "bce",
    "convert_bias",
    "diagonal_targets",
    "embedding_regulariser",
    "huber",
    "infonce",
    "joint_targets",
    "sigmoid",
]
