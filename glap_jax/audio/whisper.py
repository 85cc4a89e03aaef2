"""Whisper's encoder (Radford et al., 2022; OpenAI `whisper`, `transformers` WhisperModel, CTranslate2)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from glap_jax.audio import packed
from glap_jax.audio.frontend import clean
from glap_jax.audio.whisper_input import SAMPLE_RATE, TOKEN, Positions, WhisperMel, sinusoids
from glap_jax.convert.constructor import HUGGING_FACE, Shapes, arguments, dimension, heads, layers
from glap_jax.convert.rules import (
    Dropped,
    Extra,
    FusedLinear,
    Kernel,
    Rule,
    Same,
    Table,
    Transform,
    dense,
    norm,
    prefixed,
)
from glap_jax.layers import ACTIVATIONS, Block, Encoded, Remat, Seen, Stack, layer_norm, masked_mean

Window = Literal["silence", "clip"]
Mode = Literal["sound", "glap"]
Pooling = Literal["last", "layers"]


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
    """Sizes of a Whisper encoder.

    Attributes:
        width: transformer width D.
        layers: number of blocks L.
        heads: attention heads H, 64 wide in all published models.
        hidden: width of the feed-forward part.
        mels: mel bins, 128 from large-v3 on.
        positions: tokens of a window, 20 ms each.
        window: `silence` pads every clip with silence to the window, which the tokens attend to, as they did
            when the published weights were trained. `clip` encodes the clip alone: less work for short clips,
            and other numbers.
        mode: `sound` (default): longer audio is cut into windows that are encoded alone; what counts is the
            tokens that begin before a clip's end. `glap` reproduces GLAP's wrapper of OpenAI's code for
            verification: audio cut at one window; spectrograms clamped against the batch's loudest bin; one
            token more counted than the length has; all of them where no length is given.
        pooling: `pooled` is the masked mean of the tokens: `last` of the last layer's (GLAP), `layers` of the
            first layer's input and of every layer's output, behind one another: L + 1 times as wide.
    """

    width: int = 512
    layers: int = 6
    heads: int = 8
    hidden: int = 2048
    mels: int = 80
    positions: int = 1500
    window: Window = "silence"
    mode: Mode = "sound"
    pooling: Pooling = "last"
    family: Literal["whisper"] = "whisper"

    @classmethod
    def tiny(cls) -> "WhisperConfig":
        """8 M parameters, 384/4/6; tiny.en too."""
        return cls(width=384, layers=4, heads=6, hidden=1536)

    @classmethod
    def base(cls) -> "WhisperConfig":
        """20 M parameters, 512/6/8; base.en too."""
        return cls()

    @classmethod
    def small(cls) -> "WhisperConfig":
        """87 M parameters, 768/12/12; small.en too."""
        return cls(width=768, layers=12, heads=12, hidden=3072)

    @classmethod
    def medium(cls) -> "WhisperConfig":
        """306 M parameters, 1024/24/16; medium.en too."""
        return cls(width=1024, layers=24, heads=16, hidden=4096)

    @classmethod
    def large(cls) -> "WhisperConfig":
        """635 M parameters, 1280/32/20: large-v1 and large-v2."""
        return cls(width=1280, layers=32, heads=20, hidden=5120)

    @classmethod
    def large_v3(cls) -> "WhisperConfig":
        """As `large`, with 128 mel bins: large-v3 and large-v3-turbo."""
        return dataclasses.replace(cls.large(), mels=128)

    @property
    def pooled_width(self) -> int:
        """Width of `pooled`."""
        return self.width * (self.layers + 1 if self.pooling == "layers" else 1)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "Whisper":
        """A module with fresh parameters that computes in `dtype`."""
        return Whisper(self, dtype=dtype, remat=remat, rngs=rngs)


class Whisper(nnx.Module):
    """Waveform at 16 kHz -> tokens of 20 ms, their mask, and their masked mean.

    A clip of n samples has ceil(n / 320) tokens that count; windows follow one another, each encoded alone
    with positions from 0.
    """

    SAMPLE_RATE = SAMPLE_RATE
    # Samples of a token, in whole numbers of which clips share rows.
    SLOT = TOKEN

    def __init__(self, config: WhisperConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        self.chunk_samples = config.positions * TOKEN
        self.dtype = dtype
        self.log_mel = WhisperMel(config.mels, batch_wide=config.mode == "glap")
        width = config.width
        self.convolutions = nnx.List(
            nnx.Conv(inputs, width, 3, stride, padding=1, dtype=dtype, param_dtype=jnp.float32, rngs=rngs)
            for inputs, stride in ((config.mels, 1), (width, 2))
        )
        self.positions = Positions(jnp.asarray(sinusoids(config.positions, width)))

        def make_block(rngs: nnx.Rngs) -> Block:
            sizes = width, config.heads, config.hidden
            return Block(*sizes, activation="gelu", epsilon=1e-5, dtype=dtype, rngs=rngs)

        self.blocks = Stack(make_block, config.layers, remat=remat, rngs=rngs)
        self.norm = layer_norm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None = None) -> Encoded:
        """Encodes clips of up to T samples in [-1, 1]; `lengths` counts the real samples of each row."""
        rows, ends = self._windows(waveform, lengths)
        silent = self.config.window == "silence"
        tokens = rows.shape[1] // TOKEN
        real = jnp.arange(tokens) * TOKEN < ends[:, None]
        x = self._convolved(self.log_mel(rows, None if silent else ends), None if silent else real)
        x = x + self.positions[:tokens].astype(x.dtype)
        counted = real.reshape(batch := waveform.shape[0], -1)
        if self.config.mode == "glap":
            last = tokens if lengths is None else (lengths // TOKEN)[:, None]
            counted = jnp.broadcast_to(jnp.arange(tokens) <= last, counted.shape)
        mean = lambda x: masked_mean(x.reshape(batch, -1, x.shape[-1]), counted)  # noqa: E731
        x, pooled = self._encoded(x, None if silent else real, mean)
        return Encoded(x.reshape(batch, -1, x.shape[-1]), counted, pooled)

    def encode_packed(self, waveform: Float[Array, "R T"], spans: packed.Spans) -> Encoded:
        """Encodes clips of up to a window that share rows; the mask says which tokens R N are of any clip."""
        counts = -(-spans.lengths // TOKEN)
        where = packed.slots(spans.starts, counts, waveform.shape[1] // TOKEN)
        x = self._convolved_packed(self.log_mel.of_packed(waveform, spans), where)
        x = x + self.positions[where.offset].astype(x.dtype)
        mean = lambda x: packed.pooled(x, where, spans.place)  # noqa: E731
        x, pooled = self._encoded(x, where.number, mean)
        return Encoded(x, where.number > 0, pooled)

    def _encoded(
        self, x: Float[Array, "B N D"], seen: Seen | None, mean: Callable[[Array], Float[Array, "C D"]]
    ) -> tuple[Float[Array, "B N D"], Float[Array, "C E"]]:
        """What the layers make of `x`, and its pooled form; `mean` is that of each clip's tokens."""
        # Layers that rest let what is before them rest too.
        first = mean(jax.lax.stop_gradient(x) if self.blocks.resting else x)
        x, means = self.blocks.watched(mean, x, seen)
        x = self.norm(x)
        pooled = [mean(x)] if self.config.pooling == "last" else [first, *means[:-1], mean(x)]
        return x, jnp.concatenate(pooled, axis=-1)

    def _windows(
        self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None
    ) -> tuple[Float[Array, "BW T2"], Int[Array, " BW"]]:
        """Windows as rows that are zero beyond their end, and these ends; a clip has one sample or more."""
        samples = waveform.shape[1]
        size = self.config.positions * TOKEN
        if self.config.mode == "glap":
            waveform, lengths, samples = waveform[:, :size], None, min(samples, size)
        waveform, ends = clean(waveform, lengths)
        if self.config.window == "clip" and samples <= size:
            size = samples + -samples % TOKEN
        waveform = jnp.pad(waveform, ((0, 0), (0, -samples % size)))
        starts = jnp.arange(0, waveform.shape[1], size, dtype=jnp.int32)
        return waveform.reshape(-1, size), jnp.clip(ends[:, None] - starts, 0, size).reshape(-1)

    def _convolved(
        self, mel: Float[Array, "B S F"], real: Bool[Array, "B N"] | None
    ) -> Float[Array, "B N D"]:
        """Two convolutions with GELU, the second of stride 2; zeros enter where tokens are not `real`."""
        first, second = self.convolutions
        x = ACTIVATIONS["gelu"](first(mel.astype(self.dtype)))
        if real is not None:
            x = jnp.where(jnp.repeat(real, 2, axis=1)[..., None], x, jnp.zeros((), x.dtype))
        return ACTIVATIONS["gelu"](second(x))

    def _convolved_packed(self, mel: Float[Array, "R S F"], where: packed.Slots) -> Float[Array, "R N D"]:
        """As `_convolved`, of clips that share rows: products with what stands around each frame."""
        x, number = mel.astype(self.dtype), jnp.repeat(where.number, 2, axis=1)
        for layer, stride in zip(self.convolutions, (1, 2), strict=True):
            assert layer.bias is not None
            around = packed.with_neighbours(x, number)[:, ::stride]
            kernel = layer.kernel[...].reshape(around.shape[-1], -1).astype(x.dtype)
            x = ACTIVATIONS["gelu"](around @ kernel + layer.bias[...].astype(x.dtype))
        return x


