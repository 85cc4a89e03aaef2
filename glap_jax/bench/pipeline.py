"""`glap-jax bench pipeline`: clips a second from the input pipeline, beside decoding alone."""

import contextlib
import dataclasses
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import soundfile
import soxr

from glap_jax import config as configs
from glap_jax import quickstart
from glap_jax.bench import formats, table
from glap_jax.config import AugmentConfig, TrainConfig
from glap_jax.errors import GlapError
from glap_jax.pipeline import handover, loader
from glap_jax.pipeline.record import Record
from glap_jax.pipeline.shards import find_shards
from glap_jax.pipeline.sources import ShardSource
from glap_jax.progress import track
from glap_jax.text.tokenizers import open_tokenizer

# Files held in memory for decoding alone.
MOST_CLIPS = 1000
# Batches that hold all that decoders have made before they are asked for it.
DRAINED = 3
TITLES = ("what", "clips/s", "x real time", "a process, of decoding alone")


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured.

    Attributes:
        what: `decoding alone`, or how many processes the pipeline has.
        clips: a second.
        real_time: seconds of audio a second.
        processes: that share the work.
    """

    what: str
    clips: float
    real_time: float
    processes: int = 1

    def share(self, alone: "Row") -> float:
        """Audio a second of each process over that of decoding alone."""
        return self.real_time / self.processes / alone.real_time


def run(
    config: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    workers: Sequence[int] = (0, 1, 2),
    batches: int = 20,
    repeats: int = 1,
    encodings: Sequence[str] = (),
    clips: int = 200,
    augment: bool = False,
    as_json: bool = False,
) -> None:
    """Measures decoding alone and the pipeline with each number of processes; prints a table, or JSON.

    Args:
        config: whose training groups are read; none is the quickstart's.
        overrides: of its keys.
        workers: processes that decode; 0 decodes in threads of this one.
        batches: that are waited for, after those that were made ahead.
        repeats: of all, in turns; medians count.
        encodings: names in `formats.FORMATS`, which clips of the groups are encoded in anew and read from;
            none reads the groups as they are.
        clips: that are encoded so, each as long as a crop.
        augment: make the changes of `data.augment` too.

    Raises:
        GlapError: a number that makes no sense, or whatever the pipeline finds wrong with the data.
    """
    if min(batches, repeats, clips) < 1 or not workers or min(workers) < 0:
        raise GlapError(
            "bench: --batches, --repeats and --clips must be above 0, and --workers numbers of processes "
            "from 0 on"
        )
    start = quickstart.settings(Path()) if config is None else configs.load(config)
    settings = configs.override(start, overrides)
    if not augment:
        plain = dataclasses.replace(settings.data, augment=AugmentConfig())
        settings = dataclasses.replace(settings, data=plain)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {"": settings.data}
        if encodings:
            files = formats.encode(settings.data, encodings, Path(folder), clips)
        if not as_json:
            print(table.head(("files", *TITLES) if encodings else TITLES))
        for name, data in files.items():
            found[name] = measure(dataclasses.replace(settings, data=data), workers, batches, repeats)
            for row in () if as_json else found[name]:
                print(table.row(_cells(name, row, found[name][0])), flush=True)
    if as_json:
        about = {"batch": settings.batch, "batches": batches, "crop_seconds": settings.data.crop_seconds}
        rows = {name: [dataclasses.asdict(row) for row in each] for name, each in found.items()}
        print(json.dumps(about | ({"files": rows} if encodings else {"rows": rows[""]}), indent=2))


def _cells(name: str, row: Row, alone: Row) -> list[str]:
    cells = [row.what, f"{row.clips:.0f}", f"{row.real_time:.0f}", f"{row.share(alone):.2f}"]
    return [name, *cells] if name else cells


def measure(config: TrainConfig, workers: Sequence[int], batches: int, repeats: int) -> list[Row]:
    """Decoding alone, and the pipeline with each number of processes, on clips of the same groups."""
    rounds = []
    for _ in track(range(repeats), "pipeline", unit="round"):
        alone = decoding(config, clips=min(config.batch * batches, MOST_CLIPS))
        rounds.append([alone, *(loading(config, count, batches) for count in workers)])
    return [
        dataclasses.replace(
            rows[0],
            clips=statistics.median(row.clips for row in rows),
            real_time=statistics.median(row.real_time for row in rows),
        )
        for rows in zip(*rounds, strict=True)
    ]


def decoding(config: TrainConfig, *, clips: int) -> Row:
    """soundfile (and soxr, where the rate differs) in one thread: as much of each file as training takes.

    The files lie in memory. The groups take turns, as they do in training when they weigh the same.
    """
    data, samples = config.data, 0
    records = list(_records(config, clips))
    began = time.perf_counter()
    for record in records:
        with soundfile.SoundFile(io.BytesIO(record.audio)) as file:
            waveform = file.read(round(data.crop_seconds * file.samplerate), dtype="float32")
            if file.samplerate != data.sample_rate:
                waveform = soxr.resample(waveform, file.samplerate, data.sample_rate)
        samples += len(waveform)
    seconds = time.perf_counter() - began
    return Row("decoding alone, one thread", len(records) / seconds, samples / data.sample_rate / seconds)


def _records(config: TrainConfig, clips: int) -> Iterator[Record]:
    """Up to so many good clips, from all over the groups, as training draws them."""
    sources = [ShardSource(find_shards(group.shards, config.data.root)) for group in config.data.train]
    each = -(-clips // len(sources))
    for number in range(clips):
        source = sources[number % len(sources)]
        record = source[number // len(sources) * max(len(source), each) // each % len(source)]
        if record.problem is None:
            yield record


def loading(config: TrainConfig, workers: int, batches: int) -> Row:
    """The pipeline of a run: decoding, cropping, tokenising, batching."""
    data = dataclasses.replace(config.data, workers=workers)
    tokenizer = open_tokenizer(data.tokenizer_path, config.model.text)
    training = loader.training(data, batch=config.batch, seed=config.seed, tokenizer=tokenizer)
    with contextlib.closing(training) as iterator:
        for _ in range(DRAINED):
            next(iterator)
        began = time.perf_counter()
        samples = sum(int(next(iterator)["lengths"].sum()) for _ in range(batches))
        seconds = time.perf_counter() - began
    threads = min(os.cpu_count() or 1, handover.MOST_THREADS)
    what = f"{workers} process{'es' * (workers > 1)}" if workers else f"{threads} threads"
    clips, real_time = batches * config.batch / seconds, samples / data.sample_rate / seconds
    return Row(f"pipeline, {what}", clips, real_time, max(1, workers))
