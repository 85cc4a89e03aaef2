"""The encoders that towers can be, by name: `whisper.base` is `WhisperConfig.base()`.

A family alone, such as `whisper`, stands for the default sizes of its configuration.
"""

import argparse
import dataclasses
import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

import jax.numpy as jnp
from flax import nnx

from glap_jax import families
from glap_jax.audio.beats import BeatsConfig
from glap_jax.audio.ced import CedConfig
from glap_jax.audio.clara import ClaraAudioConfig
from glap_jax.audio.clasp_tower import ClaspAudioConfig
from glap_jax.audio.dasheng import DashengConfig
from glap_jax.audio.efficientnet import EfficientNetConfig
from glap_jax.audio.hubert import HubertConfig
from glap_jax.audio.sonar_speech import SonarSpeechConfig
from glap_jax.audio.w2v_bert import W2vBertConfig
from glap_jax.audio.wav2vec2 import Wav2Vec2Config
from glap_jax.audio.wavlm import WavLMConfig
from glap_jax.audio.whisper import WhisperConfig
from glap_jax.errors import GlapError
from glap_jax.text.bert import BertConfig
from glap_jax.text.clara import ClaraTextConfig
from glap_jax.text.sonar import SonarConfig
from glap_jax.text.xlm_roberta import XlmRobertaConfig

AudioConfig = (
    DashengConfig
    | CedConfig
    | BeatsConfig
    | WhisperConfig
    | Wav2Vec2Config
    | HubertConfig
    | WavLMConfig
    | SonarSpeechConfig
    | W2vBertConfig
    | ClaraAudioConfig
    | EfficientNetConfig
    | ClaspAudioConfig
)
TextConfig = SonarConfig | BertConfig | XlmRobertaConfig | ClaraTextConfig

C = TypeVar("C", bound=Any)

# Configurations by family.
AUDIO: dict[str, Any] = {kind.family: kind for kind in get_args(AudioConfig)}
TEXT: dict[str, Any] = {kind.family: kind for kind in get_args(TextConfig)}


def names(kinds: Mapping[str, Any]) -> list[str]:
    """What `variant` takes of `kinds` (`AUDIO`, `TEXT` or both), family by family."""
    found = []
    for family, kind in kinds.items():
        variants = [name for name, value in vars(kind).items() if isinstance(value, classmethod)]
        found += [family, *(f"{family}.{name}" for name in variants)]
    return found


def variant(name: str, *, kinds: Mapping[str, Any] | None = None, vocabulary: int | None = None) -> Any:
    """The configuration that `name` stands for: `family`, or `family.variant`, such as `whisper.base`.

    Args:
        name: one of `names(kinds)`.
        kinds: which encoders count, `AUDIO` or `TEXT`; by default both.
        vocabulary: rows of the embedding, for variants without a published tokenizer (`sonar.tiny`).

    Raises:
        GlapError: no such encoder (the nearest and all names are told), or one that needs a vocabulary.
    """
    kinds = {**AUDIO, **TEXT} if kinds is None else kinds
    known = names(kinds)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise GlapError(f"'{name}' is no encoder here; {hint}There are {', '.join(known)}")
    family, _, which = name.partition(".")
    make = getattr(kinds[family], which) if which else kinds[family]
    if not which or "vocabulary" not in inspect.signature(make).parameters:
        return make()
    if vocabulary is None:
        raise GlapError(f"'{name}' takes the vocabulary of a tokenizer; say how large that is")
    return make(vocabulary)


def sample_rate(config: Any) -> int:
    """Hz that the audio tower of this configuration works at."""
    return getattr(config, "sample_rate", None) or families.family_module(config.family).Module.SAMPLE_RATE


def slot(config: Any, samples: int) -> int:
    """Samples of a slot, in whole numbers of which clips of up to `samples` share rows (`Dasheng.SLOT`).

    Raises:
        GlapError: the audio tower of this configuration cannot hear clips apart that share a row.
    """
    module = nnx.eval_shape(lambda: config.build(dtype=jnp.float32, remat="none", rngs=nnx.Rngs(0)))
    found, reason = getattr(module, "SLOT", None), ""
    if found is None:
        reason = f"an audio tower of family '{config.family}' would hear a clip's neighbours in its row"
    elif config.mode != "sound":
        reason = f"the audio tower's mode '{config.mode}' hears whole rows"
    elif getattr(config, "window", "clip") != "clip":
        reason = f"'model.audio.window' is {config.window}, in which clips are not heard alone as by clip"
    elif samples > module.chunk_samples:
        seconds = module.chunk_samples / module.SAMPLE_RATE
        reason = f"'data.crop_seconds' is longer than the {seconds:g} s that the audio tower hears at once"
    if found is None or reason:
        raise GlapError(f"config: 'data.layout.kind' is packed, and {reason}; set it to bucketed")
    return found


def pooled_width(config: Any) -> int:
    """Width of what the tower of this configuration pools its tokens to."""
    return getattr(config, "pooled_width", config.width)


_USAGE = """  --audio-encoder NAME  exchanges the audio tower and sets data.sample-rate to its rate
  --text-encoder NAME   exchanges the text tower; --data.tokenizer names its tokenizer

An exchanged tower begins at random, or from --parts TOWER FOLDER; the other one from the config's `initial`.
The options below change single values, those of an exchanged tower too.
NAME is a family, or a family and a variant such as whisper.base:

{lines}"""


def usage() -> str:
    """The options that `exchange` takes, and all encoders, a line a family."""
    lines = [
        f"  {family:<22}{' '.join(names({family: kind})[1:]).replace(f'{family}.', '.')}"
        for family, kind in {**AUDIO, **TEXT}.items()
    ]
    return _USAGE.format(lines="\n".join(lines))


def exchange(config: C, words: Sequence[str]) -> tuple[C, list[str]]:
    """Carries out `--audio-encoder NAME` and `--text-encoder NAME`.

    An audio tower brings its sample rate along; text variants without a published tokenizer keep the rows of
    the tower that they replace. Of the folder that the run was to begin from (`initial`, unless `words` name
    another), the tower that stays is left, as one of `parts`.

    Args:
        config: a `TrainConfig`.
        words: of the command line.

    Returns:
        The changed configuration, and the other words.

    Raises:
        GlapError: no such encoder, or no name.
    """
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for tower in ("audio", "text"):
        options.add_argument(f"--{tower}-encoder", f"--{tower}_encoder")
    try:
        chosen, rest = options.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise GlapError(f"{error}, such as whisper.base or bert.base") from None
    model, data, start = config.model, config.data, {}
    if chosen.audio_encoder is not None:
        audio = variant(chosen.audio_encoder, kinds=AUDIO)
        model = dataclasses.replace(model, audio=audio)
        data = dataclasses.replace(data, sample_rate=sample_rate(audio))
    if chosen.text_encoder is not None:
        text = variant(chosen.text_encoder, kinds=TEXT, vocabulary=model.text.vocabulary)
        model = dataclasses.replace(model, text=text)
    if model != config.model and config.initial is not None and "--initial" not in _options(rest):
        kept = [tower for tower in ("audio", "text") if vars(chosen)[f"{tower}_encoder"] is None]
        start = {"initial": None, "parts": (*((tower, config.initial) for tower in kept), *config.parts)}
    return dataclasses.replace(config, model=model, data=data, **start), rest


def _options(words: Sequence[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}
