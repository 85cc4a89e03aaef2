"""Source keys of a table: `(a|b)` alternatives and `{layer}` indices, matched with a checkpoint's keys."""

import collections
import re
from collections.abc import Iterable, Mapping

from glap_jax.convert.rules import Rule, Table

_TOKEN = re.compile(r"\(([^()]*)\)|\{layer\}")

# `template up to and including the alternative -> the alternative that a checkpoint uses`.
Spelling = Mapping[str, str]


def templates(table: Table) -> list[str]:
    """Every source key of `table`, as written there."""
    return [key for entry in table for key in (entry.sources if isinstance(entry, Rule) else (entry.source,))]


def spell(template: str, spelling: Spelling, layer: int | None = None) -> str:
    """The key that `template` stands for; alternatives not named in `spelling` take their first form."""

    def choose(token: re.Match) -> str:
        if token[0] == "{layer}":
            return "{layer}" if layer is None else str(layer)
        return spelling.get(template[: token.end()], token[1].split("|")[0])

    return _TOKEN.sub(choose, template)


def _literal(text: str) -> str:
    return re.escape(text).replace(re.escape("{rest}"), ".+")


def _pattern(template: str) -> re.Pattern:
    pattern, end = "", 0
    for token in _TOKEN.finditer(template):
        pattern += _literal(template[end : token.start()])
        options = "0|[1-9][0-9]*" if token[0] == "{layer}" else "|".join(map(re.escape, token[1].split("|")))
        pattern += f"({options})"
        end = token.end()
    return re.compile(pattern + _literal(template[end:]))


def choose(table: Table, keys: Iterable[str]) -> dict[str, str]:
    """The spelling that explains most of `keys`, alternative by alternative."""
    keys = list(keys)
    votes: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for template in templates(table):
        tokens = list(_TOKEN.finditer(template))
        if not tokens:
            continue
        pattern = _pattern(template)
        for match in filter(None, map(pattern.fullmatch, keys)):
            for token, found in zip(tokens, match.groups(), strict=True):
                if token[0] != "{layer}":
                    votes[template[: token.end()]][found] += 1
    return {place: count.most_common(1)[0][0] for place, count in votes.items()}


def matching(template: str, spelling: Spelling, keys: Iterable[str]) -> list[str]:
    """Those of `keys` that `template` stands for, with anything in the place of `{layer}` and `{rest}`."""
    pattern = _pattern(spell(template, spelling))
    return [key for key in keys if pattern.fullmatch(key)]


def canonical(table: Table, spelling: Spelling, keys: Iterable[str]) -> dict[str, str]:
    """`{the key in its first spelling: the key that is there}` for every key that `table` explains."""
    keys = dict.fromkeys(keys)
    found = {}
    for template in templates(table):
        spelled = spell(template, spelling)
        if "{" not in spelled:
            if spelled in keys:
                found[spell(template, {})] = spelled
            continue
        pattern = _pattern(spelled)
        for match in filter(None, map(pattern.fullmatch, keys)):
            layer = int(match[1]) if match.groups() else None
            found[match[0] if "{rest}" in template else spell(template, {}, layer)] = match[0]
    return found
