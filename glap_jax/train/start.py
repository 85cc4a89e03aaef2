"""How a run begins or goes on: its mesh, parameters, data and checkpoints."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from glap_jax import config as configs
from glap_jax.config import TrainConfig
from glap_jax.errors import GlapError
from glap_jax.layers import compute_dtype
from glap_jax.model import DualEncoder
from glap_jax.parallel import processes
from glap_jax.parallel.sharding import gathered, make_mesh, replicated
from glap_jax.pipeline.loader import TrainingIterator
from glap_jax.pipeline.vectors import open_audio_cache, open_text_cache
from glap_jax.text.tokenizers import Tokenizer
from glap_jax.train import cached
from glap_jax.train import state as states
from glap_jax.train.batches import first_batches, open_data
from glap_jax.train.calibrate import calibrate, calibrate_heads
from glap_jax.train.checkpoint import Checkpoints
from glap_jax.train.initial import at_random, measured, put_parts
from glap_jax.train.state import Design, TrainState, Weights


@dataclasses.dataclass
class Run:
    """What a run holds from one step to the next.

    Attributes:
        config: the run.
        mesh: what it trains on.
        design: what of its parameters learns, and where each lies.
        data: its batches; where it stands in them is saved with each checkpoint.
        tokenizer: of the model.
        checkpoints: those in `config.out`.
        frozen: the parameters that stay, as far as steps need them.
        state: what a step changes.
        done: updates done.
    """

    config: TrainConfig
    mesh: Mesh
    design: Design
    data: TrainingIterator
    tokenizer: Tokenizer
    checkpoints: Checkpoints
    frozen: Weights
    state: TrainState
    done: int

    def save(self) -> None:
        """Starts to write a checkpoint of this step."""
        self.checkpoints.save(self.done, self.state, self.data)

    def published(self) -> DualEncoder:
        """The model as it is now, averages in place of what is averaged, on one device of each process."""
        design, whole = self.design, self.frozen
        if design.frozen is not design.stored:
            # What steps do without is on the disk alone.
            whole = self.checkpoints.restore_frozen(design.stored)
        module = design.whole.merge(*gathered((self.state.published, self.state.fixed(whole)), self.mesh))
        states.write_bias(module, self.config.loss, source=self.config.loss.form, target="code")
        return module


def start(
    config: TrainConfig, stack: contextlib.ExitStack, *, resume: bool, devices: Sequence[jax.Device] | None
) -> Run:
    """A run at its first step, or at its newest checkpoint; the stack closes what it opens.

    Raises:
        GlapError: as `loop.train` does.
    """
    out = Path(config.out)
    mesh = mesh_of(config, devices)
    data, tokenizer = open_data(config, mesh)
    stack.callback(data.close)
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
    announce(config, state, frozen, mesh)
    return Run(config, mesh, design, data, tokenizer, checkpoints, frozen, state, int(state.step))


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
    caches = {"text": open_text_cache(config.data), "audio": open_audio_cache(config.data)}
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


def refuse_to_overwrite(out: Path, *, fresh: bool, resume: bool) -> None:
    """Raises GlapError if there is a run in `out` that nobody asked to go on with."""
    if not fresh and not resume:
        raise GlapError(
            f"'{out}' holds a run with checkpoints; go on with it by --resume or choose another one by --out"
        )
    if fresh and resume:
        say(f"resume: no checkpoint in '{out}' yet; starting from step 0")


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
