"""Retrieval tasks: captions of clips and clips of captions, together, by language or by other sets."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from glap_jax.errors import GlapError
from glap_jax.eval.bootstrap import drawn_medians, drawn_sums, ends, per_query
from glap_jax.eval.engine import Encoded, Run
from glap_jax.eval.figures import MANY, curves
from glap_jax.eval.result import Row, Sample, TaskResult
from glap_jax.eval.retrieval import Table, retrieval_tables
from glap_jax.eval.task import labels_of
from glap_jax.eval.task_figures import MEAN, take_sample
from glap_jax.eval.zeroshot import means
from glap_jax.inference import Model
from glap_jax.pipeline.evaluation import Clip

T = TypeVar("T")
# Clips without the field that tells sets apart.
NONE = "none"


class Found(NamedTuple):
    """Tables of all clips and of each set of them, and some clips with a caption of each."""

    tables: list[Table]
    sample: Sample


def measure(run: Run) -> TaskResult:
    """Figures as of `retrieval_metrics` with the direction before each, such as `a2t/r1`; with several
    languages their means, and a row for each. With `by` there is a row for each value of that field, and
    their mean.

    Raises:
        GlapError: no clip has a caption in one of the languages.
    """
    task = run.task
    encoded, asking = candidates(run)
    found, counts = [], []
    for language in task.languages or (None,):
        captions = [[(one.text, one.language) for one in clip.captions] for clip in encoded.clips]
        if language is not None:
            captions = told_captions(encoded.clips, language, task.told(language))
        most, same = task.captions, task.same_captions
        found.append(searched(run.model, encoded, captions, most=most, same=same, asking=asking, by=task.by))
        counts.append(np.array([len(some[:most]) for some in captions])[asking])
    sample, (whole, *sets) = found[0].sample, found[0].tables
    if len(found) > 1:
        named = list(zip(task.languages, (each.tables[0] for each in found), strict=True))
        rows = [as_row(one, name) for name, one in named]
        # Clips are drawn, each with its captions in every language.
        drawn = [_drawn(one, many) for (_, one), many in zip(named, counts, strict=True)]
        likely = _mean_intervals(drawn)
        return run.result(*means(rows), rows=rows, intervals=likely, curves=curves(named), sample=sample)
    row, rows = as_row(whole, task.name), [as_row(one, one.name) for one in sets]
    shown = curves([("all", whole), *((one.name, one) for one in sets[: MANY - 1])])
    if rows:
        names = np.array(set_names(encoded.clips, task.by))[asking]
        drawn = [_drawn(one, counts[0][names == one.name], seed) for seed, one in enumerate(sets)]
        rows.append(Row(MEAN, whole.clips, *means(rows), _mean_intervals(drawn)))
    return run.result(
        row.figures, row.chance, intervals=row.intervals, rows=rows, curves=shown, sample=sample
    )


def _drawn(
    found: Table, captions: Int[np.ndarray, " A"], seed: int = 0
) -> dict[str, Float[np.ndarray, " draws"]]:
    """The figures of each draw of the clips that ask, each of which has so many captions in the table."""
    clips, drawn = np.arange(len(captions)), {}
    for direction, owners in (("a2t", clips[captions > 0]), ("t2a", np.repeat(clips, captions))):
        ranks = found.ranks[direction]
        values = per_query(ranks.first, ranks.precision, ranks.map_at) | {"meanr": ranks.first}
        columns = [np.ones(len(owners)), *values.values()]
        sums = [np.bincount(owners, weights=each, minlength=len(captions)) for each in columns]
        queries, *totals = drawn_sums(np.stack(sums, axis=1), seed).T
        with np.errstate(invalid="ignore"):
            drawn |= {f"{direction}/{name}": one / queries for name, one in zip(values, totals, strict=True)}
        drawn[f"{direction}/medr"] = drawn_medians(ranks.first, owners, len(captions), seed)
    return drawn


def _mean_intervals(drawn: Sequence[Mapping[str, Float[np.ndarray, " draws"]]]) -> dict[str, list[float]]:
    """Those of the means over some tables; a table counts for nothing in a draw that leaves it no query."""
    found = {}
    for name in drawn[0]:
        figures = np.stack([each[name] for each in drawn])
        found[name] = ends(np.nanmean(figures[:, ~np.isnan(figures).all(axis=0)], axis=0))
    return found


def candidates(run: Run) -> tuple[Encoded, Bool[np.ndarray, " A"]]:
    """The clips of a task and, behind them, the others of its gallery; and which of them are the task's."""
    task = run.task
    own = list(run.known()) if task.dataset.where or task.gallery.splits else None
    parts = [run.encoded(own)]
    for split in task.gallery.splits:
        rows = set(run.known(split, task.gallery.where))
        if split == task.dataset.split:
            rows -= set(own or ())
        if rows:
            parts.append(run.encoded(sorted(rows), split))
    together = Encoded(
        np.concatenate([part.audio for part in parts]), tuple(clip for part in parts for clip in part.clips)
    )
    return together, np.arange(len(together.clips)) < len(parts[0].clips)


