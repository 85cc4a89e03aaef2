"""Keeps what Orbax prints about a failed save off the screen; it raises the same as an exception."""

import contextlib
import gc
import logging
import sys
import traceback
from collections.abc import Generator
from typing import Any

# A failed write ends Orbax's event loop while other writes are still on their way back to it.
CLOSED = "Event loop is closed"


@contextlib.contextmanager
def quiet_orbax() -> Generator[None]:
    """Silences Orbax's log, its unfinished tasks, and write callbacks that find their event loop closed."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    printed, unraisable = sys.excepthook, sys.unraisablehook

    def print_error(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if CLOSED not in str(error):
            printed(kind, error, trace)

    def print_unraisable(seen: Any) -> None:
        if CLOSED not in str(seen.exc_value) and "orbax" not in repr(seen.object):
            unraisable(seen)

    for logger in loggers:
        logger.addFilter(_not_orbax)
    sys.excepthook, sys.unraisablehook = print_error, print_unraisable
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = printed, unraisable
        for logger in loggers:
            logger.removeFilter(_not_orbax)


def forget(error: BaseException) -> None:
    """Frees the tasks that a failed save's `error` still holds: now, not noisily at the program's end."""
    rest: BaseException | None = error
    while rest is not None:
        traceback.clear_frames(rest.__traceback__)
        rest = rest.__cause__ or rest.__context__
    gc.collect()


def _not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname and "orbax" not in record.getMessage()
