"""Whole runs on the embedded samples: killed, interrupted, poisoned, resumed."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from glap_jax import config as configs
from glap_jax import folder
from glap_jax.drawing import Masking
from glap_jax.errors import GlapError
from glap_jax.train import loop, start
from glap_jax.train.writers import read

TIMES = ("clips_per_second", "audio_per_second", "data_wait")

# Trains the configuration in a file; sends itself a signal at a step. KILL is the real kill -9.
RUN = """
import os, signal, sys
from pathlib import Path
from glap_jax import config as configs
from glap_jax.train.loop import train

file, resume, step, name = sys.argv[1:]

def evaluate(module, done):
    if done == int(step):
        os.kill(os.getpid(), signal.Signals[name])
    return {}

config = configs.from_json(configs.TrainConfig, Path(file).read_text(), where=file)
result = train(config, resume=bool(int(resume)), evaluate=evaluate)
print(result.finished, result.step)
"""


def one_device():
    return jax.devices()[:1]


def losses(out: str) -> list[dict[str, float]]:
    rows = read(Path(out) / "metrics.csv")
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


@pytest.mark.slow
def test_killed_and_interrupted_run_continues_bit_for_bit(small_run, changed, tmp_path):
    def run(config, *, resume: int = 0, step: int = 0, name: str = "SIGKILL"):
        file = tmp_path / "config.json"
        file.write_text(configs.to_json(config))
        # One compilation for all runs, as a run that is resumed on the same machine has.
        places = {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
        places["JAX_ENABLE_COMPILATION_CACHE"] = "true"
        return subprocess.run(
            [sys.executable, "-c", RUN, str(file), str(resume), str(step), name],
            env=os.environ | places | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    audio = dataclasses.replace(small_run.model.audio, masking=Masking(times=1, time_share=0.5, bands=1))
    config = changed(small_run, model={"audio": audio}, eval_every=1, ema=0.9, accumulation=2, steps=7)
    whole = changed(config, out=str(tmp_path / "whole"))
    done = run(whole)
    assert done.stdout.split() == ["True", "7"], done.stderr

    assert run(config, step=3).returncode == -signal.SIGKILL
    assert Path(config.out, "metrics.csv").exists()
    interrupted = run(config, resume=1, step=4, name="SIGTERM")
    assert interrupted.stdout.split() == ["False", "5"], interrupted.stderr
    assert "--resume" in interrupted.stderr
    done = run(config, resume=1)
    assert done.stdout.split() == ["True", "7"], done.stderr

    assert [row["step"] for row in losses(config.out)] == [1, 2, 3, 4, 5, 6, 7]
    assert losses(config.out) == losses(whole.out)
    ends = [folder.load_module(Path(each.out) / "model")[0] for each in (config, whole)]
    arrays = [jax.tree.leaves(jax.tree.map(np.asarray, nnx.state(module))) for module in ends]
    for mine, theirs in zip(*arrays, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_nonsense_stops_and_resumes_and_the_end_is_exported(build, small_run, changed, monkeypatch):
    calls = []

    def poisoned(*args, **more):
        batch, intake = next_batch(*args, **more)
        calls.append(1)
        if len(calls) == 5:
            batch["waveform"] = batch["waveform"] * np.float32(np.nan)
        return batch, intake

    next_batch = loop.next_batch
    monkeypatch.setattr(loop, "next_batch", poisoned)
    with pytest.raises(GlapError, match="at step 5"):
        loop.train(small_run, devices=one_device())
    monkeypatch.undo()
    assert [row["step"] for row in losses(small_run.out)] == [1, 2, 3, 4]
    with pytest.raises(GlapError, match="--resume"):
        loop.train(small_run, devices=one_device())

    seen = []
    evaluate = lambda module, step: seen.append((step, float(module.temperature[...]))) or {"r1": 1.0}  # noqa: E731
    config = changed(small_run, eval_every=5)
    result = loop.train(config, resume=True, evaluate=evaluate, devices=one_device())
    assert (result.step, result.finished, result.evaluation) == (6, True, {"r1": 1.0})
    assert [step for step, _ in seen] == [5, 6]
    assert [row["step"] for row in losses(small_run.out)] == [1, 2, 3, 4, 5, 6]
    for name in ("training.png", "config.json", "evaluation.csv", "tensorboard", "frozen"):
        assert (result.out / name).exists(), name
    module, model = folder.load_module(result.model)
    assert model == config.model
    # The published form is the trained one, with the input statistics that were measured at the start.
    assert float(module.temperature[...]) == seen[-1][1] != np.float32(0.07)
    assert float(module.audio.frontend.norm.mean[...].mean()) < -1.0

    again = loop.train(config, resume=True, evaluate=evaluate, devices=one_device())
    assert (again.step, again.finished) == (6, True)
    assert [row["step"] for row in read(result.out / "evaluation.csv")] == [5, 6]
    # What acts in training alone may change with a new run.
    audio = dataclasses.replace(config.model.audio, masking=Masking(times=2))
    begun = build(changed(config, model={"audio": audio}, initial=str(result.model)))
    assert float(begun.temperature[...]) == seen[-1][1]
    assert begun.audio.draws
    with pytest.raises(GlapError, match=r"initial: 'model.joint' is 8 .* and 16"):
        build(changed(config, model={"joint": 8}, initial=str(result.model)))


@pytest.fixture
def compiled():
    """Names of the functions that were compiled so far, in order."""
    names = []

    def note(event: str, seconds: float, **about) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


def test_nothing_is_compiled_a_second_time(small_run, changed, compiled):
    """Neither by steps nor by checkpoints, nor, once it has run, by publishing to an evaluation."""
    config = changed(small_run, eval_every=2, checkpoint_every=1, ema=0.9)
    seen = []
    evaluate = lambda module, step: seen.append(list(compiled)) or {"r1": 1.0}  # noqa: E731
    loop.train(config, evaluate=evaluate, devices=one_device())
    first, second, _ = seen
    assert compiled.count("jit(step)") == first.count("jit(step)") == 1
    assert first == second


def test_paper_form_starts_at_the_same_logits_and_publishes_the_codes_form(small_run, changed, build):
    config = changed(small_run, loss={"form": "paper"}, steps=3, eval_every=1, log_every=1)
    biases = []
    evaluate = lambda module, step: biases.append(float(module.bias[...])) or {"r1": 0.0}  # noqa: E731
    result = loop.train(config, evaluate=evaluate, devices=one_device())
    trained = [(row["bias"], row["temperature"]) for row in read(result.out / "metrics.csv")]
    assert trained[0][0] == pytest.approx(-0.7, rel=1e-6)  # -10 in the code's form at tau 0.07.
    assert all(bias == pytest.approx(-0.7, abs=0.01) for bias, _ in trained), "an evaluation changed the run"
    module, _ = folder.load_module(result.model)
    assert [bias == pytest.approx(-10.0, abs=0.5) for bias in biases] == [True] * 3
    assert float(module.bias[...]) == biases[-1]
    begun = build(changed(config, initial=str(result.model)))
    np.testing.assert_allclose(begun.bias[...], module.bias[...] * module.temperature[...], rtol=1e-6)


def test_batch_that_devices_cannot_share_is_refused(small_run, changed):
    with pytest.raises(GlapError, match="8 devices"):
        start.mesh_of(changed(small_run, batch=16, accumulation=4), None)


def test_stop_signal_is_noted_once():
    """Then everything is as it was before, which in a background job is to ignore Ctrl-C."""
    watched = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in watched]
    with loop.stop_signals() as received:
        assert [signal.getsignal(number) for number in watched] != before
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert [signal.getsignal(number) for number in watched] == before


def test_package_is_the_function():
    import glap_jax.train

    assert callable(glap_jax.train)
