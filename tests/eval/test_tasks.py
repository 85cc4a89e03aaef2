"""Every task that comes with the package, on a few clips of its corpus in that corpus's true layout."""

import dataclasses
import io
import json
import runpy
import tarfile
from pathlib import Path

import numpy as np
import pytest

from glap_jax import inference
from glap_jax.corpora import build, load
from glap_jax.eval import engine, task

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "data" / "recipes"


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch, cache_folder):
    """Pads all texts to one length; what is kept is this test's alone."""
    monkeypatch.setattr(inference, "_TOKENS", (64,))


@pytest.fixture(scope="module")
def corpora():
    """recipe -> its corpus in miniature, as its recipe's test lays it out: file -> text, JSON or seconds."""
    here = Path(__file__).parents[1] / "data"
    found, more = {}, runpy.run_path(str(Path(__file__).parent / "miniatures.py"))["FILES"]
    for name in ("test_sound_recipes.py", "test_speech_recipes.py"):
        for recipe, each in runpy.run_path(str(here / name))["CORPORA"].items():
            found[recipe] = each["files"] | more.get(recipe, {})
    return found, runpy.run_path(str(here / "conftest.py"))["lay"]


@pytest.fixture(scope="module")
def root(tmp_path_factory, corpora):
    """A folder of evaluation sets, built by the recipes of all tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    files, lay = corpora
    for found in map(task.read, task.names()):
        data = found.dataset
        out = folder / "data" / (data.folder or data.recipe)
        if not out.exists():
            source = folder / "corpora" / out.name
            lay(source, files[data.recipe])
            build.build(load(RECIPES / f"{data.recipe}.py"), source, out, threads=1)
    for name in ("audiocaps", "clotho"):
        for path in (folder / "data" / name).glob("*/test-*.tar"):
            translate(path, task.read(f"{name}_multilingual").languages)
    return folder / "data"


def translate(path: Path, languages: tuple[str, ...]) -> None:
    """Gives every clip of a shard a caption in each language."""
    with tarfile.open(path) as shard:
        members = [(member.name, shard.extractfile(member).read()) for member in shard.getmembers()]
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            if name.endswith(".json"):
                row = json.loads(content)
                row |= {f"caption_{code}": f"{name} {code}" for code in languages if code != "eng_Latn"}
                content = json.dumps(row).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", task.names())
def test_every_task_runs(name, tiny_model, root):
    found = task.read(name)
    # One length for all, so that little is compiled; no more parts and candidates than a few clips make.
    # Three layers are tested elsewhere.
    few = {"folds": min(found.folds, 3), "candidates": found.candidates and 2, "classifier": "logistic"}
    result = engine.run(tiny_model, dataclasses.replace(found, seconds=2.0, **few), root)
    assert tuple(result.figures) == found.shown()
    assert all(np.isfinite(value) for value in result.figures.values())
    # What is measured has an interval: a threshold is chosen.
    assert set(result.intervals) == set(result.figures) - {"threshold"}
    for row in result.rows:
        assert set(row.intervals) == set(row.figures)
    assert result.clips > 0
    assert result.clips_per_second > 0
    languages = [row.name for row in result.rows]
    if found.kind != "keywords":
        assert languages == list(found.languages)
    for paper in found.paper:
        assert set(paper.figures) <= set(task.KINDS[found.kind].metrics)
        assert set(paper.rows) <= set(found.languages)
