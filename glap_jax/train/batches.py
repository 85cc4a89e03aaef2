"""What a run reads: its batches, shared out over the mesh."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from glap_jax import encoders, progress
from glap_jax.config import LayoutConfig, TrainConfig
from glap_jax.parallel import processes
from glap_jax.parallel.sharding import over_batch, own_rows
from glap_jax.pipeline import loader, packing
from glap_jax.pipeline.loader import TrainingIterator
from glap_jax.text.tokenizers import Tokenizer, open_tokenizer
from glap_jax.train.step import Batch
from glap_jax.train.writers import Intake

# Token rows and their mask, or what a text cache has in their place, and what belongs to all pairs.
PAIR_KEYS = ("lengths", "ids", "text_mask", "text_pooled", "audio_pooled", "pair_mask")
# What is heard, as it lies on the devices.
ROW_KEYS = ("waveform", "starts", "sizes", "numbers", "place")


def open_data(config: TrainConfig, mesh: Mesh | None = None) -> tuple[TrainingIterator, Tokenizer]:
    """The run's batches from the first one on, and the tokenizer of its model.

    Of each batch come the rows that this process's devices on the mesh hold, or all.
    """
    tokenizer = open_tokenizer(config.data.tokenizer_path, config.model.text)
    slot = None
    if config.data.layout.kind == "packed":
        slot = encoders.slot(config.model.audio, round(config.data.crop_seconds * config.data.sample_rate))
    rows = None if mesh is None else own_rows(mesh, config.batch)
    data = loader.training(
        config.data,
        batch=config.batch,
        seed=config.seed,
        tokenizer=tokenizer,
        rows=rows,
        arrange=packing.arrangement(
            config.data,
            slot=slot,
            shares=1 if mesh is None else len(over_batch(mesh).addressable_devices),
            parts=config.accumulation,
            rows=rows,
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
