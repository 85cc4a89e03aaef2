"""`glap-jax data embed-text`: the frozen text tower's vector of every caption, computed once."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float32, Int

from glap_jax.config import TrainConfig
from glap_jax.encoders import TextConfig
from glap_jax.offline import work
from glap_jax.pipeline.captions import check_language
from glap_jax.pipeline.sources import ShardSource
from glap_jax.pipeline.text_cache import KIND, settings
from glap_jax.pipeline.texts import part_number, texts_of
from glap_jax.text.tokenizers import Tokenizer, open_tokenizer, pad
from glap_jax.train.embedding import Encode, Side, Stored, Vectors, embed

# Tokens that rows are padded to where `data.max_tokens` is more. On CPUs, vectors of rows shorter than the
# least differ by rounding from those of a run whose rows are 48 long.
LENGTHS = (24, 32, 48, 64, 96, 128, 192, 256, 384)


def embed_text(
    config: TrainConfig,
    *,
    stored: Stored = "float32",
    devices: Sequence[jax.Device] | None = None,
    workers: int = 0,
    beam: Sequence[str] = (),
) -> str:
    """Computes the vectors of all texts that a run may draw, and writes them shard by shard.

    Rows are as many as in a step of the run, and as long as their texts ask (see `LENGTHS`). Shards that were
    done before are left alone.

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
    """Keys and vectors of the texts of a shard, as many together as in a step."""
    data = config.data
    tokenizer = _tokenizer(data.tokenizer_path, config.model.text)
    texts = texts_of(ShardSource([path]), data, tokenizer)
    rows = config.batch // config.accumulation
    places, found = [np.zeros(0, np.int64)], []
    with work.bar(f"embedding {os.path.basename(path)}", len(texts.ids), "text") as shown:
        for some, pooled in encoded(texts.ids, encode, rows=rows, tokens=data.max_tokens):
            places.append(some)
            found.append(pooled)
            shown.update(len(some))
    together = np.concatenate(found or [np.zeros((0, 1), np.float32)])
    return texts.keys, together[np.argsort(np.concatenate(places))]


def encoded(
    ids: Sequence[list[int]], encode: Encode, *, rows: int, tokens: int
) -> Iterator[tuple[Int[np.ndarray, " n"], Float32[np.ndarray, "n D"]]]:
    """Places of token rows in `ids`, and their vectors: some at a time, the shortest first.

    Args:
        ids: the token rows, at most `tokens` long.
        encode: vectors of `rows` padded token rows of one of `LENGTHS` or of `tokens`, and their mask.
        rows, tokens: see there.
    """
    order = np.argsort([len(row) for row in ids], kind="stable")
    waiting: list[tuple[Int[np.ndarray, " n"], Array]] = []
    for start in range(0, len(order), rows):
        places = order[start : start + rows]
        some = [ids[place] for place in places]
        length = min([size for size in LENGTHS if size >= len(some[-1])] + [tokens])
        waiting.append((places, encode(*pad(some + [[]] * (rows - len(some)), length))))
        # The device computes these while those before are fetched.
        yield from ((these, np.asarray(found)[: len(these)]) for these, found in waiting[:-1])
        del waiting[:-1]
    yield from ((these, np.asarray(found)[: len(these)]) for these, found in waiting)


@functools.lru_cache(1)
def _tokenizer(path: Path, config: TextConfig) -> Tokenizer:
    """Opened once for all shards of a process."""
    return open_tokenizer(path, config)


TEXTS = Side("text", KIND, "texts", settings, part_number, vectors)
