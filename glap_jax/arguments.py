"""Typed command-line arguments (tyro), with one-line errors."""

import contextlib
import functools
import inspect
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from glap_jax.errors import GlapError


def parse(
    target: Callable[..., Any],
    arguments: Sequence[str],
    *,
    prog: str,
    default: Any = None,
    description: str | None = None,
) -> Any:
    """Calls `target`, a function or a dataclass, with typed `arguments`.

    Args:
        target: what tyro reads names, types and help from.
        arguments: words of the command line.
        prog: what usage lines call the command.
        default: a dataclass instance whose values stand where an argument is missing.
        description: what the help begins with; by default what the docstring says.

    Raises:
        GlapError: an unknown name (near ones are offered), a missing or a mistyped value.
    """
    import tyro

    options: dict[str, Any] = {"args": list(arguments), "prog": prog, "description": description}
    options["config"] = (tyro.conf.AvoidSubcommands,)
    if default is not None:
        options["default"] = default
    else:
        options["config"] += (tyro.conf.FlagCreatePairsOff,)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            found = tyro.cli(_bound(target), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a titled box, of lines or in ASCII; what the user needs of it fits one line.
        lines = [line.strip("│|╰╯+ ") for line in printed.getvalue().splitlines()]
        words = " ".join(line for line in lines if line and "───" not in line and "---" not in line)
        message = re.sub(r"\s+", " ", words).replace(" For full helptext", "; for help")
        raise GlapError(message) from None
    return found() if inspect.isfunction(target) else found


def _bound(target: Callable[..., Any]) -> Callable[..., Any]:
    """`target` itself, or a function of the same signature that returns the call instead of making it: what a
    command prints must not be caught with the messages of the parser."""
    if not inspect.isfunction(target):
        return target

    @functools.wraps(target)
    def bind(*positional: Any, **named: Any) -> Callable[[], Any]:
        return functools.partial(target, *positional, **named)

    return bind
