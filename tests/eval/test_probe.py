"""Probes and searches among candidates as tasks, on corpora in miniature; embeddings are kept."""

import dataclasses
import runpy
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from glap_jax import cli
from glap_jax.corpora import build, load
from glap_jax.errors import GlapError
from glap_jax.eval import classifiers, engine
from glap_jax.eval.features import frozen
from glap_jax.eval.folds import deal
from glap_jax.eval.task import Dataset, Task
from glap_jax.inference import Model
from glap_jax.model import DualEncoder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """CREMA-D of six actors in two emotions, and FSD50K of a few clips, in their true layouts."""
    lay = runpy.run_path(str(ROOT / "tests" / "data" / "conftest.py"))["lay"]
    folder = tmp_path_factory.mktemp("probe")
    emotions = {f"AudioWAV/10{actor}_{text}_{emotion}_XX.wav": 0.3 + 0.01 * actor
                for actor in range(10, 16) for text, emotion in (("DFA", "ANG"), ("IEO", "SAD"))}  # fmt: skip
    corpora = {
        "crema_d": {"VideoDemographics.csv": "ActorID,Age,Sex\n1010,51,Male\n", **emotions},
        "fsd50k": {
            "FSD50K.ground_truth/dev.csv": "fname,labels,mids,split\n1,Rain,/m/1,train\n"
            '2,"Guitar,Music",/m/2,train\n3,Music,/m/3,val\n4,Rain,/m/1,val\n',
            "FSD50K.ground_truth/eval.csv": 'fname,labels,mids\n5,Rain,/m/1\n6,"Guitar,Music",/m/2\n',
            **{f"FSD50K.{'dev' if number < 5 else 'eval'}_audio/{number}.wav": 0.3 for number in range(1, 7)},
        },
    }
    for recipe, files in corpora.items():
        lay(folder / "corpora" / recipe, files)
        made = load(ROOT / "data" / "recipes" / f"{recipe}.py")
        build.build(made, folder / "corpora" / recipe, folder / "data" / recipe, threads=1)
    return folder / "data"


@pytest.fixture(autouse=True)
def _quick(monkeypatch, cache_folder):
    """Three layers of few epochs, and a cache of this test alone."""
    few = dataclasses.replace(classifiers.LayersConfig(), hidden=(8, 8), epochs=2)
    monkeypatch.setattr(classifiers, "LayersConfig", lambda: few)


EMOTIONS = Task(
    "emotions", "probe", Dataset("crema_d"), label="emotion", folds=3, fold="speaker", classifier="logistic"
)


def test_every_clip_is_tried_once_and_embeddings_are_kept(tiny_model, root, monkeypatch):
    first = engine.run(tiny_model, EMOTIONS, root)
    assert first.clips == 12
    for name in ("accuracy", "class_accuracy"):
        assert first.intervals[name][0] <= first.figures[name] <= first.intervals[name][1]
    assert tuple(first.figures) == ("accuracy", "r5", "class_accuracy")
    assert first.chance == {"accuracy": 50.0, "r5": 100.0, "class_accuracy": 50.0}
    assert first.notes == (
        "A probe: logistic regression on frozen embeddings; 3 folds by speaker, each tried once, the next "
        "one validates.",
    )
    other = Model(DualEncoder(tiny_model.config, rngs=nnx.Rngs(1)), tiny_model.tokenizer)
    monkeypatch.setattr(Model, "encode_waveforms", None)
    again = engine.run(tiny_model, EMOTIONS, root)
    assert (again.figures, again.clips_per_second) == (first.figures, pytest.approx(first.clips_per_second))
    layers = engine.run(tiny_model, dataclasses.replace(EMOTIONS, classifier="layers"), root)
    assert layers.notes[0].startswith("A probe: three layers")
    # Another model, another type that it computes in, and other clips are encoded anew.
    coarse = Model(DualEncoder(tiny_model.config, dtype="bfloat16", rngs=nnx.Rngs(0)), tiny_model.tokenizer)
    happy = dataclasses.replace(EMOTIONS, dataset=Dataset("crema_d", where={"speaker": ("1010",)}))
    for changed in ((other, EMOTIONS), (coarse, EMOTIONS), (tiny_model, happy)):
        with pytest.raises(TypeError):
            engine.run(*changed, root)


