"""What `data embed-text` and `data embed-audio` share: each shard is a task, and makes a part of a folder."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int, UInt64

from glap_jax.config import DataConfig, TrainConfig
from glap_jax.encoders import pooled_width
from glap_jax.errors import GlapError
from glap_jax.layers import compute_dtype
from glap_jax.offline import accounts, work
from glap_jax.offline.parts import reopen
from glap_jax.offline.vectors import VectorCacheWriter
from glap_jax.parallel.sharding import over_batch, replicated
from glap_jax.pipeline import files
from glap_jax.pipeline.shards import find_shards
from glap_jax.pipeline.vector_cache import Kind, Stamp, folder_of
from glap_jax.train import state as states
from glap_jax.train.cached import fingerprint
from glap_jax.train.initial import put_parts
from glap_jax.train.start import mesh_of, note_random, say

Stored = Literal["float32", "float16"]
Devices = tuple[jax.Device, ...] | None
# Of clips and their lengths, or token rows and their mask.
Encode = Callable[
    [Float[np.ndarray, "B T"] | Int[np.ndarray, "B N"], Int[np.ndarray, " B"] | Bool[np.ndarray, "B N"]],
    Float[Array, "B D"],
]
Vectors = tuple[UInt64[np.ndarray, "n 2"], Float32[np.ndarray, "n D"]]


@dataclasses.dataclass(frozen=True)
class Side:
    """What differs between the towers; its functions are of modules, so that other processes find them.

    Attributes:
        tower: which.
        kind: of the folder.
        things: what is embedded, in the plural.
        settings: what the data decides of the folder's stamp.
        part: number of the part that a shard becomes.
        vectors: keys and vectors of a shard's things, from its path, the run, the tower, and the number of
            devices, which share rows evenly.
    """

    tower: Literal["audio", "text"]
    kind: Kind
    things: str
    settings: Callable[[DataConfig], Stamp]
    part: Callable[[str, DataConfig], int]
    vectors: Callable[[str, TrainConfig, Encode, int], Vectors]


@dataclasses.dataclass(frozen=True)
class Task:
    """A shard whose things are to be embedded.

    Attributes:
        side: by which tower.
        config: of the run.
        stored: type of the numbers on disk.
        made: fingerprint of the tower.
        folder: path or URL of the vectors.
        shard: which.
    """

    side: Side
    config: TrainConfig
    stored: Stored
    made: str
    folder: str
    shard: files.Stamp

    @property
    def part(self) -> int:
        """Number of the part that its vectors are."""
        return self.side.part(self.shard.path, self.config.data)

    def writer(self) -> VectorCacheWriter:
        """What writes the vectors."""
        tower = getattr(self.config.model, self.side.tower)
        stamp: Stamp = {
            "tower": self.made,
            "computed": compute_dtype(self.config.dtype).name,
            "stored": self.stored,
        }
        stamp |= {"width": pooled_width(tower), **self.side.settings(self.config.data)}
        return VectorCacheWriter(self.side.kind, self.folder, stamp)


def embed(
    side: Side,
    config: TrainConfig,
    *,
    stored: Stored,
    devices: Sequence[jax.Device] | None,
    workers: int,
    beam: Sequence[str],
) -> str:
    """Computes the vectors of all that a run may draw, shard by shard; those that were done are left alone.

    `embed_text` and `embed_audio` say the rest.
    """
    field = side.kind.field.removeprefix("data.")
    name = getattr(config.data, field) or field
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **{field: name}))
    data = config.data
    if not data.train:
        raise GlapError("config: 'data.train' names no groups; give at least one GroupConfig")
    shards = dict.fromkeys(shard for group in data.train for shard in find_shards(group.shards, data.root))
    chosen = None if devices is None else tuple(devices)
    try:
        _, _, made = _opened(config, side.tower, chosen)
        tasks = [
            Task(side, config, stored, made, folder_of(data, name), files.stamp(shard)) for shard in shards
        ]
        writer = tasks[0].writer()
        accounts.tidy(writer.folder)
        left = [task for task in tasks if not writer.has(task.part)]
        here = functools.partial(embed_shard, devices=chosen)
        function = embed_shard if workers or beam else here
        work.run(function, left, f"embedding {side.things}", workers=workers, beam=beam)
    finally:
        _opened.cache_clear()
    count, option = writer.finish(), side.kind.field.replace("_", "-")
    say(f"{count} {side.things} of {len(tasks)} shards in '{writer.folder}'; train with --{option} {name}")
    return writer.folder


def embed_shard(task: Task, devices: Devices = None) -> None:
    """Writes the vectors of a shard.

    Raises:
        GlapError: a shard that changed, a tower that is not the one that was planned with, too many bad
            clips, or a disk that refuses.
    """
    reopen(task.shard)
    # The tower is loaded once, and used by one of a worker's threads at a time.
    with work.MODEL:
        encode, count, made = _opened(task.config, task.side.tower, devices)
        if made != task.made:
            raise GlapError(
                f"{task.side.kind.name}: a worker has another {task.side.tower} tower than this process; "
                "give all the same files"
            )
        keys, rows = task.side.vectors(task.shard.path, task.config, encode, count)
    task.writer().write(task.part, keys, rows, shard=task.shard.path)


@functools.lru_cache(1)
def _opened(
    config: TrainConfig, tower: Literal["audio", "text"], devices: Devices
) -> tuple[Encode, int, str]:
    """The tower, how many devices it works on, and its fingerprint."""
    mesh = mesh_of(config, devices)
    encode, made = open_tower(config, mesh, tower)
    return encode, mesh.size, made


def open_tower(config: TrainConfig, mesh: Mesh, tower: Literal["audio", "text"]) -> tuple[Any, str]:
    """What a tower of the run pools as it begins, compiled for the mesh, and its fingerprint.

    It is called with clips and their lengths, or with token rows and their mask, that the mesh shares out.

    Raises:
        GlapError: it learns, or cannot be had.
    """
    design = states.design(config, mesh)
    module = states.build(config, design)
    put_parts(module, config.parts, replicated(mesh))
    note_random(config, design)
    graph, weights = nnx.split(getattr(module, tower))
    del module
    made = fingerprint(nnx.State({tower: weights}), getattr(config.model, tower), mesh, tower)

    @jax.jit
    def run(weights: states.Weights, rows: Array, real: Array) -> Float[Array, "B D"]:
        return nnx.merge(graph, weights)(rows, real).pooled.astype(jnp.float32)

    spread = over_batch(mesh)
    return lambda rows, real: run(weights, *jax.device_put((rows, real), spread)), made
