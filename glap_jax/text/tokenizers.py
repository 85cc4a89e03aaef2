"""What all tokenizers share, and SONAR's: SentencePiece pieces between a language and an end marker."""

import abc
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from glap_jax.errors import GlapError
from glap_jax.text.languages import LANGUAGES, position

log = logging.getLogger(__name__)

PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3
# Rows for padding, languages and the three markers that close the published table.
EXTRA_ROWS = 1 + len(LANGUAGES) + 3
# Pieces of the published vocabulary, which its language ids come after.
PUBLISHED_PIECES = 256_000


class Tokenizer(abc.ABC):
    """Text to rows of token ids: what every text tower's tokenizer shares.

    Attributes:
        path: the file that it was read from.
    """

    path: Path

    @property
    @abc.abstractmethod
    def vocabulary(self) -> int:
        """Rows that the embedding must have."""

    @abc.abstractmethod
    def row(self, text: str, language: str) -> list[int]:
        """Ids of one text, uncut, with its markers."""

    @abc.abstractmethod
    def cut(self, ids: list[int], max_tokens: int, *, compat: bool = False) -> list[int]:
        """At most `max_tokens` ids, the end marker still last."""

    def encode(
        self,
        text: Any,
        *,
        language: str = "eng_Latn",
        max_tokens: int | None = None,
        compat: bool = False,
    ) -> list[int]:
        """Ids of one text; an empty one has its markers only.

        Args:
            text: a str; anything else is refused, since captions come from files of all kinds.
            language: NLLB code.
            max_tokens: longest row; a longer one is cut, with a warning in the log. None never cuts.
            compat: cut as the reference does (see `cut`).

        Raises:
            GlapError: unknown language, no str, or a str that is no Unicode text (a lone surrogate).
        """
        return self.encode_all([text], language=language, max_tokens=max_tokens, compat=compat)[0]

    def encode_all(
        self,
        texts: Sequence[Any],
        *,
        language: str | Sequence[str] = "eng_Latn",
        max_tokens: int | None = None,
        compat: bool = False,
    ) -> list[list[int]]:
        """`encode` of many texts with one language or one for each; cut texts share one warning."""
        languages = [language] * len(texts) if isinstance(language, str) else list(language)
        if len(languages) != len(texts):
            raise GlapError(
                f"tokenizer: {len(texts)} texts and {len(languages)} languages; give one or one each"
            )
        rows = [self.row(_checked(text), code) for text, code in zip(texts, languages, strict=True)]
        if max_tokens is None:
            return rows
        longest = max(map(len, rows), default=0)
        if longest > max_tokens:
            count = sum(len(row) > max_tokens for row in rows)
            log.warning(
                "cut %d of %d texts to %d tokens (the longest has %d)", count, len(rows), max_tokens, longest
            )
        return [self.cut(row, max_tokens, compat=compat) for row in rows]


def _checked(text: Any) -> str:
    """`text` itself, if it is Unicode text."""
    if not isinstance(text, str):
        raise GlapError(f"tokenizer: {text!r:.60} is a {type(text).__name__}; give a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GlapError(
            f"tokenizer: {text!r:.60} holds a lone surrogate at character {error.start}, which is no "
            "Unicode text; decode the caption with its right encoding"
        ) from None
    return text


