"""Checkpoints come back bit for bit, whole or not at all, and only into the run that they belong to."""

import asyncio
import json
import os
import resource
import shutil
import threading

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint._src.path import atomicity

from glap_jax.config import DataConfig, GroupConfig, LayoutConfig
from glap_jax.errors import GlapError
from glap_jax.pipeline import mixing
from glap_jax.pipeline.loader import OwnRows, TrainingIterator
from glap_jax.pipeline.vectors import Vectors
from glap_jax.train.checkpoint import Checkpoints
from glap_jax.train.state import TrainState


class Batches(TrainingIterator):
    """Batches that are their numbers."""

    def __init__(self):
        numbers = mixing.Mixture([mixing.Part("numbers", 1.0, grain.MapDataset.range(1000), 1000)])
        super().__init__(OwnRows(numbers, 1, [0]), DataConfig(), Vectors(None, None), rows=1)

    def __next__(self):
        self._batches += 1
        return self._batches - 1


def state(seed: int, size: int = 50) -> TrainState:
    draw = np.random.default_rng(seed)
    weights = {"kernel": jnp.asarray(draw.normal(size=(size, 7)), jnp.float32)}
    return TrainState(jnp.asarray(seed, jnp.int32), weights, (weights, jnp.asarray(seed, jnp.int32)), None)


def same(one, other) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


@pytest.fixture
def filled(tmp_path, tiny):
    """A run folder with checkpoints 1, 2 and 3; checkpoint n has taken n batches."""
    batches = Batches()
    with Checkpoints(tmp_path, tiny) as checkpoints:
        for step in (1, 2, 3):
            next(batches)
            checkpoints.save(step, state(step), batches)
        checkpoints.wait()
    return tmp_path


def test_state_and_data_come_back_exactly(filled, tiny):
    batches = Batches()
    with Checkpoints(filled, tiny) as checkpoints:
        assert checkpoints.steps == [1, 2, 3]
        restored = checkpoints.restore(state(9), batches)
    assert same(restored, state(3))
    assert restored.average is None
    assert next(batches) == 3


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path, tiny, monkeypatch):
    """And may use the memory of the state that is being saved."""
    writing, may_end = threading.Event(), threading.Event()
    finalize = atomicity.AtomicRenameTemporaryPath.finalize

    async def late(self):
        writing.set()
        await asyncio.to_thread(may_end.wait, 60)
        await finalize(self)

    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", late)
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    first = jax.tree.map(jnp.copy, state(1))
    expected = jax.tree.map(np.array, first)
    with Checkpoints(tmp_path, tiny) as checkpoints:
        checkpoints.save(1, first, Batches())
        assert writing.wait(60)
        now = step(step(first))
        assert int(now.step) == 3
        assert checkpoints.steps == []
        may_end.set()
        checkpoints.wait()
        assert checkpoints.steps == [1]
        assert same(checkpoints.restore(state(9), Batches()), expected)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_former_or_it(tmp_path, tiny, changed, monkeypatch):
    """Whatever lies on the disk at a moment is what a second SIGTERM would leave, even where one is kept."""
    finalize, shots = atomicity.AtomicRenameTemporaryPath.finalize, []

    def shoot() -> None:
        shots.append(tmp_path / f"shot{len(shots)}")
        shutil.copytree(tmp_path / "run", shots[-1])

    async def watched(self):
        shoot()
        await finalize(self)
        shoot()

    config = changed(tiny, keep=1)
    with Checkpoints(tmp_path / "run", config) as checkpoints:
        checkpoints.save(1, state(1), Batches())
        checkpoints.wait()
        monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", watched)
        checkpoints.save(2, state(2), Batches())
    found = []
    for shot in [*shots, tmp_path / "run"]:
        with Checkpoints(shot, config) as checkpoints:
            restored = checkpoints.restore(state(9), Batches())
        found.append(int(restored.step))
        assert same(restored, state(found[-1]))
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, 2)


def test_only_the_newest_are_kept(tmp_path, tiny, changed):
    with Checkpoints(tmp_path, changed(tiny, keep=2)) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), Batches())
        checkpoints.wait()
        assert checkpoints.steps == [2, 3]


def test_frozen_parameters_are_kept_apart(tmp_path, tiny):
    frozen = state(5).trainable
    with Checkpoints(tmp_path, tiny) as checkpoints:
        checkpoints.save_frozen(frozen)
        assert same(checkpoints.restore_frozen(state(6).trainable), frozen)
        shutil.rmtree(tmp_path / "frozen")
        with pytest.raises(GlapError, match="frozen"):
            checkpoints.restore_frozen(frozen)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"batch": 16}, "'batch' is 16 .* has 8"),
        ({"seed": 1}, "'seed'"),
        ({"ema": 0.9}, "'ema'"),
        ({"model": {"joint": 8}}, "'model.joint' is 8 .* has 16"),
        ({"data": {"crop_seconds": 3.0}}, "'data.crop_seconds'"),
    ],
)
def test_another_configuration_is_refused(filled, tiny, changed, change, key):
    with (
        Checkpoints(filled, changed(tiny, **change)) as checkpoints,
        pytest.raises(GlapError, match=key),
    ):
        checkpoints.restore(state(9), Batches())


