"""Which caption a clip is shown with, and in which language the text tower is told it is."""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from glap_jax.errors import GlapError
from glap_jax.pipeline import templates
from glap_jax.pipeline.bad import BadClip
from glap_jax.pipeline.config import DataConfig
from glap_jax.text.languages import LANGUAGES, position

# Fields that hold a clip's own captions; the first one that is there counts.
OWN_FIELDS = ("captions", "caption", "text")
LANGUAGE_FIELD = "language"
DEFAULT_LANGUAGE = "eng_Latn"
TRUE_LANGUAGE = "true"
_TRANSLATION = re.compile(r"caption_([a-z]{3}_[A-Z][a-z]{3})")
# GLAP: a translation in which one byte 4-gram occurs more often than this is broken.
LARGEST_REPEAT = 4


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption and the NLLB code that the text tower is told with it."""

    text: str
    language: str


@dataclasses.dataclass(frozen=True)
class Captions:
    """All captions of a clip: its own, usable translations, together those of a language, and the templates
    that its fields fill. There is at least one that is own or filled."""

    own: tuple[Caption, ...]
    translations: tuple[tuple[Caption, ...], ...]
    filled: tuple[Caption, ...] = ()


def check_language(config: DataConfig) -> None:
    """Raises GlapError where `config.language` is neither `true` nor an NLLB code, or where
    `config.caption_language` is none."""
    wanted = {"caption_language": ("no NLLB code", config.caption_language)}
    if config.language != TRUE_LANGUAGE:
        wanted["language"] = ("neither 'true' nor an NLLB code", config.language)
    for name, (wrong, code) in wanted.items():
        try:
            position(DEFAULT_LANGUAGE if code is None else code)
        except GlapError as error:
            raise GlapError(f"config: 'data.{name}' is {wrong}: {error}") from None


def read_captions(
    metadata: dict[str, Any],
    *,
    language: str,
    translated: bool = True,
    patterns: Sequence[str] = (),
    only: str | None = None,
) -> Captions:
    """The captions in a clip's json.

    Its own ones are `captions` (a list), else `caption`, else `text`; their language, and that of filled
    templates, is the json's field `language`, English where absent. `caption_<NLLB code>` are translations;
    broken ones are left out.

    Args:
        metadata: the json.
        language: code told with every caption, or `true` for each caption's own.
        translated: read the translations too (looking for broken ones takes time).
        patterns: templates to fill.
        only: code of a language; captions in others are left out, and translations into it count as own.

    Raises:
        BadClip: no_text, not_text, other_language (nothing in that which alone is wanted), or
            unknown_language (only where the true language is told).
    """
    tell_true = language == TRUE_LANGUAGE
    spoken = metadata.get(LANGUAGE_FIELD, DEFAULT_LANGUAGE)
    if tell_true and (not isinstance(spoken, str) or spoken not in LANGUAGES):
        raise BadClip("unknown_language", f"'{LANGUAGE_FIELD}' is {spoken!r:.40}, which is no NLLB code")
    field = next((name for name in OWN_FIELDS if metadata.get(name) is not None), None)
    told = spoken if tell_true else language
    texts = [] if field is None else _texts(field, metadata[field])
    own = tuple(Caption(text, told) for text in dict.fromkeys(texts))
    texts = _texts("templates", templates.fill(patterns, metadata))
    filled = tuple(Caption(text, told) for text in dict.fromkeys(texts))
    translations = _translations(metadata, language, translated or only is not None)
    if only is not None:
        if spoken != only:
            own, filled = translations.get(only, ()), ()
        if not own and not filled:
            raise BadClip("other_language", f"no caption in {only}, which 'data.caption_language' asks for")
        return Captions(own, (), filled)
    if not own and not filled:
        absent = f"json has none of {', '.join(OWN_FIELDS)}" if field is None else f"'{field}' is empty"
        raise BadClip("no_text", absent + (" and not all fields of any template" if patterns else ""))
    return Captions(own, tuple(found for found in translations.values() if found), filled)


def _translations(metadata: dict[str, Any], language: str, wanted: bool) -> dict[str, tuple[Caption, ...]]:
    """Translations that are not broken, by language; where they are not wanted, only their names are read."""
    found = {}
    for name, value in metadata.items():
        named = _TRANSLATION.fullmatch(name)
        if named is None or value is None:
            continue
        if language == TRUE_LANGUAGE and named[1] not in LANGUAGES:
            raise BadClip("unknown_language", f"'{name}' names no NLLB code")
        if wanted:
            told = named[1] if language == TRUE_LANGUAGE else language
            texts = dict.fromkeys(text for text in _texts(name, value) if not is_broken(text))
            found[named[1]] = tuple(Caption(text, told) for text in texts)
    return found


def read_fixed(metadata: dict[str, Any], *, config: DataConfig) -> Captions:
    """The captions that evaluation shows, the same every time: a clip without own ones has the first of
    `config.templates` that its fields fill.

    Raises:
        BadClip: as `read_captions`.
    """
    captions = read_captions(metadata, language=config.language, patterns=config.templates)
    return captions if captions.own else dataclasses.replace(captions, own=captions.filled[:1])


def draw(
    metadata: dict[str, Any],
    rng: np.random.Generator,
    *,
    config: DataConfig,
    translated: bool = True,
    place: int | None = None,
) -> Caption:
    """One caption for a training example: one in each of n other languages with probability
    `config.translations` / n, else one of `config.templates` that the clip's fields fill, else, where there
    is none, one of the clip's own. Captions longer than `config.max_characters` are left out, and
    translations unless `translated`; with `config.caption_language`, all in other languages.

    Args:
        metadata: the clip's json.
        rng: what is drawn with, as often whatever comes of it.
        config: see above.
        translated: whether translations are drawn.
        place: of the filled or own captions, this one (`own_count` says how many there are).

    Raises:
        BadClip: as `read_captions`, and long_text.
    """
    translate, choice = rng.random(), rng.random()
    own, translations = _choices(metadata, config, translated=translated and translate < config.translations)
    if place is not None and not translations:
        return own[place % len(own)]
    choices = own
    if translations:
        # What is left of the number when it has chosen a language chooses among that one's captions.
        language, choice = divmod(choice * len(translations), 1.0)
        choices = translations[int(language)]
    return choices[int(choice * len(choices))]


def drawable(metadata: dict[str, Any], *, config: DataConfig) -> list[Caption]:
    """All captions that `draw` may return for this clip.

    Raises:
        BadClip: as `draw`.
    """
    own, translations = _choices(metadata, config, translated=config.translations > 0)
    return list(itertools.chain(own, *translations))


def own_count(metadata: dict[str, Any], *, config: DataConfig) -> int:
    """How many captions `draw` chooses among where it draws no translation.

    Raises:
        BadClip: as `draw`.
    """
    return len(_choices(metadata, config, translated=False)[0])


def is_broken(text: str) -> bool:
    """Whether a 4-gram of the UTF-8 bytes occurs more than 4 times, as where a translator got stuck."""
    data = text.encode()
    counts = Counter(data[start : start + 4] for start in range(len(data) - 3))
    return max(counts.values(), default=0) > LARGEST_REPEAT


def _choices(
    metadata: dict[str, Any], config: DataConfig, *, translated: bool
) -> tuple[list[Caption], list[list[Caption]]]:
    """Captions that are not too long: filled templates or, without any, own ones; and translations, together
    those of a language."""
    captions = read_captions(
        metadata,
        language=config.language,
        translated=translated,
        patterns=config.templates,
        only=config.caption_language,
    )
    longest = config.max_characters
    own = _shorter(captions.filled, longest) or _shorter(captions.own, longest)
    if not own:
        length = min(len(caption.text) for caption in captions.filled + captions.own)
        raise BadClip("long_text", f"{length} characters are more than {longest}")
    translations = (_shorter(found, longest) for found in captions.translations)
    return own, [found for found in translations if found]


def _shorter(captions: tuple[Caption, ...], longest: int) -> list[Caption]:
    return [caption for caption in captions if len(caption.text) <= longest]


def _texts(field: str, value: Any) -> list[str]:
    """The non-blank texts of a field that holds one or a list of them."""
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str):
            raise BadClip("not_text", f"'{field}' holds a {type(text).__name__}, not a string")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadClip("not_text", f"'{field}' holds a lone surrogate, which is no Unicode text") from None
    return [text.strip() for text in texts if text.strip()]
