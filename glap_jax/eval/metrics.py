"""Retrieval figures: what is right for what, and what the ranks of the right answers come to."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Int

from glap_jax.errors import GlapError
from glap_jax.eval.ranking import Ranks, rank

# Rows that are made unit vectors at once.
UNIT_ROWS = 16_384

Rows = Float[Array | np.ndarray, "..."]
Ids = Int[Array | np.ndarray, "..."]


def retrieval_metrics(
    audio: Rows,
    text: Rows,
    captions_per_clip: int = 1,
    *,
    audio_ids: Ids | None = None,
    text_ids: Ids | None = None,
    recall_at: Sequence[int] = (1, 5, 10),
    map_at: int = 10,
    chunk: int | None = None,
) -> dict[str, dict[str, float]]:
    """Retrieval figures in both directions: `{"a2t": {...}, "t2a": {...}}`, each with

    - `r1`, `r5`, `r10`: percentage of queries whose best right answer is among the first k;
    - `map10`: mean average precision cut at rank 10, in percent, over all right answers of a query (a query
      with five right answers, one of them first, has 20, as in GLAP's and Clotho's evaluation);
    - `meanr`, `medr`: mean and median rank of the best right answer, from 1 (`medr` is a whole number);
    - `mrr`: mean of 1 / rank; `hits1`: share of queries answered right at once (both from 0 to 1).

    A tie counts against the model: a wrong candidate with the score of the right one ranks before it. The
    conventions are those of glap_model 0.0.13 (`clap_metrics2`), which leaves ties to the order of rows.

    Args:
        audio: `A E` embeddings, of any norm; cosines are compared.
        text: `C E` embeddings. With n captions per clip, rows i*n to (i+1)*n - 1 describe clip i.
        captions_per_clip: n. `audio` may also repeat each clip n times; the first copy then stands for it.
        audio_ids, text_ids: what is right where the pairing of rows does not say it, for instance when clips
            share a caption or have different numbers of captions: caption j is right for clip i when
            `text_ids[j]` (`C`, not negative) is `audio_ids[i]` (`A`), or one of them (`A M`, padded with -1).
        recall_at, map_at: the cuts k; they name the keys.
        chunk: queries at a time; None keeps a block of scores within about 16 MB.

    Raises GlapError for empty input, NaN or infinite embeddings, rows or ids that do not fit together, and a
    query without a right answer.
    """
    ranks = retrieval_ranks(
        audio, text, captions_per_clip, audio_ids=audio_ids, text_ids=text_ids, map_at=map_at, chunk=chunk
    )
    return {direction: summarise(one, recall_at) for direction, one in ranks.items()}


def retrieval_ranks(
    audio: Rows,
    text: Rows,
    captions_per_clip: int = 1,
    *,
    audio_ids: Ids | None = None,
    text_ids: Ids | None = None,
    map_at: int = 10,
    chunk: int | None = None,
) -> dict[str, Ranks]:
    """The ranks behind `retrieval_metrics`, which describes the arguments: `{"a2t": Ranks, "t2a": Ranks}`."""
    clips, captions = unit_rows(audio, "audio"), unit_rows(text, "text")
    if clips.shape[1] != captions.shape[1]:
        raise GlapError(
            f"audio and text embeddings have different widths, {clips.shape[1]} and {captions.shape[1]}: "
            "take both from the same model"
        )
    if audio_ids is None and text_ids is None:
        clips, clip_ids, caption_ids = paired_ids(clips, len(captions), captions_per_clip)
    else:
        clip_ids, caption_ids = given_ids(audio_ids, text_ids, len(clips), len(captions), captions_per_clip)
    return rank(clips, captions, clip_ids, caption_ids, map_at, chunk)


def summarise(ranks: Ranks, recall_at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """The figures of one direction; `retrieval_metrics` says what each means."""
    first = ranks.first
    figures = {f"r{k}": 100.0 * float(np.mean(first <= k)) for k in recall_at}
    figures[f"map{ranks.map_at}"] = 100.0 * float(np.mean(ranks.precision))
    figures["meanr"] = float(np.mean(first))
    figures["medr"] = float(np.floor(np.median(first - 1)) + 1)
    figures["mrr"] = float(np.mean(1.0 / first))
    figures["hits1"] = float(np.mean(first == 1))
    return figures


def chance(ranks: Ranks, recall_at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """What a model that orders the candidates at random is expected to score: `r<k>` in percent, and `meanr`.

    Exact for the queries at hand: with R right answers among N, the first k hold at least one with
    probability 1 - C(N - R, k) / C(N, k), and the best one has rank (N + 1) / (R + 1) on average.
    """
    total, right = ranks.candidates, ranks.relevant
    figures = {}
    for k in recall_at:
        missed = unseen(right, total, min(k, total))[:, -1]
        figures[f"r{k}"] = 100.0 * float(np.mean(1.0 - missed))
    figures["meanr"] = float(np.mean((total + 1) / (right + 1)))
    return figures


def unseen(right: Int[np.ndarray, " Q"], total: int, depth: int) -> Float[np.ndarray, "Q K"]:
    """How likely the first 1, 2, ... `depth` of `total` candidates in random order hold none of the R right
    ones: C(total - R, k) / C(total, k)."""
    drawn = np.arange(depth)
    return np.clip((total - right[:, None] - drawn) / (total - drawn), 0.0, 1.0).cumprod(axis=1)


def unit_rows(rows: Rows, name: str) -> Float[np.ndarray, "B E"]:
    """Float32 rows of norm 1 (an all-zero row stays zero: it is no better match than any other).

    Raises GlapError, with `name`, for anything but a non-empty matrix of finite numbers.
    """
    matrix = np.asarray(rows, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise GlapError(f"{name} embeddings have shape {matrix.shape}: give a non-empty (rows, joint) matrix")
    # A block at a time: large sets have no room for what comes between.
    parts = [slice(start, start + UNIT_ROWS) for start in range(0, len(matrix), UNIT_ROWS)]
    bad = np.flatnonzero(np.concatenate([~np.isfinite(matrix[part]).all(axis=1) for part in parts]))
    if bad.size:
        raise GlapError(
            f"{name} embeddings hold NaN or infinite numbers in {bad.size} of {len(matrix)} rows (first: "
            f"row {bad[0]}): leave these clips out or mend the model"
        )
    found = np.empty_like(matrix)
    for part in parts:
        norms = np.linalg.norm(matrix[part], axis=1, keepdims=True)
        np.divide(matrix[part], np.maximum(norms, np.float32(1e-12)), out=found[part])
    return found


def paired_ids(
    clips: Float[np.ndarray, "A E"], captions: int, captions_per_clip: int
) -> tuple[Float[np.ndarray, "_ E"], Int[np.ndarray, "_ 1"], Int[np.ndarray, "_ 1"]]:
    """One row per clip, and the ids that say that clip i has captions i*n to (i+1)*n - 1."""
    if captions_per_clip > 1 and len(clips) == captions:
        clips = clips[::captions_per_clip]
    if captions_per_clip < 1 or len(clips) * captions_per_clip != captions:
        raise GlapError(
            f"{len(clips)} clips with {captions_per_clip} captions each do not make {captions} text rows: "
            "give captions_per_clip, or audio_ids and text_ids that say which caption belongs to which clip"
        )
    return clips, np.arange(len(clips))[:, None], np.arange(captions)[:, None] // captions_per_clip


def given_ids(
    audio_ids: Ids | None, text_ids: Ids | None, clips: int, captions: int, captions_per_clip: int
) -> tuple[Int[np.ndarray, "A M"], Int[np.ndarray, "C 1"]]:
    """The ids of both sides as matrices. Raises GlapError where they do not fit the rows."""
    if audio_ids is None or text_ids is None or captions_per_clip != 1:
        raise GlapError("give both audio_ids and text_ids, and then no captions_per_clip: the ids say it all")
    mine, theirs = np.asarray(audio_ids), np.asarray(text_ids)
    mine = mine[:, None] if mine.ndim == 1 else mine
    if mine.ndim != 2 or len(mine) != clips or theirs.shape != (captions,):
        raise GlapError(
            f"ids of shapes {np.shape(audio_ids)} and {theirs.shape} do not fit {clips} clips and {captions} "
            "captions: give one id per caption, and one or a padded row of them per clip"
        )
    if theirs.min() < 0:
        raise GlapError("text_ids holds a negative id: -1 is kept for padding in audio_ids; number from 0")
    return mine, theirs[:, None]
