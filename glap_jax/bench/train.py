"""`glap-jax bench train`: how fast a run's training step is here, beside the same step in PyTorch."""

import dataclasses
import json
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from glap_jax import config as configs
from glap_jax import flops, memory
from glap_jax.bench import device, table, torch_step
from glap_jax.bench.cases import recordings
from glap_jax.bench.encode import cores
from glap_jax.bench.references import need
from glap_jax.bench.timing import in_turns
from glap_jax.config import TrainConfig
from glap_jax.errors import GlapError
from glap_jax.layers import compute_dtype
from glap_jax.parallel.sharding import make_mesh, over_batch
from glap_jax.plan.program import abstract_batch
from glap_jax.plan.report import AS_PADDED
from glap_jax.train import cached
from glap_jax.train import state as states
from glap_jax.train.step import make_step

TITLES = ("step of", "ms", "best, ms", "clips/s", "x real time", "MFU, %", "peak memory, GB")
NAMES = {"ours": "glap_jax", "torch": "PyTorch"}
# A program that fills more of a device than this leaves nothing for what else lives there.
FILLED = 0.9


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one implementation of the step.

    Attributes:
        step: `ours` or `torch`.
        milliseconds, best: median and shortest of the steps.
        steps_per_second, clips_per_second, audio_seconds_per_second: at the median.
        mfu: model FLOPs a second over the measured peak of matrix products, 0 to 1.
        loss: of the first step; the same parameters give the same.
        peak_bytes: of memory; none where it was not measured.
    """

    step: str
    milliseconds: float
    best: float
    steps_per_second: float
    clips_per_second: float
    audio_seconds_per_second: float
    mfu: float
    loss: float
    peak_bytes: int | None = None


def run(
    config: Path,
    *,
    overrides: Sequence[str] = (),
    against: str = "none",
    batch: str = "4",
    repeats: int = 5,
    memory: bool = False,
    as_json: bool = False,
) -> None:
    """Measures, and prints a Markdown table, or JSON.

    Args:
        config: the run; its model gets random parameters, and its batch embedded recordings.
        overrides: of its keys.
        against: `torch` takes turns with the same step in PyTorch.
        batch: pairs, or `largest` that fit into the device's memory.
        repeats: steps of each, of which the median counts.
        memory: measure peak memory, in processes of their own where the device does not tell.

    Raises:
        GlapError: options that make no sense, no recordings here, no library to compare with, or a run that
            PyTorch's step is not written for.
    """
    if repeats < 1 or not (batch == "largest" or (batch.isdecimal() and int(batch) > 0)):
        raise GlapError("bench: --batch must be a number above 0 or 'largest', and --repeats above 0")
    settings = configs.override(configs.load(config), overrides)
    settings = dataclasses.replace(settings, initial=None, parts=(), batch=1, accumulation=1)
    if against == "torch":
        torch_step.refuse_others(settings)
        need("torch", "training").set_num_threads(cores())
        # Both live on one device: the first may not take all of its memory in advance.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    rows = largest(lambda rows: fits(settings, rows)) if batch == "largest" else int(batch)
    settings = dataclasses.replace(settings, batch=rows)
    peak = device.matmul_peak(compute_dtype(settings.dtype))
    found = measure(settings, against=against, repeats=repeats, peak=peak, memory=memory)
    if as_json:
        print(json.dumps(_told(settings, peak, found), indent=2))
        return
    print(table.head(TITLES))
    for row in found:
        print(line(row))
    print(f"\n{_about(settings, peak)}")


def measure(
    config: TrainConfig, *, against: str, repeats: int, peak: float, memory: bool = False
) -> list[Row]:
    """Rows of this package's step and, with `against` torch, of PyTorch's, which took turns."""
    batch = make_batch(config)
    prepared = prepare(config, batch)
    calls: dict[str, Callable[[], float]] = {"ours": prepared.call}
    if against == "torch":
        module = prepared.module()
        calls["torch"] = torch_step.training(config, module, prepared.design.parts.learns, batch)
        del module
    losses: dict[str, list[float]] = {name: [] for name in calls}
    noted = {name: lambda name=name, call=call: losses[name].append(call()) for name, call in calls.items()}
    seconds = in_turns(noted, repeats)
    del prepared, noted, calls
    rows = []
    for name, times in seconds.items():
        middle, clips = statistics.median(times), config.batch
        speed = (1 / middle, clips / middle, clips * config.data.crop_seconds / middle)
        each = flops.train(config if name == "ours" else uncached(config)).model
        taken = most_bytes(config, name) if memory else None
        first = losses[name][0]
        rows.append(Row(name, 1e3 * middle, 1e3 * min(times), *speed, each / middle / peak, first, taken))
    return rows


class Prepared(NamedTuple):
    """A step that is ready to run.

    Attributes:
        call: makes a step and returns the loss before it.
        design: of the run.
        module: builds the model that it starts with; all calls build the same.
    """

    call: Callable[[], float]
    design: states.Design
    module: Callable[[], Any]


def prepare(config: TrainConfig, batch: dict[str, np.ndarray]) -> Prepared:
    """This package's step, compiled, with the run's optimizer and random parameters, on the first device.

    Vectors that caches would hold are computed here, and nothing is read.
    """
    mesh = _mesh(config)
    design = states.design(config, mesh)
    module = states.build(config, design)
    pool = nnx.jit(lambda tower, given, real: tower(given, real).pooled.astype(jnp.float32))
    if config.data.text_cache is not None:
        batch = batch | {"text_pooled": pool(module.text, batch["ids"], batch["text_mask"])}
    if config.data.audio_cache is not None:
        batch = batch | {"audio_pooled": pool(module.audio, batch["waveform"], batch["lengths"])}
    taken = {key: batch[key] for key in abstract_batch(config, mesh)}
    placed = jax.device_put(taken, over_batch(mesh))
    state, stored = states.begin(module, config, design)
    frozen = stored if design.frozen is design.stored else cached.without(stored, cached.towers(config.data))
    del module, stored
    step: Any = make_step(config, design, mesh)
    compiled = step.lower(state, frozen, placed).compile()
    held = [state]
    del state

    def call() -> float:
        held[0], metrics = compiled(held[0], frozen, placed)
        return float(metrics["loss"])

    return Prepared(call, design, lambda: states.build(config, design))


def uncached(config: TrainConfig) -> TrainConfig:
    """The run as it is without caches, of which PyTorch's step knows nothing."""
    data = dataclasses.replace(config.data, text_cache=None, audio_cache=None)
    return dataclasses.replace(config, data=data)


