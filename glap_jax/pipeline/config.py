"""What a run reads: groups of shards, and how an example is made from a record."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, Literal

from glap_jax.errors import GlapError
from glap_jax.pipeline import templates


def _check(config: Any, where: str, **limits: tuple[float | int, float | int]) -> None:
    """Refuses fields of `config` that lie outside of their limits, and ranges whose ends are swapped."""
    for name, (least, most) in limits.items():
        value = getattr(config, name)
        ends = value if isinstance(value, tuple) else (value, value)
        if not all(least <= end <= most for end in ends):
            raise GlapError(f"config: '{where}.{name}' is {value}; it must lie in {least:g} to {most:g}")
        if ends[0] > ends[1]:
            raise GlapError(f"config: '{where}.{name}' is {value}; put the smaller number first")


@dataclasses.dataclass(frozen=True)
class GroupConfig:
    """A sampling stratum.

    Attributes:
        name: what reports call it.
        shards: files or glob patterns, relative to `DataConfig.root`, or URLs; endings tell formats: .tar,
            .tar.gz, .arrayrecord, .jsonl, .tsv, .csv, .parquet (data/README.md).
        weight: its share of the examples, relative to the other groups'.
        weights: shares of the group's examples, one for each entry of `shards`, which is a corpus then. None
            shuffles all clips of the group together.
        language_temperature: T, in drawing a language of n clips (of a corpus, where these are weighed) with
            a probability proportional to n^(1/T): 1 draws clips as they are, more draws rare languages more.
    """

    name: str
    shards: tuple[str, ...]
    weight: float = 1.0
    weights: tuple[float, ...] = ()
    language_temperature: float = 1.0

    def __post_init__(self) -> None:
        for weight in (self.weight, *self.weights):
            if not 0 < weight < math.inf:
                raise GlapError(f"config: group '{self.name}' has weight {weight}; give more than 0")
        if self.weights and len(self.weights) != len(self.shards):
            raise GlapError(
                f"config: group '{self.name}' has {len(self.weights)} weights and {len(self.shards)} entries "
                "in 'shards'; give one for each, or none"
            )
        if not 1 <= self.language_temperature < math.inf:
            raise GlapError(
                f"config: group '{self.name}' has language_temperature {self.language_temperature}; "
                "give 1 or more"
            )


@dataclasses.dataclass(frozen=True)
class BackgroundConfig:
    """Another clip laid under a training clip, and its caption joined to that clip's (CLARA).

    The mixture is weight * clip + (1 - weight) * background, as long as the clip; a shorter background is
    repeated. A background that cannot be used counts as a bad clip, and the clip stays as it is.

    Attributes:
        probability: share of the clips that are mixed.
        shards: files or glob patterns of the backgrounds, as those of a group, relative to `DataConfig.root`.
        groups: training groups whose clips are mixed; none means all.
        weight: range that the clip's weight is drawn from (CLARA: 0.01 to 0.8).
        captions: templates of the joined caption, one of which is drawn: `{caption}` is the clip's caption,
            `{background}` one of the background, other fields are the clip's. The language told is that of
            the clip's caption. A clip whose joined caption is longer than `max_characters` is not mixed.
    """

    probability: float = 0.0
    shards: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    weight: tuple[float, float] = (0.01, 0.8)
    captions: tuple[str, ...] = ("{caption}, background {background}",)

    def __post_init__(self) -> None:
        where = "data.augment.background"
        _check(self, where, probability=(0, 1), weight=(0, 1))
        if self.probability and not (self.shards and self.captions):
            raise GlapError(
                f"config: '{where}.probability' is {self.probability} and '{where}.shards' or "
                f"'{where}.captions' is empty; name what is mixed in, and how captions are joined"
            )
        templates.check(self.captions, f"{where}.captions", needed="background")


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """Noise laid under training clips, at a drawn ratio of the clip's power to that of the noise.

    Attributes:
        probability: share of the clips that get noise.
        shards: files or glob patterns of recorded noise, as those of a group; captions are not
            read, and a recording that cannot be used counts as a bad clip. Without any, noise is made up.
        decibels: range of the ratio.
        slope: range of the spectrum's slope in decibels an octave, of noise that is made up: 0 is white, -3
            pink, -6 brown.
    """

    probability: float = 0.0
    shards: tuple[str, ...] = ()
    decibels: tuple[float, float] = (5.0, 30.0)
    slope: tuple[float, float] = (-6.0, 0.0)

    def __post_init__(self) -> None:
        every = (-100, 100)
        _check(self, "data.augment.noise", probability=(0, 1), decibels=every, slope=every)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training clips, in the order in which they are made; evaluation makes none.

    Each is off unless asked for. Each has random numbers of its own: to switch one on, off or to other ranges
    does not alter what is drawn for the others, for the crop and for the caption.

    Attributes:
        background: another clip laid under, with a joined caption.
        speed: each clip is played faster or slower by up to this share, its pitch with it; 0 turns it off.
        pitch_probability: share of the clips whose pitch is moved, their length kept.
        pitch_semitones: by up to this much, up or down.
        reverb_probability: share of the clips that are put into a room: decaying noise as its response.
        reverb_seconds: range of the time in which the room's sound falls by 60 dB.
        reverb_decibels: range of the direct sound's level over that of the room.
        noise: recorded or made-up noise.
        gain_decibels: each clip is scaled by a random gain within +- this many dB; 0 turns it off.
        clipping_probability: share of the clips whose peaks are cut off, as by an overloaded input.
        clipping_decibels: range of how far below the highest peak.
        mask_probability: share of the clips of which a stretch is silenced.
        mask_seconds: longest stretch.
        shift_seconds: up to so much silence comes before a clip that leaves room; 0 turns it off.
    """

    background: BackgroundConfig = BackgroundConfig()
    speed: float = 0.0
    pitch_probability: float = 0.0
    pitch_semitones: float = 4.0
    reverb_probability: float = 0.0
    reverb_seconds: tuple[float, float] = (0.1, 0.8)
    reverb_decibels: tuple[float, float] = (0.0, 15.0)
    noise: NoiseConfig = NoiseConfig()
    gain_decibels: float = 0.0
    clipping_probability: float = 0.0
    clipping_decibels: tuple[float, float] = (1.0, 12.0)
    mask_probability: float = 0.0
    mask_seconds: float = 0.5
    shift_seconds: float = 0.0

    def __post_init__(self) -> None:
        _check(
            self,
            "data.augment",
            speed=(0, 0.5),
            pitch_probability=(0, 1),
            pitch_semitones=(0, 24),
            reverb_probability=(0, 1),
            reverb_seconds=(1e-3, 60),
            reverb_decibels=(-100, 100),
            gain_decibels=(0, 100),
            clipping_probability=(0, 1),
            clipping_decibels=(0, 100),
            mask_probability=(0, 1),
            mask_seconds=(0, math.inf),
        )


