"""Sentences with gaps that the fields of a clip's json fill: `A {gender} saying {transcription}`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from glap_jax.errors import GlapError

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*(?:\.\w+)*)\}")


def check(templates: Sequence[str], where: str, *, needed: str | None = None) -> None:
    """Refuses what is no template.

    Args:
        templates: texts with placeholders `{field}`, or `{field.inner}` for a field of an inner object.
        where: name of the setting, for the message.
        needed: a placeholder that each must hold.

    Raises:
        GlapError: braces that are no placeholder, a text without placeholders, or without the needed one.
    """
    for template in templates:
        names = _PLACEHOLDER.findall(template)
        if set("{}") & set(_PLACEHOLDER.sub("", template)):
            wrong = "has braces that are no placeholder; write {field}, or {field.inner} for an inner object"
        elif not names:
            wrong = "has no placeholder; write one as {field}, or remove the template"
        elif needed is not None and needed not in names:
            wrong = f"lacks the placeholder {{{needed}}}; add it"
        else:
            continue
        raise GlapError(f"config: '{where}': template '{template}' {wrong}")


def fill(templates: Sequence[str], fields: Mapping[str, Any]) -> list[str]:
    """The templates all of whose fields are there, filled.

    A field may hold a text, a number or a list of them, which commas join; null, blank texts, empty lists and
    all else count as not there.
    """
    found = []
    for template in templates:
        values = {name: _as_text(_look_up(fields, name)) for name in _PLACEHOLDER.findall(template)}
        if all(values.values()):
            found.append(_PLACEHOLDER.sub(lambda gap, values=values: values[gap[1]], template))
    return found


def _look_up(fields: Any, name: str) -> Any:
    for part in name.split("."):
        fields = fields.get(part) if isinstance(fields, Mapping) else None
    return fields


def _as_text(value: Any) -> str:
    """A field as it stands in a sentence; empty where it cannot stand there."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, list):
        texts = [_as_text(item) for item in value]
        return ", ".join(texts) if all(texts) else ""
    return ""
