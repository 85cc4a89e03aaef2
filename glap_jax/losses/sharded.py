"""Every row of one side meets every row of the other on a mesh, though no device need hold them all.

A loss over all pairs of a global batch is a sum over blocks of pairs. Its two parts are kept apart here: what
a block contributes (`Visit`, written by the loss) and how the blocks come together (`meet`).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from glap_jax.errors import GlapError

Strategy = Literal["auto", "dense", "gather", "ring"]
Combine = Literal["add", "logaddexp"]
STRATEGIES = ("auto", "dense", "gather", "ring")
# `visit(home, rows) -> (home, gain)`: a device's own sums after it met `rows`, and what it adds to each row.
Visit = Callable[[Any, Any], tuple[Any, Any]]
# Gathered rows and their gradients take this much of a device's memory at most under `auto`.
GATHERED_BYTES = 32 * 2**20

_COMBINE: dict[str, Callable[[Array, Array], Array]] = {"add": jnp.add, "logaddexp": jnp.logaddexp}


def choose(strategy: str, batch: int, joint: int, mesh: Mesh | None, chunk: int | None, *, loss: str) -> str:
    """The strategy that `auto` stands for, after checks.

    One device takes all pairs at once unless a chunk is given. Several gather the captions where these and
    their gradients are small, and pass them round a ring where they are not.

    Raises:
        GlapError: an unknown strategy, a chunk that is not positive or not used, a batch that the devices
            cannot share.
    """
    if strategy not in STRATEGIES:
        raise GlapError(f"{loss} has no strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    if chunk is not None and chunk < 1:
        raise GlapError(f"{loss} cannot work in chunks of {chunk}: give a positive chunk or none")
    if chunk is not None and strategy == "dense":
        raise GlapError(f"{loss} takes all pairs at once under 'dense': give no chunk, or another strategy")
    devices = 1 if mesh is None else mesh.size
    if batch % devices:
        raise GlapError(
            f"a batch of {batch} pairs does not split over {devices} devices: "
            "choose a batch size that is a multiple of the number of devices"
        )
    if strategy != "auto":
        return strategy
    if devices == 1:
        return "dense" if chunk is None else "gather"
    return "gather" if 2 * 4 * batch * joint <= GATHERED_BYTES else "ring"


def over_mesh(function: Callable[..., Any], mesh: Mesh | None, rows: Any, outputs: Any) -> Callable[..., Any]:
    """`function(axes, *inputs)` run by each device on its share; without a mesh, by this one on all.

    Args:
        function: `axes` are the mesh axes' names, empty without a mesh.
        mesh: the batch is shared out over all of its axes.
        rows: for each input whether it has a row for each pair (and is shared out) or is on every device.
        outputs: the same for each output.
    """
    if mesh is None or mesh.size == 1:
        return lambda *inputs: function((), *inputs)
    split, everywhere = PartitionSpec(mesh.axis_names), PartitionSpec()
    inputs, outputs = (tuple(split if each else everywhere for each in flags) for flags in (rows, outputs))
    return jax.shard_map(
        lambda *shares: function(mesh.axis_names, *shares),
        mesh=mesh,
        in_specs=inputs,
        out_specs=outputs,
        check_vma=False,
    )


def meet(
    visit: Visit,
    home: Any,
    rows: Any,
    *,
    axes: tuple[str, ...],
    strategy: str,
    chunk: int | None,
    combine: Combine = "add",
) -> tuple[Any, Any]:
    """Lets every device meet the rows of all devices; runs inside `over_mesh`.

    Args:
        visit: what a block of rows contributes.
        home: this device's sums before the first visit.
        rows: arrays with one leading axis, this device's share of what travels.
        axes: mesh axes to travel; none for one device.
        strategy: `gather` brings all rows to every device; `ring` passes them on from neighbour to
            neighbour, half of them each way round, so that a device holds little more than its share.
        chunk: rows visited at once; none is as many as a device's share.
        combine: how gains of different devices for the same row come together.

    Returns:
        The sums, and the gains of this device's own rows.
    """
    share = jax.tree.leaves(rows)[0].shape[0]
    met = _in_chunks(visit, share if chunk is None else chunk)
    if not axes:
        return met(home, rows)
    if strategy == "ring":
        return _ring(met, home, rows, axes, _COMBINE[combine])
    home, gain = met(home, jax.tree.map(lambda x: jax.lax.all_gather(x, axes, tiled=True), rows))
    if combine == "add":
        return home, jax.tree.map(lambda x: jax.lax.psum_scatter(x, axes, tiled=True), gain)
    devices = jax.lax.axis_size(axes)

    def to_owners(x: Array) -> Array:
        parts = jax.lax.all_to_all(x.reshape(devices, share, *x.shape[1:]), axes, 0, 0)
        return jax.nn.logsumexp(parts, axis=0)

    return home, jax.tree.map(to_owners, gain)


def _ring(visit: Visit, home: Any, rows: Any, axes: tuple[str, ...], combine: Callable) -> tuple[Any, Any]:
    """Rows travel with what they gain. Gains go one step behind, so that no device waits for them: they are
    on the way while it works on the rows that they belong to."""
    devices = jax.lax.axis_size(axes)
    half = jax.tree.leaves(rows)[0].shape[0] // 2
    parts = [jax.tree.map(lambda x: x[:half], rows), jax.tree.map(lambda x: x[half:], rows)]
    ways = [
        (way, part) for way, part in zip((1, -1), parts, strict=True) if jax.tree.leaves(part)[0].shape[0]
    ]

    def send(values: Any, way: int) -> Any:
        route = [(place, (place + way) % devices) for place in range(devices)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, route), values)

    travelling = []
    for way, part in ways:
        home, gain = visit(home, part)
        travelling.append((send(part, way), gain))

    def turn(carry: Any, _: None) -> tuple[Any, None]:
        home, before = carry
        after = []
        for (way, _), (part, gain) in zip(ways, before, strict=True):
            arriving = send(gain, way)
            home, own = visit(home, part)
            after.append((send(part, way), jax.tree.map(combine, arriving, own)))
        return (home, after), None

    (home, travelling), _ = jax.lax.scan(turn, (home, travelling), None, length=devices - 1)
    gains = [send(gain, way) for (way, _), (_, gain) in zip(ways, travelling, strict=True)]
    return home, jax.tree.map(lambda *each: jnp.concatenate(each), *gains)


def _in_chunks(visit: Visit, chunk: int) -> Visit:
    """`visit` for blocks of at most `chunk` rows at a time; the last may be smaller."""

    def visit_all(home: Any, rows: Any) -> tuple[Any, Any]:
        size = jax.tree.leaves(rows)[0].shape[0]
        whole = size // chunk
        if whole <= 1 and size <= chunk:
            return visit(home, rows)
        blocks = jax.tree.map(lambda x: x[: whole * chunk].reshape(whole, chunk, *x.shape[1:]), rows)
        home, gains = jax.lax.scan(visit, home, blocks)
        gains = jax.tree.map(lambda x: x.reshape(whole * chunk, *x.shape[2:]), gains)
        if whole * chunk == size:
            return home, gains
        home, last = visit(home, jax.tree.map(lambda x: x[whole * chunk :], rows))
        return home, jax.tree.map(lambda *each: jnp.concatenate(each), gains, last)

    return visit_all
