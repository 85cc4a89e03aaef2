"""A folder that shows an evaluation: report.md, report.json and its plots."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from glap_jax.errors import GlapError
from glap_jax.eval.retrieval import HeatMap, Table

DIRECTIONS = {
    "a2t": "Audio to text: find the caption of a clip",
    "t2a": "Text to audio: find the clip of a caption",
}
EXPLANATION = """\
R@k is the percentage of queries whose right answer is among the first k; in parentheses, what a random order
is expected to score. Queries and candidates of a row come from that set alone, so rows of small sets have a
higher chance. Captions that are the same count as right for each other's clips. A tie counts against the
model. mAP@10 is the mean average precision cut at rank 10, in percent; MRR the mean of 1 / rank.
"""


def write_report(
    folder: Path,
    tables: Sequence[Table],
    *,
    title: str = "Retrieval",
    facts: Mapping[str, str | int | float] | None = None,
    notes: Sequence[str] = (),
    heat_map: HeatMap | None = None,
) -> list[Path]:
    """Writes report.md, report.json, recall.png and, with a heat map, similarity.png; returns their paths.

    Args:
        folder: made when missing; files of an earlier report there are replaced.
        tables: of `retrieval_tables`, at least one.
        title: heading of the page.
        facts: what a reader must know of the run (model, data, step), in order.
        notes: sentences, each a paragraph, such as what the held-out clips can and cannot show.
        heat_map: of `glap_jax.eval.retrieval.heat_map`.

    Raises GlapError when there is no table, or the folder cannot be written.
    """
    if not tables:
        raise GlapError(f"there are no figures to report in {folder}: evaluate at least one set of clips")
    facts = dict(facts or {})
    content = {"title": title, "facts": facts, "notes": list(notes)}
    content["tables"] = [dataclasses.asdict(table) for table in tables]
    figures = {"recall.png": recall_figure(tables)}
    if heat_map is not None:
        figures["similarity.png"] = similarity_figure(heat_map)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=130)
        (folder / "report.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (folder / "report.md").write_text(markdown(title, facts, notes, tables, list(figures)), "utf-8")
    except OSError as error:
        raise GlapError(
            f"cannot write the report in {folder} ({error.strerror or error}): choose a folder with room "
            "that you may write to"
        ) from error
    return [folder / name for name in ("report.md", "report.json", *figures)]


def markdown(
    title: str,
    facts: Mapping[str, str | int | float],
    notes: Sequence[str],
    tables: Sequence[Table],
    plots: Sequence[str],
) -> str:
    """The page: facts, notes, one table per direction, plots."""
    parts = [f"# {title}"]
    if facts:
        parts.append("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    parts += [*notes, markdown_tables(tables), EXPLANATION.strip()]
    parts += [f"![{Path(name).stem}]({name})" for name in plots]
    return "\n\n".join(parts) + "\n"


def markdown_tables(tables: Sequence[Table]) -> str:
    """One Markdown table per direction, a row per set; it reads well on a terminal too."""
    cuts = ("r1", "r5", "r10")
    head = ["set", "clips", "captions", "R@1", "R@5", "R@10", "mAP@10", "MRR", "mean rank", "median rank"]
    parts = []
    for direction, heading in DIRECTIONS.items():
        rows = [head]
        for table in tables:
            got, luck = table.metrics[direction], table.chance[direction]
            row = [set_name(table).replace("|", "/"), str(table.clips), str(table.captions)]
            row += [f"{got[cut]:.1f} ({luck[cut]:.1f})" for cut in cuts]
            row += [f"{got['map10']:.1f}", f"{got['mrr']:.3f}"]
            row += [f"{got['meanr']:.1f} ({luck['meanr']:.1f})", f"{got['medr']:.0f}"]
            rows.append(row)
        parts.append(f"## {heading}\n\n{aligned(rows)}")
    return "\n\n".join(parts)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Markdown with columns of equal width: the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for name, *numbers in rows:
        cells = [name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |")
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def set_name(table: Table) -> str:
    """What a row or a line of a plot is called."""
    return "all" if table.kind == "pooled" else f"{table.kind} {table.name}"


def recall_figure(tables: Sequence[Table]) -> Figure:
    """R@k against k in both directions, for the pooled set and the groups, with chance dashed."""
    shown = [table for table in tables if table.kind != "language"] or list(tables)
    colours = matplotlib.colormaps["tab10"]
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (direction, heading) in zip(panels, DIRECTIONS.items(), strict=True):
        for index, table in enumerate(shown):
            style = {"color": colours(index % 10), "linewidth": 2.4 if table.kind == "pooled" else 1.4}
            cuts = table.curve["k"]
            panel.plot(cuts, table.curve[direction], label=set_name(table), marker=".", markersize=4, **style)
            panel.plot(cuts, table.curve[f"{direction}_chance"], linestyle="--", alpha=0.6, **style)
        panel.set(title=heading, xlabel="k", xscale="log", ylim=(0, 102))
        last = max(table.curve["k"][-1] for table in shown)
        ticks = [k for k in (1, 2, 5, 10, 20, 50) if k <= last]
        panel.set_xticks(ticks, [str(k) for k in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("recall at k, percent (chance dashed)")
    panels[0].legend(fontsize=8, loc="best")
    return figure


def similarity_figure(heat_map: HeatMap) -> Figure:
    """Cosines of clips with captions, with the borders of the groups."""
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
    panel.set_xticks(middles, names, rotation=20 if len(names) > 3 else 0)
    panel.set_yticks(middles, names)
    panel.set(xlabel="captions", ylabel="clips", title=f"Similarity of {count} clips and their captions")
    return figure
