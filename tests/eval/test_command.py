"""`glap-jax eval --task` as a user types it."""

import json
from pathlib import Path

import pytest

import glap_jax
from glap_jax import cli, folder
from glap_jax.eval import task

SPM = Path(__file__).parents[2] / "data" / "samples" / "spm.model"
WORDS = """
name: words
title: two words
kind: keywords
dataset: {shards: ["words/*.tar"]}
paper:
  - system: Someone
    source: a paper, Table 1
    figures: {accuracy: 12.5}
    rows: {fra_Latn: {accuracy: 34.5}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_model):
    """A model folder."""
    place = tmp_path_factory.mktemp("model") / "model"
    folder.save(place, tiny_model.module, tiny_model.config, tiny_model.tokenizer.path)
    return place


def test_a_task_of_ones_own(model, tmp_path, audio, tar, capsys):
    members = []
    for number, label in enumerate(("un", "deux", "un")):
        fields = {"label": label, "language": "fra_Latn"}
        members += [(f"{number}.flac", audio(0.3)), (f"{number}.json", json.dumps(fields).encode())]
    (tmp_path / "words").mkdir()
    tar(tmp_path / "words" / "test.tar", members)
    (tmp_path / "words.yaml").write_text(WORDS, encoding="utf-8")
    words = ["eval", str(model), "--task", str(tmp_path / "words.yaml"), "--root", str(tmp_path)]
    assert cli.main([*words, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "12.5 Someone" in printed
    assert "34.5 Someone" in printed
    assert "95 % intervals:\n\n| set " in printed
    assert "Someone's figures: a paper, Table 1." in printed
    page = json.loads((tmp_path / "out" / "tasks.json").read_text(encoding="utf-8"))
    assert {"model", "parameters", "device", "JAX"} <= page["facts"].keys()
    (found,) = page["tasks"]
    assert found["task"] == "words"
    assert found["clips"] == 3
    assert found["chance"] == {"accuracy": 50.0, "language_accuracy": 50.0}
    assert (tmp_path / "out" / "tasks.md").read_text(encoding="utf-8").startswith(f"# {model}\n")
    assert (tmp_path / "out" / "words-bars.png").read_bytes().startswith(b"\x89PNG")
    result = glap_jax.evaluate(glap_jax.load(model), tmp_path / "words.yaml", root=tmp_path)
    assert dict(result.figures) == found["figures"]
    assert glap_jax.evaluate(glap_jax.load(model), result.task, root=tmp_path).rows == result.rows


def test_list_of_tasks(capsys):
    assert cli.main(["eval", "--tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == task.names()
    assert "ESC-50, zero-shot, 50 sounds (zeroshot)" in " ".join(lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "esc51"], "eval: there is no task 'esc51'; did you mean 'esc50'?"),
        (["--task", "esc50", "esc50"], "two of the tasks are called 'esc50'; change the 'name' of one"),
        (["--task", "esc50", "--root", "nowhere"], "task 'esc50': no shard matches 'nowhere/esc50/*/test-"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(words, message, capsys):
    assert cli.main(["eval", "no-model", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