def _mesh(config: TrainConfig) -> Mesh:
    return make_mesh(config.parallel, jax.devices()[:1])


def make_batch(config: TrainConfig) -> dict[str, np.ndarray]:
    """Embedded recordings of the run's length, and random token rows; nothing is padding.

    Raises:
        GlapError: no recordings here.
    """
    data, rows = config.data, config.batch
    draw = np.random.default_rng(0)
    tokens = (rows, data.max_tokens)
    waveform = recordings(rows, data.crop_seconds, data.sample_rate).astype(np.float32)
    return {
        "waveform": waveform,
        "lengths": np.full(rows, waveform.shape[1], np.int32),
        # The first few are markers.
        "ids": draw.integers(8, config.model.text.vocabulary, tokens, dtype=np.int32),
        "text_mask": np.ones(tokens, bool),
        "identity": np.arange(rows, dtype=np.int32),
        "pair_mask": np.ones(rows, bool),
        "stopping": np.zeros(rows, bool),
    }


def fits(config: TrainConfig, rows: int) -> bool:
    """Whether the step at that batch fits into the device's memory, as XLA plans it.

    Raises:
        GlapError: the device does not tell how much memory it has.
    """
    limit = device.room()
    if limit is None:
        raise GlapError(
            f"bench: this device ({jax.default_backend()}) does not tell its memory; give --batch a number"
        )
    config = dataclasses.replace(config, batch=rows)
    mesh = _mesh(config)
    design = states.design(config, mesh)
    step: Any = make_step(config, design, mesh)
    told = step.lower(design.state, design.frozen, abstract_batch(config, mesh)).compile().memory_analysis()
    taken = told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
    return taken + told.temp_size_in_bytes < FILLED * limit


def largest(fits: Callable[[int], bool], first: int = 8) -> int:
    """The largest batch that fits, to an eighth of it: doubled while it does, then halved in between.

    Raises:
        GlapError: not even `first` does.
    """
    if not fits(first):
        raise GlapError(
            f"bench: not even a batch of {first} fits into this device's memory; give --batch less"
        )
    low, high = first, 2 * first
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(low // 8, 1):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def most_bytes(config: TrainConfig, name: str) -> int | None:
    """Peak memory of steps: as the device tells, or of a process that does nothing else."""
    told = device.most_bytes()
    if told is None:
        return device.growth(steps, config, name)
    if name == "ours":
        return told
    return need("torch", "training").cuda.max_memory_allocated()


def steps(config: TrainConfig, name: str) -> None:
    """Three steps of `name`, `ours` or `torch`, from nothing."""
    batch = make_batch(config)
    if name == "ours":
        memory.keep()
        call = prepare(config, batch).call
    else:
        design = states.design(config, _mesh(config))
        need("torch", "training").set_num_threads(cores())
        call = torch_step.training(config, states.build(config, design), design.parts.learns, batch)
    for _ in range(3):
        call()


def line(row: Row) -> str:
    """A row of the table."""
    taken = table.NONE if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f}"
    times = (f"{row.milliseconds:.0f}", f"{row.best:.0f}")
    speed = (f"{row.clips_per_second:.2f}", f"{row.audio_seconds_per_second:.1f}")
    return table.row((NAMES[row.step], *times, *speed, f"{100 * row.mfu:.1f}", taken))


def _about(config: TrainConfig, peak: float) -> str:
    """What the table was measured on, in a line."""
    kind, each = jax.devices()[0].device_kind, flops.train(config).model / config.batch
    layout = config.data.layout.kind
    return (
        f"{config.name}, batch {config.batch}, {config.data.crop_seconds:g} s, "
        f"{compute_dtype(config.dtype).name}, remat {config.remat}, {config.optimizer.kind}: "
        f"{each / 1e9:.3g} GFLOP a clip; {kind}, matrix products at {peak / 1e9:.0f} GFLOP/s"
        + ("" if layout == "padded" else f"; {AS_PADDED.format(layout)}")
    )


def _told(config: TrainConfig, peak: float, rows: Sequence[Row]) -> dict[str, Any]:
    told = {
        "batch": config.batch,
        "seconds": config.data.crop_seconds,
        "dtype": compute_dtype(config.dtype).name,
        "remat": config.remat,
        "optimizer": config.optimizer.kind,
        "device": jax.devices()[0].device_kind,
        "matmul_flops_per_second": peak,
        "model_flops": flops.train(config).model,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    if len(rows) == 2:
        ours, torch = rows
        told["throughput_ratio"] = ours.clips_per_second / torch.clips_per_second
        told["loss_difference"] = abs(ours.loss - torch.loss) / abs(torch.loss)
    return told
