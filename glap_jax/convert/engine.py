"""Fills a module from a checkpoint by its family's table, and gives the checkpoint back, strict both ways."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from flax import nnx

from glap_jax.convert.checkpoint import Checkpoint, Lazy
from glap_jax.convert.layout import LAYOUT, TorchLayout
from glap_jax.convert.rules import Buffer, Counter, Dropped, Extra, Repeat, Rule, Table
from glap_jax.convert.spelling import Spelling, choose, matching, spell
from glap_jax.errors import GlapError
from glap_jax.progress import track
from glap_jax.rules import path_name

# Types that become float32 and come back without a changed bit.
_EXACT = ("float32", "float16", "bfloat16")
# Problems of one kind that a message spells out; more are counted.
_SHOWN = 8
# Bytes from which on reading takes long enough to show progress.
_LARGE = 1 << 28
# Bytes; what XLA wants of memory that it uses without copying.
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class _Part:
    """The tensors that fill one parameter, or one layer of a stacked one, with their shapes."""

    rule: Rule
    layer: int | None
    keys: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass
class _Problems:
    missing: list[str] = dataclasses.field(default_factory=list)
    unused: list[str] = dataclasses.field(default_factory=list)
    shapes: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)

    def check(self, where: str, family: str) -> None:
        """Raises one line that lists all problems, if there are any."""
        kinds = [
            (self.missing, "missing"),
            (self.unused, "that the model has no place for"),
            (self.shapes, "of another shape"),
            (self.others, "otherwise wrong"),
        ]
        words = [f"{len(found)} {kind}: {_listed(found)}" for found, kind in kinds if found]
        if words:
            raise GlapError(
                f"convert: {where} does not fit family '{family}': tensors {'; '.join(words)}. "
                "Give the right family and config, or a complete checkpoint"
            )


def _listed(items: list[str]) -> str:
    shown = ", ".join(items[:_SHOWN])
    return f"{shown}, and {len(items) - _SHOWN} more" if len(items) > _SHOWN else shown


def _parts(table: Table, shapes: dict[str, tuple[int, ...]], spelling: Spelling) -> Iterator[_Part]:
    """Every part of every parameter that `shapes` (by path) and `table` share."""
    for rule in table:
        if not isinstance(rule, Rule) or rule.target not in shapes:
            continue
        shape = shapes[rule.target]
        stacked = "{layer}" in rule.sources[0]
        # A view of one zero has the parameter's shape and costs no memory.
        sample = np.broadcast_to(np.zeros((), np.float32), shape[1:] if stacked else shape)
        expected = tuple(tensor.shape for tensor in rule.transform.to_torch(sample))
        for layer in range(shape[0]) if stacked else (None,):
            index = None if layer is None else layer + rule.first
            keys = tuple(spell(source, spelling, index) for source in rule.sources)
            yield _Part(rule, layer, keys, expected)


def _counters(table: Table, parts: list[_Part], spelling: Spelling) -> list[str]:
    """The counters that stand beside parameters of the module."""
    beside = sorted({key.rpartition(".")[0] for part in parts for key in part.keys})
    counters = [entry.source for entry in table if isinstance(entry, Counter)]
    names = {source: source.rpartition(".")[2] for source in counters}
    return [
        key
        for source in counters
        for key in matching(source, spelling, (f"{place}.{names[source]}" for place in beside))
    ]


def _repeats(table: Table, parts: list[_Part], spelling: Spelling) -> dict[str, str]:
    """`{tensor of a later layer: the one of layer 0 that it repeats}`."""
    found = {}
    for entry in table:
        if isinstance(entry, Repeat):
            stem = entry.source[: entry.source.index("{layer}")]
            indices = {part.layer for part in parts if part.rule.sources[0].startswith(stem)} - {None, 0}
            first = spell(entry.source, spelling, 0)
            found |= {spell(entry.source, spelling, layer): first for layer in indices}
    return found


def fill(module: nnx.Module, table: Table, source: Checkpoint, *, family: str, number: int = 0) -> nnx.Module:
    """`module` (abstract, from `nnx.eval_shape`) whose parameters are `Lazy`, float32, read from `source`.

    What the way back needs is kept in `module.torch_layout`, the `number` of the table among the family's
    included.

    Raises:
        GlapError: missing, unused, misshapen or inexact tensors, parameters without a rule; all in one line.
    """
    spelling = choose(table, source)
    flat = nnx.to_flat_state(nnx.state(module))
    variables = {path_name(path): variable for path, variable in flat}
    shapes = {path: variable.shape for path, variable in variables.items()}
    parts = list(_parts(table, shapes, spelling))
    problems = _Problems()
    absent = _check_parameters(parts, variables, source, problems)
    counters = _counters(table, parts, spelling)
    kept = _check_extras(table, source, spelling, problems)
    kept |= {key: np.array(source[key]) for key in counters if key in source}
    repeats = _repeats(table, parts, spelling)
    _check_repeats(repeats, source, problems)
    covered = {key for part in parts for key in part.keys} | set(repeats)
    extras = {spell(entry.source, spelling) for entry in table if isinstance(entry, Buffer)} | set(counters)
    dropped = [matching(entry.source, spelling, source) for entry in table if isinstance(entry, Dropped)]
    problems.unused = sorted(set(source).difference(covered, extras, kept, *dropped))
    absent += sorted((extras | set(repeats)) - set(source))
    problems.check(source.where, family)

    for target, group in itertools.groupby(parts, key=lambda part: part.rule.target):
        reading = functools.partial(_read, list(group), shapes[target], source)
        variables[target].set_value(Lazy(shapes[target], np.dtype("float32"), reading))
    nnx.update(module, nnx.from_flat_state(flat))
    found = {key: str(source.tensors[key].dtype) for key in sorted((covered & set(source)) | set(kept))}
    layout = TorchLayout(
        family=family,
        table=number,
        spelling=spelling,
        absent=tuple(absent),
        dtypes={key: dtype for key, dtype in found.items() if dtype != "float32"},
        kept=kept,
    )
    setattr(module, LAYOUT, layout)
    return module


def _check_parameters(
    parts: list[_Part], variables: Iterable[str], source: Checkpoint, problems: _Problems
) -> list[str]:
    """Notes missing, misshapen and inexact tensors; returns the optional keys that are not there."""
    absent = []
    for part in parts:
        for key, shape in zip(part.keys, part.shapes, strict=True):
            tensor = source.tensors.get(key)
            if tensor is None:
                (problems.missing if part.rule.default is None else absent).append(key)
            elif tensor.shape != shape:
                problems.shapes.append(f"{key} is {list(tensor.shape)} and should be {list(shape)}")
            elif str(tensor.dtype) not in _EXACT:
                problems.others.append(f"{key} is {tensor.dtype}, which float32 cannot hold exactly")
    uncovered = sorted(set(variables) - {part.rule.target for part in parts})
    problems.others += [f"no rule fills parameter {path}" for path in uncovered]
    return absent


def _check_extras(
    table: Table, source: Checkpoint, spelling: Spelling, problems: _Problems
) -> dict[str, np.ndarray]:
    """Compares buffers with what the constants give; returns the extras that the way back cannot derive."""
    kept = {}
    for entry in table:
        if isinstance(entry, Extra):
            kept |= {key: np.array(source[key]) for key in matching(entry.source, spelling, source)}
            continue
        if isinstance(entry, Buffer) and (key := spell(entry.source, spelling)) in source:
            stored, derived = source[key], entry.value()
            if stored.shape != derived.shape:
                problems.shapes.append(f"{key} is {list(stored.shape)} and should be {list(derived.shape)}")
            elif not np.allclose(stored.astype(np.float32), derived, rtol=0, atol=1e-4):
                problems.others.append(f"{key} differs from the constant that this family is built on")
            elif stored.dtype != derived.dtype or stored.tobytes() != derived.tobytes():
                kept[key] = np.array(stored)
    return kept


def _check_repeats(repeats: dict[str, str], source: Checkpoint, problems: _Problems) -> None:
    """Notes tensors that differ from the one that they should repeat."""
    for key, first in repeats.items():
        if key in source and first in source:
            copy, original = source[key], source[first]
            if copy.dtype != original.dtype or not np.array_equal(copy, original):
                problems.others.append(f"{key} differs from {first}, with which it shares one parameter here")


def _read(group: list[_Part], shape: tuple[int, ...], source: Checkpoint) -> np.ndarray:
    """One parameter; a stacked one, layer by layer in memory that JAX on a CPU takes over as it is."""
    part = group[0]
    if part.layer is None and all(key in source for key in part.keys):
        # SONAR's embedding is a third of GLAP: it is not copied where the layout stays.
        values = part.rule.transform.to_jax(tuple(source[key] for key in part.keys))
        return np.ascontiguousarray(values, np.float32).reshape(shape)
    size = math.prod(shape) * 4
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    values = memory[start : start + size].view(np.float32).reshape(shape)
    for part in group:
        place = values if part.layer is None else values[part.layer]
        if all(key in source for key in part.keys):
            place[...] = part.rule.transform.to_jax(tuple(source[key] for key in part.keys))
        else:
            place[...] = part.rule.default
    return values


def materialise(
    module: nnx.Module, where: str, place: Callable[[str], jax.sharding.Sharding | None] = lambda path: None
) -> nnx.Module:
    """`module` with the `Lazy` parameters of `fill` read, one by one.

    Args:
        module: changed in place.
        where: names the file.
        place: where a parameter goes, by its path; none is the default device.
    """
    flat = nnx.to_flat_state(nnx.state(module))
    large = sum(variable.get_value().nbytes for _, variable in flat) > _LARGE
    for path, variable in track(flat, f"reading {where}", unit="parameter") if large else flat:
        values = variable.get_value().read()
        # What is read-only belongs to the caller, who may still change it.
        mine = values.flags.writeable
        variable.set_value(jax.device_put(values, place(path_name(path)), may_alias=mine))
    nnx.update(module, nnx.from_flat_state(flat))
    return module


def export(module: nnx.Module, table: Table, *, family: str) -> dict[str, Lazy]:
    """The tensors of `module` under their original names; each is made when it is read.

    They follow `module.torch_layout` where the module came from a checkpoint, else the published layout: the
    first spelling, float32, buffers from their constants, counters zero. A parameter that the checkpoint did
    without (or, without a layout, that has a default) is left out while it still has its default value. Each
    tensor holds on to its parameter only, so that memory is freed as they are dropped.

    Raises:
        GlapError: a parameter that no rule covers.
    """
    layout: TorchLayout | None = getattr(module, LAYOUT, None)
    if layout is None:
        optional = [rule for rule in table if isinstance(rule, Rule) and rule.default is not None]
        absent = tuple(spell(key, {}) for rule in optional for key in rule.sources)
        layout = TorchLayout(family=family, absent=absent)
    values = {path_name(path): v.get_value() for path, v in nnx.to_flat_state(nnx.state(module))}
    tensors: dict[str, Lazy] = {}
    parts = list(_parts(table, {path: value.shape for path, value in values.items()}, layout.spelling))
    if uncovered := sorted(set(values) - {part.rule.target for part in parts}):
        raise GlapError(
            f"convert: no rule of family '{family}' writes {_listed(uncovered)}; add it to the table"
        )
    for part in parts:
        value = values[part.rule.target]
        for index, (key, shape) in enumerate(zip(part.keys, part.shapes, strict=True)):
            if key in layout.absent and bool((np.asarray(value) == np.float32(part.rule.default)).all()):
                continue
            dtype = np.dtype(layout.dtypes.get(key, "float32"))
            tensors[key] = Lazy(shape, dtype, functools.partial(_write, part, index, value, dtype))
    repeats = _repeats(table, parts, layout.spelling)
    tensors |= {key: tensors[first] for key, first in repeats.items() if key not in layout.absent}
    zero = functools.partial(np.zeros, (), np.int64)
    derived: dict[str, Callable[[], np.ndarray]] = dict.fromkeys(
        _counters(table, parts, layout.spelling), zero
    )
    for entry in table:
        if isinstance(entry, Extra):
            for key in matching(entry.source, layout.spelling, layout.kept):
                array = layout.kept[key]
                tensors[key] = Lazy(array.shape, array.dtype, lambda array=array: array)
        elif isinstance(entry, Buffer):
            derived[spell(entry.source, layout.spelling)] = entry.value
    for key, value in derived.items():
        if key not in layout.absent:
            extra = layout.kept[key] if key in layout.kept else value()
            tensors[key] = Lazy(extra.shape, extra.dtype, lambda extra=extra: extra)
    return tensors


def _write(part: _Part, index: int, value: jax.Array | np.ndarray, dtype: np.dtype) -> np.ndarray:
    array = np.asarray(value)
    layer = array if part.layer is None else array[part.layer]
    return part.rule.transform.to_torch(layer)[index].astype(dtype, copy=False)
