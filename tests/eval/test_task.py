"""Tasks as yaml: what is read, and what is refused in one line."""

from pathlib import Path

import pytest

from glap_jax.corpora import load
from glap_jax.errors import GlapError
from glap_jax.eval import engine, task

DATA = Path(__file__).parents[2] / "data"
GOOD = """
name: birds
kind: zeroshot
dataset: {shards: ["birds/{split}-*.tar"]}
labels: [robin, wren]
"""


@pytest.fixture
def written(tmp_path):
    """A function that writes a task's file with some text replaced."""

    def write(old: str = "", new: str = "") -> Path:
        path = tmp_path / "birds.yaml"
        path.write_text(GOOD.replace(old, new) if old else GOOD, encoding="utf-8")
        return path

    return write


def test_a_task_of_ones_own(written):
    found = task.read(written())
    assert found.labels == ("robin", "wren")
    assert found.dataset.patterns() == ("birds/test-*.tar",)
    assert found.dataset.patterns("val") == ("birds/val-*.tar",)
    assert found.shown() == ("accuracy", "r5")
    assert task.read(found) is found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("labels", "label_list", "'label_list': Unexpected keyword argument"),
        ("[robin, wren]", "7", "'labels': Input should be a valid array"),
        ("name: birds", "name: a/b", "'name' is 'a/b'; give a word that can name files"),
        (
            "labels: [robin, wren]",
            "class_map: gone.tsv",
            "'class_map': there is no file '.*gone.tsv'; put it",
        ),
        ("labels:", "seconds: long\nlabels:", "'seconds': Input should be a valid number"),
        (
            "labels:",
            "paper: [{system: A, source: B, rows: {x: {hits: 1}}}]\nlabels:",
            "'paper' names 'hits'; kind zeroshot has accuracy, r5",
        ),
        (GOOD, "", "it has no keys such as 'name', 'kind' and 'dataset'; mend the file"),
        ("name: birds", "", "'name': Field required"),
        ("zeroshot", "oneshot", "'kind' is 'oneshot'; there are retrieval"),
        ("{shards", "{splits", "'dataset.splits': Unexpected keyword argument"),
        ('{shards: ["birds/{split}-*.tar"]}', "{}", "'dataset' has neither 'recipe' nor 'shards'"),
        ("labels:", "metrics: [r7]\nlabels:", "'metrics' names 'r7'; kind zeroshot has accuracy, r5"),
        ("labels:", "prompts: [A bird]\nlabels:", "'prompts' has a prompt without one {label}"),
        ("labels:", "language: en\nlabels:", "did you mean eng_Latn?"),
        (
            "labels:",
            "by: language\nlabels:",
            "'by' and 'gallery' are of kind retrieval, and this is zeroshot",
        ),
        ("zeroshot", "retrieval\nby: a\nlanguages: [eng_Latn, ces_Latn]", "give one at most"),
        ("[robin", "[robin]]", "no yaml: .* in line 5; mend the file"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_key(old, new, message, written):
    path = written(old, new)
    with pytest.raises(GlapError, match=message) as told:
        task.read(path)
    assert str(told.value).startswith(f"task '{path}': ")
    assert "\n" not in str(told.value)


def test_texts_are_what_is_written(written):
    found = task.read(written("[robin, wren]", "[no, 1, 1.50]\nlanguage: true\nseconds: 5\ncandidates: null"))
    assert found.labels == ("no", "1", "1.50")
    assert (found.language, found.seconds, found.candidates) == (task.TRUE_LANGUAGE, 5.0, None)


def test_a_name_that_is_none_gets_a_hint():
    with pytest.raises(GlapError, match="no task 'esc-50'; did you mean 'esc50'"):
        task.read("esc-50")


def test_a_dataset_that_is_not_there_is_explained(tmp_path):
    with pytest.raises(GlapError) as told:
        engine.find(task.read("esc50"), tmp_path)
    assert str(told.value) == (
        f"eval: task 'esc50': no shard matches '{tmp_path}/esc50/*/test-esc50-*.tar'; get the corpus from "
        "github.com/karolpiczak/ESC-50 (meta/esc50.csv and audio/), then run `glap-jax data build "
        f"data/recipes/esc50.py CORPUS {tmp_path}/esc50`, or name another --root"
    )


@pytest.mark.parametrize("name", task.names())
def test_tasks_say_of_their_datasets_what_the_recipes_say(name):
    found = task.read(name)
    assert found.name == name
    assert found.title
    recipe = load(DATA / "recipes" / f"{found.dataset.recipe}.py")
    assert found.dataset.layout == recipe.expects
    row = next(
        line
        for line in (DATA / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{recipe.name}` |")
    )
    assert row.endswith(f" {found.dataset.page} |")


def test_where_with_no_values_takes_clips_without_the_field():
    """As the tasks on Debian's recordings leave out those whose text is suspect."""
    assert engine._has(["a", "b"], ("b",))
    assert not engine._has(["a"], ("b",))
    assert engine._has([], ())
    assert not engine._has(["far too long"], ())


@pytest.mark.parametrize("path", sorted((DATA / "tasks").glob("*.yaml")), ids=lambda path: path.stem)
def test_tasks_beside_the_data_can_be_read(path):
    found = task.read(path)
    assert found.name == path.stem
    assert found.dataset.layout == load(DATA / "recipes" / f"{found.dataset.recipe}.py").expects
