"""A Conformer over a stacked Kaldi filterbank: what w2v-BERT 2.0 and SONAR's speech encoder share.

A layer (Gulati et al., 2020) is half an MLP, self-attention that knows how far apart two tokens are, a gated
convolution over time and half an MLP, each added to what comes in, then a norm.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from glap_jax.audio.frontend import KALDI_HOP, KALDI_WINDOW, clean, kaldi_fbank, kaldi_frames
from glap_jax.layers import (
    Attention,
    BatchNorm,
    Encoded,
    Mlp,
    Remat,
    Stack,
    layer_norm,
    linear,
    masked_mean,
)

EPSILON = 1e-5
MELS = 80
# Frames of 10 ms that one token is made of.
STACKED = 2
FEATURES = MELS * STACKED
SHORTEST = KALDI_WINDOW + (STACKED - 1) * KALDI_HOP
# What `transformers` adds to a variance, so that a band without any variation stays finite.
LEAST_VARIANCE = 1e-7


def stacked_fbank(
    waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None
) -> tuple[Float[Array, "B N F"], Bool[Array, "B N"]]:
    """Features of 20 ms: a filterbank of 80 mels, each band scaled over the clip's frames, two frames joined.

    A band has zero mean and unit variance (over one frame less than there are); frames beyond the clip are
    zero. A last odd frame counts for the statistics and belongs to no token. Sources: fairseq2 0.4.5
    (`WaveformToFbankConverter(standardize=True)`, `Wav2Vec2FbankFeatureExtractor`) and `transformers` 5.23
    (`SeamlessM4TFeatureExtractor`).

    Args:
        waveform: samples in [-1, 1] at 16 kHz.
        lengths: real samples of each row; shorter clips than 560 samples are padded with zeros to these.

    Returns:
        Features, and which of them belong to the clip.
    """
    waveform, ends = clean(waveform, lengths)
    waveform = jnp.pad(waveform, ((0, 0), (0, max(0, SHORTEST - waveform.shape[1]))))
    frames = kaldi_frames(jnp.maximum(ends, SHORTEST))[:, None]
    mel = kaldi_fbank(waveform, MELS)
    # A silent clip's bands are constant. Against the first frame they are exactly zero, whatever the padding.
    mel = mel - mel[:, :1]
    batch, steps, _ = mel.shape
    real = (jnp.arange(steps) < frames)[..., None]
    count = frames.astype(jnp.float32)[..., None]
    mean = jnp.sum(mel, axis=1, keepdims=True, where=real) / count
    centred = jnp.where(real, mel - mean, 0.0)
    variance = jnp.sum(jnp.square(centred), axis=1, keepdims=True) / (count - 1.0)
    scaled = centred * jax.lax.rsqrt(variance + LEAST_VARIANCE)
    tokens = steps // STACKED
    joined = scaled[:, : tokens * STACKED].reshape(batch, tokens, FEATURES)
    return joined, jnp.arange(tokens) < frames // STACKED


def sinusoids(tokens: int, width: int) -> Float[Array, "P D"]:
    """Sines and cosines in turn of every distance from a query back to a key: N - 1, ..., 0, ..., 1 - N.

    Source: Dai et al., 2019, appendix B; fairseq2 0.4.5 `RelativePositionalEncoding`.
    """
    distance = jnp.arange(tokens - 1, -tokens, -1, dtype=jnp.float32)
    exponent = np.arange(0, width, 2, dtype=np.float32) * np.float32(-math.log(10_000.0)) / np.float32(width)
    angle = distance[:, None] * np.exp(exponent)
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(2 * tokens - 1, width)


def by_distance(logits: Float[Array, "B H N P"]) -> Float[Array, "B H N N"]:
    """Of logits for every distance N - 1, ..., 1 - N those of the keys: entry (i, j) is at N - 1 - i + j."""
    batch, heads, tokens, distances = logits.shape
    # In rows that are one longer, a step down and one back in a row is a constant step in the flat array.
    flat = jnp.pad(logits, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(batch, heads, -1)
    flat = jax.lax.slice_in_dim(flat, tokens - 1, tokens - 1 + tokens * distances, axis=2)
    return flat.reshape(batch, heads, tokens, distances)[..., :tokens]


class SinusoidAttention(Attention):
    """Self-attention with Transformer-XL's relative positions: a projection of sinusoids meets the queries.

    Contents and positions have a query of their own that every token adds to its own ("u" and "v"; Dai et
    al., 2019, section 3.3).
    """

    def __init__(self, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(width, heads, dtype=dtype, rngs=rngs)
        self.position = linear(width, width, bias=False, dtype=dtype, rngs=rngs)
        shape, xavier = (heads, width // heads), nnx.initializers.xavier_normal()
        self.content_query = nnx.Param(xavier(rngs.params(), shape, jnp.float32))
        self.position_query = nnx.Param(xavier(rngs.params(), shape, jnp.float32))

    def adjusted(
        self,
        bias: Float[Array, "#B H N N"] | None,
        x: Float[Array, "B N D"],
        queries: Float[Array, "B N H K"],
    ) -> Float[Array, "B H N N"]:
        """Scaled logits of positions, in float32."""
        _, tokens, heads, width = queries.shape
        keys = self.position(sinusoids(tokens, x.shape[-1]).astype(queries.dtype)).reshape(-1, heads, width)
        queries = queries + self.position_query[...].astype(queries.dtype)
        logits = jnp.einsum("bnhk,phk->bhnp", queries, keys, preferred_element_type=jnp.float32)
        return by_distance(logits) * width**-0.5

    def asked(self, queries: Float[Array, "B N H K"]) -> Float[Array, "B N H K"]:
        """`queries` with what they all ask of contents."""
        return queries + self.content_query[...].astype(queries.dtype)


class DistanceAttention(Attention):
    """Self-attention with a learned key for every distance, up to a limit on either side (Shaw et al., 2018).

    Args:
        before, after: tokens to the left and right from which on all distances share a key.
    """

    def __init__(self, width: int, heads: int, *, before: int, after: int, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(width, heads, dtype=dtype, rngs=rngs)
        self.before, self.after = before, after
        shape = (before + 1 + after, width // heads)
        self.distances = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape, jnp.float32))

    def adjusted(
        self,
        bias: Float[Array, "#B H N N"] | None,
        x: Float[Array, "B N D"],
        queries: Float[Array, "B N H K"],
    ) -> Float[Array, "B H N N"]:
        """Scaled logits of distances, in float32."""
        tokens, width = queries.shape[1], queries.shape[3]
        keys = self.distances[...].astype(queries.dtype)
        logits = jnp.einsum("bnhk,rk->bhnr", queries, keys, preferred_element_type=jnp.float32)
        # Every distance takes its key's logit, then every key takes that of its distance.
        distance = np.clip(np.arange(1 - tokens, tokens), -self.before, self.after) + self.before
        return by_distance(logits[..., distance]) * width**-0.5


class GatedConvolution(nnx.Module):
    """Gated linear unit, a convolution of each channel over time, a norm, SiLU, and a linear layer.

    Args:
        taps: of the convolution.
        causal: whether it sees nothing to the right of a token; else as much as to the left.
        norm: over channels with stored statistics (`batch`), or over each token (`layer`).
    """

    def __init__(
        self,
        width: int,
        taps: int,
        *,
        causal: bool,
        norm: Literal["batch", "layer"],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.causal = causal
        self.up = linear(width, 2 * width, bias=False, dtype=dtype, rngs=rngs)
        shape, scale = (taps, 1, width), nnx.initializers.normal(taps**-0.5)
        self.taps = nnx.Param(scale(rngs.params(), shape, jnp.float32))
        if norm == "batch":
            self.norm: BatchNorm | nnx.LayerNorm = BatchNorm(width, epsilon=EPSILON)
        else:
            self.norm = layer_norm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.down = linear(width, width, bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B N D"], mask: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        values, gates = jnp.split(self.up(jnp.where(mask[..., None], x, 0)), 2, axis=-1)
        x = self.convolved(values * jax.nn.sigmoid(gates))
        return self.down(jax.nn.silu(self.norm(x)))

    def convolved(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Each channel's own convolution, summed in float32.

        A sum of shifted rows, which XLA fuses into one loop; on a CPU that takes a fifteenth of the time of
        its convolution with as many groups as channels.
        """
        taps, tokens = self.taps.shape[0], x.shape[1]
        left = taps - 1 if self.causal else (taps - 1) // 2
        rows = jnp.pad(x, ((0, 0), (left, taps - 1 - left), (0, 0)))
        total = jnp.zeros(x.shape, jnp.float32)
        for index in range(taps):
            total += rows[:, index : index + tokens].astype(jnp.float32) * self.taps[index, 0]
        return total.astype(x.dtype)


