"""The model folder: written whole or not at all, read back strictly."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax import folder
from glap_jax.audio.dasheng import Dasheng, DashengConfig
from glap_jax.config import ModelConfig
from glap_jax.errors import GlapError
from glap_jax.model import DualEncoder
from glap_jax.text.sonar import SonarConfig

SPM = Path(__file__).parent / "golden" / "glap" / "spm.model"
CONFIG = ModelConfig(
    audio=DashengConfig(width=32, layers=2, heads=2, chunk_tokens=20),
    text=SonarConfig(width=32, layers=2, heads=2, hidden=64, vocabulary=1006, max_tokens=32),
    joint=24,
)


@pytest.fixture(scope="module")
def module():
    return DualEncoder(CONFIG, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(3))


@pytest.fixture(scope="module")
def written(module, tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "model"
    folder.save(place, module, CONFIG, SPM)
    return place


@pytest.fixture
def copy(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "model"))


def values(module):
    return {path: np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(nnx.state(module))}


def test_round_trip_is_exact(module, written):
    again, config = folder.load_module(written)
    assert config == CONFIG
    assert isinstance(again, DualEncoder)
    ours, theirs = values(module), values(again)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        assert value.dtype == theirs[path].dtype
        np.testing.assert_array_equal(value, theirs[path])


def test_what_lies_in_the_folder(written):
    assert sorted(path.name for path in written.iterdir()) == ["config.json", "parameters", "spm.model"]
    assert (written / "spm.model").read_bytes() == SPM.read_bytes()
    assert sorted(path.name for path in written.parent.iterdir()) == ["model"]
    words = json.loads((written / "config.json").read_text())
    assert words["glap_jax_format"] == 1
    assert words["family"] == "glap"
    assert words["model"]["audio"]["width"] == 32


def test_single_towers_have_folders_too(tmp_path):
    config = DashengConfig(width=32, layers=1, heads=2)
    module = Dasheng(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    folder.save(tmp_path / "tower", module, config)
    again, read = folder.load_module(tmp_path / "tower", dtype=jnp.bfloat16)
    assert read == config
    assert isinstance(again, Dasheng)
    assert again.patch.dtype == jnp.bfloat16
    np.testing.assert_array_equal(again.time_position[...], module.time_position[...])


def test_writing_again_replaces_the_model(module, copy):
    folder.save(copy, module, CONFIG)
    assert sorted(path.name for path in copy.iterdir()) == ["config.json", "parameters"]
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_other_folders_are_left_alone(module, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    with pytest.raises(GlapError, match="is no model folder and not empty"):
        folder.save(tmp_path / "letters", module, CONFIG)
    assert (tmp_path / "letters" / "love.txt").read_text() == "dear"
    with pytest.raises(GlapError, match="is a file"):
        folder.save(tmp_path / "letters" / "love.txt", module, CONFIG)


def test_a_tokenizer_of_another_model_is_refused(module, tmp_path):
    other = ModelConfig(CONFIG.audio, SonarConfig(width=32, vocabulary=500), joint=24)
    with pytest.raises(GlapError, match="needs 1006 embedding rows and the model has 500"):
        folder.save(tmp_path / "model", module, other, SPM)
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_seen_beforehand(module, copy, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(GlapError, match="needs 0 MB and 0 MB are free"):
        folder.save(copy, module, CONFIG)
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_full_disk_leaves_the_earlier_model(copy):
    """A limit on file sizes stands in for a full disk: both fail inside the same writes.

    It hits at once, among the parameters, and after them. In a process of its own, since TensorStore may
    report other failed writes at any later time.
    """
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    script = f"""
import resource
from glap_jax import folder
from glap_jax.errors import GlapError
module, config = folder.load_module({str(copy)!r})
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for room in (0, 20_000, 240_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        folder.save({str(copy)!r}, module, config, {str(SPM)!r})
    except GlapError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "cannot write" in line
        assert line.endswith("File too large; free some space or give another place. Nothing was changed")
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_a_killed_writer_leaves_the_earlier_model(copy):
    """Killed in the middle of writing; the next save clears what is left of it."""
    killed = f"""
import os, signal
from pathlib import Path
from glap_jax import folder
module, config = folder.load_module({str(copy)!r})
folder._put_in_place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
folder.save({str(copy)!r}, module, config)
"""
    assert subprocess.run([sys.executable, "-c", killed], capture_output=True).returncode == -9
    assert (copy.parent / ".model.partial").is_dir()
    module, config = folder.load_module(copy)
    folder.save(copy, module, config)
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def drop_config(place):
    (place / "config.json").unlink()


def foreign_config(place):
    (place / "config.json").write_text('{"model_type": "bert"}')


def newer_format(place):
    words = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(words | {"glap_jax_format": 9, "glap_jax_version": "7.0"}))


def unknown_key(place):
    text = (place / "config.json").read_text()
    (place / "config.json").write_text(text.replace('"joint"', '"joints"'))


def no_family(place):
    text = (place / "config.json").read_text()
    (place / "config.json").write_text(text.replace('"family": "glap"', '"kind": "glap"'))


def other_model(place):
    words = json.loads((place / "config.json").read_text())
    words["model"]["joint"] = 40
    words["model"]["audio"]["mlp_ratio"] = 2.0
    (place / "config.json").write_text(json.dumps(words))


def other_tower(place):
    words = json.loads((place / "config.json").read_text())
    words |= {"family": "dasheng", "model": words["model"]["audio"]}
    (place / "config.json").write_text(json.dumps(words))


def no_parameters(place):
    shutil.rmtree(place / "parameters")


def no_metadata(place):
    (place / "parameters" / "_METADATA").unlink()


def cut_data(place):
    largest = max(
        (path for path in (place / "parameters").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[:1000])


def no_data(place):
    for path in (place / "parameters").rglob("d/*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_config, "is no model folder"),
        (foreign_config, "is no model folder"),
        (newer_format, "has format 9 .* reads format 1; install glap_jax 7.0"),
        (unknown_key, "'joints'"),
        (no_family, "lacks 'family' or 'model'"),
        (other_model, r"another model's .*audio/blocks/layers/mlp/down/kernel is float32\[2, 128, 32\]"),
        (other_tower, "blocks/layers/attention/out/bias is missing"),
        (no_parameters, "has no 'parameters'"),
        (no_metadata, "cannot be read"),
    ],
)
def test_damaged_folders_are_one_line_errors(copy, damage, message):
    damage(copy)
    with pytest.raises(GlapError, match=message) as caught:
        folder.load_module(copy)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("damage", [cut_data, no_data])
def test_damaged_arrays_are_one_line_errors(copy, damage):
    """In a process of its own, as for the full disk."""
    damage(copy)
    script = f"""
from glap_jax import folder
from glap_jax.errors import GlapError
try:
    folder.load_module({str(copy)!r})
except GlapError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "cannot be read" in done.stdout
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_tokenizer_is_found(written, tmp_path):
    assert folder.find_tokenizer(written) == written / "spm.model"
    assert folder.find_tokenizer(tmp_path) is None
    (tmp_path / "sentencepiece.bpe.model").touch()
    assert folder.find_tokenizer(tmp_path) == tmp_path / "sentencepiece.bpe.model"
    (tmp_path / "other.model").touch()
    assert folder.find_tokenizer(tmp_path) is None