# Keys have no bias: softmax ignores what one adds to all logits of a query. So the way back leaves it out.
_Bias = Transform(
    lambda x: np.concatenate([x[0], np.zeros_like(x[0]), x[1]]),
    lambda x: (np.split(x, 3)[0], np.split(x, 3)[2]),
)
_QKV = tuple(
    f"(self_attn.{letter}_proj|attn.{word})"
    for letter, word in zip("qkv", ("query", "key", "value"), strict=True)
)

# Hugging Face's names first, then OpenAI's.
TORCH_RULES: Table = (
    *prefixed(
        (
            *dense("conv1", "convolutions/0", weight=Kernel),
            *dense("conv2", "convolutions/1", weight=Kernel),
            Rule("(embed_positions.weight|positional_embedding)", "positions", Same),
            *prefixed(
                (
                    *norm("(self_attn_layer_norm|attn_ln)", "attention_norm"),
                    Rule(tuple(f"{key}.weight" for key in _QKV), "attention/qkv/kernel", FusedLinear),
                    Rule((f"{_QKV[0]}.bias", f"{_QKV[2]}.bias"), "attention/qkv/bias", _Bias),
                    *dense("(self_attn.out_proj|attn.out)", "attention/out"),
                    *norm("(final_layer_norm|mlp_ln)", "mlp_norm"),
                    *dense("(fc1|mlp.0)", "mlp/up"),
                    *dense("(fc2|mlp.2)", "mlp/down"),
                ),
                "(layers|blocks).{layer}.",
                "blocks/layers/",
            ),
            *norm("(layer_norm|ln_post)", "norm"),
        ),
        "(model.encoder.|encoder.|)",
        "",
    ),
    Dropped("(model.|)decoder.{rest}"),
    # The decoder's embedding once more, and the parts of a classifier.
    Dropped("proj_out.weight"),
    *(Extra(f"{part}.{kind}") for part in ("projector", "classifier") for kind in ("weight", "bias")),
)


