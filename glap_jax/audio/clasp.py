"""CLASP's fusion of speech and spectrogram features (github language-modeling-lab/CLASP)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from glap_jax.convert.constructor import Shapes, arguments, dimension
from glap_jax.convert.rules import Table, batch_norm, dense, prefixed
from glap_jax.layers import BatchNorm, Remat, RunningStat, linear

SLOPE = 0.01  # of leaky ReLU for negative inputs: torch's default.
MOMENTUM = 0.1  # share of a batch in the stored statistics: torch's default.


@dataclasses.dataclass(frozen=True)
class ClaspFusionConfig:
    """Sizes of CLASP's fusion.

    Attributes:
        kind: `concat` mixes both branches by an MLP; `gating` gates each and adds them, weighed by a softmax
            over all values of both together (so outputs are small: it is their direction that counts).
        speech: features of the speech encoder, averaged over time.
        image: logits of the image network.
        speech_hidden, image_hidden: first hidden width of each branch.
        narrow: second hidden width of both.
        width: what the branches and the fusion give, that of the text embedding.
        mix: hidden widths of the MLP of `concat`.
        dropout: after the first and the second hidden layer of a branch, in training.
    """

    kind: Literal["concat", "gating"] = "concat"
    speech: int = 1024
    image: int = 1000
    speech_hidden: int = 768
    image_hidden: int = 768
    narrow: int = 576
    width: int = 768
    mix: tuple[int, int] = (1024, 800)
    dropout: tuple[float, float] = (0.15, 0.1)
    family: Literal["clasp_fusion"] = "clasp_fusion"

    @classmethod
    def hubert(cls) -> "ClaspFusionConfig":
        """For HuBERT large and LaBSE, concatenated."""
        return cls()

    @classmethod
    def hubert_gating(cls) -> "ClaspFusionConfig":
        """For HuBERT large and LaBSE, gated."""
        return cls(kind="gating")

    @classmethod
    def wav2vec2(cls) -> "ClaspFusionConfig":
        """For wav2vec 2.0 base and LaBSE, concatenated."""
        return cls(speech=768, speech_hidden=700)


class LearningNorm(BatchNorm):
    """BatchNorm that in training uses the batch's statistics, and moves the stored ones towards them."""

    STATISTIC = RunningStat

    def learn(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Normalises by the batch; the stored variance takes its unbiased form, as torch's does."""
        x = x.astype(jnp.float32)
        mean, variance = jnp.mean(x, axis=0), jnp.var(x, axis=0)
        unbiased = variance * (x.shape[0] / max(1, x.shape[0] - 1))
        for stored, new in ((self.mean, mean), (self.variance, unbiased)):
            stored[...] = (1.0 - MOMENTUM) * stored[...] + MOMENTUM * jax.lax.stop_gradient(new)
        return (x - mean) * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]


