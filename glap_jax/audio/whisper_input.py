"""What Whisper's layers start from: log-mel, of clips in rows of their own or in shared ones; positions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from glap_jax.audio import packed
from glap_jax.audio.frontend import hann, mel_filters, power_spectrogram, reflect

SAMPLE_RATE = 16_000
SIZE, HOP = 400, 160
# Samples of a token, which two frames make.
TOKEN = 2 * HOP
# Of log10 power under the loudest bin.
DEPTH = 8.0


@dataclasses.dataclass(frozen=True)
class WhisperMel:
    """(x + 4) / 4 of log10 power, floored 8 under the clip's peak; in whole tokens, 0 beyond the clip.

    Attributes:
        mels: bins, Slaney's.
        batch_wide: floors against the batch's loudest bin, as GLAP's wrapper does.
    """

    mels: int
    batch_wide: bool = False

    def __call__(self, waveform: Float[Array, "B T"], ends: Int[Array, " B"] | None) -> Float[Array, "B S F"]:
        """Of rows that are zero from `ends` on; without these all of a row is heard."""
        if ends is not None:
            # A window after the clip's end has no sound at all, and reflecting needs some.
            ends = jnp.maximum(-(-ends // TOKEN), 1) * TOKEN
        # The frame that begins at the very end is left out.
        level = self._level(reflect(waveform, ends, SIZE // 2))[:, :-1]
        heard = jnp.ones(level.shape[:2], bool)
        if ends is not None:
            heard = jnp.arange(level.shape[1]) < ends[:, None] // HOP
        heard = heard[..., None]
        axes = (0, 1, 2) if self.batch_wide else (1, 2)
        peak = jnp.max(jnp.where(heard, level, -jnp.inf), axis=axes, keepdims=True)
        return jnp.where(heard, (jnp.maximum(level, peak - DEPTH) + 4.0) / 4.0, 0.0)

    def of_packed(self, waveform: Float[Array, "R T"], spans: packed.Spans) -> Float[Array, "R S F"]:
        """Of clips that share rows, in slots of a token, each as if it were alone; T / 160 frames."""
        tokens = -(-spans.lengths // TOKEN)
        waveform = packed.silenced(waveform, spans, TOKEN)
        where = packed.slots(2 * spans.starts, 2 * tokens, waveform.shape[1] // HOP)
        begins, lengths = spans.starts * TOKEN, tokens * TOKEN
        level, _ = packed.centred(
            waveform, begins, lengths, 2 * tokens + 1, where, self._level, window=SIZE, hop=HOP
        )
        floor = where.of_clip(where.most(jnp.max(level, axis=2)) - DEPTH)[..., None]
        return jnp.where(where.number[..., None] > 0, (jnp.maximum(level, floor) + 4.0) / 4.0, 0.0)

    def _level(self, padded: Float[Array, "B T"]) -> Float[Array, "B S F"]:
        power = power_spectrogram(padded, window=hann(SIZE), hop=HOP)
        filters = mel_filters(SIZE // 2 + 1, self.mels, 0.0, 8000.0, SAMPLE_RATE, "slaney")
        power = jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)
        return jnp.log10(jnp.maximum(power, 1e-10))


class Positions(nnx.Variable):
    """Sinusoids that a checkpoint stores and training leaves alone."""


def sinusoids(tokens: int, width: int) -> Float[np.ndarray, "N D"]:
    """Whisper's position table: all sines, then all cosines, the first row being position 0."""
    half = width // 2
    frequency = np.exp(np.arange(half) * -(np.log(10_000.0) / (half - 1)))
    angle = np.arange(tokens)[:, None] * frequency[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
