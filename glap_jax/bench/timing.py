"""Seconds that calls take, measured in turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any


def in_turns(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of `repeats` runs of every call, one after another in each round.

    Taking turns lets a machine that others load, or that slows down as it grows warm, treat them all alike.
    Each is run once before, so that nothing is compiled or loaded while the clock runs. A call returns when
    its work is done.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return seconds
