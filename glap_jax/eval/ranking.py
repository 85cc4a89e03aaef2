"""Ranks of the right answers in both directions from one pass over the scores, block by block.

The scores of the right answers, which are few, are computed first, pair by pair. Then every block of scores
tells, for its rows and for its columns at once, how many wrong candidates come before each right one. Memory
holds the embeddings, a few numbers a query and one block.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int

from glap_jax.errors import GlapError
from glap_jax.parallel.sharding import ParallelConfig, make_mesh, over_batch, replicated
from glap_jax.progress import track

# Cosines of unit float32 rows carry rounding noise of about 1e-7, which depends on the shape of the matrix
# product. Two candidates closer than this are a tie.
TIE = 1e-6
# Scores that are held at once, of each device: 16 MB.
BLOCK = 4_000_000
# Rows and columns of a block on a device.
EDGE = 2048
# From this many scores on, blocks are compiled and shared out over the devices; fewer take NumPy a second.
ON_DEVICES = 30_000_000
# A bar appears from this many blocks on, a few seconds' work.
LONG = 100


@dataclass(frozen=True)
class Ranks:
    """How well each of Q queries found its right answers among `candidates`.

    Attributes:
        first: `Q` int, the 1-based rank of the best right answer.
        precision: `Q` float, the average precision cut at `map_at`, over all right answers.
        relevant: `Q` int, how many candidates are right.
        candidates: size of the gallery.
        map_at: where `precision` is cut.
    """

    first: Int[np.ndarray, " Q"]
    precision: Float[np.ndarray, " Q"]
    relevant: Int[np.ndarray, " Q"]
    candidates: int
    map_at: int

    def of(self, queries: Bool[np.ndarray, " Q"]) -> "Ranks":
        """Those of some queries."""
        first, precision, relevant = self.first[queries], self.precision[queries], self.relevant[queries]
        return Ranks(first, precision, relevant, self.candidates, self.map_at)


@dataclass(frozen=True)
class Side:
    """The queries of one direction, which are the candidates of the other.

    Attributes:
        rows: `Q E` unit rows.
        ids: `Q M`, small numbers; a query and a candidate that share one match. -1 is padding.
        limits: `Q D`, the score from which on a wrong candidate comes before the nth best right one; infinite
            where a query has fewer.
        relevant: `Q`, how many candidates are right.
    """

    rows: Float[np.ndarray, "Q E"]
    ids: Int[np.ndarray, "Q M"]
    limits: Float[np.ndarray, "Q D"]
    relevant: Int[np.ndarray, " Q"]


def rank(
    clips: Float[np.ndarray, "A E"],
    captions: Float[np.ndarray, "C E"],
    clip_ids: Int[np.ndarray, "A M"],
    caption_ids: Int[np.ndarray, "C 1"],
    map_at: int,
    chunk: int | None,
) -> dict[str, Ranks]:
    """Ranks of the right answers of every clip among the captions (`a2t`) and the other way round (`t2a`).

    A caption is right for a clip that has its id. Ties count against the model. `chunk` clips are scored at a
    time (None: as fit a block). Raises GlapError that names the first query without a right answer.
    """
    known, columns = np.unique(caption_ids, return_inverse=True)
    place = np.minimum(np.searchsorted(known, clip_ids), len(known) - 1)
    ids = np.where(known[place] == clip_ids, place, -1).astype(np.int32)
    theirs = columns.reshape(-1, 1).astype(np.int32)
    a2t = side(clips, captions, ids, theirs, "clip", map_at)
    t2a = side(captions, clips, theirs, ids, "caption", map_at)
    if len(clips) * len(captions) < ON_DEVICES:
        before = count_here(a2t, t2a, chunk)
    else:
        before = count_on_devices(a2t, t2a, chunk)
    return {
        "a2t": ranks(a2t, before[0], len(captions), map_at),
        "t2a": ranks(t2a, before[1], len(clips), map_at),
    }


def ranks(queries: Side, before: Int[np.ndarray, "Q D"], candidates: int, map_at: int) -> Ranks:
    """Ranks from how many wrong candidates come `before` the nth best right one."""
    nth = np.arange(before.shape[1])
    positions = nth + 1 + before
    counted = (nth < queries.relevant[:, None]) & (positions <= map_at)
    precision = np.where(counted, (nth + 1) / positions, 0.0).sum(axis=1) / queries.relevant
    return Ranks(positions[:, 0], precision, queries.relevant, candidates, map_at)


def side(
    queries: Float[np.ndarray, "Q E"],
    gallery: Float[np.ndarray, "N E"],
    ids: Int[np.ndarray, "Q M"],
    gallery_ids: Int[np.ndarray, "N L"],
    name: str,
    map_at: int,
) -> Side:
    """What a direction must know beforehand: the scores of the `map_at` best right answers of each query.

    Raises GlapError that names the first query (as `name`) without a right answer.
    """
    relevant = np.zeros(len(queries), np.int64)
    deepest = 1
    parts = []
    for rows, query, candidate in right_pairs(ids, gallery_ids, BLOCK // queries.shape[1]):
        counts = np.bincount(query, minlength=rows.stop - rows.start)
        relevant[rows] = counts
        if not counts.all():
            row = rows.start + int(np.argmin(counts))
            raise GlapError(
                f"{name} {row} has no right answer to be found: check the ids given for audio and text"
            )
        scores = np.einsum("pe,pe->p", queries[rows][query], gallery[candidate])
        order = np.lexsort((-scores, query))
        nth = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        shallow = nth < map_at
        parts.append((query[order][shallow] + rows.start, nth[shallow], scores[order][shallow]))
        deepest = max(deepest, min(map_at, int(counts.max())))
    query, nth, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
    limits = np.full((len(queries), deepest), np.inf, np.float32)
    limits[query, nth] = scores - np.float32(TIE)
    return Side(queries, ids, limits, relevant)


def right_pairs(
    ids: Int[np.ndarray, "Q M"], gallery_ids: Int[np.ndarray, "N L"], limit: int
) -> Iterator[tuple[slice, Int[np.ndarray, " P"], Int[np.ndarray, " P"]]]:
    """The pairs (query, candidate) that share an id, each once, by query; for a slice of queries at a time.

    A slice has `limit` pairs at most besides those of its first query; queries are numbered within it.
    """
    listed = gallery_ids.ravel()
    members = np.argsort(listed, kind="stable")
    starts = np.searchsorted(listed[members], np.arange(int(max(ids.max(), listed.max())) + 2))
    counts = np.where(ids >= 0, starts[ids + 1] - starts[ids], 0)
    part = np.cumsum(counts.sum(axis=1)) // max(limit, 1)
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(ids)]
    for start, stop in itertools.pairwise(edges):
        some = counts[start:stop].ravel()
        within = np.arange(some.sum()) - np.repeat(np.cumsum(some) - some, some)
        found = members[np.repeat(starts[ids[start:stop].ravel()], some) + within] // gallery_ids.shape[1]
        query = np.repeat(np.arange(len(some)) // ids.shape[1], some)
        pairs = np.unique(query * len(gallery_ids) + found)
        yield slice(start, stop), pairs // len(gallery_ids), pairs % len(gallery_ids)


def rivals(scores: Any, ids: Any, column_ids: Any, limits: Any, axis: int) -> Any:
    """How many wrong candidates reach each limit: counts of a block's rows (axis 1) or columns (axis 0).

    Arrays are NumPy's or JAX's: `scores` `Q N`, `ids` `Q M`, `column_ids` `N 1`, `limits` and result
    `Q D` or `N D`.
    """
    wrong = ids[:, 0, None] != column_ids[:, 0]
    for nth in range(1, ids.shape[1]):
        wrong = wrong & (ids[:, nth, None] != column_ids[:, 0])
    spread = limits[:, None] if axis else limits[None]
    counts = [((scores >= spread[..., n]) & wrong).sum(axis=axis) for n in range(limits.shape[1])]
    return (np if isinstance(scores, np.ndarray) else jnp).stack(counts, axis=1)


def count_here(a2t: Side, t2a: Side, chunk: int | None) -> tuple[np.ndarray, np.ndarray]:
    """`A D` and `C D` counts of `rivals` over all scores, by NumPy."""
    by_clip, by_caption = (np.zeros(each.limits.shape, np.int64) for each in (a2t, t2a))
    for rows in blocks(len(a2t.rows), len(t2a.rows), chunk, "ranking"):
        scores = a2t.rows[rows] @ t2a.rows.T
        by_clip[rows] = rivals(scores, a2t.ids[rows], t2a.ids, a2t.limits[rows], axis=1)
        by_caption += rivals(scores, a2t.ids[rows], t2a.ids, t2a.limits, axis=0)
    return by_clip, by_caption


def count_on_devices(a2t: Side, t2a: Side, chunk: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The same in compiled blocks, the clips of each shared out over this process's devices."""
    grid = Grid(len(t2a.rows), chunk)
    columns = [of_side(t2a, some, grid.whole) for some in grid.columns]
    by_clip = np.zeros(a2t.limits.shape, np.int64)
    by_caption: list[Any] = [0] * len(columns)
    for rows in blocks(len(a2t.rows), len(t2a.rows), grid.rows, "ranking"):
        queries = of_side(a2t, slice(rows.start, rows.start + grid.rows), grid.spread)
        found: Any = 0
        for number, column in enumerate(columns):
            scores = multiply(queries[0], column[0])
            found += compiled_rivals(scores, queries[1], column[1], queries[2], axis=1)
            by_caption[number] += compiled_rivals(scores, queries[1], column[1], column[2], axis=0)
        by_clip[rows] = np.asarray(found)[: rows.stop - rows.start]
    counts = np.concatenate([np.asarray(each) for each in by_caption])
    return by_clip, counts[: len(t2a.rows)].astype(np.int64)


