"""Plots of an evaluation."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from glap_jax.eval.plane import Plane
from glap_jax.eval.result import Curve
from glap_jax.eval.retrieval import HeatMap, Table

DIRECTIONS = {
    "a2t": "Audio to text: find the caption of a clip",
    "t2a": "Text to audio: find the clip of a caption",
}
# Groups of clips from which on their names are small, and their points of one colour.
MANY = 10


def set_name(table: Table) -> str:
    """What a row or a line of a plot is called."""
    return "all" if table.kind == "pooled" else f"{table.kind} {table.name}"


def recall_figure(tables: Sequence[Table]) -> Figure:
    """R@k against k in both directions, for the pooled set and the groups, with chance dashed."""
    shown = [table for table in tables if table.kind not in ("language", "text")] or list(tables)
    return curve_figure(curves([(set_name(table), table) for table in shown]))


def curves(tables: Sequence[tuple[str, Table]]) -> dict[str, list[Curve]]:
    """Those of tables and what they are called, in both directions."""
    return {
        heading: [
            Curve(name, table.curve["k"], table.curve[direction], table.curve[f"{direction}_chance"])
            for name, table in tables
        ]
        for direction, heading in DIRECTIONS.items()
    }


def curve_figure(headed: Mapping[str, Sequence[Curve]]) -> Figure:
    """A panel for each heading with its curves, the first of them thick, and chance dashed."""
    colours = matplotlib.colormaps["tab10"]
    figure = Figure(figsize=(5.0 * len(headed), 4.4), layout="constrained")
    panels = figure.subplots(1, len(headed), sharey=True, squeeze=False)[0]
    for panel, (heading, shown) in zip(panels, headed.items(), strict=True):
        for index, curve in enumerate(shown):
            style = {"color": colours(index % 10), "linewidth": 1.4 if index else 2.4}
            panel.plot(curve.k, curve.recall, label=curve.name, marker=".", markersize=4, **style)
            panel.plot(curve.k, curve.chance, linestyle="--", alpha=0.6, **style)
        panel.set(title=heading, xlabel="k", xscale="log", ylim=(0, 102))
        last = max(curve.k[-1] for curve in shown)
        ticks = [k for k in (1, 2, 5, 10, 20, 50) if k <= last]
        panel.set_xticks(ticks, [str(k) for k in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("recall at k, percent (chance dashed)")
    panels[0].legend(fontsize=8, loc="best")
    return figure


def similarity_figure(heat_map: HeatMap, what: str = "captions") -> Figure:
    """Cosines of clips with captions, or `what` their texts are, with the borders of the groups."""
    count = len(heat_map.groups)
    figure = Figure(figsize=(7.4, 6.4), layout="constrained")
    panel = figure.subplots()
    image = panel.imshow(heat_map.scores, cmap="magma", interpolation="nearest")
    figure.colorbar(image, ax=panel, label="cosine", shrink=0.85)
    sizes = [(name, len(list(members))) for name, members in groupby(heat_map.groups)]
    ends = np.cumsum([size for _, size in sizes])
    for end in ends[:-1]:
        panel.axhline(end - 0.5, color="white", linewidth=0.8)
        panel.axvline(end - 0.5, color="white", linewidth=0.8)
    middles = [float(end - size / 2 - 0.5) for end, (_, size) in zip(ends, sizes, strict=True)]
    names = [name for name, _ in sizes]
    many = len(names) > MANY
    size = 6 if many else 10
    panel.set_xticks(middles, names, rotation=90 if many else 20 if len(names) > 3 else 0, fontsize=size)
    panel.set_yticks(middles, names, fontsize=size)
    panel.set(xlabel=what, ylabel="clips", title=f"Similarity of {count} clips and their {what}")
    return figure


def bars(
    names: Sequence[str],
    heights: Mapping[str, Sequence[float]],
    chance: Sequence[float],
    *,
    label: str,
    title: str,
    level: tuple[str, float] | None = None,
) -> Figure:
    """Bars of percentages with chance beside: for each name one of every series of `heights`.

    Args:
        names, chance: one for each bar, or group of bars.
        heights: series -> its bars.
        label: of the axis.
        title: of the picture.
        level: what is drawn as a line across, and where.
    """
    figure = Figure(figsize=(max(5.0, 1.2 + 0.3 * len(names)), 4.4), layout="constrained")
    panel = figure.subplots()
    across, width = np.arange(len(names)), 0.8 / len(heights)
    for number, (series, values) in enumerate(heights.items()):
        place = across + (number - (len(heights) - 1) / 2) * width
        panel.bar(place, values, width, color=f"tab:{('blue', 'green')[number % 2]}", label=series)
    panel.scatter(across, chance, marker="_", color="black", label="chance", zorder=3)
    if level is not None:
        panel.axhline(level[1], color="tab:orange", linestyle="--", label=level[0])
    panel.set_xticks(across, names, rotation=90, fontsize=8)
    panel.set(ylabel=f"{label}, percent", ylim=(0, 100), title=title)
    panel.legend(fontsize=8)
    panel.grid(axis="y", alpha=0.3)
    return figure


def language_figure(tables: Sequence[Table], kind: str, title: str) -> Figure | None:
    """R@1 of each language in both directions, best first; None without tables of that kind."""
    rows = [table for table in tables if table.kind == kind]
    rows.sort(key=lambda table: -sum(table.metrics[direction]["r1"] for direction in DIRECTIONS))
    if not rows:
        return None
    return bars(
        [f"{row.name} ({row.clips:,})" for row in rows],
        {
            heading.partition(":")[0].lower(): [row.metrics[direction]["r1"] for row in rows]
            for direction, heading in DIRECTIONS.items()
        },
        [row.chance["t2a"]["r1"] for row in rows],
        label="R@1",
        title=title,
    )


def plane_figure(plane: Plane, what: str = "captions") -> Figure:
    """Clips and captions (or `what` their texts are) as points, a line from each clip to its caption (as
    CLASP's Figure 3); of many groups all in one colour."""
    figure = Figure(figsize=(7.4, 6.4), layout="constrained")
    panel = figure.subplots()
    colours = matplotlib.colormaps["tab10"]
    groups = np.array(plane.groups if len(set(plane.groups)) <= MANY else [""] * len(plane.groups))
    for clip, caption in zip(plane.audio, plane.text, strict=True):
        panel.plot(
            [clip[0], caption[0]], [clip[1], caption[1]], color="gray", linewidth=0.4, alpha=0.4, zorder=1
        )
    for index, name in enumerate(sorted(set(groups.tolist()))):
        chosen = groups == name
        for points, marker, kind in ((plane.audio, "o", "clips"), (plane.text, "^", what)):
            across, up = points[chosen].T
            label = f"{name}: {kind}" if name else kind
            panel.scatter(across, up, s=16, color=colours(index % 10), marker=marker, label=label)
    panel.set(xticks=[], yticks=[], title=f"t-SNE of {len(groups)} clips and their {what}")
    panel.legend(fontsize=8)
    return figure
