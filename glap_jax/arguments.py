"""Typed command-line arguments (tyro), with one-line errors."""

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from glap_jax.errors import GlapError


def parse(
    target: Callable[..., Any],
    arguments: Sequence[str],
    *,
    prog: str,
    default: Any = None,
    rest: bool = False,
) -> Any:
    """Calls `target`, a function or a dataclass, with typed `arguments`.

    Args:
        target: what tyro reads names, types and help from.
        arguments: words of the command line.
        prog: what usage lines call the command.
        default: a dataclass instance whose values stand where an argument is missing.
        rest: unknown arguments are returned beside the result instead of being refused.

    Raises:
        GlapError: an unknown name (near ones are offered), a missing or a mistyped value.
    """
    import tyro

    options: dict[str, Any] = {"args": list(arguments), "prog": prog, "return_unknown_args": rest}
    if default is not None:
        options["default"] = default
    else:
        options["config"] = (tyro.conf.FlagCreatePairsOff,)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(Annotated[target, tyro.conf.AvoidSubcommands], **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a box of several lines; what the user needs of it fits one.
        lines = [re.sub(r"^[│╭╰]\s*|\s*[│╮╯]$", "", line) for line in printed.getvalue().splitlines()]
        lines = [line for line in lines if line and not line.startswith("─")]
        raise GlapError(
            re.sub(r"\s+", " ", " ".join(lines)).replace(" For full helptext", "; for help")
        ) from None
