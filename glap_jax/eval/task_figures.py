"""Pictures of what tasks come to: curves, bars, similarities and points."""

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from glap_jax.eval import figures as draw
from glap_jax.eval.plane import POINTS, plane
from glap_jax.eval.result import Sample, TaskResult
from glap_jax.eval.retrieval import drawn, heat_map

# Figures of rows that are drawn as bars: the first of these that a task shows.
SERIES = (("a2t/r1", "t2a/r1"), ("a2t/r1",), ("t2a/r1",), ("accuracy",), ("map",))
# The row that is a mean of the others.
MEAN = "mean"


def take_sample(
    audio: Float[np.ndarray, "A E"],
    text: Float[np.ndarray, "C E"],
    owners: Int[np.ndarray, " C"],
    groups: list[str],
    what: str,
) -> Sample:
    """As many clips as `plane` shows, drawn evenly, and the first text of each; `what` the texts are."""
    shown, texts, names = drawn(len(audio), owners, groups, POINTS // 2)
    return Sample(audio[shown], text[texts], names, what)


def pictures(result: TaskResult) -> dict[str, Figure]:
    """By file name: recall against k, the figures of languages or sets as bars, cosines of some clips with
    their texts, and these as points; each where there is something to show."""
    name, sample = result.task.name, result.sample
    found = {"recall": draw.curve_figure(result.curves) if result.curves else None, "bars": bar_chart(result)}
    if sample is not None:
        scores = heat_map(sample.audio, sample.text, groups=sample.groups)
        found["similarity"] = draw.similarity_figure(scores, sample.what)
        points = plane(sample.audio, sample.text, owners=np.arange(len(sample.audio)), groups=sample.groups)
        found["plane"] = None if points is None else draw.plane_figure(points, sample.what)
    return {f"{name}-{kind}.png": figure for kind, figure in found.items() if figure is not None}


def bar_chart(result: TaskResult) -> Figure | None:
    """Rows best first, with their numbers of clips, beside chance (as GLAP's Figure 3); None without any."""
    rows = [row for row in result.rows if row.name != MEAN]
    series = next((some for some in SERIES if rows and set(some) <= rows[0].figures.keys()), None)
    if series is None:
        return None
    rows.sort(key=lambda row: -sum(row.figures[metric] for metric in series))
    heights = {metric: [row.figures[metric] for row in rows] for metric in series}
    among = "mean" if result.task.languages and result.task.kind != "keywords" else "all clips"
    return draw.bars(
        [f"{row.name} ({row.clips:,})" for row in rows],
        heights,
        [row.chance.get(series[-1], np.nan) for row in rows],
        label=series[0] if len(series) == 1 else "R@1",
        title=result.task.title or result.task.name,
        level=(among, result.figures[series[0]]) if len(series) == 1 else None,
    )
