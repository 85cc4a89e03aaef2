"""The words in which an encoder file writes its conversion table: rules, transforms, buffers, extras.

A table is a tuple of entries that must cover every tensor of a published checkpoint and every parameter of
the module, once. In a source key `{layer}` stands for the index of a stacked layer, and `(a|b)` for spellings
that differ between published layouts (the first is written when nothing else is known). A target is the
parameter's NNX path, joined by `/`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """A layout change and its exact inverse: source tensors to one parameter (of one layer), and back."""

    to_jax: Callable[[Arrays], np.ndarray]
    to_torch: Callable[[np.ndarray], Arrays]


@dataclasses.dataclass(frozen=True)
class Rule:
    """`source` tensors fill the parameter `target`.

    Attributes:
        source: key, or keys that are joined into one parameter.
        target: NNX path of the parameter, relative to the family's module.
        transform: how the layout changes.
        default: value of the parameter when no source tensor exists; none makes the tensor mandatory.
        first: what `{layer}` is for the first of the stacked layers.
    """

    source: str | tuple[str, ...]
    target: str
    transform: Transform
    default: float | None = None
    first: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A tensor that follows from constants: may be absent, is checked against `value()`, and not kept."""

    source: str
    value: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Counter:
    """A scalar that torch keeps beside parameters (`num_batches_tracked`): may be absent, says nothing."""

    source: str


@dataclasses.dataclass(frozen=True)
class Extra:
    """A tensor of the checkpoint that the module does without, such as a classifier on top of the encoder.

    It may be absent; where it is there, it is kept as it is for the way back.
    """

    source: str


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Tensors of the later layers that repeat layer 0's, which a rule reads: one parameter that they share.

    Each may be absent; one that differs from layer 0's is an error. `source` names them with `{layer}`.
    """

    source: str


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Tensors of a part that the module does without and that is too large to carry along, such as a decoder.

    `{rest}` at the end of `source` stands for anything that follows. They do not come back.
    """

    source: str


Table = tuple[Rule | Buffer | Counter | Extra | Repeat | Dropped, ...]

Same = Transform(lambda x: x[0], lambda x: (x,))
Linear = Transform(lambda x: x[0].T, lambda x: (x.T,))
# [out, in, taps] of a one-dimensional convolution to [taps, in, out].
Kernel = Transform(lambda x: x[0].transpose(2, 1, 0), lambda x: (x.transpose(2, 1, 0),))
# [out, in, y, x] of a two-dimensional convolution to [y, x, in, out].
Kernel2d = Transform(lambda x: x[0].transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),))
# [out, in, 1] of a convolution that sees one step to [in, out] of a linear layer.
Pointwise = Transform(lambda x: x[0][:, :, 0].T, lambda x: (x.T[:, :, None],))


def _fused(parts: int) -> tuple[Transform, Transform]:
    """`parts` matrices [D, D] to one whose outputs are theirs in turn, and the same of their biases."""
    return (
        Transform(lambda x: np.concatenate(x, axis=0).T, lambda x: tuple(np.split(x.T, parts, axis=0))),
        Transform(lambda x: np.concatenate(x, axis=0), lambda x: tuple(np.split(x, parts, axis=0))),
    )


# Queries, keys, values.
FusedLinear, FusedVector = _fused(3)


def dense(source: str, target: str, *, weight: Transform = Linear, dot: str = ".") -> Table:
    """Rules of a linear layer (or, with `weight=Kernel`, a convolution): `weight` [out, in] and `bias`."""
    return (
        Rule(f"{source}{dot}weight", f"{target}/kernel", weight),
        Rule(f"{source}{dot}bias", f"{target}/bias", Same),
    )


def fused(*layers: str) -> Table:
    """Rules of linear layers whose outputs one layer gives here: their sources in turn, then its target."""
    *sources, target = layers
    weights, biases = (tuple(f"{source}.{kind}" for source in sources) for kind in ("weight", "bias"))
    weight, bias = _fused(len(sources))
    return (Rule(weights, f"{target}/kernel", weight), Rule(biases, f"{target}/bias", bias))


def norm(source: str, target: str) -> Table:
    """Rules of a LayerNorm: `weight` and `bias`."""
    return (Rule(f"{source}.weight", f"{target}/scale", Same), Rule(f"{source}.bias", f"{target}/bias", Same))


def batch_norm(source: str, target: str) -> Table:
    """Rules of a BatchNorm with its stored statistics."""
    return (
        *norm(source, target),
        Rule(f"{source}.running_mean", f"{target}/mean", Same),
        Rule(f"{source}.running_var", f"{target}/variance", Same),
        Counter(f"{source}.num_batches_tracked"),
    )


def prefixed(table: Table, source: str, target: str) -> Table:
    """The table of a part inside a larger model: `source` before every key, `target` before every path."""

    def move(entry: Any) -> Any:
        if isinstance(entry, Rule):
            keys = tuple(source + key for key in entry.sources)
            return dataclasses.replace(entry, source=keys, target=target + entry.target)
        return dataclasses.replace(entry, source=source + entry.source)

    return tuple(move(entry) for entry in table)
