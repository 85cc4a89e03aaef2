"""Training batches of fixed shape, group-balanced and endless.

Order and content of training examples are a function of (seed, place in the group's stream) alone; decoding
processes or threads change nothing. Bad clips come out of the decoders as marked examples and are counted and
left out by the consumer, so that counts are exact. A training iterator's state is its place and its counts.
"""

import hashlib
import os
import weakref
from typing import Any

import grain
import numpy as np
from absl import flags

from glap_jax.errors import GlapError
from glap_jax.pipeline.augment import Augmenter
from glap_jax.pipeline.bad import Ledger
from glap_jax.pipeline.captions import check_language
from glap_jax.pipeline.config import DataConfig
from glap_jax.pipeline.examples import Example, Tokenizer, TrainingExample
from glap_jax.pipeline.sources import TarSource, find_shards
from glap_jax.text import tokenizers

# Examples that wait decoded: for each process and, without processes, for all threads.
WORKER_BUFFER = 8
MOST_THREADS = 16
MOST_WAITING = 128
# Waveforms cross processes in shared memory, the rest through a pipe.
LEAST_SHARED_BYTES = 4096


def examples(config: DataConfig, *, seed: int, tokenizer: Tokenizer) -> grain.MapDataset[Example]:
    """The endless stream of training examples, by number, before it is split over processes and batched.

    Each group is shuffled anew every epoch with a seed made from its name, and the groups are interleaved by
    weight, example by example: changing one group's weight or shards does not reorder another group. Grain
    rounds the ratio of a weight to the smallest one down to hundredths.

    Raises:
        GlapError: no groups, weights, language or background groups that make no sense, shards that cannot be
            read.
    """
    if not config.train:
        raise GlapError("config: 'data.train' names no groups; give at least one GroupConfig")
    check_language(config)
    augment = Augmenter.open(config)
    streams = []
    for number, group in enumerate(config.train):
        source = TarSource(find_shards(group.shards, config.root))
        stream = grain.MapDataset.source(source).shuffle(seed=_seed(seed, group.name, "order"))
        make = TrainingExample(config, number, tokenizer, augment)
        streams.append(stream.random_map(make, seed=_seed(seed, group.name, "draws")).repeat())
    return grain.MapDataset.mix(streams, weights=[group.weight for group in config.train])


