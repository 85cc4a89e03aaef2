"""Examples on their way from those who decode them to those who asked: some at a time, in order.

Threads and processes are handed chunks, because a call and a message for each example cost as much as
decoding a second of sound. How many examples make a chunk depends on the longest clip and on how many are
made ahead, and changes nothing in what comes out.
"""

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import grain
from absl import flags
from grain._src.python.dataset.transformations import process_prefetch

from glap_jax import memory
from glap_jax.pipeline.examples import Example

# A chunk has no more examples, and no more bytes of sound, but at least one example.
MOST_TOGETHER = 64
CHUNK_BYTES = 1 << 21
MOST_THREADS = 16
# Examples with sound that wait decoded, for all threads or processes together.
MOST_WAITING = 128
# Grain lays arrays from so many bytes on into shared memory, new memory for each. To get that from the system
# takes a process three times as long as to send sound through a pipe; so none is as large.
LEAST_SHARED_BYTES = 1 << 62

# A process whose last message nobody reads cannot end, and Grain kills it after 25 seconds, one after the
# other. They have nothing to lose, and whoever must save and leave has less time.
vars(process_prefetch)["_PROCESS_KILL_TIMEOUT_S"] = 0.5

Finish = Callable[[list[Example]], list[Example]]


def read(
    stream: grain.MapDataset[Example],
    workers: int,
    *,
    ahead: int,
    samples: int,
    finish: Finish | None = None,
) -> "Examples":
    """Runs the stream in `workers` processes, or in threads of this one.

    Args:
        stream: of examples that all have the same fields.
        workers: processes; 0 runs threads.
        ahead: examples that are made before they are asked for, roughly, and fewer where there is sound.
        samples: of the longest clip; 0 where examples have no sound.
        finish: what is still to be done to the examples of a chunk, all at once.
    """
    size = together(samples, ahead)
    waiting = (min(ahead, MOST_WAITING) if samples else ahead) // size
    chunks: grain.MapDataset[Any] = Chunks(stream, size, finish)
    if not workers:
        threads = min(os.cpu_count() or 1, MOST_THREADS)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, waiting))
        return Examples(iter(chunks.to_iter_dataset(options)))
    if not flags.FLAGS.is_parsed():
        # Grain reads absl flags on the way to its processes, which fails in a program that has none.
        flags.FLAGS.mark_as_parsed()
    # The process itself does the work: threads would only share its interpreter.
    alone = chunks.map(Message).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.experimental.DatasetOptions(min_shm_size=LEAST_SHARED_BYTES)
    processes = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(2, waiting // workers))
    return Examples(
        iter(grain.experimental.WithOptionsIterDataset(alone, options).mp_prefetch(processes, _begin))
    )


def _begin(number: int, workers: int) -> None:
    """Begins a process: what one clip has freed is there for the next."""
    del number, workers
    memory.keep()


def together(samples: int, ahead: int) -> int:
    """How many examples make a chunk, if their clips have up to so many samples."""
    fitting = CHUNK_BYTES // (4 * samples) if samples else MOST_TOGETHER
    return max(1, min(fitting, MOST_TOGETHER, ahead // 4))


class Chunks(grain.MapDataset[list[Example]]):
    """A stream cut into lists of `size` examples that follow each other; the last one may be shorter.

    Grain's `batch` cannot: it divides the length as a float, and that of an endless stream overflows.
    """

    def __init__(self, parent: grain.MapDataset[Example], size: int, finish: Finish | None = None):
        super().__init__(parent)
        self._size = size
        self._finish = finish

    def __len__(self) -> int:
        return -(-len(self._parent) // self._size)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        first = index * self._size
        numbers = range(first, min(first + self._size, len(self._parent)))
        found: list[Any] = [self._parent[number] for number in numbers]
        return found if self._finish is None else self._finish(found)


@dataclasses.dataclass(frozen=True)
class Message:
    """A chunk in one piece: Grain looks at each field of each example in a list, for arrays to be shared."""

    found: list[Example]


class Examples(Iterator[Example]):
    """The examples of chunks. Call `close` in the end."""

    def __init__(self, chunks: grain.DatasetIterator[Any]):
        self._chunks = chunks
        self._ready: deque[Example] = deque()

    def __next__(self) -> Example:
        while not self._ready:
            chunk = next(self._chunks)
            self._ready.extend(chunk.found if isinstance(chunk, Message) else chunk)
        return self._ready.popleft()

    def close(self) -> None:
        """Ends the threads or processes."""
        self._chunks.close()
