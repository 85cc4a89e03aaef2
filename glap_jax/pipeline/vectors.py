"""The vectors that caches hold of training examples, read for many at once."""

import dataclasses

from glap_jax.pipeline import audio_cache, text_cache
from glap_jax.pipeline.audio_cache import AudioCache
from glap_jax.pipeline.config import DataConfig
from glap_jax.pipeline.examples import Example, void
from glap_jax.pipeline.text_cache import TextCache
from glap_jax.pipeline.vector_cache import folder_of


def open_text_cache(config: DataConfig) -> TextCache | None:
    """The vectors of texts that the configuration names, if it does.

    Raises:
        GlapError: none are there, or they are those of another tokenizer, language or length of rows.
    """
    if config.text_cache is None:
        return None
    return TextCache(folder_of(config, config.text_cache), text_cache.settings(config))


def open_audio_cache(config: DataConfig) -> AudioCache | None:
    """The vectors of clips that the configuration names, if it does.

    Raises:
        GlapError: none are there, or they are of other parts of the clips.
    """
    if config.audio_cache is None:
        return None
    return AudioCache(folder_of(config, config.audio_cache), audio_cache.settings(config))


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Gives examples `heard` and `pooled`, or says in `uncached` what a cache lacks."""

    text: TextCache | None
    audio: AudioCache | None

    @classmethod
    def open(cls, config: DataConfig) -> "Vectors":
        """The caches that the configuration names.

        Raises:
            GlapError: as `open_text_cache` and `open_audio_cache`.
        """
        return cls(open_text_cache(config), open_audio_cache(config))

    def __call__(self, found: list[Example]) -> list[Example]:
        """The examples with what the caches have; void where the clip was bad when a cache was made."""
        return self._with_texts(self._with_sounds(found))

    def _with_sounds(self, found: list[Example]) -> list[Example]:
        if self.audio is None:
            return found
        cache, good = self.audio, [not example["reason"] for example in found]
        clips = [(example["shard"], example["key"]) for example in found]
        rows, there = cache.take(clips)
        for number, example in enumerate(found):
            if not good[number]:
                continue
            if there[number]:
                example["heard"] = rows[number]
            elif cache.embedded(example["shard"]):
                found[number] = void(example, "not_embedded", f"it was bad when '{cache.folder}' was made")
            else:
                example["uncached"] = "clip"
        return found

    def _with_texts(self, found: list[Example]) -> list[Example]:
        if self.text is None:
            return found
        rows, there = self.text.take([example["ids"] for example in found])
        for number, example in enumerate(found):
            if there[number]:
                example["pooled"] = rows[number]
            elif not example["reason"]:
                example["uncached"] = f"caption '{example['text']:.80}'"
        return found