def training(
    config: DataConfig,
    *,
    batch: int,
    seed: int,
    tokenizer: Tokenizer,
    process_index: int = 0,
    process_count: int = 1,
) -> "TrainingIterator":
    """Endless batches for one process of a training run. See `TrainingIterator` for what a batch holds.

    Args:
        config: shards and how examples are made from them.
        batch: pairs a step over all processes; process i gets an equal share of the stream: examples
            i, i + process_count, ... of `examples`.
        seed: of order and draws.
        tokenizer: as `glap_jax.SonarTokenizer`.
        process_index, process_count: this process among those of the run.

    Raises:
        GlapError: as `examples`, or a batch that the processes cannot share equally.
    """
    if batch < 1 or batch % process_count:
        raise GlapError(
            f"config: batch {batch} cannot be shared by {process_count} processes; make 'batch' a multiple"
        )
    stream = examples(config, seed=seed, tokenizer=tokenizer)[process_index::process_count]
    return TrainingIterator(stream, config, rows=batch // process_count, processes=process_count)


class TrainingIterator(grain.DatasetIterator[dict[str, np.ndarray]]):
    """Batches of `rows` good examples in the order of the stream.

    A batch holds `waveform` float32 (B, T) of `crop_seconds`, zero where a clip is shorter; `lengths` int32
    (B,), real samples; `ids` int32 (B, N) and `text_mask` bool (B, N); `clip` int64 (B,), equal for equal
    recordings; `caption` int64 (B,), equal for equal captions in the same language; `group` int32 (B,), place
    in `config.train`. Keys of the newest batch are in `keys`, counts in `ledger`. Call `close` in the end.

    The state is saved and restored between batches, by hand or by `grain.checkpoint.CheckpointSave`; it does
    not depend on `config.workers`.
    """

    def __init__(self, stream: grain.MapDataset[Example], config: DataConfig, *, rows: int, processes: int):
        super().__init__()
        self._stream = stream
        self._config = config
        self._rows = rows
        self._processes = processes
        self._position = 0
        # The decoders, none before the first batch. A run that ends with an error does not call `close`, so
        # they also end with the interpreter, before its modules are taken apart.
        self._running: list[grain.DatasetIterator[Example]] = []
        self._finish = weakref.finalize(self, _stop, self._running)
        self.ledger = Ledger(config.bad_share, "the training data")
        self.keys: list[str] = []

    def __next__(self) -> dict[str, np.ndarray]:
        self._assert_not_closed()
        if not self._running:
            rest = self._stream[self._position :]
            self._running.append(read(rest, self._config.workers, ahead=2 * self._rows))
        found: list[Example] = []
        while len(found) < self._rows:
            example = next(self._running[0])
            self._position += 1
            if is_good(example, self.ledger):
                found.append(example)
        self.keys = [example["key"] for example in found]
        return self._batch(found)

    def _batch(self, found: list[Example]) -> dict[str, np.ndarray]:
        config = self._config
        samples = round(config.crop_seconds * config.sample_rate)
        ids, mask = tokenizers.pad([example["ids"].tolist() for example in found], config.max_tokens)
        return {
            **waveforms(found, rows=len(found), samples=samples),
            "ids": ids,
            "text_mask": mask,
            "clip": np.asarray([example["clip"] for example in found], np.int64),
            "caption": np.asarray([example["caption"] for example in found], np.int64),
            "group": np.asarray([example["group"] for example in found], np.int32),
        }

    def get_state(self) -> dict[str, Any]:
        """Place in the stream and counts, as JSON values."""
        return {
            "position": self._position,
            "processes": self._processes,
            "ledger": self.ledger.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `get_state` was called.

        Raises:
            GlapError: the state of a run with another number of processes.
        """
        if state["processes"] != self._processes:
            raise GlapError(
                f"data: the saved state is that of {state['processes']} processes, and this run has "
                f"{self._processes}; resume with as many"
            )
        _stop(self._running)
        self._position = state["position"]
        self.ledger.set_state(state["ledger"])

    def close(self) -> None:
        """Ends the decoding threads or processes."""
        self._finish()
        super().close()


def read(stream: grain.MapDataset[Example], workers: int, *, ahead: int) -> grain.DatasetIterator[Example]:
    """Runs the stream in `workers` processes, or in threads of this one."""
    if workers:
        if not flags.FLAGS.is_parsed():
            # Grain reads absl flags on the way to its processes, which fails in a program that has none.
            flags.FLAGS.mark_as_parsed()
        # One thread a process: more would only share that process's interpreter.
        threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=WORKER_BUFFER)
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=WORKER_BUFFER)
        options = grain.experimental.DatasetOptions(min_shm_size=LEAST_SHARED_BYTES)
        elements = grain.experimental.WithOptionsIterDataset(stream.to_iter_dataset(threads), options)
        return iter(elements.mp_prefetch(processes))
    threads = grain.ReadOptions(
        num_threads=min(os.cpu_count() or 1, MOST_THREADS), prefetch_buffer_size=min(ahead, MOST_WAITING)
    )
    return iter(stream.to_iter_dataset(threads))


def _stop(running: list[grain.DatasetIterator[Example]]) -> None:
    """Closes and forgets decoders."""
    while running:
        running.pop().close()


def is_good(example: Example, ledger: Ledger) -> bool:
    """Counts the example, and as bad each recording that was to be mixed into it; False where it is bad."""
    for name, reason, detail in example["refused"]:
        ledger.skip(name, reason, detail)
    if example["reason"]:
        ledger.skip(f"{example['shard']}:{example['key']}", example["reason"], example["detail"])
        return False
    ledger.good(cut=example["cut"])
    return True


def waveforms(found: list[Example], *, rows: int, samples: int) -> dict[str, np.ndarray]:
    """`waveform` (rows, samples) and `lengths`. Rows beyond the examples are silence of full length, because
    an encoder needs some samples to look at."""
    waveform = np.zeros((rows, samples), np.float32)
    lengths = np.full(rows, samples, np.int32)
    for row, example in enumerate(found):
        length = len(example["waveform"])
        waveform[row, :length] = example["waveform"]
        lengths[row] = length
    return {"waveform": waveform, "lengths": lengths}


def _seed(seed: int, *names: str) -> int:
    """A 32-bit seed that differs with every name."""
    text = "\0".join((str(seed), *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