class ConformerBlock(nnx.Module):
    """A Conformer layer.

    Args:
        hidden: width of both MLPs.
        attention, convolution: make its other parts from an `nnx.Rngs`.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        attention: Callable[[nnx.Rngs], Attention],
        convolution: Callable[[nnx.Rngs], GatedConvolution],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def norm() -> nnx.LayerNorm:
            return layer_norm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)

        self.first_norm, self.first = norm(), Mlp(width, hidden, activation="silu", dtype=dtype, rngs=rngs)
        self.attention_norm, self.attention = norm(), attention(rngs)
        self.convolution_norm, self.convolution = norm(), convolution(rngs)
        self.second_norm, self.second = norm(), Mlp(width, hidden, activation="silu", dtype=dtype, rngs=rngs)
        self.norm = norm()

    def __call__(self, x: Float[Array, "B N D"], mask: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        x = x + 0.5 * self.first(self.first_norm(x))
        x = x + self.attention(self.attention_norm(x), mask)
        x = x + self.convolution(self.convolution_norm(x), mask)
        x = x + 0.5 * self.second(self.second_norm(x))
        return self.norm(x)


class ConformerEncoder(nnx.Module):
    """Waveform at 16 kHz -> tokens of 20 ms, their mask, and their masked mean.

    A clip has a token for every 2 of its 1 + (n - 400) // 160 frames; shorter clips than 560 samples are
    padded with zeros.

    Args:
        width, hidden, layers: sizes of the layers.
        attention, convolution: make parts of a layer; see `ConformerBlock`.
        dtype: compute type.
        remat: what the backward pass keeps of a layer.
        rngs: for fresh parameters.
    """

    SAMPLE_RATE = 16_000

    def __init__(
        self,
        *,
        width: int,
        hidden: int,
        layers: int,
        attention: Callable[[nnx.Rngs], Attention],
        convolution: Callable[[nnx.Rngs], GatedConvolution],
        dtype: DTypeLike,
        remat: Remat,
        rngs: nnx.Rngs,
    ):
        self.feature_norm = layer_norm(FEATURES, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.projection = linear(FEATURES, width, dtype=dtype, rngs=rngs)

        def make_block(rngs: nnx.Rngs) -> ConformerBlock:
            return ConformerBlock(
                width, hidden, attention=attention, convolution=convolution, dtype=dtype, rngs=rngs
            )

        self.blocks = Stack(make_block, layers, remat=remat, rngs=rngs)

    def __call__(self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None = None) -> Encoded:
        """Encodes clips of up to T samples in [-1, 1]; `lengths` counts the real samples of each row."""
        return self.encode(*stacked_fbank(waveform, lengths))

    def encode(self, features: Float[Array, "B N F"], mask: Bool[Array, "B N"]) -> Encoded:
        """Encodes what `stacked_fbank` gives (`input_features` and `attention_mask` in `transformers`)."""
        x = self.blocks(self.projection(self.feature_norm(features)), mask)
        return Encoded(x, mask, masked_mean(x, mask))
