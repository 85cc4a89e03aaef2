"""CLASP's audio tower: speech features and a picture of the spectrogram, fused into the text's space.

There is no published layout of the three together: here the fusion's keys stand as its notebook writes them,
the encoders' own below `speech_encoder.` and `image_encoder.`.

Source: github language-modeling-lab/CLASP 905ce97, notebooks clasp-inference and models-data-playground
(Abootorabi and Asgari, 2024). The reference computes the features once and trains the fusion on them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from glap_jax.audio import clasp, efficientnet, hubert, picture, wav2vec2
from glap_jax.audio.clasp import ClaspFusion, ClaspFusionConfig
from glap_jax.audio.efficientnet import EfficientNetConfig
from glap_jax.audio.frontend import clean, resample
from glap_jax.audio.hubert import HubertConfig
from glap_jax.audio.speech import SpeechEncoder
from glap_jax.audio.wav2vec2 import Wav2Vec2Config
from glap_jax.convert.constructor import Shapes, arguments, below
from glap_jax.convert.rules import Table, prefixed
from glap_jax.errors import GlapError
from glap_jax.heads import unit
from glap_jax.layers import Encoded, Remat


@dataclasses.dataclass(frozen=True)
class ClaspAudioConfig:
    """Parts of CLASP's audio tower.

    Attributes:
        speech: encoder of the speech; its tokens are averaged over time.
        image: network that sees the spectrogram; its logits are the features.
        fusion: what joins them; its `speech` and `image` are the widths of those features.
    """

    speech: HubertConfig | Wav2Vec2Config = HubertConfig.large()
    image: EfficientNetConfig = EfficientNetConfig.b7()
    fusion: ClaspFusionConfig = ClaspFusionConfig()
    family: Literal["clasp_audio"] = "clasp_audio"

    def __post_init__(self) -> None:
        for name, width in (("speech", self.speech.width), ("image", self.image.width)):
            if getattr(self.fusion, name) != width:
                raise GlapError(
                    f"config: 'audio.fusion.{name}' is {getattr(self.fusion, name)} and 'audio.{name}' gives "
                    f"{width} features; make them equal"
                )

    @property
    def width(self) -> int:
        """Width of the fused vector."""
        return self.fusion.width

    @property
    def mode(self) -> str:
        """Whether padding changes a result, as the speech encoder says."""
        return self.speech.mode

    @classmethod
    def hubert(cls) -> "ClaspAudioConfig":
        """HuBERT large and EfficientNet-B7, concatenated: the published model."""
        return cls()

    @classmethod
    def hubert_gating(cls) -> "ClaspAudioConfig":
        """HuBERT large and EfficientNet-B7, gated."""
        return cls(fusion=ClaspFusionConfig.hubert_gating())

    @classmethod
    def wav2vec2(cls) -> "ClaspAudioConfig":
        """wav2vec 2.0 base and EfficientNet-B7, concatenated."""
        return cls(speech=Wav2Vec2Config.base(), fusion=ClaspFusionConfig.wav2vec2())

    def build(self, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> "ClaspAudio":
        """A module with fresh parameters that computes in `dtype`."""
        return ClaspAudio(self, dtype=dtype, remat=remat, rngs=rngs)


class ClaspAudio(nnx.Module):
    """Waveform at 22.05 kHz -> the fused vector as `pooled`, the speech encoder's tokens beside it.

    The picture shows what lies up to 11 kHz, which 16 kHz could not carry; the speech encoder gets the clip
    resampled from there, at the peak 1 that the reference gives it. The fusion gets both features at unit
    norm, on which the published one was trained.
    """

    SAMPLE_RATE = picture.SAMPLE_RATE
    # In training the fusion takes a key: it drops values out, and uses and stores the batch's statistics.
    draws = True

    def __init__(self, config: ClaspAudioConfig, *, dtype: DTypeLike, remat: Remat = "none", rngs: nnx.Rngs):
        self.config = config
        self.speech = config.speech.build(dtype=dtype, remat=remat, rngs=rngs)
        self.image = config.image.build(dtype=dtype, remat=remat, rngs=rngs)
        self.fusion = ClaspFusion(config.fusion, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        waveform: Float[Array, "B T"],
        lengths: Int[Array, " B"] | None = None,
        *,
        key: Key[Array, " B"] | None = None,
    ) -> Encoded:
        """Encodes clips of up to T samples in [-1, 1]; `lengths` counts the real samples of each row.

        With a `key` for each clip, as in training, see `ClaspFusion`, which draws for all from the first one.
        """
        speech = self.encode_speech(waveform, lengths)
        logits = self.image(waveform, lengths).pooled
        fused = self.fusion(unit(speech.pooled), unit(logits), key=None if key is None else key[0])
        return Encoded(speech.tokens, speech.mask, fused.astype(jnp.float32))

    def encode_speech(self, waveform: Float[Array, "B T"], lengths: Int[Array, " B"] | None) -> Encoded:
        """The speech encoder's view of clips at 22.05 kHz."""
        waveform, _ = clean(waveform, lengths)
        peak = jnp.max(jnp.abs(waveform), axis=1, keepdims=True)
        rows, counts = resample(
            waveform / jnp.where(peak > 0.0, peak, 1.0),
            lengths,
            source=self.SAMPLE_RATE,
            target=SpeechEncoder.SAMPLE_RATE,
        )
        return self.speech(rows, None if lengths is None else counts)


