"""Writes checkpoints in the published layouts without holding them in memory a second time."""

import contextlib
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glap_jax.convert.checkpoint import Checkpoint, in_memory
from glap_jax.errors import GlapError
from glap_jax.progress import track

_TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@contextlib.contextmanager
def written(path: Path) -> Generator[BinaryIO]:
    """A file that appears under its name only when it was written to the end."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise GlapError(
            f"convert: '{path}' cannot be written ({error}); free space or choose another place"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def save_safetensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Writes `tensors` as one safetensors file, tensor by tensor; the library's own call copies all first.

    Raises:
        GlapError: the file cannot be written (nothing is left behind then).
    """
    source = in_memory(tensors)
    # The widest types first keep every tensor aligned, as the format's own writer does.
    order = sorted(source.tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, tensor in order:
        first, end = end, end + tensor.nbytes
        shape, kind = list(tensor.shape), _TYPES[str(tensor.dtype)]
        header[key] = {"dtype": kind, "shape": shape, "data_offsets": [first, end]}
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    with written(path) as file:
        file.write(len(words).to_bytes(8, "little") + words)
        for _, tensor in track(order, f"writing {path.name}", unit="tensor"):
            file.write(np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8).data)


def save_shards(folder: Path, tensors: Mapping[str, Any], *, largest: int | str = "5GB") -> None:
    """Writes `model.safetensors`, or beyond `largest` bytes several files and their index, as on the hub.

    Raises:
        GlapError: a file cannot be written.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    source = in_memory(tensors)
    split = split_state_dict_into_shards_factory(
        source.tensors,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=largest,
    )
    for name, keys in split.filename_to_tensors.items():
        save_safetensors(folder / name, Checkpoint({key: source.tensors[key] for key in keys}))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        with written(folder / "model.safetensors.index.json") as file:
            file.write(json.dumps(index, indent=2, sort_keys=True).encode())


def save_pt(path: Path, source: Checkpoint) -> None:
    """Writes `{"model": tensors, "config": config}` with torch, emptying `source` as it goes.

    torch wants all tensors at once; taking each out of `source` frees its parameter that has no other user.

    Raises:
        GlapError: torch is missing, or the file cannot be written (nothing is left behind then).
    """
    try:
        import torch
    except ImportError:
        raise GlapError(
            f"convert: writing '{path}' needs PyTorch; install it with: pip install 'glap_jax[torch]'"
        ) from None

    model = {}
    for key in track(list(source.tensors), f"writing {path.name}", unit="tensor"):
        array = source.tensors.pop(key).read()
        if str(array.dtype) == "bfloat16":
            model[key] = torch.from_numpy(np.array(array.view(np.int16), order="C")).view(torch.bfloat16)
        else:
            model[key] = torch.from_numpy(np.array(array, order="C"))
    with written(path) as file:
        torch.save({"model": model, "config": dict(source.config)}, file)
