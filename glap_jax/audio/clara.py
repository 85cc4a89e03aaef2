"""CLARA's audio tower: log-mel, two convolutions, Perceiver IO (Noriy et al., 2023; CLARA faec8a5)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from glap_jax.audio.frontend import peak_log_mel
from glap_jax.convert.constructor import Shapes, arguments, dimension, layers
from glap_jax.convert.rules import Extra, Kernel, Linear, Rule, Same, Table, Transform, dense, norm, prefixed
from glap_jax.drawing import Masking, keep, require_rate, split
from glap_jax.errors import GlapError
from glap_jax.layers import (
    ACTIVATIONS,
    Attention,
    Block,
    CrossAttention,
    Encoded,
    Mlp,
    Remat,
    Stack,
    layer_norm,
    linear,
)

Mode = Literal["sound", "clara"]


@dataclasses.dataclass(frozen=True)
class ClaraAudioConfig:
    """Sizes of CLARA's audio tower.

    Attributes:
        width: of the pooled vector.
        embedding: channels of the convolutions, width of the tokens that the latents look at.
        latents: number of latents and their width, which must be one number: the last layer takes as many
            inputs as there are latents.
        layers: blocks of self-attention among the latents.
        cross_heads, cross_head_width: of the one attention from latents to tokens.
        heads, head_width: of the attention among latents.
        max_tokens: longest input, in tokens of 1024 samples.
        sample_rate: Hz. The paper says 48 kHz; the code takes each file at its own rate, so that one tower
            meets several. The mel filters are made for this rate.
        mode: `sound` (default): padding never changes a result. `clara` reproduces the reference for
            verification: batches are padded by log-mel 0 (-40 dB), which is attended to.
        sequence_dropout: share of each clip's tokens that training hides from the latents (CLARA: 0.5).
        masking: what training blanks of the log-mel.
    """

    width: int = 512
    embedding: int = 512
    latents: int = 512
    layers: int = 5
    cross_heads: int = 1
    cross_head_width: int = 64
    heads: int = 8
    head_width: int = 64
    max_tokens: int = 4096
    sample_rate: int = 16_000
    mode: Mode = "sound"
    sequence_dropout: float = 0.0
    masking: Masking = Masking()
    family: Literal["clara_audio"] = "clara_audio"

    def __post_init__(self) -> None:
        require_rate("sequence_dropout", self.sequence_dropout)

    @classmethod
    def m60(cls) -> "ClaraAudioConfig":
        """28 M parameters, 5 layers: the tower of CLARA 60M."""
        return cls()

    @classmethod
    def m100(cls) -> "ClaraAudioConfig":
        """59 M parameters, 10 layers: the tower of CLARA 100M."""
        return cls(layers=10, cross_heads=2, heads=16)

    @classmethod
    def m600(cls) -> "ClaraAudioConfig":
        """478 M parameters, 64 layers: the tower of CLARA 600M."""
        return cls(layers=64, cross_heads=8, heads=32)

    @classmethod
    def tiny(cls) -> "ClaraAudioConfig":
        """64 latents, 2 layers: for samples, tests and laptops."""
        return cls(width=192, embedding=64, latents=64, layers=2, heads=2, head_width=32, max_tokens=1024)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "ClaraAudio":
        """A module with fresh parameters that computes in `dtype`."""
        return ClaraAudio(self, dtype=dtype, remat=remat, rngs=rngs)


class ClaraAudio(nnx.Module):
    """Waveform at the tower's rate -> normalised latents, and a vector pooled from them.

    A clip of n samples has 1 + n // 512 frames and a token for every two of them. The vector is leaky ReLU
    (slope 0.01) of a linear layer over mean + maximum of each latent's channels.
    """

    MELS = 80
    SIZE, HOP = 1024, 512

    def __init__(self, config: ClaraAudioConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        self.draws = config.sequence_dropout > 0 or config.masking.acts
        self.SAMPLE_RATE = config.sample_rate
        self.chunk_samples = config.max_tokens * 2 * self.HOP
        self.dtype = dtype
        inner, width = config.embedding, config.latents

        def convolution(inputs: int, stride: int) -> nnx.Conv:
            return nnx.Conv(
                inputs, inner, 3, stride, padding=1, dtype=dtype, param_dtype=jnp.float32, rngs=rngs
            )

        def normal(*shape: int) -> nnx.Param:
            return nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32))

        def scale(width: int) -> nnx.Module:
            return layer_norm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)

        def make_block(rngs: nnx.Rngs) -> Block:
            own: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
            heads, hidden = config.heads, 4 * width
            attention = Attention(width, heads, head_width=config.head_width, bias=False, **own)
            return Block(width, heads, hidden, activation="geglu", epsilon=1e-5, attention=attention, **own)

        self.convolutions = nnx.List([convolution(self.MELS, 1), convolution(inner, 2)])
        self.position = normal(config.max_tokens, inner)
        self.latents = normal(width, width)
        self.cross_norm, self.context_norm = scale(width), scale(inner)
        self.cross = CrossAttention(
            width, inner, config.cross_heads, config.cross_head_width, dtype=dtype, rngs=rngs
        )
        self.cross_mlp_norm = scale(width)
        self.cross_mlp = Mlp(width, 4 * width, activation="geglu", dtype=dtype, rngs=rngs)
        self.blocks = Stack(make_block, config.layers, remat=remat, rngs=rngs)
        self.norm = scale(width)
        self.out = linear(width, config.width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        waveform: Float[Array, "B T"],
        lengths: Int[Array, " B"] | None = None,
        *,
        key: Key[Array, " B"] | None = None,
    ) -> Encoded:
        """Encodes clips of up to T samples in [-1, 1]; `lengths` counts the real samples of each row.

        With a `key` for each clip, as in training, it leaves out and blanks what its configuration says.

        Raises:
            GlapError: rows longer than the table of positions.
        """
        mel, frames = self.features(waveform, lengths)
        if key is not None:
            key, blanking = split(key)
            mel = self.config.masking(mel, frames, blanking)
        return self.from_features(mel, frames, key)

    def features(
        self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None
    ) -> tuple[Float[Array, "B S F"], Bool[Array, "B S"]]:
        """Log-mel, zero in frames beyond the clip, and which frames are not: see `peak_log_mel`."""
        sizes = {"size": self.SIZE, "hop": self.HOP, "mels": self.MELS}
        return peak_log_mel(waveform, lengths, sample_rate=self.config.sample_rate, **sizes)

    def from_features(
        self, mel: Float[Array, "B S F"], frames: Bool[Array, "B S"], key: Key[Array, " B"] | None = None
    ) -> Encoded:
        """Encodes what `features` gives; `frames` is True where a frame is real.

        Raises:
            GlapError: rows longer than the table of positions.
        """
        if self.config.mode == "clara":
            frames = jnp.ones_like(frames)
        tokens = -(-mel.shape[1] // 2)
        if tokens > self.config.max_tokens:
            seconds = self.config.max_tokens * 2 * self.HOP / self.config.sample_rate
            raise GlapError(f"audio: this model hears {seconds:.0f} s at most; cut longer clips")
        x = self._convolved(mel, frames) + self.position[:tokens].astype(self.dtype)
        real = frames[:, ::2]
        if key is not None and self.config.sequence_dropout:
            kept, real = keep(key, real, self.config.sequence_dropout)
            x = jnp.take_along_axis(x, kept[..., None], axis=1)
        x = self._latents(x, real)
        wide = x.astype(jnp.float32)
        pooled = (jnp.mean(wide, axis=2) + jnp.max(wide, axis=2)).astype(x.dtype)
        pooled = jax.nn.leaky_relu(self.out(pooled).astype(jnp.float32), 0.01)
        return Encoded(x, jnp.ones(x.shape[:2], bool), pooled)

    def _convolved(self, mel: Float[Array, "B S F"], frames: Bool[Array, "B S"]) -> Float[Array, "B N D"]:
        """Two convolutions with GELU, the second of stride 2; zeros enter where frames are not real."""
        first, second = self.convolutions
        x = ACTIVATIONS["gelu"](first(mel.astype(self.dtype)))
        x = jnp.where(frames[..., None], x, jnp.zeros((), x.dtype))
        return ACTIVATIONS["gelu"](second(x))

    def _latents(self, tokens: Float[Array, "B N D"], mask: Bool[Array, "B N"]) -> Float[Array, "B M E"]:
        """What the latents have seen: one look at the tokens, then blocks among themselves, and a norm."""
        x = jnp.broadcast_to(self.latents[...].astype(self.dtype), (len(tokens), *self.latents.shape))
        x = x + self.cross(self.cross_norm(x), self.context_norm(tokens), mask)
        x = x + self.cross_mlp(self.cross_mlp_norm(x))
        return self.norm(self.blocks(x, None))


# Queries [HK, D], then keys and values in one [2HK, D], to one matrix [D, 3HK].
_QKV = Transform(
    lambda x: np.concatenate(x, axis=0).T, lambda x: tuple(np.split(x.T, [x.shape[1] // 3], axis=0))
)


def _geglu(source: str, norm_path: str, path: str) -> Table:
    return (
        *norm(f"{source}.norm", norm_path),
        *dense(f"{source}.fn.net.0", f"{path}/up"),
        *dense(f"{source}.fn.net.2", f"{path}/down"),
    )


BLOCK_TORCH_RULES: Table = (
    *norm("0.norm", "attention_norm"),
    Rule(("0.fn.to_q.weight", "0.fn.to_kv.weight"), "attention/qkv/kernel", _QKV),
    *dense("0.fn.to_out", "attention/out"),
    *_geglu("1", "mlp_norm", "mlp"),
)

_CROSS = "audio_encoder.cross_attend_blocks"
TOWER_TORCH_RULES: Table = (
    *(
        Rule(f"conv{number + 1}.{kind}", f"convolutions/{number}/{name}", transform)
        for number in (0, 1)
        for kind, name, transform in (("weight", "kernel", Kernel), ("bias", "bias", Same))
    ),
    Rule("audio_positional_embedding.weight", "position", Same),
    Rule("audio_encoder.latents", "latents", Same),
    *norm(f"{_CROSS}.0.norm", "cross_norm"),
    *norm(f"{_CROSS}.0.norm_context", "context_norm"),
    Rule(f"{_CROSS}.0.fn.to_q.weight", "cross/query/kernel", Linear),
    Rule(f"{_CROSS}.0.fn.to_kv.weight", "cross/key_value/kernel", Linear),
    *dense(f"{_CROSS}.0.fn.to_out", "cross/out"),
    *_geglu(f"{_CROSS}.1", "cross_mlp_norm", "cross_mlp"),
    *prefixed(BLOCK_TORCH_RULES, "audio_encoder.layers.{layer}.", "blocks/layers/"),
    *norm("audio_layer_norm", "norm"),
    *dense("audio_fc1", "out"),
)

# `model.` stands before every key in checkpoints of the reference's trainer.
TORCH_RULES: Table = prefixed(
    (
        *TOWER_TORCH_RULES,
        Extra("audio_tempeture"),
        *(Extra(f"audio_transform.sequential.0.{kind}") for kind in ("weight", "bias")),
    ),
    "(|model.)",
    "",
)

Config, Module = ClaraAudioConfig, ClaraAudio

_NAMES = {
    "width": "audio_encoder_project",
    "embedding": "audio_encoder_embedding",
    "layers": "audio_encoder_layers",
    "cross_heads": "audio_encoder_cross_heads",
    "cross_head_width": "audio_encoder_cross_dim_head",
    "heads": "audio_encoder_latent_heads",
    "head_width": "audio_encoder_latent_dim_head",
    "max_tokens": "audio_encoder_pos_embedding_size",
    "sample_rate": "sample_rate",
}
_LATENTS = ("audio_encoder_num_latents", "audio_encoder_latent_dim")
_FIXED: dict[str, Any] = {"n_mels": ClaraAudio.MELS, "audio_encoder_weight_tie_layers": False}
# Arguments of the joint model and its trainer, which change nothing in a tower.
OTHER_ARGUMENTS = (
    *("output_dim", "learning_rate", "learning_rate_patience", "lr_interval"),
    *(f"LR_sheduler_{name}" for name in ("T_max", "warmup_steps", "min_lr", "decay")),
)
_IGNORED = (
    *("audio_encoder_project_dropout_prob", "audio_encoder_seq_dropout_prob", "vocab_size", *OTHER_ARGUMENTS),
)


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> ClaraAudioConfig:
    """Sizes from CLARA's constructor arguments (those of its text tower are passed over) or tensor shapes.

    Heads that are not given are 64 wide, as in all published sizes; `sample_rate` may stand among the rest.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    own = {name: value for name, value in given.items() if not name.startswith("text_")}
    names = (*_NAMES.values(), *_LATENTS)
    known = arguments(own, family="clara_audio", sizes=names, fixed=_FIXED, ignored=_IGNORED)
    latents = [
        known.get(name) or dimension(shapes, "audio_encoder.latents", axis)
        for axis, name in enumerate(_LATENTS)
    ]
    if latents[0] != latents[1]:
        raise GlapError(
            f"config of clara_audio: {latents[0]} latents of width {latents[1]}; the two must be equal"
        )
    found = {
        "width": lambda: dimension(shapes, "audio_fc1.weight", 0),
        "embedding": lambda: dimension(shapes, "conv1.weight", 0),
        "layers": lambda: layers(shapes, "audio_encoder.layers."),
        "max_tokens": lambda: dimension(shapes, "audio_positional_embedding.weight", 0),
        "sample_rate": lambda: ClaraAudioConfig.sample_rate,
    }
    sizes: dict[str, Any] = {field: known.get(_NAMES[field]) or read() for field, read in found.items()}
    sizes |= _heads(known, shapes, "cross_", f"{_CROSS}.0.fn.to_q.weight")
    sizes |= _heads(known, shapes, "", "audio_encoder.layers.0.0.fn.to_q.weight")
    return ClaraAudioConfig(latents=latents[0], **sizes)


