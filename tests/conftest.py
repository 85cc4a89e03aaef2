"""Strict settings for every test: 8 fake CPU devices, strict dtypes, shapes and types checked at run time."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Most of the time goes into compiling what runs once: with LLVM's optimisations a third more of it.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("MPLBACKEND", "Agg")
# A program from an earlier session would hide what compiling takes, and what it refuses.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

from pathlib import Path

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

install_import_hook("glap_jax", "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")

GOLDEN = Path(__file__).parent / "golden"


def pytest_configure(config):
    """With `-n`, files are dealt out in the order of their collection, not those of many tests first."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that none is left to one process while the others have nothing."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """What a file of tests compiled is of no use to the next one, and all together takes gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def golden():
    """`golden(item)`: the recorded arrays of one reference, as a dict."""

    def load(item: str, file: str = "io.npz") -> dict[str, np.ndarray]:
        with np.load(GOLDEN / item / file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return load


@pytest.fixture(scope="session")
def weights():
    """`weights(item)`: the recorded state dict of one reference, under its original names."""
    from safetensors.numpy import load_file

    return lambda item: load_file(GOLDEN / item / "weights.safetensors")


@pytest.fixture(scope="session")
def glap_config():
    """The constructor arguments of the recorded GLAP, as `from_torch` takes them."""
    config = json.loads((GOLDEN / "glap" / "config.json").read_text(encoding="utf-8"))
    towers = {"audio": config["audio_constructor"], "text": config["text_constructor"]}
    return {**towers, "embed_size": config["embed_size"]}


@pytest.fixture(scope="session")
def clip():
    """`clip(name, start, end)`: float32 samples of a recorded 16 kHz clip; `cutN` starts the longest."""
    with np.load(GOLDEN / "audio" / "clips.npz", allow_pickle=False) as arrays:
        clips = {key: arrays[key].astype(np.float32) / 32768 for key in arrays.files}

    def cut(name: str, start: int = 0, end: int | None = None) -> np.ndarray:
        if name.startswith("cut"):
            return clips["c23_7s"][: int(name.removeprefix("cut"))]
        return clips[name][start:end]

    return cut


@pytest.fixture(scope="session")
def padded(clip):
    """`padded(parts)`: the named pieces `(clip, start, end)` in one zero-padded batch, and their lengths."""

    def pad(parts) -> tuple[np.ndarray, np.ndarray]:
        rows = [clip(*part) for part in parts]
        lengths = np.array([len(row) for row in rows], np.int32)
        batch = np.zeros((len(rows), lengths.max()), np.float32)
        for place, row in zip(batch, rows, strict=True):
            place[: len(row)] = row
        return batch, lengths

    return pad


@pytest.fixture(scope="session")
def close():
    """`close(found, expected, most, rms)`: the golden README's two limits on |difference|."""

    def check(found, expected, most: float, rms: float | None = None) -> None:
        difference = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
        assert np.shape(found) == np.shape(expected)
        assert difference.max() <= most
        if rms is not None:
            assert np.sqrt(np.square(difference).mean()) <= rms

    return check


@pytest.fixture(scope="session")
def random_module():
    """`random_module(build)`: what `build()` makes, with random values everywhere and nothing compiled."""
    import jax.numpy as jnp
    from flax import nnx

    def fill(build) -> nnx.Module:
        module, draw = nnx.eval_shape(build), np.random.default_rng(0)

        def value(x: jax.ShapeDtypeStruct) -> jax.Array:
            return jnp.asarray(draw.uniform(0.1, 0.3, x.shape) * draw.choice([-1, 1], x.shape), x.dtype)

        nnx.update(module, jax.tree.map(value, nnx.state(module)))
        # Variances among the statistics are positive.
        nnx.update(module, jax.tree.map(jnp.abs, nnx.state(module, nnx.BatchStat)))
        return module

    return fill


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """A cache of indexes for this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GLAP_JAX_CACHE", str(folder))
    return folder


def make_audio(seconds=0.5, rate=16000, form="FLAC", subtype=None, channels=1, frequency=440.0, peak=0.3):
    """An encoded tone."""
    import soundfile

    time = np.arange(round(seconds * rate)) / rate
    tone = (peak * np.sin(2 * np.pi * frequency * time)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, np.tile(tone[:, None], (1, channels)), rate, format=form, subtype=subtype)
    return file.getvalue()


def make_tar(path, members):
    """A tar of (name, bytes) members."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_shard(path, keys, **audio):
    """A shard of one tone and one caption for each key."""
    members = []
    for number, key in enumerate(keys):
        sound = make_audio(frequency=200.0 + 10 * number, **audio)
        text = json.dumps({"caption": f"tone {key}"}).encode()
        members += [(f"{key}.flac", sound), (f"{key}.json", text)]
    return make_tar(path, members)


@pytest.fixture
def audio():
    return make_audio


@pytest.fixture
def tar():
    return make_tar


@pytest.fixture
def shard():
    return make_shard


@pytest.fixture
def killed():
    """`killed(words, folder, pattern)`: runs a command until two files are there, kills it with -9, and gives
    these files with their times."""

    def kill(words, folder, pattern):
        command = [sys.executable, "-m", "glap_jax.cli", *map(str, words)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=one_thread)
        while len(list(folder.glob(pattern))) < 2:
            time.sleep(0.001)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}

    return kill