def _scale(source: str, target: str) -> Table:
    """Rules of a LayerNorm in CTranslate2's words."""
    return (Rule(f"{source}/gamma", f"{target}/scale", Same), Rule(f"{source}/beta", f"{target}/bias", Same))


_CTRANSLATE2: Table = (
    *dense("encoder/conv1", "convolutions/0", weight=Kernel, dot="/"),
    *dense("encoder/conv2", "convolutions/1", weight=Kernel, dot="/"),
    Rule("encoder/position_encodings/encodings", "positions", Same),
    *prefixed(
        (
            *_scale("self_attention/layer_norm", "attention_norm"),
            *dense("self_attention/linear_0", "attention/qkv", dot="/"),
            *dense("self_attention/linear_1", "attention/out", dot="/"),
            *_scale("ffn/layer_norm", "mlp_norm"),
            *dense("ffn/linear_0", "mlp/up", dot="/"),
            *dense("ffn/linear_1", "mlp/down", dot="/"),
        ),
        "encoder/layer_{layer}/",
        "blocks/layers/",
    ),
    *_scale("encoder/layer_norm", "norm"),
    Extra("encoder/num_heads"),
    Dropped("decoder/{rest}"),
)

OTHER_TORCH_RULES = (_CTRANSLATE2,)

Config, Module = WhisperConfig, Whisper

