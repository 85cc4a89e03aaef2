"""Runs of several processes: the numbers of one, one end for all, and another number of them on resume."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from glap_jax import config as configs
from glap_jax import folder, rules
from glap_jax.train.writers import read

# Trains the configuration in a file; one process gets a signal before a step. KILL is the real kill -9.
RUN = """
import os, signal, sys
from pathlib import Path
import jax
from glap_jax import cli
from glap_jax.parallel import processes
from glap_jax.train import loop

file, step, name, *words = sys.argv[1:]
next_batch, count = loop.next_batch, 0

def counted(*args, **more):
    global count
    count += 1
    if jax.process_count() > 1:
        # What they told each other does not pile up.
        assert len(processes._client().key_value_dir_get("glap_jax/")) <= 2 * jax.process_count()
    if count == int(step) and jax.process_index() == jax.process_count() - 1:
        os.kill(os.getpid(), signal.Signals[name])
    return next_batch(*args, **more)

loop.next_batch = counted
sys.exit(cli.main(["train", file, *words]))
"""
STEPS = 20


@pytest.fixture
def start(small_run, changed, tmp_path):
    """`start(out, processes, devices, *words, step=0, send="SIGKILL")`: status and errors of each process."""
    config = changed(small_run, steps=STEPS, batch=8, checkpoint_every=5, ema=0.9, keep=9)
    config = changed(config, data={"bad_share": 1.0})
    file = tmp_path / "recipe.py"
    words = configs.to_json(config)
    file.write_text(
        "from glap_jax.config import TrainConfig, from_json\n"
        f"config = from_json(TrainConfig, {words!r}, where='here')\n"
    )

    def run(name: str, processes: int, devices: int, *words: str, step: int = 0, send: str = "SIGKILL"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        if processes > 1:
            common |= {"GLAP_JAX_COORDINATOR": f"127.0.0.1:{port}", "GLAP_JAX_PROCESSES": str(processes)}
        words = [str(file), str(step), send, "--out", str(tmp_path / name), *words]
        started = [
            subprocess.Popen(
                [sys.executable, "-c", RUN, *words],
                env=os.environ | common | {"GLAP_JAX_PROCESS": str(index)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(processes)
        ]
        done = []
        for each in started:
            _, errors = each.communicate(timeout=400)
            done.append((each.returncode, errors))
        return done

    return run


def end(out: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Losses by step, and the parameters of the published model but for the biases of keys.

    Such a bias moves all logits of a query alike: its gradient is rounding noise, which Adam scales to steps.
    """
    rows = read(out / "metrics.csv")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    module, _ = folder.load_module(out / "model")
    stored = nnx.to_flat_state(nnx.state(module))
    arrays = {rules.path_name(path): np.asarray(value.get_value()) for path, value in stored}
    for name, value in arrays.items():
        if name.endswith("qkv/bias"):
            arrays[name] = np.delete(value.reshape(len(value), 3, -1), 1, axis=1)
    return np.array([row["loss"] for row in rows]), arrays


def assert_same(out: Path, expected: Path) -> None:
    losses, parameters = end(out)
    its_losses, its_parameters = end(expected)
    np.testing.assert_allclose(losses, its_losses, rtol=1e-5)
    for name, value in parameters.items():
        np.testing.assert_allclose(value, its_parameters[name], rtol=1e-4, atol=2e-5, err_msg=name)


def lose_one(start, tmp_path: Path) -> None:
    """The loss of a process ends the other, and nothing is lost."""
    began = time.monotonic()
    (status, errors), (killed, _) = start("killed", 2, 1, step=8)
    assert killed == -signal.SIGKILL
    assert status != 0
    assert time.monotonic() - began < 120
    assert "lost the others" in errors or "distributed service" in errors, errors
    # The half of a checkpoint is never picked up, and one that is broken is passed over by all.
    (tmp_path / "killed/checkpoints/9.orbax-checkpoint-tmp").mkdir()
    done = start("killed", 2, 1, "--resume", step=13, send="SIGTERM")
    assert [each for each, _ in done] == [0, 0], done
    assert "step 5 to 20" in done[0][1]
    newest = max(
        int(path.name) for path in (tmp_path / "killed/checkpoints").iterdir() if path.name.isdigit()
    )
    for part in (tmp_path / f"killed/checkpoints/{newest}/state").rglob("d/*"):
        part.write_bytes(b"broken")
    done = start("killed", 2, 1, "--resume")
    assert [each for each, _ in done] == [0, 0], done
    assert f"resume: checkpoint {newest} cannot be read" in done[0][1]
    assert_same(tmp_path / "killed", tmp_path / "one")


@pytest.mark.slow
def test_two_processes_are_as_one_and_one_device(start, tmp_path):
    for name, processes, devices, *words in (
        ("one", 1, 1),
        ("two", 2, 4, "--parallel.fsdp", "4", "--parallel.slices", "2"),
    ):
        done = start(name, processes, devices, *words)
        assert [status for status, _ in done] == [0] * processes, done
    assert "on 8 cpu device(s)" in done[0][1]
    assert "training" not in done[1][1], "one process shows progress"
    assert_same(tmp_path / "two", tmp_path / "one")

    # Asked to stop, one process tells the other; what they leave goes on as one, over another split.
    done = start("moved", 2, 4, "--parallel.fsdp", "8", step=7, send="SIGTERM")
    assert [status for status, _ in done] == [0, 0], done
    stopped = len(read(tmp_path / "moved/metrics.csv"))
    assert 7 <= stopped <= 9
    assert f"checkpoint {stopped} is saved" in done[0][1]
    done = start("moved", 1, 8, "--resume", "--parallel.fsdp", "2")
    assert [status for status, _ in done] == [0], done
    assert f"step {stopped} to {STEPS}" in done[0][1]
    assert_same(tmp_path / "moved", tmp_path / "one")

    lose_one(start, tmp_path)


@pytest.mark.slow
def test_packed_clips_in_two_processes(start, tmp_path):
    """As the padded clips of one; the processes agree on a shape at each step."""
    crop = ("--data.crop-seconds", "0.48")
    packed = (*crop, "--data.layout.kind", "packed", "--data.layout.row-seconds", "0.6")
    assert [status for status, _ in start("one", 1, 1, *crop)] == [0]
    done = start("two", 2, 1, *packed)
    assert [status for status, _ in done] == [0, 0], done
    assert_same(tmp_path / "two", tmp_path / "one")
