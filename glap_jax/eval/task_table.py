"""Results of tasks as text: our figures beside chance and those of papers."""

from collections.abc import Mapping, Sequence

from glap_jax.eval import task as tasks
from glap_jax.eval.report import aligned
from glap_jax.eval.result import TaskResult

INTERVALS = """\
95 %: between which the figure lies in that share of 1,000 draws of as many clips or queries, with replacement
(the bootstrap; of map in large sets 200 draws or more)."""


def markdown_results(results: Sequence[TaskResult]) -> str:
    """One Markdown table, a row a figure, then tables of languages or groups for each task that has some,
    their figures and where these lie, and the notes."""
    lines = [["task", "figure", "here", "95 %", "chance", "published"]]
    for result in results:
        for metric, figure in result.figures.items():
            published = [f"{paper.figures[metric]:g} {paper.system}" for paper in _papers(result, metric)]
            luck = _number(result.chance.get(metric))
            ends = _ends(result.intervals, metric)
            lines.append([result.task.name, metric, _number(figure), ends, luck, ", ".join(published)])
    parts = [aligned(lines), INTERVALS]
    for result in results:
        if result.rows:
            parts.append(f"### {result.task.title or result.task.name}\n\n{_rows(result)}")
            parts.append(f"95 % intervals:\n\n{_row_intervals(result)}")
    told = [f"- {result.task.name}: {note}" for result in results for note in _notes(result)]
    return "\n\n".join([*parts, "\n".join(told)])


def listing() -> str:
    """The tasks that come with the package, a line each."""
    found = [tasks.read(name) for name in tasks.names()]
    width = max(len(task.name) for task in found)
    return "\n".join(f"{task.name:{width}}  {task.title} ({task.kind})" for task in found)


def _rows(result: TaskResult) -> str:
    metrics = list(result.rows[0].figures)
    lines = [["set", "clips", *metrics]]
    for row in result.rows:
        cells = [row.name, f"{row.clips:,}"]
        for metric in metrics:
            luck = f" ({_number(row.chance[metric])})" if metric in row.chance else ""
            theirs = [
                f"; {paper.rows[row.name][metric]:g} {paper.system}"
                for paper in result.task.paper
                if metric in paper.rows.get(row.name, {})
            ]
            cells.append(f"{_number(row.figures[metric])}{luck}{''.join(theirs)}")
        lines.append(cells)
    return aligned(lines)


def _row_intervals(result: TaskResult) -> str:
    metrics = list(result.rows[0].figures)
    cells = [[row.name, *(_ends(row.intervals, metric) for metric in metrics)] for row in result.rows]
    return aligned([["set", *metrics], *cells])


def _ends(intervals: Mapping[str, list[float]], metric: str) -> str:
    return " to ".join(_number(end) for end in intervals.get(metric, ()))


def _notes(result: TaskResult) -> list[str]:
    speed = f"{result.clips:,} clips, {result.clips_per_second:.1f} a second."
    sources = [f"{paper.system}'s figures: {paper.source}." for paper in result.task.paper]
    return [speed, *result.notes, *sources]


def _papers(result: TaskResult, metric: str) -> list[tasks.Paper]:
    return [paper for paper in result.task.paper if metric in paper.figures]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if 0 < abs(value) < 1 else f"{value:.1f}"