def told_captions(clips: Sequence[Clip], language: str, told: str) -> list[list[tuple[str, str]]]:
    """The captions in a language of each clip, and what the text tower is told of them.

    Raises:
        GlapError: there is none.
    """
    captions = [[(text, told) for text in captions_in(clip, language)] for clip in clips]
    if not any(captions):
        raise GlapError(
            f"eval: no clip has a caption in {language}; add 'caption_{language}' to the json of its clips "
            "(`glap-jax data translate` does), or leave the language out"
        )
    return captions


def captions_in(clip: Clip, language: str) -> list[str]:
    """A clip's captions in a language, its own or, from `caption_LANGUAGE` in its json, translated ones."""
    if clip.language == language:
        return [caption.text for caption in clip.captions]
    return labels_of(clip.fields, f"caption_{language}")


def searched(
    model: Model,
    encoded: Encoded,
    captions: Sequence[Sequence[tuple[str, str]]],
    *,
    most: int | None = None,
    same: bool = False,
    asking: Bool[np.ndarray, " A"] | None = None,
    by: str = "",
) -> Found:
    """Both directions among the clips that have captions and these, and among each set of them.

    Args:
        model: what encodes the captions.
        encoded: clips.
        captions: of each clip: texts, and the language that the text tower is told of each.
        most: captions of a clip that are used, the first ones; none takes all.
        same: whether equal captions are right for each other's clips.
        asking: which clips and their captions are queries; by default all.
        by: field of a clip's json whose values make sets, where there are several; without, there are none.
    """
    described = np.array([bool(some) for some in captions])
    kept = [some[:most] for some in captions if some]
    told = [caption for some in kept for caption in some]
    # Each is encoded once.
    distinct = list(dict.fromkeys(told))
    texts, languages = zip(*distinct, strict=True)
    place = {caption: row for row, caption in enumerate(distinct)}
    audio = encoded.audio[described]
    vectors = model.encode_text(texts, language=languages)[[place[caption] for caption in told]]
    owners = np.repeat(np.arange(len(kept)), [len(some) for some in kept])
    sets = set_names(encoded.clips, by) if by else [clip.language for clip in encoded.clips]
    sets = list(itertools.compress(sets, described))
    tables = retrieval_tables(
        audio,
        vectors,
        owners=owners,
        captions=[text for text, _ in told] if same else None,
        groups=sets if by else None,
        asking=None if asking is None else asking[described],
    )
    return Found(tables, take_sample(audio, vectors, owners, sets, "captions"))


def set_names(clips: Sequence[Clip], by: str) -> list[str]:
    """What a field says of each clip."""
    return [(labels_of(clip.fields, by) or [NONE])[0] for clip in clips]


def as_row(found: Table, name: str) -> Row:
    """The figures of a table, with the direction before each name."""
    return Row(name, found.clips, flat(found.metrics), flat(found.chance), flat(found.intervals))


def flat(both: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """What there is of each direction, under names such as `a2t/r1`."""
    return {f"{direction}/{name}": value for direction, one in both.items() for name, value in one.items()}
