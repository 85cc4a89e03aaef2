"""What a run reads: groups of shards, and how an example is made from a record."""

import dataclasses
import math

from glap_jax.errors import GlapError


@dataclasses.dataclass(frozen=True)
class GroupConfig:
    """A sampling stratum.

    Attributes:
        name: what reports call it.
        shards: tar files or glob patterns, relative to `DataConfig.root`.
        weight: its share of the examples, relative to the other groups'.
    """

    name: str
    shards: tuple[str, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise GlapError(f"config: group '{self.name}' has weight {self.weight}; give more than 0")


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
        max_tokens: length N of token rows; a caption that is cut to it is counted in the log.
        language: NLLB code told to the text tower for every caption (GLAP: eng_Latn), or `true` for the
            caption's own.
        translations: total probability of drawing one of a caption's n translations (GLAP: 0.1,
            each 0.1 / n).
        gain_decibels: training scales each clip by a random gain within +- this many dB; 0 turns it off.
        speed: training plays each clip faster or slower by up to this share; 0 turns it off.
        shift_seconds: training puts up to so much silence before a clip that leaves room; 0 turns it off.
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
    max_tokens: int = 64
    language: str = "eng_Latn"
    translations: float = 0.1
    gain_decibels: float = 0.0
    speed: float = 0.0
    shift_seconds: float = 0.0
    workers: int = 0
    bad_share: float = 0.1

    def __post_init__(self) -> None:
        for name, least, most in (
            ("sample_rate", 1, 192_000),
            ("crop_seconds", 1e-3, math.inf),
            ("eval_seconds", 1e-3, math.inf),
            ("min_seconds", 0, min(self.crop_seconds, self.eval_seconds)),
            ("max_characters", 1, math.inf),
            ("max_tokens", 3, math.inf),
            ("translations", 0, 1),
            ("gain_decibels", 0, math.inf),
            ("speed", 0, 0.5),
            ("shift_seconds", 0, self.crop_seconds),
            ("workers", 0, math.inf),
            ("bad_share", 0, 1),
        ):
            if not least <= getattr(self, name) <= most:
                raise GlapError(
                    f"config: 'data.{name}' is {getattr(self, name)}; it must lie in {least:g} to {most:g}"
                )
        for groups in (self.train, self.test):
            if len({group.name for group in groups}) < len(groups):
                raise GlapError("config: two groups of 'data' have the same name; name them apart")
