"""BEATs: a transformer over 16 x 16 patches of a Kaldi filterbank (Chen et al., 2023; microsoft/unilm)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from glap_jax.audio.context import EPSILON, Context, conv_positions, gate
from glap_jax.audio.frontend import KALDI_HOP, KALDI_WINDOW, kaldi_fbank, kaldi_frames
from glap_jax.convert.constructor import Shapes, arguments, dimension, heads, layers
from glap_jax.convert.rules import Repeat, Rule, Same, Table, Transform, dense, fused, norm, prefixed
from glap_jax.errors import GlapError
from glap_jax.layers import Encoded, Placement, Remat, layer_norm, linear, masked_mean


@dataclasses.dataclass(frozen=True)
class BeatsConfig:
    """Sizes of a BEATs encoder.

    Attributes:
        width: transformer width D.
        layers: number of blocks L.
        heads: attention heads H.
        hidden: width of the MLP.
        patch_width: channels of the patch embedding, projected to `width` where that differs.
        placement: norms before or after attention and MLP.
        deep_norm: under `post`, weigh the unchanged path by (2 L)^(1/4) (Wang et al., 2022).
        position_taps: kernel of the convolutional positions.
        position_groups: their groups.
        buckets: of relative positions.
        farthest: tokens from which on all positions share a bucket.
        classes: of a fine-tuned model's predictor; 0 for none.
        mode: `sound` (default): padding never changes a result. `glap`: the quirks of glap-model 0.0.13:
            one sample too many counts as real, a frame or token is real if any of its share of the row is,
            and `pooled` is the mean over all tokens, padding included.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    patch_width: int = 512
    placement: Placement = "post"
    deep_norm: bool = True
    position_taps: int = 128
    position_groups: int = 16
    buckets: int = 320
    farthest: int = 800
    classes: int = 0
    mode: Literal["sound", "glap"] = "sound"
    family: Literal["beats"] = "beats"

    @classmethod
    def base(cls) -> "BeatsConfig":
        """90 M parameters, 768/12/12: the pre-trained models (iterations 1 to 3+)."""
        return cls()

    @classmethod
    def base_finetuned(cls) -> "BeatsConfig":
        """The models fine-tuned on AudioSet, with a predictor of its 527 classes."""
        return cls(classes=527)

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "Beats":
        """A module with fresh parameters that computes in `dtype`."""
        return Beats(self, dtype=dtype, remat=remat, rngs=rngs)


MELS = 128
# The paper's statistics of AudioSet.
MEAN, DEVIATION = 15.41663, 6.55582


