"""`glap-jax bench pipeline`: clips a second from the input pipeline, beside decoding alone."""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import soundfile
import soxr

from glap_jax import config as configs
from glap_jax import quickstart
from glap_jax.bench import table
from glap_jax.config import TrainConfig
from glap_jax.errors import GlapError
from glap_jax.pipeline import handover, loader
from glap_jax.pipeline.record import Record
from glap_jax.pipeline.shards import find_shards
from glap_jax.pipeline.sources import ShardSource
from glap_jax.progress import track
from glap_jax.text.tokenizers import open_tokenizer

# Files held in memory for decoding alone.
MOST_CLIPS = 1000
TITLES = ("what", "clips/s", "x real time")


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured.

    Attributes:
        what: `decoding alone`, or how many processes the pipeline has.
        clips: a second.
        real_time: seconds of audio a second.
    """

    what: str
    clips: float
    real_time: float


def run(
    config: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    workers: Sequence[int] = (0, 1, 2),
    batches: int = 20,
    as_json: bool = False,
) -> None:
    """Measures decoding alone and the pipeline with each number of processes; prints a table, or JSON.

    Args:
        config: whose training groups are read; none is the quickstart's.
        overrides: of its keys.
        workers: processes that decode; 0 decodes in threads of this one.
        batches: that are waited for, after a first one that starts the decoders.

    Raises:
        GlapError: a number that makes no sense, or whatever the pipeline finds wrong with the data.
    """
    if batches < 1 or not workers or min(workers) < 0:
        raise GlapError("bench: --batches must be above 0, and --workers numbers of processes from 0 on")
    start = quickstart.settings(Path()) if config is None else configs.load(config)
    settings = configs.override(start, overrides)
    if not as_json:
        print(table.head(TITLES))
    found = []
    for row in measure(settings, workers, batches):
        found.append(row)
        if not as_json:
            print(table.row((row.what, f"{row.clips:.0f}", f"{row.real_time:.0f}")), flush=True)
    if as_json:
        about = {"batch": settings.batch, "batches": batches, "crop_seconds": settings.data.crop_seconds}
        print(json.dumps(about | {"rows": [dataclasses.asdict(row) for row in found]}, indent=2))


def measure(config: TrainConfig, workers: Sequence[int], batches: int) -> Iterator[Row]:
    """Decoding alone first, then the pipeline with each number of processes, on clips of the same groups."""
    yield decoding(config, clips=min(config.batch * batches, MOST_CLIPS))
    for count in track(list(workers), "pipeline", unit="run"):
        yield loading(config, count, batches)


def decoding(config: TrainConfig, *, clips: int) -> Row:
    """soundfile (and soxr, where the rate differs) in one thread: as much of each file as training takes.

    The files lie in memory. The groups take turns, as they do in training when they weigh the same.
    """
    data, samples = config.data, 0
    records = list(itertools.islice(_records(config), clips))
    began = time.perf_counter()
    for record in records:
        with soundfile.SoundFile(io.BytesIO(record.audio)) as file:
            waveform = file.read(round(data.crop_seconds * file.samplerate), dtype="float32")
            if file.samplerate != data.sample_rate:
                waveform = soxr.resample(waveform, file.samplerate, data.sample_rate)
        samples += len(waveform)
    seconds = time.perf_counter() - began
    return Row("decoding alone, one thread", len(records) / seconds, samples / data.sample_rate / seconds)


def _records(config: TrainConfig) -> Iterator[Record]:
    sources = [ShardSource(find_shards(group.shards, config.data.root)) for group in config.data.train]
    for number in itertools.count():
        source = sources[number % len(sources)]
        record = source[number // len(sources) % len(source)]
        if record.problem is None:
            yield record


def loading(config: TrainConfig, workers: int, batches: int) -> Row:
    """The pipeline of a run: decoding, cropping, tokenising, batching."""
    data = dataclasses.replace(config.data, workers=workers)
    tokenizer = open_tokenizer(data.tokenizer_path, config.model.text)
    training = loader.training(data, batch=config.batch, seed=config.seed, tokenizer=tokenizer)
    with contextlib.closing(training) as iterator:
        next(iterator)
        began = time.perf_counter()
        samples = sum(int(next(iterator)["lengths"].sum()) for _ in range(batches))
        seconds = time.perf_counter() - began
    threads = min(os.cpu_count() or 1, handover.MOST_THREADS)
    what = f"{workers} process{'es' * (workers > 1)}" if workers else f"{threads} threads"
    return Row(f"pipeline, {what}", batches * config.batch / seconds, samples / data.sample_rate / seconds)
