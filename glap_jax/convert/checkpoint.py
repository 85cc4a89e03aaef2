"""A checkpoint in memory or on disk: named tensors of known shape whose values are read on access."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glap_jax.errors import GlapError


@dataclasses.dataclass(frozen=True)
class Lazy:
    """A tensor that is read when it is asked for.

    Attributes:
        shape: its shape.
        dtype: its NumPy type (`bfloat16` and the like come from `ml_dtypes`).
        read: gives the values; may read a file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


class Checkpoint(Mapping[str, np.ndarray]):
    """Tensors by their original names.

    Args:
        tensors: the tensors.
        config: what the file says about its model (constructor arguments, or an HF config.json).
        where: names the checkpoint in messages.
    """

    def __init__(
        self,
        tensors: Mapping[str, Lazy],
        *,
        config: Mapping[str, Any] | None = None,
        where: str = "state dict",
    ):
        self.tensors = dict(tensors)
        self.config = dict(config or {})
        self.where = where

    def __getitem__(self, key: str) -> np.ndarray:
        return self.tensors[key].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor; reads no values."""
        return {key: tensor.shape for key, tensor in self.tensors.items()}


def in_memory(state_dict: Mapping[str, Any]) -> Checkpoint:
    """A state dict of NumPy, JAX or torch arrays as a `Checkpoint`: read-only views where they lie on a CPU.

    Raises:
        GlapError: a value is no numeric array.
    """
    if isinstance(state_dict, Checkpoint):
        return state_dict
    tensors = {}
    for key, value in state_dict.items():
        array = _from_torch_tensor(value) if hasattr(value, "detach") else np.asarray(value)
        # Kinds b, i, u, f, c are plain numbers; V is what NumPy calls bfloat16.
        if array.dtype.kind not in "biufcV" or array.dtype.names:
            kind = type(value).__name__
            raise GlapError(f"state dict: '{key}' is no array but {kind}; pass the model's state dict itself")
        array = array.view()
        array.flags.writeable = False
        tensors[key] = Lazy(array.shape, array.dtype, lambda array=array: array)
    return Checkpoint(tensors)


def _from_torch_tensor(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().cpu()
    # NumPy does not know torch's bfloat16, but the bits are the same.
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.dtype("bfloat16"))
    return tensor.numpy()


def span(
    path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...] | None = None
) -> Lazy:
    """A tensor that lies in `path` from byte `offset` on; `strides` in elements, none meaning contiguous.

    Only the bytes asked for are read, and into ordinary memory: the pages of a mapped file would stay counted
    as this process's own, which doubles what a conversion needs.
    """
    if strides is None or 0 in shape:
        count = math.prod(shape)
    else:
        count = 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))

    def read() -> np.ndarray:
        flat = np.fromfile(path, np.uint8, count * dtype.itemsize, offset=offset).view(dtype)
        if strides is None or 0 in shape:
            return flat.reshape(shape)
        steps = tuple(step * dtype.itemsize for step in strides)
        return np.lib.stride_tricks.as_strided(flat, shape, steps)

    return Lazy(shape, dtype, read)