class Beats(nnx.Module):
    """Waveform at 16 kHz -> tokens of 160 ms x 16 mels, their mask, and their masked mean.

    A clip has 8 tokens, from low to high frequencies, for each 16 whole frames of its 1 + (n - 400) // 160;
    shorter clips are padded with zeros to 16 frames.
    """

    SAMPLE_RATE = 16_000
    PATCH = 16
    # Tokens of one step in time.
    BANDS = MELS // PATCH
    SHORTEST = KALDI_WINDOW + (PATCH - 1) * KALDI_HOP

    def __init__(self, config: BeatsConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        width, patches = config.width, config.patch_width
        self.patch = linear(self.PATCH**2, patches, bias=False, dtype=dtype, rngs=rngs)
        self.patch_norm = layer_norm(patches, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.projection = None if patches == width else linear(patches, width, dtype=dtype, rngs=rngs)
        self.context = Context(
            config,
            gate="query",
            buckets=config.buckets,
            farthest=config.farthest,
            residual=(2 * config.layers) ** 0.25 if config.deep_norm else 1.0,
            dtype=dtype,
            remat=remat,
            rngs=rngs,
        )
        self.predictor = linear(width, config.classes, dtype=dtype, rngs=rngs) if config.classes else None

    def __call__(self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None = None) -> Encoded:
        """Encodes clips of up to T samples in [-1, 1]; `lengths` counts the real samples of each row."""
        fbank = self.frontend(waveform, lengths)
        samples = max(waveform.shape[1], self.SHORTEST)
        x = self.patch_norm(self.patch(self._patches(fbank)))
        if self.projection is not None:
            x = self.projection(x)
        real = self._real(samples, fbank.shape[1], lengths)
        real = jnp.broadcast_to(real, x.shape[:2])
        x = self.context(x, real)
        if self.config.mode == "glap":
            return Encoded(x, real, jnp.mean(x.astype(jnp.float32), axis=1))
        return Encoded(x, real, masked_mean(x, real))

    def frontend(
        self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None
    ) -> Float[Array, "B S F"]:
        """The normalised filterbank; samples beyond a clip's length count as zeros."""
        waveform = waveform.astype(jnp.float32)
        if lengths is not None and self.config.mode == "sound":
            waveform = jnp.where(jnp.arange(waveform.shape[1]) < lengths[:, None], waveform, 0.0)
        waveform = jnp.pad(waveform, ((0, 0), (0, max(0, self.SHORTEST - waveform.shape[1]))))
        return (kaldi_fbank(waveform, MELS) - MEAN) / (2.0 * DEVIATION)

    def probabilities(
        self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None = None
    ) -> Float[Array, "B C"]:
        """Of each class, by a fine-tuned model: sigmoid of the mean logits of real tokens, float32.

        Raises:
            GlapError: the model was not fine-tuned.
        """
        if self.predictor is None:
            raise GlapError("beats: this model has no classes; load one that was fine-tuned on AudioSet")
        found = self(waveform, lengths)
        logits = self.predictor(masked_mean(found.tokens, found.mask))
        return jax.nn.sigmoid(logits.astype(jnp.float32))

    def _patches(self, fbank: Float[Array, "B S F"]) -> Float[Array, "B N P"]:
        """Patches of 16 frames x 16 mels, whole ones only, in time-major order."""
        batch, steps = fbank.shape[0], fbank.shape[1] // self.PATCH
        cut = fbank[:, : steps * self.PATCH].reshape(batch, steps, self.PATCH, self.BANDS, self.PATCH)
        return cut.transpose(0, 1, 3, 2, 4).reshape(batch, steps * self.BANDS, self.PATCH**2)

    def _real(self, samples: int, frames: int, lengths: Int[Array, " B"] | None) -> Bool[Array, "#B N"]:
        """Which tokens belong to each clip."""
        tokens = frames // self.PATCH * self.BANDS
        if lengths is None:
            return jnp.ones((1, tokens), bool)
        lengths = lengths.astype(jnp.int32)[:, None]
        if self.config.mode == "glap":
            by_sample = jnp.arange(samples) <= lengths
            return _any_of_each_share(_any_of_each_share(by_sample, frames), tokens)
        lengths = jnp.clip(lengths, self.SHORTEST, samples)
        steps = kaldi_frames(lengths) // self.PATCH
        return jnp.arange(tokens) // self.BANDS < steps


def _any_of_each_share(real: Bool[Array, "B X"], parts: int) -> Bool[Array, "B Y"]:
    """Cuts rows into `parts` equal shares, dropping a remainder at the end."""
    share = real.shape[1] // parts
    return real[:, : parts * share].reshape(real.shape[0], parts, share).any(axis=2)


# [D, 1, frames, mels] to a matrix whose rows run over frames, then mels.
_PATCH = Transform(
    lambda x: x[0].reshape(x[0].shape[0], -1).T,
    lambda x: (x.T.reshape(-1, 1, Beats.PATCH, Beats.PATCH),),
)

BLOCK_TORCH_RULES: Table = (
    *fused(*(f"self_attn.{part}_proj" for part in "qkv"), "attention/qkv"),
    *dense("self_attn.out_proj", "attention/out"),
    *gate("self_attn.grep_linear", "self_attn.grep_a", "attention"),
    *norm("self_attn_layer_norm", "attention_norm"),
    *dense("fc1", "mlp/up"),
    *dense("fc2", "mlp/down"),
    *norm("final_layer_norm", "mlp_norm"),
)

_RELATIVE = "self_attn.relative_attention_bias.weight"
TORCH_RULES: Table = (
    Rule("patch_embedding.weight", "patch/kernel", _PATCH),
    *norm("layer_norm", "patch_norm"),
    *dense("post_extract_proj", "projection"),
    *conv_positions("encoder.pos_conv.0", "context/positions", old=True),
    *norm("encoder.layer_norm", "context/norm"),
    Rule(f"encoder.layers.0.{_RELATIVE}", "context/relative/embedding", Same),
    Repeat(f"encoder.layers.{{layer}}.{_RELATIVE}"),
    *prefixed(BLOCK_TORCH_RULES, "encoder.layers.{layer}.", "context/blocks/layers/"),
    *dense("predictor", "predictor"),
)

Config, Module = BeatsConfig, Beats

_SIZES = {
    "width": "encoder_embed_dim",
    "layers": "encoder_layers",
    "heads": "encoder_attention_heads",
    "hidden": "encoder_ffn_embed_dim",
    "patch_width": "embed_dim",
    "position_taps": "conv_pos",
    "position_groups": "conv_pos_groups",
    "buckets": "num_buckets",
    "farthest": "max_distance",
}
_FIXED: dict[str, Any] = {
    "input_patch_size": Beats.PATCH,
    "conv_bias": False,
    "activation_fn": "gelu",
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}
# These act in training only.
_IGNORED = (
    *("layer_wise_gradient_decay_ratio", "dropout", "attention_dropout", "activation_dropout"),
    *("encoder_layerdrop", "dropout_input", "predictor_dropout", "predictor_class"),
)
_FLAGS = ("layer_norm_first", "deep_norm", "finetuned_model")


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> BeatsConfig:
    """Sizes from a checkpoint's `cfg` (unilm's `BEATsConfig`), the rest from tensor shapes.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    found = arguments(
        given,
        family="beats",
        sizes=_SIZES.values(),
        fixed=_FIXED,
        ignored=_IGNORED,
        choices=dict.fromkeys(_FLAGS, (False, True)),
    )
    width = found.get("encoder_embed_dim") or dimension(shapes, "encoder.layer_norm.weight", 0)
    direction = "encoder.pos_conv.0.weight_v"
    derived: dict[str, Any] = {
        "width": width,
        "layers": layers(shapes, "encoder.layers."),
        "heads": heads(width, found.get("encoder_attention_heads"), {768: 12}, family="beats"),
        "hidden": dimension(shapes, "encoder.layers.0.fc1.weight", 0),
        "patch_width": dimension(shapes, "layer_norm.weight", 0),
        "position_taps": dimension(shapes, direction, 2),
        "position_groups": width // dimension(shapes, direction, 1),
        "buckets": dimension(shapes, f"encoder.layers.0.{_RELATIVE}", 0),
    }
    derived |= {field: found[name] for field, name in _SIZES.items() if name in found}
    first = found.get("layer_norm_first", False)
    tuned = found.get("finetuned_model", "predictor.weight" in shapes)
    return BeatsConfig(
        **derived,
        placement="pre" if first else "post",
        deep_norm=found.get("deep_norm", not first),
        classes=dimension(shapes, "predictor.weight", 0) if tuned else 0,
    )


def config_to_torch(config: BeatsConfig) -> dict[str, Any]:
    """The arguments that `config_from_torch` reads as `config`."""
    return {
        **_FIXED,
        **{name: getattr(config, field) for field, name in _SIZES.items()},
        "layer_norm_first": config.placement == "pre",
        "deep_norm": config.deep_norm,
        "finetuned_model": config.classes > 0,
        **({"predictor_class": config.classes} if config.classes else {}),
    }


def compat(config: BeatsConfig) -> BeatsConfig:
    """`config` with the quirks of glap-model 0.0.13's wrapper."""
    return dataclasses.replace(config, mode="glap")
