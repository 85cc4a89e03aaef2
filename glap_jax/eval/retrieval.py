"""Retrieval tables of a set of clips and captions: pooled, per group and per language, beside chance."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from glap_jax.errors import GlapError
from glap_jax.eval.bootstrap import intervals
from glap_jax.eval.metrics import Rows, chance, retrieval_ranks, summarise, unit_rows
from glap_jax.eval.ranking import Ranks

# The recall curve is drawn up to this k.
CURVE = 50


@dataclass(frozen=True)
class Table:
    """Retrieval among one set of clips and their captions.

    Attributes:
        kind: "pooled", "group", "language" or "text": what the set has in common; clips of a language are
            one, those with captions in a language, and only these, the other.
        name: of the group or language; "all" for the pooled set.
        clips, captions: how many of the set ask. Queries and candidates both come from the set.
        metrics: `{"a2t": {...}, "t2a": {...}}` as of `retrieval_metrics`.
        chance: what a random order is expected to score, for the same directions: `r1`, `r5`, `r10`, `meanr`.
        curve: `{"k": [...], "a2t": [...], "a2t_chance": [...], "t2a": ..., "t2a_chance": ...}`, recall at k
            in percent.
        intervals: bootstrap intervals of `metrics`, 95 %: `{"a2t": {"r1": [low, high], ...}, "t2a": {...}}`.
        ranks: behind all this; not in a report.json.
    """

    kind: str
    name: str
    clips: int
    captions: int
    metrics: dict[str, dict[str, float]]
    chance: dict[str, dict[str, float]]
    curve: dict[str, list[float]]
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    ranks: dict[str, Ranks] = field(default_factory=dict)


@dataclass(frozen=True)
class HeatMap:
    """Cosines of some clips (rows) with one caption of each (columns), in the order of their groups.

    Attributes:
        scores: `N N` float32; a good model is bright on the diagonal and dark elsewhere.
        groups: `N` names.
    """

    scores: Float[np.ndarray, "N N"]
    groups: list[str]


def retrieval_tables(
    audio: Rows,
    text: Rows,
    *,
    owners: Sequence[int] | Int[np.ndarray, " C"] | None = None,
    captions: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    asking: Bool[np.ndarray, " A"] | None = None,
    chunk: int | None = None,
) -> list[Table]:
    """Tables of the whole set and, where there are several, of each group and each language.

    A group's or a language's table searches among that set only: fewer candidates, and so a higher chance,
    which stands beside it.

    Args:
        audio: `A E` clip embeddings, of any norm.
        text: `C E` caption embeddings.
        owners: `C`, the row of the clip that each caption describes; by default caption i describes clip i.
            Clips may have different numbers of captions, but none may have no caption.
        captions: `C` strings that say which captions are the same; a clip is then right for every caption
            equal to one of its own, whichever recording that was written for. By default all differ.
        groups, languages: `A` names, one per clip.
        asking: `A`, which clips and their captions are queries; all are candidates. By default all ask. A set
            in which none does has no table.
        chunk: queries at a time, as for `retrieval_metrics`.

    Raises GlapError where counts do not fit, a clip has no caption, or embeddings are empty or not finite.
    """
    clips, texts = unit_rows(audio, "audio"), unit_rows(text, "text")
    owner = np.arange(len(texts)) if owners is None else np.asarray(owners, dtype=np.int64)
    check_counts(len(clips), len(texts), owner, captions, groups, languages)
    same = np.arange(len(texts)) if captions is None else np.unique(captions, return_inverse=True)[1]
    everything = np.ones(len(clips), bool)
    asking = everything if asking is None else asking
    found = functools.partial(
        retrieval_table, clips=clips, texts=texts, owner=owner, same=same, asking=asking, chunk=chunk
    )
    tables = [found("pooled", "all", everything)]
    for kind, names in (("group", groups), ("language", languages)):
        several = len(set(names or ())) > 1
        for name in sorted(set(itertools.compress(names or (), asking))) if several else ():
            tables.append(found(kind, name, np.array([one == name for one in names or ()])))
    return tables


def retrieval_table(
    kind: str,
    name: str,
    chosen: np.ndarray,
    clips: Float[np.ndarray, "A E"],
    texts: Float[np.ndarray, "C E"],
    owner: Int[np.ndarray, " C"],
    same: Int[np.ndarray, " C"],
    asking: Bool[np.ndarray, " A"],
    chunk: int | None,
) -> Table:
    """The table of the clips in `chosen` (`A` bool) and of their captions; `same` numbers equal captions, and
    the clips of `asking` are queries."""
    kept = chosen[owner]
    row = np.cumsum(chosen) - 1
    text_ids = same[kept]
    audio_ids = ids_of_clips(row[owner[kept]], text_ids, int(chosen.sum()))
    among = retrieval_ranks(clips[chosen], texts[kept], audio_ids=audio_ids, text_ids=text_ids, chunk=chunk)
    asked = {"a2t": asking[chosen], "t2a": asking[owner[kept]]}
    ranks = {direction: one.of(asked[direction]) for direction, one in among.items()}
    return Table(
        kind=kind,
        name=name,
        clips=int(asked["a2t"].sum()),
        captions=int(asked["t2a"].sum()),
        metrics={direction: summarise(one) for direction, one in ranks.items()},
        chance={direction: chance(one) for direction, one in ranks.items()},
        curve=recall_curve(ranks),
        intervals={direction: intervals(one) for direction, one in ranks.items()},
        ranks=ranks,
    )


def ids_of_clips(
    owner: Int[np.ndarray, " C"], text_ids: Int[np.ndarray, " C"], clips: int
) -> Int[np.ndarray, "A M"]:
    """The caption ids of every clip, padded with -1 to as many as the richest clip has."""
    counts = np.bincount(owner, minlength=clips)
    ids = np.full((clips, int(counts.max())), -1, np.int64)
    order = np.argsort(owner, kind="stable")
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    ids[owner[order], place] = text_ids[order]
    return ids


def recall_curve(ranks: dict[str, Ranks]) -> dict[str, list[float]]:
    """Recall at every k up to `CURVE` or the size of the larger gallery, in percent, beside chance."""
    cuts = range(1, min(CURVE, max(one.candidates for one in ranks.values())) + 1)
    curve: dict[str, list[float]] = {"k": [float(k) for k in cuts]}
    for direction, one in ranks.items():
        curve[direction] = [100.0 * float(np.mean(one.first <= k)) for k in cuts]
        curve[f"{direction}_chance"] = list(chance(one, cuts).values())[: len(cuts)]
    return curve


def heat_map(
    audio: Rows,
    text: Rows,
    *,
    owners: Sequence[int] | Int[np.ndarray, " C"] | None = None,
    groups: Sequence[str] | None = None,
    limit: int = 64,
) -> HeatMap:
    """Cosines of at most `limit` clips (drawn evenly from the set, ordered by group) with a caption of each.

    The arguments are those of `retrieval_tables`; the first caption of a clip stands for it. Raises GlapError
    as that does.
    """
    clips, texts = unit_rows(audio, "audio"), unit_rows(text, "text")
    owner = np.arange(len(texts)) if owners is None else np.asarray(owners, dtype=np.int64)
    check_counts(len(clips), len(texts), owner, None, groups, None)
    shown, captions, names = drawn(len(clips), owner, groups, limit)
    return HeatMap(clips[shown] @ texts[captions].T, names)


def drawn(
    clips: int, owner: Int[np.ndarray, " C"], groups: Sequence[str] | None, limit: int
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"], list[str]]:
    """At most `limit` clips, drawn evenly and ordered by group: their rows, the rows of the first caption of
    each, and their groups."""
    names = np.array(groups if groups is not None else ["all"] * clips)
    order = np.argsort(names, kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(limit, len(order))).round().astype(int))]
    first_caption = np.unique(owner, return_index=True)[1]
    return shown, first_caption[shown], [str(name) for name in names[shown]]


def check_counts(
    clips: int,
    captions: int,
    owner: Int[np.ndarray, "..."],
    names: Sequence[str] | None,
    groups: Sequence[str] | None,
    languages: Sequence[str] | None,
) -> None:
    """Raises GlapError unless everything fits the clips and captions, and every clip has a caption."""
    for what, values, count, of in (
        ("owners", owner, captions, "captions"),
        ("captions", names, captions, "text rows"),
        ("groups", groups, clips, "clips"),
        ("languages", languages, clips, "clips"),
    ):
        if values is not None and len(values) != count:
            raise GlapError(f"{len(values)} {what} given for {count} {of}: give one for each")
    if owner.min() < 0 or owner.max() >= clips:
        raise GlapError(
            f"a caption belongs to clip {owner.min() if owner.min() < 0 else owner.max()}, "
            f"but there are {clips} clips: number them from 0"
        )
    without = np.setdiff1d(np.arange(clips), owner)
    if without.size:
        raise GlapError(
            f"clip {without[0]} has no caption, as have {without.size} of {clips} clips: leave them out"
        )
