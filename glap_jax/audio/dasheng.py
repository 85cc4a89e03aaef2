"""Dasheng: a ViT over log-mel patches of 64 mels x 40 ms (Dinkel et al., 2024; PyPI `dasheng` 0.0.9)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from glap_jax.audio import packed
from glap_jax.audio.frontend import LOG_MEL_ARGUMENTS, LOG_MEL_TORCH_RULES, LogMel
from glap_jax.convert.constructor import Shapes, arguments, dimension, heads, layers
from glap_jax.convert.rules import Rule, Table, Transform, dense, norm, prefixed
from glap_jax.drawing import Masking
from glap_jax.layers import Block, Encoded, Remat, Stack, layer_norm, linear, masked_mean

Mode = Literal["sound", "dasheng", "glap"]


@dataclasses.dataclass(frozen=True)
class DashengConfig:
    """Sizes of a Dasheng encoder.

    Attributes:
        width: transformer width D.
        layers: number of blocks L.
        heads: attention heads H.
        mlp_ratio: hidden width of the MLP over D.
        chunk_tokens: tokens encoded together, 40 ms each; longer audio is cut into such chunks.
        mode: `sound` (default): padding never changes a result. The other two reproduce a reference for
            verification. `dasheng`: top_db against the batch's loudest bin, tokens under length // 640 are
            keys, a ragged last chunk. `glap` (0.0.13): the same clamp, lengths ignored, normalised frames
            zero-padded to whole chunks and attended to, mean of the chunks' unmasked means.
        masking: what training blanks of the normalised log-mel.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    chunk_tokens: int = 252
    mode: Mode = "sound"
    masking: Masking = Masking()
    family: Literal["dasheng"] = "dasheng"

    @classmethod
    def tiny(cls) -> "DashengConfig":
        """2.9 M parameters, 192/6/3: for samples, tests and laptops."""
        return cls(width=192, layers=6, heads=3)

    @classmethod
    def base(cls) -> "DashengConfig":
        """85 M parameters, 768/12/12: GLAP's audio tower."""
        return cls()

    @classmethod
    def b0_6(cls) -> "DashengConfig":
        """0.6 B parameters, 1280/32/16."""
        return cls(width=1280, layers=32, heads=16)

    @classmethod
    def b1_2(cls) -> "DashengConfig":
        """1.2 B parameters, 1536/40/24."""
        return cls(width=1536, layers=40, heads=24)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "Dasheng":
        """A module with fresh parameters that computes in `dtype`."""
        return Dasheng(self, dtype=dtype, remat=remat, rngs=rngs)


