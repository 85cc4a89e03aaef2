"""A training run from its configuration to a model folder."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from types import FrameType

import jax

from glap_jax import folder
from glap_jax.config import TrainConfig
from glap_jax.parallel import processes
from glap_jax.train.batches import next_batch
from glap_jax.train.evaluations import Evaluate, Evaluations
from glap_jax.train.start import Run, say, start
from glap_jax.train.step import make_step
from glap_jax.train.writers import Log


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        out: run folder: `checkpoints/`, `model/`, `best/`, `metrics.csv`, `training.png`, `tensorboard/`,
            `config.json`.
        model: the exported model folder; None when the run was interrupted.
        step: updates done.
        finished: False when it was interrupted; it can be resumed. A run that stopped early is finished.
        seconds: wall-clock time of this part of the run.
        metrics: of the last step.
        evaluation: the last figures of `evaluate`, if it ran.
    """

    out: Path
    model: Path | None
    step: int
    finished: bool
    seconds: float
    metrics: dict[str, float]
    evaluation: dict[str, float] | None


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    evaluate: Evaluate | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> RunResult:
    """Trains what `config` describes, into `config.out`.

    The same configuration gives the same losses, bit for bit on CPU, however often it is killed and resumed.
    Ctrl-C or SIGTERM finishes the step, saves and returns; a second one stops at once. Of several processes,
    all do as soon as each knows that one was asked to, a step or two later.

    Args:
        config: the run.
        resume: go on from the newest checkpoint in `config.out`; starts anew when there is none.
        evaluate: called as `evaluate(module, step)` every `eval_every` steps and at the end with the model
            (averaged weights, if averages are kept); its numbers go to `evaluation.csv` and TensorBoard, and
            `best_metric` names the one by which the best model is kept in `best`. The module must not be
            kept: its memory is used again by the next step.
        devices: what to train on; by default all. `config.parallel` says what lies where.

    Raises:
        GlapError: an earlier run in `config.out` without `resume`, data or configuration that do not fit, a
            loss that is not finite, a disk that refuses.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        if not processes.alone():
            stack.enter_context(_naming_loss())
        run = start(config, stack, resume=resume, devices=devices)
        stopping = stack.enter_context(stop_signals())
        log = stack.enter_context(Log(config, run.done))
        evaluations = Evaluations(config, evaluate, log, run.tokenizer)
        if evaluations.owed(run.done):
            _evaluate(run, evaluations)
        _take_steps(run, log, evaluations, stopping)
        run.checkpoints.wait()
        finished = evaluations.enough or run.done >= config.steps
        model = _finish(run, evaluations) if finished else None
        if not finished:
            say(
                f"stopped after step {run.done}; checkpoint {run.done} is saved in '{config.out}': "
                "go on with --resume"
            )
        seconds = time.monotonic() - began
        return RunResult(Path(config.out), model, run.done, finished, seconds, log.last, evaluations.figures)


def _take_steps(run: Run, log: Log, evaluations: Evaluations, stopping: Sequence[int]) -> None:
    """Steps to the last one, to enough evaluations or to a signal; saves and evaluates when it is time."""
    config, step = run.config, make_step(run.config, run.design, run.mesh)
    while not evaluations.enough and run.done < config.steps:
        batch, intake = next_batch(run.data, run.mesh, config.loss.positives, stopping=bool(stopping))
        run.state, metrics = step(run.state, run.frozen, batch)
        run.done += 1
        log.add(run.done, metrics, intake)
        run.checkpoints.check()
        stops = log.stopping or (processes.alone() and bool(stopping))
        saves = stops or run.done == config.steps or run.done % config.checkpoint_every == 0
        if saves:
            log.flush()
            run.save()
            log.plot()
        if stops:
            break
        if evaluations.due(run.done):
            log.flush()
            _evaluate(run, evaluations)
            if evaluations.enough and not saves:
                run.save()


def _evaluate(run: Run, evaluations: Evaluations) -> None:
    # It may load libraries, which a checkpoint on its way to the disk can bar (see `Writers`).
    run.checkpoints.wait()
    evaluations.add(run.published(), run.done)


def _finish(run: Run, evaluations: Evaluations) -> Path:
    """Writes the model folder of a run that is at its end, and evaluates it where that was not done."""
    model = Path(run.config.out) / "model"
    trained = run.published()
    if processes.leads():
        folder.save(model, trained, run.config.model, run.tokenizer.path)
    if not evaluations.enough:
        evaluations.add(trained, run.done)
    evaluations.tell()
    processes.wait()
    return model


@contextlib.contextmanager
def _naming_loss() -> Generator[None]:
    """Says so where devices fail because another process has ended."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise processes.lost(error) from error


@contextlib.contextmanager
def stop_signals() -> Generator[list[int]]:
    """Collects the first Ctrl-C or SIGTERM instead of dying of it; the next one acts as usual."""
    received: list[int] = []
    watched = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in watched}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for known, handler in before.items():
            signal.signal(known, handler)
        say(f"{signal.Signals(number).name}: saving after this step; once more stops at once")

    for number in watched:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
