"""Captions in several languages search each on its own, as a user types it."""

import json
from pathlib import Path

import pytest

from glap_jax import cli, folder

SPM = Path(__file__).parents[2] / "data" / "samples" / "spm.model"
CLIPS = (
    {"caption": "a dog", "caption_ces_Latn": "pes"},
    {"caption": "a cat", "caption_ces_Latn": "kočka"},
    {"caption": "zvon", "language": "ces_Latn"},
)
RECIPE = """
from glap_jax.config import DataConfig, GroupConfig, TrainConfig
config = TrainConfig(data=DataConfig(root={root!r}, test=(GroupConfig("all", ("clips.tar",)),)))
"""
TASK = """
name: translated
kind: retrieval
languages: [eng_Latn, ces_Latn]
dataset: {shards: [clips.tar]}
"""


SETS = """
name: sets
kind: retrieval
by: voice.name
metrics: [t2a/r1, a2t/meanr]
gallery: {splits: [train, test], where: {quality: [good]}}
same_captions: true
dataset: {shards: ["{split}.tar"], where: {part: [speech]}}
"""


@pytest.fixture
def model(tmp_path, audio, tar, tiny_model):
    """A model folder, beside a shard, its recipe and a task."""
    members = []
    for number, fields in enumerate(CLIPS):
        members += [(f"{number}.flac", audio(0.3, frequency=200.0 + 99 * number))]
        members += [(f"{number}.json", json.dumps(fields).encode())]
    tar(tmp_path / "clips.tar", members)
    (tmp_path / "recipe.py").write_text(RECIPE.format(root=str(tmp_path)))
    (tmp_path / "translated.yaml").write_text(TASK)
    folder.save(tmp_path / "model", tiny_model.module, tiny_model.config, SPM)
    return tmp_path / "model"


def test_texts_of_each_language_search_the_clips_that_have_them(model, tmp_path, capsys):
    words = ["eval", str(model), str(tmp_path / "recipe.py"), "-o", str(tmp_path / "out")]
    assert cli.main([*words, "--languages", "eng_Latn", "ces_Latn"]) == 0
    assert "| text ces_Latn " in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert {"model", "parameters", "device", "JAX"} <= report["facts"].keys()
    found = [(table["kind"], table["name"], table["clips"]) for table in report["tables"]]
    assert found[-2:] == [("text", "eng_Latn", 2), ("text", "ces_Latn", 3)]
    assert (tmp_path / "out" / "texts.png").is_file()
    assert (tmp_path / "out" / "plane.png").is_file()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5

    # A task of the same captions finds the same, language by language, with intervals.
    task = ["--task", str(tmp_path / "translated.yaml"), "--root", str(tmp_path), "-o", str(tmp_path / "out")]
    assert cli.main(["eval", str(model), *task]) == 0
    (result,) = json.loads((tmp_path / "out" / "tasks.json").read_text(encoding="utf-8"))["tasks"]
    english = report["tables"][-2]["curve"]["t2a"]
    (curve, _) = result["curves"]["Text to audio: find the clip of a caption"]
    assert (curve["name"], curve["recall"]) == ("eng_Latn", english)
    page = (tmp_path / "out" / "tasks.html").read_text(encoding="utf-8")
    for kind in ("recall", "bars", "similarity"):
        assert (tmp_path / "out" / f"translated-{kind}.png").is_file()
    assert page.count("data:image/png;base64,") == 3
    for row, table in zip(result["rows"], report["tables"][-2:], strict=True):
        assert row["name"] == table["name"]
        assert row["figures"]["t2a/mrr"] == table["metrics"]["t2a"]["mrr"]
        assert row["intervals"]["t2a/mrr"] == table["intervals"]["t2a"]["mrr"]

    capsys.readouterr()
    assert cli.main([*words, "--languages", "deu_Latn"]) == 2
    assert "no clip has a caption in deu_Latn; add 'caption_deu_Latn'" in capsys.readouterr().err


def test_sets_are_searched_apart_among_further_clips(model, tmp_path, audio, tar, capsys):
    fields = (("ann", "speech"), ("bob", "speech"), ("bob", "speech"), ("ann", "music"))
    for split in ("train", "test"):
        members = []
        for number, (voice, part) in enumerate(fields):
            told = {"caption": f"{split} {number}", "voice": {"name": voice}, "part": part}
            told |= {"quality": "good" if number else "bad"}
            members += [(f"{number}.flac", audio(0.3, frequency=200.0 + 99 * number + len(split)))]
            members += [(f"{number}.json", json.dumps(told).encode())]
        tar(tmp_path / f"{split}.tar", members)
    (tmp_path / "sets.yaml").write_text(SETS)
    words = ["--task", str(tmp_path / "sets.yaml"), "--root", str(tmp_path), "-o", str(tmp_path / "out")]
    assert cli.main(["eval", str(model), *words]) == 0
    page = capsys.readouterr().out
    (result,) = json.loads((tmp_path / "out" / "tasks.json").read_text(encoding="utf-8"))["tasks"]
    # Three clips of speech ask; besides, three good clips of training and the test's music are found.
    assert result["clips"] == 7
    assert result["chance"]["t2a/r1"] == pytest.approx(100 / 7)
    rows = {row["name"]: row for row in result["rows"]}
    assert {name: row["clips"] for name, row in rows.items()} == {"ann": 1, "bob": 2, "mean": 3}
    assert rows["ann"]["chance"]["t2a/r1"] == pytest.approx(100 / 3)
    assert rows["bob"]["chance"]["t2a/r1"] == pytest.approx(100 / 4)
    means = [(rows["ann"]["figures"][name] + rows["bob"]["figures"][name]) / 2 for name in result["figures"]]
    assert list(rows["mean"]["figures"].values()) == pytest.approx(means)
    assert result["intervals"].keys() == rows["mean"]["intervals"].keys() == result["figures"].keys()
    assert "| mean |     3 |" in page

    tasks = (("good", "gone", "'gallery.where' and 'label' ask for"), ("train", "dev", "/dev.tar'"))
    for old, new, told in tasks:
        (tmp_path / "sets.yaml").write_text(SETS.replace(old, new))
        assert cli.main(["eval", str(model), *words]) == 2
        assert told in capsys.readouterr().err
