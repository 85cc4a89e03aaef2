"""`glap-jax data embed-text`: the frozen text tower's vector of every caption, computed once."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float32

from glap_jax.config import TrainConfig
from glap_jax.encoders import TextConfig
from glap_jax.offline import work
from glap_jax.pipeline.captions import check_language
from glap_jax.pipeline.sources import ShardSource
from glap_jax.pipeline.text_cache import KIND, settings
from glap_jax.pipeline.texts import part_number, texts_of
from glap_jax.text.tokenizers import Tokenizer, open_tokenizer, pad
from glap_jax.train.embedding import Encode, Side, Stored, Vectors, embed


def embed_text(
    config: TrainConfig,
    *,
    stored: Stored = "float32",
    devices: Sequence[jax.Device] | None = None,
    workers: int = 0,
    beam: Sequence[str] = (),
) -> str:
    """Computes the vectors of all texts that a run may draw, and writes them shard by shard.

    Rows are as many and as long as in a step of the run. Shards that were done before are left alone.

    Args:
        config: of the run; its `data.text_cache` says where, or else `text_cache` in `data.root`.
        stored: type of the numbers on disk.
        devices: what to compute on in this process; by default all.
        workers, beam: as `work.run`. Each process loads the tower once, and computes on all devices that it
            sees.

    Returns:
        The folder, or its URL.

    Raises:
        GlapError: the text tower learns, data or configuration that do not fit, a folder of something else,
            or a disk that refuses.
    """
    check_language(config.data)
    return embed(TEXTS, config, stored=stored, devices=devices, workers=workers, beam=beam)


def vectors(path: str, config: TrainConfig, encode: Encode, devices: int) -> Vectors:
    """Keys and vectors of the texts of a shard, in rows as of a step."""
    data = config.data
    tokenizer = _tokenizer(data.tokenizer_path, config.model.text)
    texts = texts_of(ShardSource([path]), data, tokenizer)
    rows = config.batch // config.accumulation
    found = []
    with work.bar(f"embedding {os.path.basename(path)}", len(texts.ids), "text") as shown:
        for some in encoded(texts.ids, encode, rows=rows, tokens=data.max_tokens):
            found.append(some)
            shown.update(len(some))
    return texts.keys, np.concatenate(found or [np.zeros((0, 1), np.float32)])


def encoded(
    ids: Sequence[list[int]], encode: Encode, *, rows: int, tokens: int
) -> Iterator[Float32[np.ndarray, "n D"]]:
    """Vectors of token rows, in order and some at a time.

    Args:
        ids: the token rows, at most `tokens` long.
        encode: vectors of `rows` padded token rows of length `tokens`, and their mask.
        rows, tokens: see there.
    """
    waiting: list[tuple[Array, int]] = []
    for start in range(0, len(ids), rows):
        some = list(ids[start : start + rows])
        waiting.append((encode(*pad(some + [[]] * (rows - len(some)), tokens)), len(some)))
        # The device computes these while those before are fetched.
        yield from (np.asarray(found)[:count] for found, count in waiting[:-1])
        del waiting[:-1]
    yield from (np.asarray(found)[:count] for found, count in waiting)


@functools.lru_cache(1)
def _tokenizer(path: Path, config: TextConfig) -> Tokenizer:
    """Opened once for all shards of a process."""
    return open_tokenizer(path, config)


TEXTS = Side("text", KIND, "texts", settings, part_number, vectors)
