"""Each query among a few drawn candidates, or all: HITS@1, MRR, mean rank, Macro-F1 of a cosine threshold.

So CLASP is measured (arXiv:2412.13071, Table 2; notebooks of 905ce97): a text looks for its recording among
itself and four others that are drawn, or among all.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from glap_jax.errors import GlapError
from glap_jax.eval.bootstrap import drawn_sums, ends, interval
from glap_jax.eval.engine import Encoded, Run
from glap_jax.eval.folds import SEED, parted
from glap_jax.eval.metrics import Ids, Rows, unit_rows, unseen
from glap_jax.eval.ranking import TIE, blocks
from glap_jax.eval.result import TaskResult

# Thresholds that are tried on a dev split: every 0.0001 of cosine.
GRID = np.linspace(-1.0, 1.0, 20_001, dtype=np.float32)
# What each query adds to the figures, by the rank of its right candidate.
PER_QUERY = {
    "hits1": lambda first: np.asarray(first == 1, np.float64),
    "mrr": lambda first: 1.0 / first,
    "meanr": lambda first: np.asarray(first, np.float64),
}


@dataclasses.dataclass(frozen=True)
class Search:
    """Queries, what each is looked for in, and how.

    Attributes:
        queries: `Q E` embeddings, of any norm; cosines are compared.
        gallery: `N E`.
        query_ids, gallery_ids: `Q` and `N`, not negative: candidates with the id of a query are right.
        candidates: one right candidate a query, drawn where there are several, and others that are drawn
            among the wrong ones, each once; None takes the whole gallery, and the best right one counts.
        draws: how often candidates are drawn anew; figures are means over them.
        seed: of the draws.
    """

    queries: Rows
    gallery: Rows
    query_ids: Ids
    gallery_ids: Ids
    candidates: int | None = 5
    draws: int = 10
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one draw, or the whole gallery, gives.

    Attributes:
        first: `Q`, the 1-based rank of the right candidate.
        right, wrong: how many pairs of a query and a right or wrong candidate reach 0, 1, ... of the edges.
        pairs: of each query how many right candidates reach the first edge, how many do not, and the same of
            wrong ones.
    """

    first: Int[np.ndarray, " Q"]
    right: Int[np.ndarray, " G"]
    wrong: Int[np.ndarray, " G"]
    pairs: Int[np.ndarray, "Q 4"]


Numbers = Int[np.ndarray, "..."] | Float[np.ndarray, "..."] | np.integer


def candidate_metrics(search: Search, threshold: float | None = None) -> dict[str, float]:
    """Figures of a search: `hits1` and `mrr` (0 to 1) and `meanr` (from 1), means over queries and draws.

    With a threshold also `f1`, Macro-F1 in percent: pairs of a query and a candidate whose cosine is
    `threshold` or more are taken for right ones; the mean of the F1 of right and of wrong pairs. A tie counts
    against the model (CLASP's code leaves queries with one out).

    Raises GlapError for what `retrieval_metrics` refuses, and where too few wrong candidates can be drawn.
    """
    return _figures(_outcomes_at(search, threshold), threshold)


