"""Checkpoints of a run: {state, data iterator, config}, written by Orbax beside the training.

OUT/checkpoints/STEP/{state,data,config}    one checkpoint; complete, or not there at all
OUT/frozen                                  parameters that never change, once per run
OUT/corrupt/STEP                            what could not be read and was passed over
"""

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from glap_jax import config as configs
from glap_jax.config import TrainConfig
from glap_jax.errors import GlapError
from glap_jax.parallel import processes
from glap_jax.parallel.sharding import abstract
from glap_jax.train.quiet import forget, quiet_orbax
from glap_jax.train.state import TrainState, Weights

# A resumed run must not change these, nor begin or end to average (`ema`).
BINDING_KEYS = ("model", "frozen", "lora", "lora_alpha", "batch", "seed", "data")
# But these; everything else about the data decides what the next batch holds.
FREE_DATA_KEYS = (
    *("root", "workers", "test", "eval_seconds", "bad_share", "text_cache", "audio_cache", "layout"),
)


class Checkpoints:
    """The checkpoints below `out`, newest last. Use as a context manager: leaving it waits for the last save.

    Args:
        out: run folder.
        config: of this run; written into each checkpoint and compared on resume.
    """

    def __init__(self, out: Path, config: TrainConfig):
        self.out = out.absolute()
        self._config = config
        self._settings = json.loads(configs.to_json(config))
        options = ocp.CheckpointManagerOptions(max_to_keep=config.keep, cleanup_tmp_directories=True)
        self._newest = "a checkpoint"
        self._quiet = quiet_orbax()
        self._manager = ocp.CheckpointManager(self.out / "checkpoints", options=options)

    def __enter__(self) -> "Checkpoints":
        self._quiet.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                self.wait()
                self._manager.close()
                return
            # Something else has gone wrong already; that is what the user must read.
            with contextlib.suppress(Exception):
                self._manager.close()
        finally:
            self._quiet.__exit__(kind, error, trace)

    @property
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, oldest first."""
        # From the disk: the manager also lists a save that is still being written.
        return sorted(ocp.path.step.checkpoint_steps(self.out / "checkpoints"))

    def save(self, step: int, state: TrainState, data: grain.DatasetIterator) -> None:
        """Begins to write a checkpoint; `state` may be donated as soon as this returns.

        Raises:
            GlapError: this or the previous one cannot be written; earlier ones stay as they are.
        """
        self.wait()
        place = data.get_state()
        self._newest = f"checkpoint {step}"
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(place),
            config=ocp.args.JsonSave(self._settings),
        )
        with self._writing(self._newest):
            self._require(sum(x.nbytes for x in jax.tree.leaves(state)))
            self._manager.save(step, args=items, force=True)

    def check(self) -> None:
        """Raises GlapError if a save that runs in the background has failed."""
        with self._writing(self._newest):
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Waits until the last save is on disk; raises GlapError if it failed."""
        with self._writing(self._newest):
            self._manager.wait_until_finished()

    def save_frozen(self, frozen: Weights) -> None:
        """Writes what this run never changes. Raises GlapError if it cannot be written."""
        if not jax.tree.leaves(frozen):
            return
        with self._writing("the frozen parameters"), ocp.StandardCheckpointer() as writer:
            self._require(sum(x.nbytes for x in jax.tree.leaves(frozen)))
            writer.save(self.out / "frozen", frozen, force=True)

    def restore_frozen(self, frozen: Weights) -> Weights:
        """What `save_frozen` wrote, in the form of `frozen` and where that lies.

        Raises:
            GlapError: it is not there or cannot be read.
        """
        if not jax.tree.leaves(frozen):
            return frozen
        path = self.out / "frozen"
        try:
            with ocp.StandardCheckpointer() as reader:
                return reader.restore(path, abstract(frozen))
        except Exception as error:
            raise GlapError(
                f"resume: '{path}' cannot be read ({_reason(error)}); without the frozen parameters this run "
                "cannot go on: copy the folder back or start anew in another 'out'"
            ) from error

    def restore(self, state: TrainState, data: grain.DatasetIterator) -> TrainState:
        """The newest readable checkpoint, in the form of `state`, where that lies; places `data` there too.

        Newer ones that cannot be read are moved to `OUT/corrupt` and named on standard error.

        Raises:
            GlapError: no checkpoint can be read, or the run was configured otherwise.
        """
        unreadable: dict[int, str] = {}
        for step in reversed(self.steps):
            restored, reason = None, ""
            try:
                restored = self._read(step, state, data)
            except GlapError:
                raise
            except Exception as error:
                reason = _reason(error)
            # What one process cannot read is of no use to the others.
            reasons = [each for each in processes.gather(reason) if each]
            if restored is not None and not reasons:
                self._set_aside(unreadable, step)
                return restored
            unreadable[step] = reasons[0]
        listed = "; ".join(f"{step}: {reason}" for step, reason in unreadable.items())
        raise GlapError(
            f"resume: no checkpoint in '{self.out / 'checkpoints'}' can be read ({listed}); "
            "restore the folder from a copy or start anew in another 'out'"
        )

    def _read(self, step: int, state: TrainState, data: grain.DatasetIterator) -> TrainState:
        found = self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))
        self._refuse_another_run(step, found["config"])
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract(state)),
            data=ocp.args.JsonRestore(),
        )
        found = self._manager.restore(step, args=items)
        data.set_state(found["data"])
        return found["state"]

    def _refuse_another_run(self, step: int, saved: dict[str, Any]) -> None:
        """Raises GlapError naming the first key that makes this another run than the saved one.

        What an earlier version of the configuration did not have has its default there.
        """
        where = f"resume: configuration of checkpoint {step} in '{self.out}'"
        mend = "resume with the version of glap_jax that wrote it, or begin another run in another 'out'"
        read = configs.from_json(TrainConfig, json.dumps(saved), where=where, mend=mend)
        whole = _binding(json.loads(configs.to_json(read)))
        absent = _absent(whole, _binding(saved))
        if absent and processes.leads():
            listed = ", ".join(f"'{key}' ({json.dumps(value)})" for key, value in absent.items())
            print(f"{where}: it is older than {listed}; defaults stand for them", file=sys.stderr)
        before, now = configs.dotted(whole), configs.dotted(_binding(self._settings))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise GlapError(
                    f"resume: '{key}' is {now.get(key, 'missing')} and checkpoint {step} in '{self.out}' has "
                    f"{before.get(key, 'none')}; resume with the run's own configuration, or "
                    f"begin another run: another 'out' and 'initial' = '{self.out / 'model'}'"
                )

    def _set_aside(self, unreadable: dict[int, str], used: int) -> None:
        for step, reason in unreadable.items():
            target = self.out / "corrupt" / str(step)
            if processes.leads():
                target.parent.mkdir(exist_ok=True)
                (self.out / "checkpoints" / str(step)).rename(_unused(target))
                print(
                    f"resume: checkpoint {step} cannot be read ({reason}); it is now in '{target.parent}' "
                    f"and the run goes on from checkpoint {used}",
                    file=sys.stderr,
                )
        if unreadable:
            processes.wait()
            self._manager.reload()

    def _require(self, size: int) -> None:
        """Raises OSError while there is no room for `size` bytes, before a file is begun."""
        free = shutil.disk_usage(self.out).free
        if free < size:
            raise OSError(errno.ENOSPC, f"it takes {size / 1e9:.3g} GB and {free / 1e9:.3g} GB are free")

    @contextlib.contextmanager
    def _writing(self, what: str) -> Generator[None]:
        try:
            yield
        except GlapError:
            raise
        except Exception as error:
            reason, steps = _reason(error), self.steps
            forget(error)
            for half in (self.out / "checkpoints").glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(half, ignore_errors=True)
            kept = f"checkpoint {steps[-1]} is intact" if steps else "there is no earlier one"
            raise GlapError(
                f"{what} could not be written to '{self.out}' ({reason}); {kept}: "
                "free some space or mend the disk, then resume"
            ) from None


