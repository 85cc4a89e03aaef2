"""Tokenizers of Hugging Face's `tokenizer.json`: BERT, MiniLM, LaBSE, XLM-RoBERTa, multilingual E5, CLARA."""

from pathlib import Path
from typing import ClassVar

from glap_jax.errors import GlapError
from glap_jax.text.languages import iso639
from glap_jax.text.tokenizers import Tokenizer


class JsonTokenizer(Tokenizer):
    """Text to ids as `tokenizer.json` says, its markers included (`[CLS] pieces [SEP]`), uncut and unpadded.

    Args:
        path: the file.
        prefix: put before every text (E5 wants `query: `).

    Raises:
        GlapError: no such file, or no tokenizer in it.
    """

    def __init__(self, path: str | Path, *, prefix: str = ""):
        import tokenizers

        self.path = Path(path)
        self.prefix = prefix
        if not self.path.is_file():
            raise GlapError(f"tokenizer: no file '{path}'; give the path of a tokenizer.json")
        try:
            self._pieces = tokenizers.Tokenizer.from_file(str(path))
        # The library raises Exception itself for files that it cannot read.
        except Exception as error:
            raise GlapError(
                f"tokenizer: '{path}' is no tokenizer.json ({error}); get the file again"
            ) from None
        # Files of sentence encoders often tell to cut at 128 and pad to it, which is the caller's business.
        self._pieces.no_truncation()
        self._pieces.no_padding()
        self._markers = self._pieces.num_special_tokens_to_add(False)
        self._end = self._pieces.encode("").ids[-1:]

    @classmethod
    def fitting(cls, path: str | Path, rows: int, *, prefix: str = "") -> "JsonTokenizer":
        """The tokenizer of a model whose embedding has `rows` rows; some models have rows to spare.

        Raises:
            GlapError: the tokenizer has ids that the model has no rows for.
        """
        tokenizer = cls(path, prefix=prefix)
        if tokenizer.vocabulary > rows:
            raise GlapError(
                f"tokenizer: '{path}' needs {tokenizer.vocabulary} embedding rows and the model has {rows}; "
                "give the tokenizer that the model was trained with"
            )
        return tokenizer

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return 1 + max(self._pieces.get_vocab().values(), default=0)

    def row(self, text: str, language: str) -> list[int]:
        """Ids of the prefix and `text`. These encoders see the language from the text itself."""
        return self._pieces.encode(self.prefix + text).ids

    def cut(self, ids: list[int], max_tokens: int, *, compat: bool = False) -> list[int]:
        """At most `max_tokens` ids, the end marker still last, as the library itself cuts.

        Raises:
            GlapError: no room for the markers and one piece.
        """
        if max_tokens <= self._markers:
            raise GlapError(
                f"tokenizer: max_tokens is {max_tokens}; a row needs at least {self._markers + 1}"
            )
        if len(ids) <= max_tokens:
            return ids
        return [*ids[: max_tokens - len(self._end)], *self._end]


class ClaraTokenizer(JsonTokenizer):
    """CLARA's rows: `<|language|><|speech|> text` in Whisper's pieces, without an end marker.

    The file is what `transformers` writes for the tokenizer that CLARA's repository builds
    (`get_tokeniser().save_pretrained(...)`); it has 50373 ids.
    """

    # CLARA keeps the codes that Hebrew and Javanese had until 1989.
    CODES: ClassVar[dict[str, str]] = {"he": "iw", "jv": "jw"}

    def row(self, text: str, language: str) -> list[int]:
        """Ids of the markers and `text`, which counts as spoken.

        Raises:
            GlapError: an unknown NLLB code, or a language that CLARA has no marker for.
        """
        code = iso639(language) or language.split("_")[0]
        marker = f"<|{self.CODES.get(code, code)}|>"
        if self._pieces.token_to_id(marker) is None:
            raise GlapError(
                f"tokenizer: '{self.path}' has no marker '{marker}' for {language}; give a language that "
                "the model knows"
            )
        return self._pieces.encode(f"{marker}<|speech|> {text}").ids
