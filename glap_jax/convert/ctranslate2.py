"""Reads the binary `model.bin` of CTranslate2 (converted Whisper models and the like)."""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glap_jax.convert.checkpoint import Checkpoint, Lazy, span
from glap_jax.errors import GlapError

# By CTranslate2's number of each type; brain floats come from `ml_dtypes`.
_TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
# Newest layout of the file that is known here; it came with CTranslate2 3.0 and 4.0.
_NEWEST = 6


def is_ctranslate2(path: Path) -> bool:
    """Whether a file begins as CTranslate2's do: a small version, then the name of a model specification."""
    with path.open("rb") as file:
        start = file.read(128)
    if len(start) < 8 or not 2 <= int.from_bytes(start[:4], "little") <= 32:
        return False
    length = int.from_bytes(start[4:6], "little")
    return start[6 : 6 + length].endswith(b"Spec\0")


def open_ctranslate2(path: Path) -> Checkpoint:
    """The tensors of `model.bin` by CTranslate2's names, read from disk one by one as they are asked for.

    The file is little endian: version; name and revision of the specification; number of tensors; for each
    its name, shape, type, size in bytes and values; then second names of tensors.

    Raises:
        GlapError: a damaged file, or one that is newer than what is known here.
    """
    size = path.stat().st_size
    damaged = GlapError(f"convert: '{path}' is damaged or no CTranslate2 model; download it again")
    tensors: dict[str, Lazy] = {}
    try:
        with path.open("rb") as file:
            version = _number(file, "I")
            if version > _NEWEST:
                raise GlapError(
                    f"convert: '{path}' has CTranslate2's layout {version}; known are layouts up to {_NEWEST}"
                )
            _name(file)
            _number(file, "I")
            for _ in range(_number(file, "I")):
                name = _name(file)
                shape = tuple(_number(file, "I") for _ in range(_number(file, "B")))
                dtype = np.dtype(_TYPES[_number(file, "B")])
                length = _number(file, "I")
                if length != math.prod(shape) * dtype.itemsize or file.tell() + length > size:
                    raise damaged
                tensors[name] = span(path, file.tell(), shape, dtype)
                file.seek(length, 1)
            for _ in range(_number(file, "I")):
                second, name = _name(file), _name(file)
                tensors[second] = tensors[name]
    except (struct.error, UnicodeDecodeError, IndexError, KeyError) as error:
        raise damaged from error
    return Checkpoint(tensors, where=f"'{path.name}'")


def _number(file: BinaryIO, kind: str) -> Any:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]


def _name(file: BinaryIO) -> str:
    """A string with its length before it and a zero at its end."""
    return file.read(_number(file, "H")).decode().rstrip("\0")