def _binding(settings: dict[str, Any]) -> dict[str, Any]:
    """What a resumed run must not change, of a configuration's JSON form."""
    kept = {key: settings[key] for key in BINDING_KEYS if key in settings}
    kept["data"] = {key: value for key, value in kept["data"].items() if key not in FREE_DATA_KEYS}
    return {**kept, "ema": settings.get("ema") is not None}


def _absent(whole: Any, partial: Any, place: str = "") -> dict[str, Any]:
    """What JSON values have that a part of them lacks: dotted keys, and the values there."""
    if isinstance(whole, list):
        whole, partial = dict(enumerate(whole)), dict(enumerate(partial))
    found: dict[str, Any] = {}
    for key, value in whole.items() if isinstance(whole, dict) else ():
        name = f"{place}.{key}".lstrip(".")
        found |= _absent(value, partial[key], name) if key in partial else {name: value}
    return found


def _reason(error: BaseException) -> str:
    """What the system says, or the first line of the error, short enough to stand inside another one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO):
        # TensorStore passes the system's words on inside longer ones.
        if os.strerror(number) in text:
            return os.strerror(number)
    return f"{type(error).__name__}: {(text.splitlines() or [''])[0]:.160}".rstrip(": ")


def _unused(path: Path) -> Path:
    """`path`, or the first of `path.1`, `path.2`, ... that does not exist."""
    number = 0
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free
