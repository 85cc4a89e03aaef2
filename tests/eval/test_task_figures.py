"""Pictures of made-up results: what is drawn, and what is not."""

import json

import numpy as np

from glap_jax.eval import task_figures
from glap_jax.eval.result import Curve, Row, TaskResult
from glap_jax.eval.task import Dataset, Task

TASK = Task("own", "retrieval", Dataset(shards=("own.tar",)), languages=("eng_Latn", "ces_Latn"))


def made(figures, rows=(), **more):
    found = [Row(name, 3, dict.fromkeys(figures, value), {"t2a/r1": 1.0}) for name, value in rows]
    return TaskResult(TASK, figures, {}, 30, 1.0, tuple(found), **more)


def test_a_picture_of_all_that_there_is():
    draw = np.random.default_rng(0)
    audio = draw.standard_normal((200, 4)).astype(np.float32)
    groups = [f"class {number % 12}" for number in range(200)]
    sample = task_figures.take_sample(audio, audio, np.arange(200), groups, "classes")
    assert len(sample.audio) == len(set(map(bytes, sample.text))) == 150
    curves = {"Text to audio": [Curve("all", [1.0, 2.0], [50.0, 75.0], [1.0, 2.0])]}
    result = made(
        {"a2t/r1": 10.0, "t2a/r1": 20.0, "t2a/medr": 9.0},
        [("ces_Latn", 5.0), ("eng_Latn", 25.0), ("mean", 15.0)],
        curves=curves,
        sample=sample,
    )
    found = task_figures.pictures(result)
    assert list(found) == ["own-recall.png", "own-bars.png", "own-similarity.png", "own-plane.png"]
    bars = found["own-bars.png"].axes[0]
    assert [tick.get_text() for tick in bars.get_xticklabels()] == ["eng_Latn (3)", "ces_Latn (3)"]
    assert bars.get_ylabel() == "R@1, percent"
    assert [each.get_text() for each in found["own-plane.png"].axes[0].get_legend().get_texts()] == [
        "clips",
        "classes",
    ]
    assert found["own-similarity.png"].axes[0].get_xlabel() == "classes"
    written = json.loads(json.dumps(result.as_json()))
    assert written["curves"]["Text to audio"][0]["recall"] == [50.0, 75.0]
    assert "sample" not in written


def test_nothing_is_drawn_of_nothing():
    assert task_figures.pictures(made({"t2a/meanr": 5.0}, [("eng_Latn", 5.0)])) == {}