SPEECH, IMAGE = "speech_encoder.", "image_encoder."

# HuBERT and wav2vec 2.0 have the same keys.
TORCH_RULES: Table = (
    *prefixed(clasp.TORCH_RULES, "", "fusion/"),
    *prefixed(hubert.TORCH_RULES, SPEECH, "speech/"),
    *prefixed(efficientnet.TORCH_RULES, IMAGE, "image/"),
)

Config, Module = ClaspAudioConfig, ClaspAudio

_ENCODERS: dict[str, Any] = {"hubert": hubert, "wav2vec2": wav2vec2}


def config_from_torch(shapes: Shapes, given: Mapping[str, Any]) -> ClaspAudioConfig:
    """Sizes from `given`, the rest from tensor shapes.

    `given` is `{"fusion": {...}, "speech": {...}, "image": {...}}` with the arguments of the parts' own
    families; the speech encoder is the one that its `model_type` names, HuBERT unless said.

    Raises:
        GlapError: an argument that is unknown or cannot be honoured, or sizes that nothing tells.
    """
    parts = ("fusion", "speech", "image")
    arguments(given, family="clasp_audio", sizes=(), fixed={}, ignored=parts)
    fusion, speech, image = (given.get(part) or {} for part in parts)
    name = speech.get("model_type", "hubert")
    if name not in _ENCODERS:
        raise GlapError(
            f"config of clasp_audio: 'model_type' of 'speech' is {name!r}; give {' or '.join(_ENCODERS)}"
        )
    return ClaspAudioConfig(
        speech=_ENCODERS[name].config_from_torch(below(shapes, SPEECH), speech),
        image=efficientnet.config_from_torch(below(shapes, IMAGE), image),
        fusion=clasp.config_from_torch(shapes, fusion),
    )


def config_to_torch(config: ClaspAudioConfig) -> dict[str, Any]:
    """The arguments that `config_from_torch` reads as `config`."""
    return {
        "fusion": clasp.config_to_torch(config.fusion),
        "speech": _ENCODERS[config.speech.family].config_to_torch(config.speech),
        "image": efficientnet.config_to_torch(config.image),
    }


def compat(config: ClaspAudioConfig) -> ClaspAudioConfig:
    """`config` with the quirk of its speech encoder's reference."""
    return dataclasses.replace(config, speech=hubert.compat(config.speech))