class Layer(nnx.Module):
    """Linear, batch norm, (leaky) ReLU and, in training, dropout."""

    def __init__(
        self, inputs: int, outputs: int, *, slope: float, dropout: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.slope, self.dropout = slope, dropout
        self.linear = linear(inputs, outputs, dtype=dtype, rngs=rngs)
        self.norm = LearningNorm(outputs)

    def __call__(self, x: Float[Array, "B D"], key: Key[Array, ""] | None) -> Float[Array, "B D2"]:
        x = self.linear(x)
        x = self.norm(x) if key is None else self.norm.learn(x).astype(x.dtype)
        x = jax.nn.leaky_relu(x, self.slope)
        if key is None or not self.dropout:
            return x
        kept = jax.random.bernoulli(key, 1.0 - self.dropout, x.shape)
        return jnp.where(kept, x / (1.0 - self.dropout), jnp.zeros((), x.dtype))


class Branch(nnx.Module):
    """Two hidden layers and a linear one, for the features of one encoder."""

    def __init__(
        self, inputs: int, hidden: int, config: ClaspFusionConfig, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        rest: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        first, second = config.dropout
        self.wide = Layer(inputs, hidden, slope=0.0, dropout=first, **rest)
        self.narrow = Layer(hidden, config.narrow, slope=SLOPE, dropout=second, **rest)
        self.out = linear(config.narrow, config.width, **rest)

    def __call__(self, x: Float[Array, "B D"], key: Key[Array, ""] | None = None) -> Float[Array, "B E"]:
        first, second = (None, None) if key is None else jax.random.split(key)
        return self.out(self.narrow(self.wide(x, first), second))


class GatedBranch(nnx.Module):
    """A branch whose output x becomes input * tanh(new) + forget * x, all three gates linear in x."""

    def __init__(
        self, inputs: int, hidden: int, config: ClaspFusionConfig, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.branch = Branch(inputs, hidden, config, dtype=dtype, rngs=rngs)
        self.input, self.forget, self.new = (
            linear(config.width, config.width, dtype=dtype, rngs=rngs) for _ in range(3)
        )

    def __call__(self, x: Float[Array, "B D"], key: Key[Array, ""] | None = None) -> Float[Array, "B E"]:
        x = self.branch(x, key)
        return jax.nn.sigmoid(self.input(x)) * jnp.tanh(self.new(x)) + jax.nn.sigmoid(self.forget(x)) * x


class Mix(nnx.Module):
    """The MLP over both branches of `concat`."""

    def __init__(self, config: ClaspFusionConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        first, second = config.mix
        self.wide = Layer(2 * config.width, first, slope=SLOPE, dropout=0.0, dtype=dtype, rngs=rngs)
        self.narrow = linear(first, second, dtype=dtype, rngs=rngs)
        self.out = linear(second, config.width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B D"], key: Key[Array, ""] | None = None) -> Float[Array, "B E"]:
        return self.out(jax.nn.leaky_relu(self.narrow(self.wide(x, key)), SLOPE))


class ClaspFusion(nnx.Module):
    """Speech features and image logits of the same clips -> one vector each in the text encoder's space.

    `fusion.speech` and `fusion.image` alone are the reference's modes `audio` and `image`.
    """

    def __init__(self, config: ClaspFusionConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        branch = Branch if config.kind == "concat" else GatedBranch
        self.speech = branch(config.speech, config.speech_hidden, config, dtype=dtype, rngs=rngs)
        self.image = branch(config.image, config.image_hidden, config, dtype=dtype, rngs=rngs)
        if config.kind == "concat":
            self.mix = Mix(config, dtype=dtype, rngs=rngs)
        else:
            self.weight = linear(2 * config.width, 2 * config.width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        speech: Float[Array, "B D"],
        image: Float[Array, "B C"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B E"]:
        """Fuses; with a `key` as in training: by the batch's statistics, which are stored, and dropout."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        both = jnp.concatenate([self.speech(speech, keys[0]), self.image(image, keys[1])], axis=-1)
        if self.config.kind == "concat":
            return self.mix(both, keys[2])
        weight = jax.nn.softmax(self.weight(both).astype(jnp.float32), axis=-1).astype(both.dtype)
        return jnp.sum((weight * both).reshape(both.shape[0], 2, -1), axis=1)


def _layer(source: str, number: int, target: str) -> Table:
    return (
        *dense(f"{source}.{number}", f"{target}/linear"),
        *batch_norm(f"{source}.{number + 1}", f"{target}/norm"),
    )


# Numbers count all parts of torch's Sequential; activations and dropout have no parameters.
_BRANCH: Table = (*_layer("seq", 0, "wide"), *_layer("seq", 4, "narrow"), *dense("seq.8", "out"))


def _gated(source: str, target: str) -> Table:
    return (
        *prefixed(_branch(source), "", f"{target}/branch/"),
        *dense(f"input_gate_{source}.0", f"{target}/input"),
        *dense(f"forget_gate_{source}.0", f"{target}/forget"),
        *dense(f"tanh_{source}.0", f"{target}/new"),
    )


def _branch(source: str) -> Table:
    return prefixed(_BRANCH, f"{source}_", "")


# The gated form calls its speech branch `text`.
TORCH_RULES: Table = (
    *prefixed(_branch("audio"), "", "speech/"),
    *prefixed(_branch("image"), "", "image/"),
    *_layer("mix_seq", 0, "mix/wide"),
    *dense("mix_seq.3", "mix/narrow"),
    *dense("mix_seq.5", "mix/out"),
    *_gated("text", "speech"),
    *_gated("image", "image"),
    *dense("weight.0", "weight"),
)

Config, Module = ClaspFusionConfig, ClaspFusion


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> ClaspFusionConfig:
    """Sizes from tensor shapes, checked against the notebook's constructor arguments where they are given.

    Raises:
        GlapError: an argument that is unknown or that contradicts the tensors.
    """
    kind = "concat" if "mix_seq.0.weight" in shapes else "gating"
    branch = "audio" if kind == "concat" else "text"
    speech_hidden, speech = (dimension(shapes, f"{branch}_seq.0.weight", axis) for axis in (0, 1))
    image_hidden, image = (dimension(shapes, "image_seq.0.weight", axis) for axis in (0, 1))
    fixed = {"in_features_text": speech, "in_features_image": image, "mode": "joint"}
    arguments(given, family="clasp_fusion", sizes=(), fixed=fixed)
    mix = ClaspFusionConfig.mix
    if kind == "concat":
        mix = (dimension(shapes, "mix_seq.0.weight", 0), dimension(shapes, "mix_seq.3.weight", 0))
    return ClaspFusionConfig(
        kind=kind,
        speech=speech,
        image=image,
        speech_hidden=speech_hidden,
        image_hidden=image_hidden,
        narrow=dimension(shapes, "image_seq.4.weight", 0),
        width=dimension(shapes, "image_seq.8.weight", 0),
        mix=mix,
    )


def config_to_torch(config: ClaspFusionConfig) -> dict[str, Any]:
    """The notebook's constructor arguments."""
    return {"in_features_text": config.speech, "in_features_image": config.image}


def compat(config: ClaspFusionConfig) -> ClaspFusionConfig:
    """`config` itself: there is no quirk to reproduce."""
    return config