class SonarTokenizer(Tokenizer):
    """Text to ids: `[language] + [piece + 1, ...] + [3]`; 0 is padding, 1 unknown, 2 unused, 3 the end.

    Args:
        path: a SentencePiece model with the ids 0, 1, 2 for unk, bos, eos.
        compact: language ids follow right after the pieces of `path` (small vocabularies) instead of
            standing at the published 256001 to 256202. The same for the published model.

    Raises:
        GlapError: no such file, or no SentencePiece model.
    """

    def __init__(self, path: str | Path, *, compact: bool = False):
        from sentencepiece import SentencePieceProcessor

        self.path = Path(path)
        self.compact = compact
        if not self.path.is_file():
            raise GlapError(
                f"tokenizer: no file '{path}'; give the path of a SentencePiece model (spm.model)"
            )
        try:
            self._pieces = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise GlapError(
                f"tokenizer: '{path}' is no SentencePiece model ({error}); get the file again"
            ) from None
        if self.pieces > PUBLISHED_PIECES and not compact:
            raise GlapError(
                f"tokenizer: '{path}' has {self.pieces} pieces, more than the "
                f"{PUBLISHED_PIECES} before the published language ids; use compact=True"
            )

    @classmethod
    def fitting(cls, path: str | Path, rows: int) -> "SonarTokenizer":
        """The tokenizer of a model whose embedding has `rows` rows: compact where that is what fits.

        Raises:
            GlapError: the model file needs another number of rows either way.
        """
        tokenizer = cls(path, compact=True)
        if tokenizer.vocabulary == rows:
            return tokenizer
        if rows == PUBLISHED_PIECES + EXTRA_ROWS and tokenizer.pieces <= PUBLISHED_PIECES:
            return cls(path)
        raise GlapError(
            f"tokenizer: '{path}' needs {tokenizer.vocabulary} embedding rows and the model has {rows}; "
            "give the tokenizer that the model was trained with"
        )

    @property
    def pieces(self) -> int:
        """SentencePiece pieces."""
        return self._pieces.vocab_size()

    @property
    def vocabulary(self) -> int:
        """Rows that the embedding must have: 256206, or fewer when compact."""
        return (self.pieces if self.compact else PUBLISHED_PIECES) + EXTRA_ROWS

    def language_id(self, language: str) -> int:
        """Token id of an NLLB code.

        Raises:
            GlapError: unknown code; near ones are named.
        """
        return (self.pieces if self.compact else PUBLISHED_PIECES) + 1 + position(language)

    def row(self, text: str, language: str) -> list[int]:
        """The language, the pieces and the end marker. Markers such as `<s>` inside `text` are plain text."""
        return [self.language_id(language), *(piece + 1 for piece in self._pieces.encode(text)), END]

    def cut(self, ids: list[int], max_tokens: int, *, compat: bool = False) -> list[int]:
        """At most `max_tokens` ids, the last one still the end marker.

        `compat` cuts as the reference does (`ids[:514]`), which loses the end marker.

        Raises:
            GlapError: no room for language, end and one piece.
        """
        if max_tokens < 3:
            raise GlapError(f"tokenizer: max_tokens is {max_tokens}; a row needs at least 3")
        if len(ids) <= max_tokens:
            return ids
        return ids[:max_tokens] if compat else [*ids[: max_tokens - 1], END]


def open_tokenizer(path: str | Path, config: Any) -> Tokenizer:
    """The tokenizer in `path` for a text tower of configuration `config`.

    Args:
        path: a SentencePiece model (SONAR) or a `tokenizer.json` (BERT and its like).
        config: of the text tower.

    Raises:
        GlapError: no such file, a damaged one, or one that the tower's embedding has no room for.
    """
    if (Path(path).suffix == ".json") == (config.family == "sonar"):
        wanted = "a SentencePiece model" if config.family == "sonar" else "a tokenizer.json"
        raise GlapError(f"tokenizer: a text tower '{config.family}' reads {wanted}, and '{path}' is none")
    if config.family == "sonar":
        return SonarTokenizer.fitting(path, config.vocabulary)
    from glap_jax.text.json_tokenizer import ClaraTokenizer, JsonTokenizer

    kind = ClaraTokenizer if config.family == "clara_text" else JsonTokenizer
    return kind.fitting(path, config.vocabulary, prefix=getattr(config, "prefix", ""))


def pad(
    rows: Iterable[Sequence[int]], length: int | None = None
) -> tuple[Int[np.ndarray, "B N"], Bool[np.ndarray, "B N"]]:
    """Rows of ids as one int32 array filled up with 0, and a mask that is True where a token is real.

    Args:
        rows: token rows.
        length: N; the longest row's where none is given.

    Raises:
        GlapError: a row is longer than `length`.
    """
    rows = list(rows)
    longest = max(map(len, rows), default=0)
    length = longest if length is None else length
    if longest > length:
        raise GlapError(f"tokenizer: a row of {longest} tokens does not fit into {length}; cut it first")
    ids = np.full((len(rows), length), PAD, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for line, row in enumerate(rows):
        ids[line, : len(row)] = row
        mask[line, : len(row)] = True
    return ids, mask
