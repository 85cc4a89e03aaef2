"""Strict settings for every test: 8 fake CPU devices, strict dtypes, shapes and types checked at run time."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

install_import_hook("glap_jax", "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """`golden(item)`: the recorded arrays of one reference, as a dict."""

    def load(item: str, file: str = "io.npz") -> dict[str, np.ndarray]:
        with np.load(GOLDEN / item / file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return load