class Dasheng(nnx.Module):
    """Waveform at 16 kHz -> tokens of 40 ms, their mask, and their masked mean.

    A clip of n samples has (1 + n // 160) // 4 tokens (at least one: shorter clips are padded with zeros to
    480 samples). Each chunk of `chunk_tokens` is encoded alone, with positions from 0.
    """

    MELS = LogMel.MELS
    PATCH_FRAMES = 4
    SAMPLE_RATE = LogMel.SAMPLE_RATE
    # Samples of a token, in whole numbers of which clips share rows.
    SLOT = PATCH_FRAMES * LogMel.HOP

    def __init__(self, config: DashengConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        self.chunk_samples = config.chunk_tokens * self.PATCH_FRAMES * LogMel.HOP
        self.draws = config.masking.acts
        width = config.width
        normal = nnx.initializers.truncated_normal(0.02)
        self.frontend = LogMel(batch_wide=config.mode != "sound")
        self.patch = linear(self.MELS * self.PATCH_FRAMES, width, dtype=dtype, rngs=rngs)
        self.time_position = nnx.Param(normal(rngs.params(), (config.chunk_tokens, width), jnp.float32))
        self.frequency_position = nnx.Param(normal(rngs.params(), (width,), jnp.float32))

        def make_block(rngs: nnx.Rngs) -> Block:
            hidden = int(width * config.mlp_ratio)
            return Block(width, config.heads, hidden, activation="gelu", epsilon=1e-6, dtype=dtype, rngs=rngs)

        self.blocks = Stack(make_block, config.layers, remat=remat, rngs=rngs)
        self.norm = layer_norm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        waveform: Float[Array, "B T"],
        lengths: Int[Array, " B"] | None = None,
        *,
        key: Key[Array, " B"] | None = None,
    ) -> Encoded:
        """Encodes clips of up to T samples in [-1, 1]; `lengths` counts the real samples of each row.

        With a `key` for each clip, as in training, it blanks what its configuration says.
        """
        mel, frames = self.features(waveform, lengths)
        if key is not None:
            mel = self.config.masking(mel, frames, key)
        return self.from_features(mel, frames, lengths)

    def encode_packed(
        self,
        waveform: Float[Array, "R T"],
        spans: packed.Spans,
        *,
        key: Key[Array, "R P"] | None = None,
    ) -> Encoded:
        """Encodes clips of up to a chunk that share rows; the mask says which tokens R N are of any clip.

        With a `key` for each clip it blanks what a call does.
        """
        mel, where = self.frontend.of_packed(waveform, spans, slot=self.SLOT)
        counts = self.frontend.frames(spans.lengths)
        if key is not None:
            mel = packed.blanked(self.config.masking, mel, where, counts, key)
        x = self._embed(mel)
        where = packed.slots(spans.starts, counts // self.PATCH_FRAMES, x.shape[1])
        position = self.time_position[where.offset] + self.frequency_position[...]
        x = self.norm(self.blocks(x + position.astype(x.dtype), where.number))
        return Encoded(x, where.number > 0, packed.pooled(x, where, spans.place))

    def features(
        self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None
    ) -> tuple[Float[Array, "B S F"], Bool[Array, "B S"]]:
        """Normalised log-mel, and which frames are real."""
        # Both references transform the padded row as if all of it were sound.
        return self.frontend(waveform, lengths if self.config.mode == "sound" else None)

    def from_features(
        self,
        mel: Float[Array, "B S F"],
        frames: Bool[Array, "B S"],
        lengths: Int[Array, " B"] | None = None,
    ) -> Encoded:
        """Encodes what `features` gives; only the quirks of `dasheng` look at `lengths`, in samples."""
        mel, real = self._whole_tokens(mel, frames, lengths)
        x = self._embed(mel)
        size = self.config.chunk_tokens
        if x.shape[1] <= size:
            x = self._encode(x, real)
        elif self.config.mode == "dasheng":
            starts = range(0, x.shape[1], size)
            x = jnp.concatenate([self._encode(x[:, i : i + size], real[:, i : i + size]) for i in starts], 1)
        else:
            x = self._encode_chunks(x, real)
        if self.config.mode == "glap":
            return Encoded(x, real, self._mean_of_chunk_means(x))
        return Encoded(x, real, masked_mean(x, real))

    def _whole_tokens(
        self, mel: Float[Array, "B S F"], frames: Bool[Array, "B S"], lengths: Int[Array, " B"] | None
    ) -> tuple[Float[Array, "B S2 F"], Bool[Array, "B N"]]:
        """Drops (or, for `glap`, pads) frames to whole patches; a token is real if its last frame is."""
        chunk_frames = self.config.chunk_tokens * self.PATCH_FRAMES
        if self.config.mode == "glap":
            surplus = -mel.shape[1] % chunk_frames if mel.shape[1] > chunk_frames else 0
            mel = jnp.pad(mel, ((0, 0), (0, surplus), (0, 0)))
        tokens = mel.shape[1] // self.PATCH_FRAMES
        mel = mel[:, : tokens * self.PATCH_FRAMES]
        if self.config.mode == "sound":
            return mel, frames[:, self.PATCH_FRAMES - 1 :: self.PATCH_FRAMES]
        real = jnp.ones((mel.shape[0], tokens), bool)
        if self.config.mode == "dasheng" and lengths is not None:
            real = jnp.arange(tokens) < lengths[:, None] // (self.PATCH_FRAMES * LogMel.HOP)
        return mel, real

    def _embed(self, mel: Float[Array, "B S F"]) -> Float[Array, "B N D"]:
        batch, frames, mels = mel.shape
        return self.patch(mel.reshape(batch, frames // self.PATCH_FRAMES, self.PATCH_FRAMES * mels))

    def _encode(self, x: Float[Array, "B N D"], real: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        position = self.time_position[: x.shape[1]] + self.frequency_position[...]
        return self.norm(self.blocks(x + position.astype(x.dtype), real))

    def _encode_chunks(self, x: Float[Array, "B N D"], real: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        batch, tokens, width = x.shape
        size = self.config.chunk_tokens
        surplus = -tokens % size
        x = jnp.pad(x, ((0, 0), (0, surplus), (0, 0))).reshape(-1, size, width)
        chunked = jnp.pad(real, ((0, 0), (0, surplus))).reshape(-1, size)
        return self._encode(x, chunked).reshape(batch, tokens + surplus, width)[:, :tokens]

    def _mean_of_chunk_means(self, x: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        batch, tokens, width = x.shape
        size = min(tokens, self.config.chunk_tokens)
        return x.astype(jnp.float32).reshape(batch, -1, size, width).mean(axis=2).mean(axis=1)


# [D, 1, mels, frames] to a matrix whose rows run over frames, then mels.
_PATCH = Transform(
    lambda x: x[0][:, 0].transpose(2, 1, 0).reshape(-1, x[0].shape[0]),
    lambda x: (x.reshape(Dasheng.PATCH_FRAMES, Dasheng.MELS, -1).transpose(2, 1, 0)[:, None],),
)
_TIME = Transform(lambda x: x[0][0, :, 0].T, lambda x: (x.T[None, :, None],))
_FREQUENCY = Transform(lambda x: x[0][0, :, 0, 0], lambda x: (x[None, :, None, None],))

BLOCK_TORCH_RULES: Table = (
    *norm("norm1", "attention_norm"),
    *dense("attn.qkv", "attention/qkv"),
    *dense("attn.proj", "attention/out"),
    *norm("norm2", "mlp_norm"),
    *dense("mlp.fc1", "mlp/up"),
    *dense("mlp.fc2", "mlp/down"),
)


def vit_rules(*, patch: Transform, frequency: Transform) -> Table:
    """The table of Dasheng and CED, which differ in their patches and in positions over frequency.

    `encoder.` stands before every key in the Hugging Face layout, which lacks the buffers of the frontend.
    """
    table = (
        *prefixed(LOG_MEL_TORCH_RULES, "", "frontend/"),
        *dense("patch_embed.proj", "patch", weight=patch),
        Rule("time_pos_embed", "time_position", _TIME),
        Rule("freq_pos_embed", "frequency_position", frequency),
        *prefixed(BLOCK_TORCH_RULES, "blocks.{layer}.", "blocks/layers/"),
        *norm("norm", "norm"),
    )
    return prefixed(table, "(|encoder.)", "")


TORCH_RULES: Table = vit_rules(patch=_PATCH, frequency=_FREQUENCY)

Config, Module = DashengConfig, Dasheng

_HEADS = {768: 12, 1280: 16, 1536: 24}
_FIXED: dict[str, Any] = {
    "patch_size": [64, 4],
    "patch_stride": [64, 4],
    "qkv_bias": True,
    "init_values": None,
    "pooling": "mean",
    "block_type": "Block",
    "attention_type": "Attention",
    **LOG_MEL_ARGUMENTS,
}
# These act in training only, or on a classifier that the encoder does not have.
_IGNORED = (
    *("drop_rate", "attn_drop_rate", "drop_path_rate", "time_patch_out", "freq_patch_out"),
    *("wavtransforms", "spectransforms", "eval_avg", "outputdim"),
)


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> DashengConfig:
    """Sizes from `dasheng`'s constructor arguments or HF config.json, the rest from tensor shapes.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    sizes = arguments(
        given.get("encoder_kwargs", given),
        family="dasheng",
        sizes=VIT_SIZES,
        fixed=_FIXED,
        ignored=_IGNORED,
    )
    frames = sizes.get("target_length") or Dasheng.PATCH_FRAMES * dimension(shapes, "time_pos_embed", 3)
    return DashengConfig(
        **vit_sizes(shapes, sizes, _HEADS, family="dasheng"),
        chunk_tokens=frames // Dasheng.PATCH_FRAMES,
    )


# Constructor arguments of the vision transformers that Dasheng and CED are.
VIT_SIZES = ("embed_dim", "depth", "num_heads", "target_length", "mlp_ratio")


def vit_sizes(
    shapes: Shapes, sizes: Mapping[str, Any], published: Mapping[int, int], *, family: str
) -> dict[str, Any]:
    """Width, layers, heads and MLP ratio: as `sizes` gives them, else from tensor shapes.

    Raises:
        GlapError: sizes that nothing tells.
    """
    width = sizes.get("embed_dim") or dimension(shapes, "norm.weight", 0)
    return {
        "width": width,
        "layers": sizes.get("depth") or layers(shapes, "blocks."),
        "heads": heads(width, sizes.get("num_heads"), published, family=family),
        "mlp_ratio": float(sizes.get("mlp_ratio") or dimension(shapes, "blocks.0.mlp.fc1.weight", 0) / width),
    }


def config_to_torch(config: DashengConfig) -> dict[str, Any]:
    """The constructor arguments that `config_from_torch` reads as `config`."""
    return {
        **vit_arguments(config),
        "target_length": config.chunk_tokens * Dasheng.PATCH_FRAMES,
        "patch_size": [Dasheng.MELS, Dasheng.PATCH_FRAMES],
        "patch_stride": [Dasheng.MELS, Dasheng.PATCH_FRAMES],
    }


def vit_arguments(config: Any) -> dict[str, Any]:
    """What `vit_sizes` reads, from a config of Dasheng or CED."""
    return {
        "embed_dim": config.width,
        "depth": config.layers,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
    }


def compat(config: DashengConfig) -> DashengConfig:
    """`config` with the quirks of PyPI `dasheng` 0.0.9."""
    return dataclasses.replace(config, mode="dasheng")
