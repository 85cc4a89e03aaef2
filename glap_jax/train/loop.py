"""A training run from its configuration to a model folder."""

import contextlib
import dataclasses
import itertools
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import FrameType

import jax
import numpy as np
from jax.sharding import Mesh

from glap_jax import config as configs
from glap_jax import encoders, folder, progress
from glap_jax.config import LayoutConfig, TrainConfig
from glap_jax.errors import GlapError
from glap_jax.layers import compute_dtype
from glap_jax.model import DualEncoder
from glap_jax.parallel import processes
from glap_jax.parallel.sharding import gathered, make_mesh, over_batch, own_rows, replicated
from glap_jax.pipeline import loader, packing
from glap_jax.pipeline.loader import TrainingIterator
from glap_jax.text.tokenizers import Tokenizer, open_tokenizer
from glap_jax.train import cached
from glap_jax.train import state as states
from glap_jax.train.calibrate import calibrate, calibrate_heads
from glap_jax.train.checkpoint import Checkpoints
from glap_jax.train.evaluations import Evaluate, Evaluations
from glap_jax.train.initial import at_random, measured, put_parts
from glap_jax.train.state import Design, TrainState, Weights
from glap_jax.train.step import Batch, make_step
from glap_jax.train.writers import Intake, Log

# Token rows and their mask, or what a text cache has in their place, and what belongs to all pairs.
PAIR_KEYS = ("lengths", "ids", "text_mask", "text_pooled", "audio_pooled", "pair_mask")
# What is heard, as it lies on the devices.
ROW_KEYS = ("waveform", "starts", "sizes", "place")


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
    out = Path(config.out)
    mesh = mesh_of(config, devices)
    with contextlib.ExitStack() as stack:
        data, tokenizer = open_data(config, mesh)
        stack.callback(data.close)
        if not processes.alone():
            stack.enter_context(_naming_loss())
        checkpoints = stack.enter_context(Checkpoints(out, config))
        fresh = not checkpoints.steps
        refuse_to_overwrite(out, fresh=fresh, resume=resume)

        design = states.design(config, mesh)
        if fresh:
            state, stored = begin(config, design, mesh)
            frozen = held(config, design, stored, mesh)
            checkpoints.save_frozen(stored)
            if processes.leads():
                (out / "config.json").write_text(configs.to_json(config))
        else:
            state = checkpoints.restore(design.state, data)
            stored = checkpoints.restore_frozen(design.stored)
            frozen = held(config, design, stored, mesh)
        del stored
        first = int(state.step)
        announce(config, state, frozen, mesh)

        step = make_step(config, design, mesh)
        stopping = stack.enter_context(stop_signals())
        log = stack.enter_context(Log(config, first))

        def published() -> DualEncoder:
            """The model as it is now, on one device of each process."""
            # What steps do without is on the disk alone.
            whole = frozen if design.frozen is design.stored else checkpoints.restore_frozen(design.stored)
            module = design.whole.merge(*gathered((state.published, state.fixed(whole)), mesh))
            states.write_bias(module, config.loss, source=config.loss.form, target="code")
            return module

        evaluations = Evaluations(config, evaluate, log, tokenizer)

        def evaluated(step: int) -> None:
            # It may load libraries, which a checkpoint on its way to the disk can bar (see `Writers`).
            checkpoints.wait()
            evaluations.add(published(), step)

        if evaluations.owed(first):
            evaluated(first)

        done = first
        for done in () if evaluations.enough else range(first + 1, config.steps + 1):
            batch, intake = next_batch(data, mesh, config.loss.positives, stopping=bool(stopping))
            state, metrics = step(state, frozen, batch)
            log.add(done, metrics, intake)
            checkpoints.check()
            ends = done == config.steps or log.stopping or (processes.alone() and bool(stopping))
            if ends or done % config.checkpoint_every == 0:
                log.flush()
                checkpoints.save(done, state, data)
                log.plot()
            if ends:
                break
            if evaluations.due(done):
                log.flush()
                evaluated(done)
                if evaluations.enough:
                    if done % config.checkpoint_every:
                        checkpoints.save(done, state, data)
                    break

        checkpoints.wait()
        finished = evaluations.enough or done >= config.steps
        model = out / "model" if finished else None
        if model:
            trained = published()
            if processes.leads():
                folder.save(model, trained, config.model, tokenizer.path)
            if not evaluations.enough:
                evaluations.add(trained, done)
            evaluations.tell()
            processes.wait()
        else:
            say(f"stopped after step {done}; checkpoint {done} is saved in '{out}': go on with --resume")
        return RunResult(out, model, done, finished, time.monotonic() - began, log.last, evaluations.figures)


