"""What tells one set of parameters from another, wherever its arrays lie."""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding
from jaxtyping import Array, UInt32

from glap_jax import config as configs
from glap_jax.rules import path_name

# Odd constants of well-known integer hashes (Knuth's and murmur3's), which spread the places of numbers.
_SPREAD = (2654435761, 2246822519, 3266489917)


def of_module(module: nnx.Module, config: Any) -> str:
    """32 hexadecimal digits that change with any parameter or statistic of a module, and with its sizes."""
    flat = nnx.to_flat_state(nnx.state(module))
    return of_arrays({path_name(path): x[...] for path, x in flat}, config)


def dtypes(module: nnx.Module) -> tuple[str, ...]:
    """The types that a module's parts compute in, which its parameters do not tell."""
    found = (getattr(part, "dtype", None) for _, part in nnx.iter_modules(module))
    return tuple(sorted({jnp.dtype(each).name for each in found if each is not None}))


def of_arrays(arrays: Mapping[str, Array], config: Any, out: Sharding | None = None) -> str:
    """32 hexadecimal digits that change with any bit of the arrays, whatever devices hold them.

    Args:
        arrays: by path, float32 or what becomes that without loss.
        config: sizes of what they belong to, a configuration.
        out: where sums go; every process must be able to read them. By default they stay beside the arrays.
    """
    sums = jax.jit(functools.partial(jax.tree.map, _sums), out_shardings=out)(dict(arrays))
    hashed = hashlib.blake2b(configs.to_json(config).encode(), digest_size=16)
    for path in sorted(arrays):
        hashed.update(repr((path, arrays[path].shape, np.asarray(sums[path]).tolist())).encode())
    return hashed.hexdigest()


def _sums(x: Array) -> UInt32[Array, "2"]:
    """Two sums over the bits of float32 numbers, weighted by their places.

    Integers that overflow add up to the same in any order: devices may hold any parts.
    """
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    first, second, third = map(jnp.uint32, _SPREAD)
    weight = place * first
    weight = (weight ^ (weight >> jnp.uint32(15))) * second
    # Odd weights: no bit of any number is lost.
    one = jnp.uint32(1)
    sums = [(bits * (weight | one)), (bits ^ (bits >> jnp.uint32(16))) * ((weight * third) | one)]
    return jnp.stack([jnp.sum(each, dtype=jnp.uint32) for each in sums])
