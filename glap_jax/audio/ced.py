"""CED: a ViT over 16 x 16 patches of a log-mel (Dinkel et al., 2024; github RicherMans/CED)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from glap_jax.audio import packed
from glap_jax.audio.dasheng import VIT_SIZES, vit_arguments, vit_rules, vit_sizes
from glap_jax.audio.frontend import LOG_MEL_ARGUMENTS, LogMel
from glap_jax.convert.constructor import HUGGING_FACE, Shapes, arguments, dimension
from glap_jax.convert.rules import Extra, Table, Transform
from glap_jax.drawing import Masking, chances, fold, keep, least, quota, require_rate, split
from glap_jax.layers import Block, Encoded, Remat, Stack, layer_norm, linear, masked_mean

Mode = Literal["sound", "ced"]


@dataclasses.dataclass(frozen=True)
class CedConfig:
    """Sizes of a CED encoder.

    Attributes:
        width: transformer width D.
        layers: number of blocks L.
        heads: attention heads H.
        mlp_ratio: hidden width of the MLP over D.
        chunk_frames: frames of 10 ms encoded together; longer audio is cut into such chunks. Frames after a
            chunk's last whole patch are unused (of 1012, four).
        mode: `sound` (default): padding never changes a result. `ced` reproduces the reference for
            verification: top_db against the batch's loudest bin; lengths ignored; the normalised frames of a
            last chunk padded with zeros that count; a last chunk that is exactly full thrown away; mean of
            the chunks' means.
        patch_dropout: share of the steps in time, and of the bands, that training leaves out of each chunk
            (ML-CLAP: 0.25; the reference draws them once for a whole batch).
        masking: what training blanks of the normalised log-mel.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    chunk_frames: int = 1012
    mode: Mode = "sound"
    patch_dropout: float = 0.0
    masking: Masking = Masking()
    family: Literal["ced"] = "ced"

    def __post_init__(self) -> None:
        require_rate("patch_dropout", self.patch_dropout)

    @classmethod
    def tiny(cls) -> "CedConfig":
        """5.5 M parameters, 192/12/3."""
        return cls(width=192, heads=3)

    @classmethod
    def mini(cls) -> "CedConfig":
        """9.6 M parameters, 256/12/4."""
        return cls(width=256, heads=4)

    @classmethod
    def small(cls) -> "CedConfig":
        """22 M parameters, 384/12/6."""
        return cls(width=384, heads=6)

    @classmethod
    def base(cls) -> "CedConfig":
        """86 M parameters, 768/12/12: ML-CLAP's audio tower."""
        return cls()

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "Ced":
        """A module with fresh parameters that computes in `dtype`."""
        return Ced(self, dtype=dtype, remat=remat, rngs=rngs)