@contextlib.contextmanager
def _naming_loss() -> Generator[None]:
    """Says so where devices fail because another process has ended."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise processes.lost(error) from error


def begin(config: TrainConfig, design: Design, mesh: Mesh) -> tuple[TrainState, Weights]:
    """State and frozen parameters of a run that starts anew."""
    module = states.build(config, design)
    put_parts(module, config.parts, replicated(mesh))
    fresh = config.initial is None and config.calibrate_batches > 0
    if fresh and config.data.audio_cache is None and not measured(config.parts):
        calibrate(module, first_batches(config))
    if fresh and config.model.standardise:
        calibrate_heads(module, first_batches(config))
    note_random(config, design)
    return states.begin(module, config, design)


def note_random(config: TrainConfig, design: Design) -> None:
    """A line for each tower that is random and will stay so."""
    for tower in (tower for tower in at_random(config) if not design.parts.learns(tower)):
        say(f"note: the {tower} tower is random and frozen; give it a folder: --parts {tower} FOLDER")


def held(config: TrainConfig, design: Design, stored: Weights, mesh: Mesh) -> Weights:
    """What steps need of the parameters that stay: all, or without towers that are read from caches.

    Raises:
        GlapError: a cache is that of another tower.
    """
    caches = {"text": loader.open_text_cache(config.data), "audio": loader.open_audio_cache(config.data)}
    for tower, cache in caches.items():
        if cache is not None:
            made = cached.fingerprint(stored, getattr(config.model, tower), mesh, tower)
            cache.require({"tower": made})
    absent = cached.towers(config.data)
    return cached.without(stored, absent) if absent else stored


def mesh_of(config: TrainConfig, devices: Sequence[jax.Device] | None) -> Mesh:
    """The run's mesh over `devices`, all of them by default.

    Raises:
        GlapError: they cannot be divided as the configuration asks, or not share the batch evenly.
    """
    mesh = make_mesh(config.parallel, devices)
    rows = config.batch // config.accumulation
    if rows % mesh.size:
        raise GlapError(
            f"config: {rows} pairs ('batch' {config.batch} / 'accumulation' {config.accumulation}) cannot be "
            f"shared by {mesh.size} devices; change 'batch' to a multiple"
        )
    return mesh


def open_data(config: TrainConfig, mesh: Mesh | None = None) -> tuple[TrainingIterator, Tokenizer]:
    """The run's batches from the first one on, and the tokenizer of its model.

    Of each batch come the rows that this process's devices on the mesh hold, or all.
    """
    tokenizer = open_tokenizer(config.data.tokenizer_path, config.model.text)
    slot = None
    if config.data.layout.kind == "packed":
        slot = encoders.slot(config.model.audio, round(config.data.crop_seconds * config.data.sample_rate))
    data = loader.training(
        config.data,
        batch=config.batch,
        seed=config.seed,
        tokenizer=tokenizer,
        rows=None if mesh is None else own_rows(mesh, config.batch),
        arrange=packing.arrangement(
            config.data,
            slot=slot,
            shares=1 if mesh is None else len(over_batch(mesh).addressable_devices),
            parts=config.accumulation,
            agree=processes.most,
        ),
    )
    return data, tokenizer


def next_batch(
    data: TrainingIterator, mesh: Mesh, positives: str, *, stopping: bool = False
) -> tuple[Batch, Intake]:
    """The next batch, shared out over the mesh, and what it took to get it.

    With it goes whether this process was asked to stop, which the step tells all of them.
    """
    began = time.monotonic()
    host = next(data)
    lengths = host["lengths"][host["pair_mask"]]
    intake = Intake(len(lengths), int(lengths.sum()), time.monotonic() - began)
    # Identities only have to stay equal or different: 32 bits of them do, and JAX has no more by default.
    identity = host["caption" if positives == "caption" else "clip"].astype(np.int32)
    arrays = {key: host[key] for key in PAIR_KEYS if key in host} | {"identity": identity}
    if "order" in host:
        arrays = {key: x[host["order"]] for key, x in arrays.items()}
    arrays |= {key: host[key] for key in ROW_KEYS if key in host}
    arrays["stopping"] = np.full(len(identity), stopping)
    spread = over_batch(mesh)
    return {key: jax.make_array_from_process_local_data(spread, x) for key, x in arrays.items()}, intake


def first_batches(config: TrainConfig) -> Iterator[dict[str, np.ndarray]]:
    """The real rows of the first batches, to measure on; they are read apart, training still sees them."""
    alone = dataclasses.replace(config.data, layout=LayoutConfig())
    data, _ = open_data(dataclasses.replace(config, data=alone))
    with contextlib.closing(data):
        first = itertools.islice(data, config.calibrate_batches)
        for batch in progress.track(first, "measuring inputs", total=config.calibrate_batches):
            yield {key: batch[key][batch["pair_mask"]] for key in (*PAIR_KEYS, *ROW_KEYS) if key in batch}


def refuse_to_overwrite(out: Path, *, fresh: bool, resume: bool) -> None:
    """Raises GlapError if there is a run in `out` that nobody asked to go on with."""
    if not fresh and not resume:
        raise GlapError(
            f"'{out}' holds a run with checkpoints; go on with it by --resume or choose another one by --out"
        )
    if fresh and resume:
        say(f"resume: no checkpoint in '{out}' yet; starting from step 0")


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


def announce(config: TrainConfig, state: TrainState, frozen: Weights, mesh: Mesh) -> None:
    """One line about what is about to run."""
    learning, still = (sum(x.size for x in jax.tree.leaves(tree)) / 1e6 for tree in (state.trainable, frozen))
    folders = {"texts": config.data.text_cache, "sounds": config.data.audio_cache}
    read = "".join(f"{what} from '{folder}', " for what, folder in folders.items() if folder is not None)
    say(
        f"{config.name}: {learning + still:.2f} M parameters, {learning:.2f} M of them trained, {read}"
        f"{compute_dtype(config.dtype).name} on {mesh.size} {jax.default_backend()} device(s), "
        f"step {int(state.step)} to {config.steps}, in '{config.out}'"
    )


def say(words: str) -> None:
    """A line for the person who watches; of several processes, one says it."""
    if processes.leads():
        print(words, file=sys.stderr)
