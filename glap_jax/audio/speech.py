"""What wav2vec 2.0, HuBERT and WavLM share: convolutions over the waveform, then a transformer.

Sources: Baevski et al., 2020; Hsu et al., 2021; Chen et al., 2022; `transformers` 5.23.0.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from glap_jax.audio.context import EPSILON, Context
from glap_jax.layers import ACTIVATIONS, Encoded, Remat, layer_norm, linear, masked_mean

# Taps and strides of the convolutions: a token sees 400 samples (25 ms) and they lie 320 samples apart.
KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
SHORTEST = 400


@dataclasses.dataclass(frozen=True)
class SpeechConfig:
    """Sizes of a speech encoder.

    Attributes:
        width: transformer width D.
        layers: number of blocks L.
        heads: attention heads H.
        hidden: width of the MLP.
        conv_width: channels of the convolutions.
        conv_norm: `group` normalises the first convolution's channels over time, `layer` every
            convolution's over channels.
        conv_bias: whether the convolutions have a bias.
        placement: norms before or after attention and MLP; every published model pairs `pre` with `layer`.
        position_taps: kernel of the convolutional positions.
        position_groups: their groups.
        normalise: whether a clip is scaled to zero mean and unit variance first.
        mode: `sound` (default): padding never changes a result. `reference`: the first convolution's group
            norm runs over the padded row, as in `transformers`.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    conv_width: int = 512
    conv_norm: Literal["group", "layer"] = "group"
    conv_bias: bool = False
    placement: Literal["pre", "post"] = "post"
    position_taps: int = 128
    position_groups: int = 16
    normalise: bool = True
    mode: Literal["sound", "reference"] = "sound"


LARGE: dict[str, Any] = {"width": 1024, "layers": 24, "heads": 16, "hidden": 4096}
XLARGE: dict[str, Any] = {"width": 1280, "layers": 48, "heads": 16, "hidden": 5120}
LAYER_NORMED: dict[str, Any] = {"conv_norm": "layer", "conv_bias": True, "placement": "pre"}


def after(samples: Any, kernel: int, stride: int) -> Any:
    """Steps that an unpadded convolution makes of `samples` steps (an int or an array)."""
    return (samples - kernel) // stride + 1


def tokens_of(samples: Any) -> Any:
    """Tokens of a clip of `samples` samples (an int or an array), at least 400."""
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        samples = after(samples, kernel, stride)
    return samples


def normalised(waveform: Float[Array, "B T"], real: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """Clips of zero mean and unit variance over their real samples, zero elsewhere.

    Source: `transformers` `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`, whose 1e-7 is kept.
    """
    count = jnp.maximum(real.sum(axis=1, keepdims=True), 1).astype(jnp.float32)
    mean = jnp.sum(jnp.where(real, waveform, 0.0), axis=1, keepdims=True) / count
    centred = jnp.where(real, waveform - mean, 0.0)
    variance = jnp.sum(jnp.square(centred), axis=1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + 1e-7)


class TimeNorm(nnx.Module):
    """Every channel normalised over time in float32 (torch `GroupNorm` with a group for each channel)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: Float[Array, "B S W"], real: Bool[Array, "B S"] | None) -> Float[Array, "B S W"]:
        """`real` says which steps the statistics are taken from; none means all."""
        where = None if real is None else real[..., None]
        high = x.astype(jnp.float32)
        mean = jnp.mean(high, axis=1, keepdims=True, where=where)
        variance = jnp.mean(jnp.square(high - mean), axis=1, keepdims=True, where=where)
        scale = jax.lax.rsqrt(variance + EPSILON) * self.scale[...]
        return ((high - mean) * scale + self.bias[...]).astype(x.dtype)


class Convolution(nnx.Module):
    """One convolution over time without padding, its norm (if it has one) and GELU."""

    def __init__(self, config: SpeechConfig, index: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width = config.conv_width
        self.conv = nnx.Conv(
            width if index else 1,
            width,
            KERNELS[index],
            strides=STRIDES[index],
            padding="VALID",
            use_bias=config.conv_bias,
            dtype=dtype,
            param_dtype=jnp.float32,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        if config.conv_norm == "layer":
            self.norm = layer_norm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        elif index == 0:
            self.time_norm = TimeNorm(width)

    def __call__(self, x: Float[Array, "B S I"], real: Bool[Array, "B S2"] | None) -> Float[Array, "B S2 W"]:
        """`real` says which of the resulting steps see the clip only."""
        x = self.conv(x)
        if hasattr(self, "norm"):
            x = self.norm(x)
        elif hasattr(self, "time_norm"):
            x = self.time_norm(x, real)
        return ACTIVATIONS["gelu"](x)


class SpeechEncoder(nnx.Module):
    """Waveform at 16 kHz -> tokens of 20 ms, their mask, and their masked mean.

    A clip of n samples has `tokens_of(n)` tokens (at least one: shorter clips are padded with zeros to 400
    samples).
    """

    SAMPLE_RATE = 16_000

    def __init__(self, config: SpeechConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.convolutions = nnx.List(
            [Convolution(config, index, dtype=dtype, rngs=rngs) for index in range(len(KERNELS))]
        )
        self.feature_norm = layer_norm(config.conv_width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.projection = linear(config.conv_width, width, dtype=dtype, rngs=rngs)
        self.context = Context(config, **self.relative(config), dtype=dtype, remat=remat, rngs=rngs)

    @staticmethod
    def relative(config: Any) -> dict[str, Any]:
        """What a subclass tells its `Context` about a relative bias."""
        return {}

    def __call__(self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None = None) -> Encoded:
        """Encodes clips of up to T samples in [-1, 1]; `lengths` counts the real samples of each row."""
        waveform = waveform.astype(jnp.float32)
        samples = waveform.shape[1]
        if lengths is None:
            real = jnp.ones(waveform.shape, bool)
        else:
            lengths = jnp.minimum(lengths.astype(jnp.int32), samples)
            real = jnp.arange(samples) < lengths[:, None]
        values = normalised(waveform, real) if self.config.normalise else jnp.where(real, waveform, 0.0)
        values = jnp.pad(values, ((0, 0), (0, max(0, SHORTEST - samples))))
        return self.encode(values, lengths)

    def encode(self, values: Float[Array, "B T"], lengths: Int[Array, " B"] | None) -> Encoded:
        """Encodes what `transformers` calls `input_values`: normalised clips, zero beyond their length."""
        samples = values.shape[1]
        clipped = None if lengths is None else jnp.clip(lengths, SHORTEST, samples)
        x = self.feature_norm(self.features(values, clipped))
        x = self.projection(x)
        counts = tokens_of(samples) if clipped is None else tokens_of(clipped)[:, None]
        real = jnp.broadcast_to(jnp.arange(x.shape[1])[None] < counts, x.shape[:2])
        x = self.context(x, real)
        return Encoded(x, real, masked_mean(x, real))

    def features(
        self, values: Float[Array, "B T"], lengths: Int[Array, " B"] | None
    ) -> Float[Array, "B N W"]:
        """What the convolutions make of `values`; `lengths` are at least 400."""
        real = None
        if lengths is not None and self.config.mode == "sound":
            steps = after(values.shape[1], KERNELS[0], STRIDES[0])
            real = jnp.arange(steps) < after(lengths, KERNELS[0], STRIDES[0])[:, None]
        x = values[..., None]
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x, None if index else real)
        return x