def test_what_does_not_shape_the_run_may_change(filled, tiny, changed):
    config = changed(
        tiny,
        steps=99,
        data={"workers": 3, "layout": LayoutConfig("bucketed")},
        optimizer={"learning_rate": 1.0},
    )
    with Checkpoints(filled, config) as checkpoints:
        assert same(checkpoints.restore(state(9), Batches()), state(3))


def rewrite(checkpoint, change) -> None:
    """Changes the configuration that a checkpoint holds."""
    file = checkpoint / "config" / "metadata"
    settings = json.loads(file.read_text())
    change(settings)
    file.write_text(json.dumps(settings))


def test_what_an_older_checkpoint_does_not_know_has_its_default(tmp_path, tiny, changed, capsys):
    config = changed(tiny, data={"train": (GroupConfig("g", ("*.tar",)), GroupConfig("h", ("h/*.tar",)))})

    def forget(settings) -> None:
        del settings["model"]["standardise"], settings["data"]["train"][1]["weight"], settings["keep"]

    with Checkpoints(tmp_path, config) as checkpoints:
        checkpoints.save(1, state(1), Batches())
        checkpoints.wait()
    rewrite(tmp_path / "checkpoints" / "1", forget)
    with Checkpoints(tmp_path, config) as checkpoints:
        assert same(checkpoints.restore(state(9), Batches()), state(1))
    (line,) = capsys.readouterr().err.splitlines()
    assert "is older than 'model.standardise' (false), 'data.train.1.weight' (1.0); defaults stand" in line
    with (
        Checkpoints(tmp_path, changed(config, model={"standardise": True})) as checkpoints,
        pytest.raises(GlapError, match=r"'model\.standardise' is True and checkpoint 1 .* has False"),
    ):
        checkpoints.restore(state(9), Batches())


def test_what_a_newer_checkpoint_knows_is_refused(filled, tiny):
    rewrite(filled / "checkpoints" / "3", lambda settings: settings["data"].update(novelty=1))
    with (
        Checkpoints(filled, tiny) as checkpoints,
        pytest.raises(
            GlapError, match=r"^resume: .*checkpoint 3 .*'data\.novelty': \S.*; resume with the v"
        ) as caught,
    ):
        checkpoints.restore(state(9), Batches())
    assert "\n" not in str(caught.value)


def spoil(folder) -> None:
    for file in (folder / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_corrupt_newest_falls_back_and_says_so(filled, tiny, capsys):
    spoil(filled / "checkpoints" / "3")
    batches = Batches()
    with Checkpoints(filled, tiny) as checkpoints:
        assert same(checkpoints.restore(state(9), batches), state(2))
        assert next(batches) == 2
        assert "checkpoint 3 cannot be read" in capsys.readouterr().err
        assert checkpoints.steps == [1, 2]
        checkpoints.save(3, state(3), batches)
        checkpoints.wait()
        assert checkpoints.steps == [1, 2, 3]
    assert (filled / "corrupt" / "3").is_dir()


def test_nothing_readable_is_one_line_and_moves_nothing(filled, tiny):
    for step in (1, 2, 3):
        spoil(filled / "checkpoints" / str(step))
    with Checkpoints(filled, tiny) as checkpoints:
        with pytest.raises(GlapError, match=r"no checkpoint .* can be read") as caught:
            checkpoints.restore(state(9), Batches())
        assert "\n" not in str(caught.value)
        assert checkpoints.steps == [1, 2, 3]


def test_half_written_checkpoint_is_never_picked_up(filled, tiny):
    newest = filled / "checkpoints" / "3"
    newest.rename(newest.with_name("3.orbax-checkpoint-tmp"))
    with Checkpoints(filled, tiny) as checkpoints:
        assert checkpoints.steps == [1, 2]
        assert same(checkpoints.restore(state(9), Batches()), state(2))


def test_no_room_is_seen_before_a_file_is_begun(filled, tiny, monkeypatch):
    usage = shutil.disk_usage(filled)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with (
        pytest.raises(GlapError, match=r"checkpoint 4 .*GB are free.* checkpoint 3 is intact"),
        Checkpoints(filled, tiny) as checkpoints,
    ):
        checkpoints.save(4, state(4), Batches())
    assert not list((filled / "checkpoints").glob("4*"))


def test_full_disk_leaves_earlier_checkpoints_intact(tmp_path, tiny, caplog, capfd):
    """A limit on file size is what a full disk looks like from here: a write that the system refuses."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write() -> None:
        with Checkpoints(tmp_path, tiny) as checkpoints:
            checkpoints.save(1, state(1), Batches())
            checkpoints.wait()
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, before[1]))
                checkpoints.save(2, state(2, size=50_000), Batches())
                checkpoints.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with pytest.raises(GlapError, match=r"checkpoint 2 .*File too large.* checkpoint 1 is intact") as caught:
        write()
    assert "\n" not in str(caught.value)
    assert not caplog.records
    assert not capfd.readouterr().err
    assert os.listdir(tmp_path / "checkpoints") == ["1"]
    with Checkpoints(tmp_path, tiny) as checkpoints:
        assert checkpoints.steps == [1]
        assert same(checkpoints.restore(state(9), Batches()), state(1))
