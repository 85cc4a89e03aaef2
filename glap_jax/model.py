"""DualEncoder: an audio tower, a text tower, a head on each, and the loss scalars."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from glap_jax.audio import dasheng
from glap_jax.config import ModelConfig
from glap_jax.convert.rules import Rule, Same, Table, dense, prefixed
from glap_jax.heads import MlpHead
from glap_jax.layers import Remat
from glap_jax.text import sonar


class DualEncoder(nnx.Module):
    """Audio and text into one space of unit vectors whose cosine is their match.

    Args:
        config: towers, joint width, initial temperature and bias.
        dtype: compute type; parameters, norms and the embeddings that come out are float32.
        remat: what the backward pass keeps of each tower's layers.
        rngs: for fresh parameters.
    """

    def __init__(
        self, config: ModelConfig, *, dtype: jnp.dtype = jnp.float32, remat: Remat = "none", rngs: nnx.Rngs
    ):
        self.config = config
        self.audio = config.audio.build(dtype=dtype, remat=remat, rngs=rngs)
        self.text = config.text.build(dtype=dtype, remat=remat, rngs=rngs)
        self.audio_head = MlpHead(config.audio.width, config.joint, dtype=dtype, rngs=rngs)
        self.text_head = MlpHead(config.text.width, config.joint, dtype=dtype, rngs=rngs)
        self.temperature = nnx.Param(jnp.asarray(config.temperature, jnp.float32))
        self.bias = nnx.Param(jnp.asarray(config.bias, jnp.float32))

    def encode_audio(
        self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None = None
    ) -> Float[Array, "B E"]:
        """Unit vectors, float32, of clips at the tower's rate; `lengths` counts each row's real samples."""
        return self.audio_head(self.audio(waveform, lengths).pooled)

    def encode_text(self, ids: Int[Array, "B N"], mask: Bool[Array, "B N"]) -> Float[Array, "B E"]:
        """Unit vectors, float32, of token rows; `mask` is True where a token is real."""
        return self.text_head(self.text(ids, mask).pooled)

    def score(self, audio: Float[Array, "A E"], text: Float[Array, "C E"]) -> Float[Array, "A C"]:
        """100 * cosine of every clip with every caption."""
        return 100.0 * jnp.matmul(audio, text.T, precision=jax.lax.Precision.HIGHEST)


# `.model` is there in the released .pt file and missing in the Hugging Face layout. The released file holds
# neither temperature nor bias; training starts from the released code's values.
TORCH_RULES: Table = (
    *prefixed(dasheng.TORCH_RULES, "audio_encoder(.model|).", "audio/"),
    *prefixed(sonar.TORCH_RULES, "text_encoder(.model|).", "text/"),
    *dense("audio_proj.0", "audio_head/hidden"),
    *dense("audio_proj.2", "audio_head/out"),
    *dense("text_proj.0", "text_head/hidden"),
    *dense("text_proj.2", "text_head/out"),
    Rule("temperature", "temperature", Same, default=0.07),
    Rule("bias", "bias", Same, default=-10.0),
)