def test_a_probe_of_what_the_tower_pools(tiny_model, root):
    pooled = dataclasses.replace(EMOTIONS, features="pooled")
    found = [frozen(engine.Run(tiny_model, task, root)) for task in (EMOTIONS, pooled)]
    joint, raw = (each.audio for each in found)
    assert found[0].fields == found[1].fields
    np.testing.assert_allclose(tiny_model.module.audio_head(jnp.asarray(raw)), joint, atol=1e-6)
    result = engine.run(tiny_model, pooled, root)
    assert "logistic regression on what the frozen audio tower pools; 3 folds by speaker" in result.notes[0]


def test_damaged_embeddings_are_made_again(tiny_model, root, cache_folder, caplog):
    expected = engine.run(tiny_model, EMOTIONS, root).figures
    (kept,) = (cache_folder / "features").glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    assert engine.run(tiny_model, EMOTIONS, root).figures == expected
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("classifier", ["layers", "logistic"])
def test_own_splits_and_several_labels(tiny_model, root, classifier):
    task = Task("sounds", "multilabel_probe", Dataset("fsd50k"), classifier=classifier)
    result = engine.run(tiny_model, task, root)
    assert result.clips == 2
    assert result.chance == {"map": 50.0}
    low, high = result.intervals["map"]
    assert 0 < low <= result.figures["map"] <= high <= 100
    assert "the corpus's own splits" in result.notes[0]


def test_candidates_of_two_parts(tiny_model, root):
    task = Task("search", "candidates", Dataset("crema_d"), folds=2, fold="speaker", candidates=3, draws=2)
    found = engine.run(tiny_model, task, root)
    assert found.clips == 6
    for name in ("hits1", "mrr", "meanr", "f1"):
        low, high = found.intervals[name]
        assert low <= found.figures[name] <= high
    assert found.chance == pytest.approx({"hits1": 1 / 3, "mrr": 11 / 18, "meanr": 2.0})
    assert found.notes == (
        "Among 3 candidates a text, means over 2 draws; the threshold was chosen on 6 other clips.",
    )
    task = dataclasses.replace(task, candidates=None, same_captions=True)
    found = engine.run(tiny_model, task, root)
    # Two sentences, each right for three of six clips.
    assert found.chance["meanr"] == pytest.approx(7 / 4)
    assert 0 <= found.figures["hits1"] <= 1


@given(st.lists(st.sampled_from("abcdefg"), min_size=20, max_size=60), st.integers(0, 9))
def test_parts_keep_names_together_and_are_even(names, seed):
    parts = min(3, len(set(names)))
    found = deal(names, parts, seed)
    assert all(len(set(found[np.array(names) == name])) == 1 for name in set(names))
    sizes = np.bincount(found, minlength=parts)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= max(names.count(name) for name in names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 7}, "12 clips of 6 groups cannot be dealt into 7 parts; lower the task's 'folds'"),
        ({"kind": "zeroshot", "features": "pooled"}, "'features' is 'pooled', on which only probes learn"),
        ({"folds": 2}, "task 'emotions': 'folds' is 2; one is tried, one validates: give more, or 0"),
        ({"folds": 0}, "no shard matches '.*train-crema_d-.*get the corpus, then run `glap-jax"),
        ({"labels": ("angry",)}, "a clip has the labels ['sad']; add 'sad' to 'labels'"),
        ({"draws": 0}, "'draws' must be at least 1, and 'candidates' at least 2 or null"),
        ({"classifier": "forest"}, "'classifier'"),
    ],
)
def test_errors_are_one_line(tiny_model, root, changes, message):
    with pytest.raises((GlapError, TypeError)) as error:
        engine.run(tiny_model, dataclasses.replace(EMOTIONS, **changes), root)
    assert all(part in str(error.value) for part in message.split(".*"))


def test_a_split_that_is_not_there_is_told_before_the_model_is_loaded(root, capsys, tmp_path):
    yaml = tmp_path / "own.yaml"
    yaml.write_text("name: own\nkind: probe\ndataset: {recipe: crema_d, page: its page}\nlabel: emotion\n")
    assert cli.main(["eval", "no/model", "--task", str(yaml), "--root", str(root)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("glap-jax: error: eval: task 'own': no shard matches '")
    assert "train-crema_d-*.tar'; get the corpus from its page" in error