# Names of each size in HF's config.json and in OpenAI's `dims`.
_SIZES = {
    "width": ("d_model", "n_audio_state"),
    "layers": ("encoder_layers", "n_audio_layer"),
    "heads": ("encoder_attention_heads", "n_audio_head", "num_heads"),
    "hidden": ("encoder_ffn_dim",),
    "mels": ("num_mel_bins", "n_mels"),
    "positions": ("max_source_positions", "n_audio_ctx"),
}
# The tensors that show sizes, from CTranslate2's words to Hugging Face's.
_SHOWING = (
    ("encoder/conv1/", "model.encoder.conv1."),
    ("encoder/position_encodings/encodings", "model.encoder.embed_positions.weight"),
    ("encoder/layer_", "model.encoder.layers."),
    ("/ffn/linear_0/", ".fc1."),
)
_HEADS = {width: width // 64 for width in (384, 512, 768, 1024, 1280)}
_FIXED = {"activation_function": "gelu", "scale_embedding": False}
_CHOICES = {"pooling": get_args(Pooling), "window": get_args(Window)}
# These act in training, in the decoder, or in a classifier.
_IGNORED = (
    *"n_vocab n_text_ctx n_text_state n_text_head n_text_layer vocab_size max_length decoder_layers".split(),
    *"decoder_attention_heads decoder_ffn_dim decoder_layerdrop encoder_layerdrop init_std dropout".split(),
    *"max_target_positions num_hidden_layers median_filter_width suppress_tokens alignment_heads".split(),
    *"begin_suppress_tokens forced_decoder_ids use_weighted_layer_sum classifier_proj_size".split(),
    *("apply_spec_augment", *HUGGING_FACE),
    *(f"mask_{axis}_{what}" for axis in ("time", "feature") for what in ("prob", "length", "min_masks")),
)


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> WhisperConfig:
    """Sizes from HF config.json or OpenAI's `dims`, the rest from tensor shapes.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    names = [name for names in _SIZES.values() for name in names]
    told = arguments(given, family="whisper", sizes=names, fixed=_FIXED, ignored=_IGNORED, choices=_CHOICES)
    size = {field: next((told[key] for key in keys if key in told), None) for field, keys in _SIZES.items()}
    for ours, theirs in _SHOWING:
        shapes = {key.replace(ours, theirs): shape for key, shape in shapes.items()}
    conv, place = "model.encoder.conv1.weight", "model.encoder.embed_positions.weight"
    width = size["width"] or dimension(shapes, conv, 0)
    return WhisperConfig(
        width=width,
        layers=size["layers"] or layers(shapes, "model.encoder.layers."),
        heads=heads(width, size["heads"], _HEADS, family="whisper"),
        hidden=size["hidden"] or dimension(shapes, "model.encoder.layers.0.fc1.weight", 0),
        mels=size["mels"] or dimension(shapes, conv, 1),
        positions=size["positions"] or dimension(shapes, place, 0),
        **{name: told[name] for name in _CHOICES if name in told},
    )


def config_to_torch(config: WhisperConfig) -> dict[str, Any]:
    """The entries of HF config.json that `config_from_torch` reads as `config`, and what we add."""
    chosen = {name: getattr(config, name) for name in _CHOICES}
    ours = {name: value for name, value in chosen.items() if value != getattr(WhisperConfig, name)}
    return {names[0]: getattr(config, field) for field, names in _SIZES.items()} | ours


def compat(config: WhisperConfig) -> WhisperConfig:
    """`config` with the quirks of GLAP's wrapper (glap-model 0.0.13)."""
    return dataclasses.replace(config, mode="glap", window="silence")
