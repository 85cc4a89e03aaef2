"""Vectors of a frozen text tower on disk: one for each distinct row of token ids; see `vector_cache`."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from glap_jax.errors import GlapError
from glap_jax.pipeline.config import DataConfig
from glap_jax.pipeline.vector_cache import FORMAT, Key, Kind, Stamp, VectorCache, key_of

COMMAND = "`glap-jax data embed-text CONFIG`"
KIND = Kind("text cache", "data.text_cache", COMMAND, "text tower", (("tokenizer", "tokenizer"),))


def hash_of(ids: Sequence[int] | Int[np.ndarray, " N"]) -> Key:
    """What tells a row of token ids from others."""
    return key_of(np.asarray(ids, "<i4").tobytes())


def settings(config: DataConfig) -> Stamp:
    """The part of a stamp that the data decides: tokenizer and what it is told.

    Raises:
        GlapError: no such tokenizer.
    """
    path = config.tokenizer_path
    try:
        tokenizer = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise GlapError(
            f"config: tokenizer '{path}' cannot be read ({error.strerror}); mend 'data.tokenizer'"
        ) from None
    told = {"language": config.language, "max_tokens": config.max_tokens}
    return {"format": FORMAT, "tokenizer": tokenizer, **told}


class TextCache(VectorCache):
    """A folder of the vectors of texts, open for reading; arguments and errors as of `VectorCache`."""

    def __init__(self, folder: str | Path, wanted: Mapping[str, Any]):
        super().__init__(KIND, folder, wanted)

    def take(
        self, rows: Sequence[Sequence[int] | Int[np.ndarray, " _"]]
    ) -> tuple[Float32[np.ndarray, "B D"], Bool[np.ndarray, " B"]]:
        """The vectors of rows of token ids, and which are there; other rows say nothing."""
        return self.find([hash_of(ids) for ids in rows])
