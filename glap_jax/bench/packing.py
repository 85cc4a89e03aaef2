"""`glap-jax bench packing`: how much of a batch's rows is sound in each layout, and what that buys."""

import contextlib
import dataclasses
import functools
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from glap_jax import config as configs
from glap_jax import quickstart
from glap_jax.bench import table
from glap_jax.bench.timing import in_turns
from glap_jax.config import TrainConfig
from glap_jax.errors import GlapError
from glap_jax.parallel.sharding import make_mesh
from glap_jax.progress import track
from glap_jax.train import state as states
from glap_jax.train.batches import next_batch, open_data
from glap_jax.train.step import Batch, make_step

KINDS = ("padded", "bucketed", "packed")
TITLES = ("clips", "rows", "seconds", "shapes", "sound in rows, %", "training, clips/s", "x real time")


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found of a layout.

    Attributes:
        kind: `padded`, `bucketed` or `packed`.
        rows, seconds: of a batch, and of one of its rows; means.
        shapes: so many different ones there were, each of which a run compiles.
        share: of the rows' samples that are a clip's.
        clips, real_time: trained on in a second, and their seconds; none where it was not measured.
    """

    kind: str
    rows: float
    seconds: float
    shapes: int
    share: float
    clips: float | None = None
    real_time: float | None = None


def run(
    config: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    kinds: Sequence[str] = KINDS,
    batches: int = 20,
    steps: int = 0,
    repeats: int = 3,
    as_json: bool = False,
) -> None:
    """Lays out the run's first batches in each way, and trains on some; prints a Markdown table, or JSON.

    Args:
        config: whose training groups are read; none is the quickstart's.
        overrides: of its keys.
        kinds: of layouts.
        batches: that are looked at.
        steps: of them, the first that a step is made on, in turns; 0 makes none.
        repeats: of all these steps, of which the median counts.

    Raises:
        GlapError: numbers that make no sense, data that cannot be read, a tower that cannot be packed.
    """
    if batches < 1 or not 0 <= steps <= batches or repeats < 1:
        raise GlapError("bench: --batches and --repeats must be above 0, and --steps at most --batches")
    start = quickstart.settings(Path()) if config is None else configs.load(config)
    settings = dataclasses.replace(configs.override(start, overrides), initial=None, parts=())
    mesh = make_mesh(settings.parallel, jax.devices()[:1])
    found, kept = [], {}
    for kind in track(list(kinds), "reading", unit="layout"):
        row, kept[kind] = layout(settings, kind, mesh, batches=batches, steps=steps)
        found.append(row)
    if steps:
        speeds = training(settings, kept, mesh, repeats)
        found = [
            dataclasses.replace(row, clips=clips, real_time=real_time)
            for row, (clips, real_time) in zip(found, speeds, strict=True)
        ]
    if as_json:
        about = {"batch": settings.batch, "batches": batches, "steps": steps}
        print(json.dumps(about | {"rows": [dataclasses.asdict(row) for row in found]}, indent=2))
        return
    print(table.head(TITLES))
    for row in found:
        print(line(row))


def layout(
    config: TrainConfig, kind: str, mesh: Mesh, *, batches: int, steps: int
) -> tuple[Row, list[tuple[Batch, int, float]]]:
    """What the rows of the run's first batches hold; and the first `steps`, with clips and seconds."""
    chosen: Any = dataclasses.replace(config.data.layout, kind=kind)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, layout=chosen))
    rate, shapes, kept, sound = config.data.sample_rate, [], [], 0
    data, _ = open_data(config, mesh)
    with contextlib.closing(data):
        for _ in range(batches):
            batch, intake = next_batch(data, mesh, config.loss.positives)
            shapes.append(batch["waveform"].shape)
            sound += intake.samples
            if len(kept) < steps:
                kept.append((batch, intake.clips, intake.samples / rate))
    rows, samples = sum(shape[0] for shape in shapes), sum(rows * size for rows, size in shapes)
    return Row(kind, rows / batches, samples / rows / rate, len(set(shapes)), sound / samples), kept


def training(
    config: TrainConfig, kept: dict[str, list[tuple[Batch, int, float]]], mesh: Mesh, repeats: int
) -> list[tuple[float, float]]:
    """Clips, and seconds of them, that the run's step trains on in a second, with the batches of each layout.

    The layouts take turns; parameters are random.
    """
    design = states.design(config, mesh)
    step: Any = make_step(config, design, mesh)
    state, frozen = states.begin(states.build(config, design), config, design)
    held = [state]
    del state

    def call(batches: Sequence[tuple[Batch, int, float]]) -> None:
        for batch, _, _ in batches:
            held[0], metrics = step(held[0], frozen, batch)
            float(metrics["loss"])

    calls: dict[str, Callable[[], None]] = {
        kind: functools.partial(call, batches) for kind, batches in kept.items()
    }
    seconds = {kind: statistics.median(times) for kind, times in in_turns(calls, repeats).items()}
    return [
        (sum(clips for _, clips, _ in of) / seconds[kind], sum(sound for *_, sound in of) / seconds[kind])
        for kind, of in kept.items()
    ]


def line(row: Row) -> str:
    """A row of the table."""
    speed = (table.NONE, table.NONE)
    if row.clips is not None and row.real_time is not None:
        speed = (f"{row.clips:.2f}", f"{row.real_time:.1f}")
    held = (f"{row.rows:.1f}", f"{row.seconds:.2f}", str(row.shapes), f"{100 * row.share:.1f}")
    return table.row((row.kind, *held, *speed))