def choose_threshold(dev: Search) -> float:
    """The cosine with the best Macro-F1 over all pairs of a dev split, candidates drawn as on the test split.

    Of several that are equally good (every 0.0001 is tried) it is the one in the middle.
    """
    found = list(_outcomes(dev, GRID))
    f1 = macro_f1(np.sum([one.right for one in found], axis=0), np.sum([one.wrong for one in found], axis=0))
    best = np.flatnonzero(f1 == f1.max())
    return float(GRID[best[len(best) // 2]])


def candidate_chance(search: Search) -> dict[str, float]:
    """What a random order of the candidates is expected to score: `hits1`, `mrr`, `meanr`."""
    _, _, several = _right_rows(np.asarray(search.query_ids), np.asarray(search.gallery_ids))
    total = search.candidates or len(search.gallery_ids)
    several = np.ones_like(several) if search.candidates else several
    figures = {"hits1": 0.0, "mrr": 0.0, "meanr": 0.0}
    rights, counts = np.unique(several, return_counts=True)
    for right, after, queries in zip(rights, unseen(rights, total, total), counts, strict=True):
        share, at = queries / len(several), np.concatenate([[1.0], after[:-1]]) - after
        figures["hits1"] += share * at[0]
        figures["mrr"] += share * np.sum(at / np.arange(1, total + 1))
        figures["meanr"] += share * (total + 1) / (right + 1)
    return {name: float(value) for name, value in figures.items()}


def measure(run: Run) -> TaskResult:
    """A task of candidates: captions look for their clips, with a threshold chosen on other clips.

    Raises:
        GlapError: no clips to choose the threshold by, or too few candidates.
    """
    task = run.task
    if task.folds:
        encoded = run.encoded(list(run.known()))
        part = parted(task, [clip.fields for clip in encoded.clips], task.folds)
        sets = [_search(run, encoded, part == number) for number in (0, 1)]
    else:
        found = [run.encoded(list(run.known(split)), split) for split in (None, "val")]
        sets = [_search(run, each, None) for each in found]
    search, dev = sets
    threshold = choose_threshold(dev)
    run.seconds *= len(search.gallery) / run.clips
    run.clips = len(search.gallery)
    found = _outcomes_at(search, threshold)
    figures = _figures(found, threshold) | {"threshold": threshold}
    values = {name: np.mean([per(one.first) for one in found], axis=0) for name, per in PER_QUERY.items()}
    likely = {name: interval(each) for name, each in values.items()}
    sums = drawn_sums(np.concatenate([one.pairs for one in found], axis=1).astype(np.float64))
    likely["f1"] = ends(100.0 * _f1(*np.moveaxis(sums.reshape(len(sums), -1, 4), 2, 0)).mean(axis=1))
    drawn = f"{task.candidates} candidates a text, means over {task.draws} draws"
    among = drawn if task.candidates else "all clips"
    note = f"Among {among}; the threshold was chosen on {len(dev.gallery)} other clips."
    return run.result(figures, candidate_chance(search), notes=(note,), intervals=likely)


def _outcomes_at(search: Search, threshold: float | None) -> list[Outcome]:
    return list(_outcomes(search, np.array([] if threshold is None else [threshold], np.float32)))


def _figures(found: list[Outcome], threshold: float | None) -> dict[str, float]:
    first = np.concatenate([one.first for one in found])
    figures = {name: float(np.mean(per(first))) for name, per in PER_QUERY.items()}
    if threshold is not None:
        f1 = [macro_f1(one.right, one.wrong) for one in found]
        figures["f1"] = 100.0 * float(np.mean(f1))
    return figures


def _search(run: Run, encoded: Encoded, chosen: Bool[np.ndarray, " A"] | None) -> Search:
    """The captions of the chosen clips (or all) in search of these."""
    rows = np.arange(len(encoded.clips)) if chosen is None else np.flatnonzero(chosen)
    captions = [encoded.clips[row].captions[: run.task.captions] for row in rows]
    texts = [caption.text for some in captions for caption in some]
    told = [run.task.told(caption.language) for some in captions for caption in some]
    owners = np.repeat(np.arange(len(rows)), [len(some) for some in captions])
    ids = np.arange(len(rows))
    if run.task.same_captions:
        ids = np.unique([some[0].text for some in captions], return_inverse=True)[1]
    vectors = run.model.encode_text(texts, language=told)
    return Search(vectors, encoded.audio[rows], ids[owners], ids, run.task.candidates, run.task.draws, SEED)


def macro_f1(right: Int[np.ndarray, " G"], wrong: Int[np.ndarray, " G"]) -> Float[np.ndarray, " _"]:
    """Macro-F1 (0 to 1) at each edge, from how many right and wrong pairs reach 0, 1, ... of the edges."""
    missed, refused = np.cumsum(right)[:-1], np.cumsum(wrong)[:-1]
    return _f1(right.sum() - missed, missed, wrong.sum() - refused, refused)


def _f1(found: Numbers, missed: Numbers, taken: Numbers, refused: Numbers) -> Float[np.ndarray, "..."]:
    """Macro-F1 (0 to 1) of how many right pairs reach a threshold or do not, and how many wrong ones."""
    errors = taken + missed
    return (found / np.maximum(2 * found + errors, 1)) + (refused / np.maximum(2 * refused + errors, 1))


def _outcomes(search: Search, edges: Float[np.ndarray, " _"]) -> Iterator[Outcome]:
    queries, gallery = unit_rows(search.queries, "query"), unit_rows(search.gallery, "gallery")
    query_ids, gallery_ids = np.asarray(search.query_ids), np.asarray(search.gallery_ids)
    if query_ids.shape != (len(queries),) or gallery_ids.shape != (len(gallery),):
        raise GlapError(
            f"ids of shapes {query_ids.shape} and {gallery_ids.shape} do not fit {len(queries)} queries and "
            f"a gallery of {len(gallery)}: give one for each"
        )
    if search.candidates is None:
        yield _among_all(queries, gallery, query_ids, gallery_ids, edges)
        return
    order, start, several = _right_rows(query_ids, gallery_ids)
    few = len(gallery) - int(several.max())
    if not several.all():
        raise _without(int(np.argmin(several)))
    if few < search.candidates - 1 or search.candidates < 2:
        raise GlapError(
            f"cannot draw {search.candidates} candidates, one of them right: a query has only {few} wrong "
            "ones; ask for 2 or more, no more than there are, or for all"
        )
    rng = np.random.default_rng(search.seed)
    for _ in range(search.draws):
        mine = order[start + rng.integers(several)]
        others = _draw_wrong(query_ids, gallery_ids, search.candidates - 1, rng)
        yield _among(queries, gallery, np.column_stack([mine, others]), edges)


def _right_rows(
    query_ids: Int[np.ndarray, " Q"], gallery_ids: Int[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """Rows of the gallery ordered by id; where in that order the right ones of each query begin; how many."""
    order = np.argsort(gallery_ids, kind="stable")
    start, stop = (np.searchsorted(gallery_ids[order], query_ids, side) for side in ("left", "right"))
    return order, start, stop - start


def _draw_wrong(
    query_ids: Int[np.ndarray, " Q"], gallery_ids: Int[np.ndarray, " N"], count: int, rng: np.random.Generator
) -> Int[np.ndarray, "Q W"]:
    """`count` different rows of the gallery that are wrong for each query; every choice is equally likely."""
    drawn = np.zeros((len(query_ids), count), np.int64)
    again = np.arange(len(query_ids))
    while len(again):
        drawn[again] = rng.integers(len(gallery_ids), size=(len(again), count))
        ordered = np.sort(drawn[again], axis=1)
        repeated = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        again = again[repeated | (gallery_ids[drawn[again]] == query_ids[again, None]).any(axis=1)]
    return drawn


def _among(
    queries: Float[np.ndarray, "Q E"],
    gallery: Float[np.ndarray, "N E"],
    candidates: Int[np.ndarray, "Q C"],
    edges: Float[np.ndarray, " _"],
) -> Outcome:
    """Each query among its own candidates, the first of which is right."""
    scores = np.zeros(candidates.shape, np.float32)
    for rows in blocks(len(queries), candidates.shape[1] * queries.shape[1], None, "ranking candidates"):
        scores[rows] = np.einsum("qe,qce->qc", queries[rows], gallery[candidates[rows]])
    first = 1 + np.count_nonzero(scores[:, 1:] >= scores[:, :1] - np.float32(TIE), axis=1)
    is_right = np.zeros(candidates.shape, bool)
    is_right[:, 0] = True
    right, wrong = (_reached(some, edges) for some in (scores[:, 0], scores[:, 1:]))
    return Outcome(first, right, wrong, _pairs(scores, is_right, edges))


def _among_all(
    queries: Float[np.ndarray, "Q E"],
    gallery: Float[np.ndarray, "N E"],
    query_ids: Int[np.ndarray, " Q"],
    gallery_ids: Int[np.ndarray, " N"],
    edges: Float[np.ndarray, " _"],
) -> Outcome:
    """Each query among the whole gallery, a block of queries at a time."""
    first, pairs = np.zeros(len(queries), np.int64), np.zeros((len(queries), 4), np.int64)
    right, wrong = (np.zeros(len(edges) + 1, np.int64) for _ in range(2))
    for rows in blocks(len(queries), len(gallery), None, "ranking candidates"):
        scores = queries[rows] @ gallery.T
        is_right = query_ids[rows, None] == gallery_ids
        best = np.where(is_right, scores, -np.inf).max(axis=1)
        if np.isinf(best).any():
            raise _without(rows.start + int(np.argmin(best)))
        right += _reached(scores[is_right], edges)
        wrong += _reached(scores[~is_right], edges)
        pairs[rows] = _pairs(scores, is_right, edges)
        rivals = ~is_right & (scores >= best[:, None] - np.float32(TIE))
        first[rows] = 1 + np.count_nonzero(rivals, axis=1)
    return Outcome(first, right, wrong, pairs)


def _pairs(
    scores: Float[np.ndarray, "Q C"], is_right: Bool[np.ndarray, "Q C"], edges: Float[np.ndarray, " _"]
) -> Int[np.ndarray, "Q 4"]:
    """Of each query the right candidates that reach the first edge or do not, and the wrong ones."""
    reach = scores >= edges[0] if len(edges) else np.zeros(scores.shape, bool)
    kinds = (is_right & reach, is_right & ~reach, ~is_right & reach, ~is_right & ~reach)
    return np.stack([np.count_nonzero(kind, axis=1) for kind in kinds], axis=1)


def _reached(scores: Float[np.ndarray, "..."], edges: Float[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
    """How many scores are at or above 0, 1, ... all of the ascending edges."""
    places = np.searchsorted(edges, scores.ravel(), side="right")
    return np.bincount(places, minlength=len(edges) + 1)


def _without(query: int) -> GlapError:
    return GlapError(f"query {query} has no right answer to be found: check the ids of queries and gallery")