class Ced(nnx.Module):
    """Waveform at 16 kHz -> tokens of 160 ms x 16 mels, their mask, and their masked mean.

    The tokens of a chunk run over its four bands of mels and, inside a band, over time; chunks follow one
    another, each encoded alone with positions from 0. A band of a clip has (1 + samples // 160) // 16 tokens
    (at least one: shorter clips are padded with zeros to 2400 samples).
    """

    PATCH = 16
    BANDS = LogMel.MELS // PATCH
    SAMPLE_RATE = LogMel.SAMPLE_RATE
    # Samples of a step in time, in whole numbers of which clips share rows.
    SLOT = PATCH * LogMel.HOP

    def __init__(self, config: CedConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        self.chunk_samples = config.chunk_frames * LogMel.HOP
        self.draws = config.patch_dropout > 0 or config.masking.acts
        width = config.width
        steps = config.chunk_frames // self.PATCH
        normal = nnx.initializers.truncated_normal(0.02)
        self.frontend = LogMel(batch_wide=config.mode != "sound", shortest=(self.PATCH - 1) * LogMel.HOP)
        self.patch = linear(self.PATCH**2, width, dtype=dtype, rngs=rngs)
        self.time_position = nnx.Param(normal(rngs.params(), (steps, width), jnp.float32))
        self.frequency_position = nnx.Param(normal(rngs.params(), (self.BANDS, width), jnp.float32))

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

        With a `key` for each clip, as in training, it leaves out and blanks what its configuration says.
        """
        mel, frames = self.features(waveform, lengths)
        if key is not None:
            key, blanking = split(key)
            mel = self.config.masking(mel, frames, blanking)
        return self.from_features(mel, frames, key)

    def encode_packed(
        self,
        waveform: Float[Array, "R T"],
        spans: packed.Spans,
        *,
        key: Key[Array, "R P"] | None = None,
    ) -> Encoded:
        """Encodes clips of up to a chunk that share rows; the mask says which tokens R N are of any clip.

        With a `key` for each clip it leaves out, and blanks, what a call does; tokens that are left out are
        still there, of no clip.
        """
        mel, frames = self.frontend.of_packed(waveform, spans, slot=self.SLOT)
        counts = self.frontend.frames(spans.lengths)
        if key is not None:
            key, blanking = split(key)
            mel = packed.blanked(self.config.masking, mel, frames, counts, blanking)
        x, counts = self._patches(mel), counts // self.PATCH
        where = packed.slots(spans.starts, counts, x.shape[2])
        position = self.frequency_position[:, None] + self.time_position[where.offset][:, None]
        x = (x + position.astype(x.dtype)).reshape(x.shape[0], -1, x.shape[-1])
        stay = None if key is None or not self.config.patch_dropout else self._staying(where, counts, key)
        where = packed.Slots(*(jnp.tile(each, self.BANDS) for each in where))
        where = where if stay is None else where.only(stay)
        x = self.norm(self.blocks(x, where.number))
        return Encoded(x, where.number > 0, packed.pooled(x, where, spans.place))

    def features(
        self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None
    ) -> tuple[Float[Array, "B S F"], Bool[Array, "B S"]]:
        """Normalised log-mel, and which frames are real."""
        # The reference transforms the padded row as if all of it were sound.
        return self.frontend(waveform, lengths if self.config.mode == "sound" else None)

    def from_features(
        self, mel: Float[Array, "B S F"], frames: Bool[Array, "B S"], key: Key[Array, " B"] | None = None
    ) -> Encoded:
        """Encodes what `features` gives; with a `key` for each clip it leaves patches out."""
        x, real = self._embed(*self._chunked(mel, frames))
        if key is not None and self.config.patch_dropout:
            chunks = jnp.arange(x.shape[0] // mel.shape[0])
            x, real = self._thinned(x, real, fold(key[:, None], chunks[None]).reshape(-1))
        x = self.norm(self.blocks(x, real))
        batch = mel.shape[0]
        means = x.astype(jnp.float32).mean(axis=1).reshape(batch, -1, x.shape[-1])
        x, real = x.reshape(batch, -1, x.shape[-1]), real.reshape(batch, -1)
        return Encoded(x, real, masked_mean(x, real) if self.config.mode == "sound" else means.mean(axis=1))

    def _chunked(
        self, mel: Float[Array, "B S F"], frames: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "BC S2 F"], Bool[Array, "BC S2"]]:
        """Chunks as rows, the last one padded; `frames` is True where a frame counts."""
        size, total = self.config.chunk_frames, mel.shape[1]
        if total <= size:
            return mel, frames
        surplus = -total % size
        quirks = self.config.mode == "ced"
        mel = jnp.pad(mel, ((0, 0), (0, surplus), (0, 0)))
        frames = jnp.pad(frames, ((0, 0), (0, surplus)), constant_values=quirks)
        if quirks and not surplus:
            mel, frames = mel[:, :-size], frames[:, :-size]
        return mel.reshape(-1, size, mel.shape[-1]), frames.reshape(-1, size)

    def _embed(
        self, mel: Float[Array, "B S F"], frames: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
        """Patches with positions, and which are real: those whose last frame is."""
        x = self._patches(mel)
        rows, _, steps, _ = x.shape
        position = self.frequency_position[:, None] + self.time_position[None, :steps]
        x = (x + position.astype(x.dtype)).reshape(rows, self.BANDS * steps, -1)
        return x, jnp.tile(frames[:, self.PATCH - 1 :: self.PATCH][:, :steps], (1, self.BANDS))

    def _patches(self, mel: Float[Array, "B S F"]) -> Float[Array, "B Y N D"]:
        """Whole patches, over bands and steps in time."""
        rows, size = mel.shape[0], self.PATCH
        steps = mel.shape[1] // size
        mel = mel[:, : steps * size].reshape(rows, steps, size, self.BANDS, size)
        return self.patch(mel.transpose(0, 3, 1, 4, 2).reshape(rows, self.BANDS, steps, size * size))

    def _thinned(
        self, x: Float[Array, "B N D"], real: Bool[Array, "B N"], key: Key[Array, " B"]
    ) -> tuple[Float[Array, "B N2 D"], Bool[Array, "B N2"]]:
        """`x` and `real` without the steps and bands that `key` leaves out; the rest keep their positions."""
        rows, _, width = x.shape
        rate, (for_time, for_band) = self.config.patch_dropout, split(key)
        real = real.reshape(rows, self.BANDS, -1)
        time, real_steps = keep(for_time, real[:, 0], rate)
        band, _ = keep(for_band, jnp.ones((rows, self.BANDS), bool), rate)
        x = jnp.take_along_axis(x.reshape(*real.shape, width), band[:, :, None, None], axis=1)
        x = jnp.take_along_axis(x, time[:, None, :, None], axis=2)
        return x.reshape(rows, -1, width), jnp.tile(real_steps, (1, band.shape[1]))

    def _staying(
        self, where: packed.Slots, counts: Int[Array, "R P"], key: Key[Array, "R P"]
    ) -> Bool[Array, "R N2"]:
        """Which patches `_thinned` would leave of clips that are one chunk each, `counts` steps long."""
        # The first chunk's.
        rate, (for_time, for_band) = self.config.patch_dropout, split(fold(key, jnp.zeros((), jnp.int32)))
        own = jax.vmap(lambda key, which: key[which])(for_time, jnp.maximum(where.number - 1, 0))
        time = least(chances(own, where.offset), where.number, where.of_clip(quota(counts, rate)))
        drawn = chances(for_band[..., None], jnp.arange(self.BANDS))
        whole = jnp.zeros(drawn.shape, jnp.int32)
        band = least(drawn, whole, quota(whole + self.BANDS, rate)).astype(jnp.int32)
        bands = jnp.concatenate([where.of_clip(each) for each in jnp.unstack(band, axis=-1)], axis=1)
        return jnp.tile(time, self.BANDS) & (bands > 0)


# [D, 1, mels, frames] to a matrix whose rows run over mels, then frames.
_PATCH = Transform(
    lambda x: x[0].reshape(x[0].shape[0], -1).T,
    lambda x: (x.T.reshape(-1, 1, Ced.PATCH, Ced.PATCH),),
)
_FREQUENCY = Transform(lambda x: x[0][0, :, :, 0].T, lambda x: (x.T[None, :, :, None],))

TORCH_RULES: Table = (
    *vit_rules(patch=_PATCH, frequency=_FREQUENCY),
    # The classifier of AudioSet's 527 labels: a LayerNorm and a linear layer.
    *(Extra(f"outputlayer.{layer}.{kind}") for layer in "01" for kind in ("weight", "bias")),
)

Config, Module = CedConfig, Ced

_HEADS = {192: 3, 256: 4, 384: 6, 768: 12}
_FIXED: dict[str, Any] = {
    "patch_size": Ced.PATCH,
    "patch_stride": Ced.PATCH,
    "qkv_bias": True,
    "init_values": None,
    "pad_last": True,
    **LOG_MEL_ARGUMENTS,
}
# These act in training only, or on the classifier.
_IGNORED = (
    *("name", "outputdim", "pooling", "eval_avg", "drop_rate", "attn_drop_rate", "drop_path_rate"),
    *("time_patch_out", "freq_patch_out", "wavtransforms", "spectransforms"),
    *HUGGING_FACE,
)


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> CedConfig:
    """Sizes from `AudioTransformer`'s constructor arguments or HF config.json, the rest from tensor shapes.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    sizes = arguments(given, family="ced", sizes=VIT_SIZES, fixed=_FIXED, ignored=_IGNORED)
    frames = sizes.get("target_length") or Ced.PATCH * dimension(shapes, "time_pos_embed", 3)
    # Positions show whole patches only; all published models have four frames more.
    published = frames == CedConfig.chunk_frames // Ced.PATCH * Ced.PATCH and "target_length" not in sizes
    return CedConfig(
        **vit_sizes(shapes, sizes, _HEADS, family="ced"),
        chunk_frames=CedConfig.chunk_frames if published else frames,
    )


def config_to_torch(config: CedConfig) -> dict[str, Any]:
    """The constructor arguments that `config_from_torch` reads as `config`."""
    return {
        **vit_arguments(config),
        "target_length": config.chunk_frames,
        "patch_size": Ced.PATCH,
        "patch_stride": Ced.PATCH,
    }


def compat(config: CedConfig) -> CedConfig:
    """`config` with the quirks of github RicherMans/CED, which ML-CLAP shares."""
    return dataclasses.replace(config, mode="ced")
