"""What `glap-jax eval` does."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from glap_jax import config as configs
from glap_jax import fingerprint, inference
from glap_jax.errors import GlapError
from glap_jax.eval import engine, evaluate, task_figures, task_table
from glap_jax.eval import task as tasks_of
from glap_jax.eval.compare import compare as side_by_side
from glap_jax.eval.page import surroundings, write_page
from glap_jax.eval.report import markdown_tables
from glap_jax.inference import Model


def groups(model: str, data: Path, out: Path | None, languages: Sequence[str]) -> None:
    """Retrieval on the test groups of the configuration `data`; writes the report and prints its tables."""
    loaded = inference.load(model)
    target = out or evaluate.report_folder(model)
    said, settings = facts(model, loaded), configs.load(data)
    found = evaluate.evaluate(loaded, settings, out=target, facts=said, points=True, languages=languages)
    print(markdown_tables(found))
    print(f"report: {target / 'report.html'}")


def facts(model: str, loaded: Model) -> dict[str, str]:
    """What a report says of a model: its name, a fingerprint of its parameters, and where it was measured."""
    parameters = fingerprint.of_module(loaded.module, loaded.config)
    return {"model": model, "parameters": parameters, **surroundings()}


def compare(first: Path, second: Path) -> None:
    """Prints two evaluations side by side."""
    print(side_by_side(first, second))


def list_tasks() -> None:
    """Prints the tasks that come with the package."""
    print(task_table.listing())


def tasks(model: str, names: Sequence[str], root: Path, out: Path | None) -> None:
    """Runs tasks; prints their figures, and writes tasks.md, tasks.html, tasks.json and pictures.

    Tasks that cannot be read, and datasets that are not there, are told before the model is loaded.

    Raises:
        GlapError: these, two tasks of one name, or what `engine.run` finds wrong.
    """
    chosen = [tasks_of.read(path) for path in names]
    for name, count in Counter(task.name for task in chosen).items():
        if count > 1:
            raise GlapError(
                f"eval: two of the tasks are called '{name}'; change the 'name' of one, or give it once"
            )
    for task in chosen:
        engine.require(task, root)
    loaded = inference.load(model)
    target = out or evaluate.report_folder(model)
    results = [engine.run(loaded, task, root) for task in chosen]
    text, known = task_table.markdown_results(results), facts(model, loaded)
    print(text)
    charts = {file: figure for result in results for file, figure in task_figures.pictures(result).items()}
    content = {"model": model, "facts": known, "tasks": [result.as_json() for result in results]}
    listed = "\n".join(f"- {name}: {value}" for name, value in known.items())
    shown = [f"![{Path(file).stem}]({file})" for file in charts]
    page = "\n\n".join([f"# {model}", listed, text, *shown]) + "\n"
    write_page(target, "tasks", page, content, figures=charts)
    print(f"report: {target / 'tasks.html'}")