def _heads(known: Mapping[str, Any], shapes: Shapes, prefix: str, key: str) -> dict[str, int]:
    """Number and width of the heads of one attention; their product is the length of `key`'s first axis."""
    count, width = (known.get(_NAMES[f"{prefix}{part}"]) for part in ("heads", "head_width"))
    inner = dimension(shapes, key, 0)
    width = width or (inner // count if count else 64)
    count = count or inner // width
    if count * width != inner:
        raise GlapError(
            f"config of clara_audio: {count} heads of width {width} do not make the {inner} rows of '{key}'; "
            f"give '{_NAMES[f'{prefix}heads']}' and '{_NAMES[f'{prefix}head_width']}'"
        )
    return {f"{prefix}heads": count, f"{prefix}head_width": width}


def config_to_torch(config: ClaraAudioConfig) -> dict[str, Any]:
    """The constructor arguments that `config_from_torch` reads as `config`."""
    sizes = {name: getattr(config, field) for field, name in _NAMES.items()}
    return {**sizes, **dict.fromkeys(_LATENTS, config.latents), "n_mels": ClaraAudio.MELS}


def compat(config: ClaraAudioConfig) -> ClaraAudioConfig:
    """`config` with the reference's padding."""
    return dataclasses.replace(config, mode="clara")
