"""Ordered (regex, value) rules over parameter paths: the one mechanism for freezing, decay, rates and layout.

A path is the NNX attribute path joined by `/`, such as `audio/blocks/attention/qkv/kernel`. The first rule
whose regex is found in the path (`re.search`) decides; a path that no rule covers is an error.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

import jax

from glap_jax.errors import GlapError

T = TypeVar("T")


def match(rules: Sequence[tuple[str, T]], path: str, *, what: str = "rules") -> T:
    """The value of the first rule that matches `path`.

    Raises:
        GlapError: no rule matches, or a regex cannot be compiled.
    """
    for pattern, value in rules:
        try:
            found = re.search(pattern, path)
        except re.error as error:
            raise GlapError(f"{what}: '{pattern}' is not a regular expression ({error}); mend it") from error
        if found:
            return value
    raise GlapError(f"{what}: no rule covers '{path}'; end the list with a rule for '.*'")


def apply(rules: Sequence[tuple[str, T]], paths: Iterable[str], *, what: str = "rules") -> dict[str, T]:
    """`{path: value}` for every path.

    Raises:
        GlapError: as `match`; also a rule (other than a catch-all) that matches no path at all, a sure slip.
    """
    paths = list(paths)
    values = {path: match(rules, path, what=what) for path in paths}
    for pattern, _ in rules:
        if pattern not in ("", ".*") and not any(re.search(pattern, path) for path in paths):
            parts = sorted({"/".join(path.split("/")[:2]) for path in paths})
            raise GlapError(f"{what}: '{pattern}' matches no parameter; parameters begin with {parts}")
    return values


def path_name(path: Iterable[object]) -> str:
    """`audio/blocks/attention` for a JAX key path or a tuple of NNX path parts."""
    parts = []
    for part in path:
        if isinstance(part, jax.tree_util.DictKey | jax.tree_util.FlattenedIndexKey):
            part = part.key
        elif isinstance(part, jax.tree_util.GetAttrKey):
            part = part.name
        elif isinstance(part, jax.tree_util.SequenceKey):
            part = part.idx
        parts.append(str(part))
    return "/".join(parts)
