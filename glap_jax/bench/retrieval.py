"""`glap-jax bench retrieval`: how long retrieval figures of a large set take, and what memory they need."""

import time

import numpy as np

from glap_jax import memory
from glap_jax.bench import table
from glap_jax.errors import GlapError
from glap_jax.eval.metrics import retrieval_metrics

# A caption is its clip with so much noise on it: some are found among 100,000, others are not.
NOISE = 6.0


def run(*, size: int = 100_000, width: int = 512, clips: int | None = None) -> None:
    """Makes up captions and their clips, and prints a table of what their figures take in both directions.

    Raises:
        GlapError: no clips, no width, or more clips than captions.
    """
    number = size if clips is None else clips
    if min(size, width, number) < 1 or number > size:
        raise GlapError("bench: --size, --width and --clips must be 1 or more, and --clips at most --size")
    draw = np.random.default_rng(0)
    heard = draw.standard_normal((number, width), np.float32)
    captions = draw.standard_normal((size, width), np.float32)
    captions *= np.float32(NOISE)
    for start in range(0, size, number):
        captions[start : start + number] += heard[: size - start]
    wall, busy = time.perf_counter(), time.process_time()
    ids = np.arange(size) % number
    found = retrieval_metrics(heard, captions, audio_ids=ids[:number], text_ids=ids)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    peak = memory.peak()
    print(table.head(("what", "found")))
    for row in (
        ("clips, captions, width", f"{number}, {size}, {width}"),
        ("R@1, audio to text and back", f"{found['a2t']['r1']:.1f}, {found['t2a']['r1']:.1f}"),
        ("seconds", f"{wall:.1f}"),
        ("processor seconds", f"{busy:.1f}"),
        ("scores a second, millions", f"{number * size / wall / 1e6:.1f}"),
        ("peak memory, GB", table.NONE if peak is None else f"{peak / 1e9:.2f}"),
    ):
        print(table.row(row))
