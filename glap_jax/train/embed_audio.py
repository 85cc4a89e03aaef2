"""`glap-jax data embed-audio`: the frozen audio tower's vector of every training clip, computed once."""

import os
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from jaxtyping import Float32

from glap_jax.config import DataConfig, TrainConfig
from glap_jax.offline import work
from glap_jax.pipeline import audio_cache, handover, loader, packing
from glap_jax.pipeline.bad import Ledger
from glap_jax.pipeline.examples import Example, SoundExample
from glap_jax.pipeline.sources import ShardSource
from glap_jax.train.embedding import Encode, Side, Stored, Vectors, embed

# Lengths that clips are padded to, as shares of the longest.
SHARES = (1 / 64, 1 / 32, 3 / 64, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
# Seconds of sound that are encoded together.
SECONDS = 30.0


def embed_audio(
    config: TrainConfig,
    *,
    stored: Stored = "float32",
    devices: Sequence[jax.Device] | None = None,
    workers: int = 0,
    beam: Sequence[str] = (),
) -> str:
    """Computes the vectors of all clips that a run may draw, and writes them shard by shard.

    Shards that were done before are left alone. Bad clips are counted shard by shard, and left out.

    Args:
        config: of the run; its `data.audio_cache` says where, or else `audio_cache` in `data.root`.
        stored: type of the numbers on disk.
        devices: what to compute on in this process; by default all.
        workers, beam: as `work.run`. Each process loads the tower once, and computes on all devices that it
            sees.

    Returns:
        The folder, or its URL.

    Raises:
        GlapError: the audio tower learns, data or configuration that do not fit, too many bad clips in a
            shard, a folder of something else, or a disk that refuses.
    """
    return embed(CLIPS, config, stored=stored, devices=devices, workers=workers, beam=beam)


def vectors(path: str, config: TrainConfig, encode: Encode, devices: int) -> Vectors:
    """Keys and vectors of the good clips of a shard."""
    source, data = ShardSource([path]), config.data
    part = audio_cache.part_number(path)
    ledger = Ledger(data.bad_share, f"'{path}'")
    keys, rows = [], []
    with work.bar(f"embedding {os.path.basename(path)}", len(source), "clip") as shown:
        clips = (example for example in heard(source, data) if loader.is_good(example, ledger))
        for some, found in encoded(clips, encode, data, devices):
            keys += [audio_cache.clip_key(part, key) for key in some]
            rows.append(found)
            shown.update(len(some))
    together = np.concatenate(rows or [np.zeros((0, 1), np.float32)])
    return np.asarray(keys, np.uint64).reshape(-1, 2), together


def part_number(path: str, data: DataConfig) -> int:
    """Number of the part that a shard becomes, whatever the run makes of it."""
    return audio_cache.part_number(path)


def heard(source: ShardSource, data: DataConfig) -> Iterator[Example]:
    """The clips of a shard, decoded."""
    stream = grain.MapDataset.source(source).map(SoundExample(data))
    samples = round(data.eval_seconds * data.sample_rate)
    elements = handover.read(stream, data.workers, ahead=64, samples=samples)
    try:
        yield from elements
    finally:
        elements.close()


def encoded(
    clips: Iterator[Example], encode: Encode, data: DataConfig, devices: int
) -> Iterator[tuple[list[str], Float32[np.ndarray, "n D"]]]:
    """Keys and vectors of clips, some at a time: those of like lengths, as they come."""
    longest = round(data.eval_seconds * data.sample_rate)
    waiting: dict[int, list[Example]] = {round(share * longest): [] for share in SHARES}
    # As many rows as make `SECONDS`, a multiple of the devices.
    rows = {samples: -(-round(SECONDS * data.sample_rate) // samples) for samples in waiting}
    rows = {samples: -(-count // devices) * devices for samples, count in rows.items()}

    def done(samples: int) -> tuple[list[str], Float32[np.ndarray, "n D"]]:
        some = waiting[samples]
        arrays = packing.waveforms(some, rows=rows[samples], samples=samples)
        found = encode(arrays["waveform"], arrays["lengths"])
        keys = [example["key"] for example in some]
        waiting[samples] = []
        return keys, np.asarray(found)[: len(keys)]

    for example in clips:
        samples = next(size for size in waiting if size >= len(example["waveform"]))
        waiting[samples].append(example)
        if len(waiting[samples]) == rows[samples]:
            yield done(samples)
    yield from (done(samples) for samples, found in waiting.items() if found)


CLIPS = Side("audio", audio_cache.KIND, "clips", audio_cache.settings, part_number, vectors)
