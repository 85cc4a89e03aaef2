"""Clips of a configuration, encoded anew in one format after the other."""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float32

from glap_jax.bench.faults import encoded
from glap_jax.corpora.shards import write_shard
from glap_jax.errors import GlapError
from glap_jax.pipeline.bad import BadClip
from glap_jax.pipeline.config import DataConfig, GroupConfig
from glap_jax.pipeline.decode import decode
from glap_jax.pipeline.shards import find_shards
from glap_jax.pipeline.sources import ShardSource
from glap_jax.progress import track

# libsndfile's format and subtype, the ending, and the rate in Hz where it is not that of the clips.
FORMATS: dict[str, tuple[str, str, str, int | None]] = {
    "flac": ("FLAC", "PCM_16", "flac", None),
    "wav": ("WAV", "PCM_16", "wav", None),
    "vorbis": ("OGG", "VORBIS", "ogg", None),
    "mp3": ("MP3", "MPEG_LAYER_III", "mp3", None),
    "opus": ("OGG", "OPUS", "opus", None),
    "flac-44100": ("FLAC", "PCM_16", "flac", 44_100),
}
Clip = tuple[Float32[np.ndarray, " T"], dict[str, Any]]
# Names of each shard: to shuffle an epoch of few clips costs more for each than one of many.
LINKS = 20


def encode(data: DataConfig, names: Sequence[str], folder: Path, clips: int) -> dict[str, DataConfig]:
    """The configuration with the same clips in each format, in shards that are written into `folder`.

    Raises:
        GlapError: shards that cannot be read, or no good clip in them.
    """
    found = list(itertools.islice(joined(data), clips))
    if not found:
        raise GlapError("bench: the groups hold no good clip to be encoded; name others in 'data.train'")
    tokenizer = str(data.tokenizer_path.absolute())
    data = dataclasses.replace(data, root=str(folder), tokenizer=tokenizer, text_cache=None, audio_cache=None)
    for name in track(list(names), "encoding", unit="format"):
        _write(found, name, data.sample_rate, folder / f"{name}-0.tar")
        for number in range(1, LINKS):
            os.link(folder / f"{name}-0.tar", folder / f"{name}-{number}.tar")
    return {
        name: dataclasses.replace(data, train=(GroupConfig(name, (f"{name}-[0-9]*.tar",)),), test=())
        for name in names
    }


def joined(data: DataConfig) -> Iterator[Clip]:
    """Sound as long as a crop, made of the groups' clips one behind the other, and the json of the last."""
    samples, parts = round(data.crop_seconds * data.sample_rate), []
    patterns = [shard for group in data.train for shard in group.shards]
    source = ShardSource(find_shards(patterns, data.root))
    # Spread over all groups.
    for number in np.random.default_rng(0).permutation(len(source)):
        record = source[int(number)]
        try:
            if record.problem is None:
                parts.append(decode(record.audio, sample_rate=data.sample_rate))
        except BadClip:
            continue
        if sum(map(len, parts)) >= samples:
            yield np.concatenate(parts)[:samples], record.metadata
            parts = []


def _write(found: list[Clip], name: str, rate: int, path: Path) -> None:
    form, subtype, suffix, wanted = FORMATS[name]

    def sound(waveform: Float32[np.ndarray, " T"]) -> bytes:
        if wanted is not None:
            waveform = soxr.resample(waveform, rate, wanted, quality="HQ")
        return encoded(waveform, form=form, rate=wanted or rate, subtype=subtype)

    write_shard(
        path, ((f"{number:06d}.{suffix}", sound(x), about) for number, (x, about) in enumerate(found))
    )