class Grid:
    """How blocks of scores with `candidates` columns lie on this process's devices.

    Attributes:
        rows: queries of a block, `chunk` or as many as fit, rounded up to a multiple of the devices.
        columns: slices of the candidates, all equally long: the last one may reach beyond the end.
        spread, whole: where queries go, a share to each device, and candidates, all to each.
    """

    def __init__(self, candidates: int, chunk: int | None):
        mesh = make_mesh(ParallelConfig(), jax.local_devices())
        wanted = EDGE * mesh.size if chunk is None else chunk
        self.rows = -(-wanted // mesh.size) * mesh.size
        edge = min(EDGE, candidates)
        self.columns = [slice(start, start + edge) for start in range(0, candidates, edge)]
        self.spread, self.whole = over_batch(mesh), replicated(mesh)


# Each in a program of its own: XLA on CPUs counts along both axes in one kernel three times more slowly.
compiled_rivals = jax.jit(rivals, static_argnames="axis")


@jax.jit
def multiply(queries: Float[Array, "Q E"], gallery: Float[Array, "N E"]) -> Float[Array, "Q N"]:
    """Cosines of unit rows, in true float32."""
    return jnp.matmul(queries, gallery.T, precision=jax.lax.Precision.HIGHEST)


def of_side(queries: Side, rows: slice, place: NamedSharding) -> tuple[Array, ...]:
    """Embeddings, ids and limits of some rows on devices; missing rows reach no limit and have none."""
    arrays = ((queries.rows, np.nan), (queries.ids, -1), (queries.limits, np.nan))
    return tuple(piece(array, rows, fill, place) for array, fill in arrays)


def piece(array: np.ndarray, rows: slice, fill: int | float, place: NamedSharding) -> Array:
    """Some rows of a matrix on devices; what the slice lacks at the end of the matrix is `fill`."""
    missing = rows.stop - rows.start - len(array[rows])
    return jax.device_put(np.pad(array[rows], ((0, missing), (0, 0)), constant_values=fill), place)


def blocks(queries: int, candidates: int, chunk: int | None, description: str) -> Iterable[slice]:
    """Slices of queries whose scores fit a block of memory, with a progress bar when there are many."""
    if chunk is not None and chunk < 1:
        raise GlapError(f"cannot work through queries in chunks of {chunk}: give a positive chunk or none")
    rows = chunk or max(1, BLOCK // candidates)
    slices = [slice(start, min(start + rows, queries)) for start in range(0, queries, rows)]
    long = len(slices) > LONG or queries * candidates > LONG * BLOCK
    return track(slices, description, unit="block") if long else slices