@dataclasses.dataclass(frozen=True)
class LayoutConfig:
    """How training clips of different lengths lie in the rows of a batch; what is learnt of them is the same.

    Attributes:
        kind: `padded` gives each clip a row of `crop_seconds`. `bucketed` gives each a row as long as the
            least of eight lengths that the batch's longest clip fits into. `packed` lays clips one behind the
            other into as few rows as hold them, where they do not hear each other (Dasheng, CED,
            Whisper without silence).
        row_seconds: length of a packed row, at least `crop_seconds`.
    """

    kind: Literal["padded", "bucketed", "packed"] = "padded"
    row_seconds: float = 10.0

    def __post_init__(self) -> None:
        _check(self, "data.layout", row_seconds=(1e-3, math.inf))


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is read and how an example is made from it.

    Attributes:
        root: folder that relative shard names start from.
        train: groups that training draws from.
        test: groups that evaluation reads, whole and in order.
        tokenizer: SentencePiece model or tokenizer.json, as the text tower asks, relative to `root`.
        sample_rate: Hz, that of the audio tower; every clip is resampled to it.
        crop_seconds: training takes a random crop of this length from longer clips; evaluation reads up to
            `eval_seconds` from the start.
        eval_seconds: see above.
        min_seconds: shorter clips are skipped and counted.
        max_characters: longer captions are skipped in training (GLAP: 180).
        drop_clipped: skip clips whose peak is 0.99 or more (GLAP's option).
        silent_peak: clips whose peak is not above this are skipped as silent; 0 skips nothing but zeros, and
            a negative number no clip.
        drop_mislabelled: skip files that are of another format than their names end in.
        rates: lowest and highest rate, in Hz, of recordings that are not skipped.
        max_tokens: length N of token rows; a caption that is cut to it is counted in the log.
        text_cache: folder, relative to `root`, or URL of the vectors of `glap-jax data embed-text`,
            which training reads in place of running its frozen text tower. None runs the tower.
        audio_cache: folder, relative to `root`, of the vectors that `glap-jax data embed-audio` computed of
            each clip's first `eval_seconds`, which training reads in place of recordings and of running its
            frozen audio tower. None reads and runs them.
        language: NLLB code told to the text tower for every caption (GLAP: eng_Latn), or `true` for the
            caption's own.
        translations: total probability of drawing a translation (GLAP: 0.1), the same for each language that
            a clip has some in, and within a language for each of them.
        caption_language: NLLB code of the one language that training takes captions in: a clip's own, or its
            translation; a clip with neither counts as bad. None takes all, as `translations` says.
        captions: `one` of a clip's captions is drawn whenever the clip comes; `each` makes all of them
            examples of their own, so that an epoch has each once, with a crop of its own. `translations`
            come in their place as often as in place of one.
        templates: captions to be filled from a clip's json, such as `A {gender} saying {text}`, or
            `{speaker.gender}` for an inner object. Of those whose fields are all there, training draws one in
            place of the clip's own captions; evaluation takes the first where the clip has no own caption.
        augment: random changes of training clips.
        layout: how training clips of different lengths lie in the rows of a batch.
        workers: decoding processes; 0 decodes in the training process.
        bad_share: the run stops when more than this share of the clips read so far was bad.
    """

    root: str = "data/samples"
    train: tuple[GroupConfig, ...] = ()
    test: tuple[GroupConfig, ...] = ()
    tokenizer: str = "spm.model"
    sample_rate: int = 16_000
    crop_seconds: float = 10.0
    eval_seconds: float = 30.0
    min_seconds: float = 0.2
    max_characters: int = 180
    drop_clipped: bool = False
    silent_peak: float = 0.0
    drop_mislabelled: bool = True
    rates: tuple[int, int] = (1000, 1_000_000)
    max_tokens: int = 64
    text_cache: str | None = None
    audio_cache: str | None = None
    language: str = "eng_Latn"
    translations: float = 0.1
    caption_language: str | None = None
    captions: Literal["one", "each"] = "one"
    templates: tuple[str, ...] = ()
    augment: AugmentConfig = AugmentConfig()
    layout: LayoutConfig = LayoutConfig()
    workers: int = 0
    bad_share: float = 0.1

    def __post_init__(self) -> None:
        _check(
            self,
            "data",
            sample_rate=(1, 192_000),
            crop_seconds=(1e-3, math.inf),
            eval_seconds=(1e-3, math.inf),
            min_seconds=(0, min(self.crop_seconds, self.eval_seconds)),
            silent_peak=(-1, 1),
            rates=(1, 1_000_000),
            max_characters=(1, math.inf),
            max_tokens=(3, math.inf),
            translations=(0, 1),
            workers=(0, math.inf),
            bad_share=(0, 1),
        )
        _check(self.augment, "data.augment", shift_seconds=(0, self.crop_seconds))
        templates.check(self.templates, "data.templates")
        if self.text_cache is not None and self.augment.background.probability:
            raise GlapError(
                "config: 'data.augment.background' joins captions anew for each clip, and 'data.text_cache' "
                "holds those that the shards hold; leave one of them out"
            )
        if self.audio_cache is not None:
            self._check_audio_cache()
        for groups in (self.train, self.test):
            if len({group.name for group in groups}) < len(groups):
                raise GlapError("config: two groups of 'data' have the same name; name them apart")

    @property
    def tokenizer_path(self) -> Path:
        """Where the tokenizer is; `..` takes away a folder of the path as it is written, so that `root` may
        be a link to another disk."""
        return Path(os.path.normpath(os.path.join(self.root, self.tokenizer)))

    def _check_audio_cache(self) -> None:
        if self.augment != AugmentConfig():
            raise GlapError(
                "config: 'data.augment' changes clips anew each time, and 'data.audio_cache' holds vectors "
                "of unchanged ones; leave one of them out"
            )
        if self.crop_seconds < self.eval_seconds:
            raise GlapError(
                f"config: 'data.crop_seconds' is {self.crop_seconds:g} and 'data.audio_cache' holds vectors "
                f"of each clip's first 'data.eval_seconds' ({self.eval_seconds:g}); make them the same"
            )
