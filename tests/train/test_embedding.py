"""`glap-jax data embed-text` and `embed-audio` as they are typed: wherever and however often it is done."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glap_jax import cli
from glap_jax.errors import GlapError
from glap_jax.train import embedding

# Lengths of recordings, of which half a second is heard.
SECONDS = (0.3, 0.5, 1.2)

CONFIG = """
from glap_jax.audio.dasheng import DashengConfig
from glap_jax.config import DataConfig, GroupConfig, ModelConfig, TrainConfig
from glap_jax.text.sonar import SonarConfig

config = TrainConfig(
    model=ModelConfig(
        audio=DashengConfig(width=16, layers=2, heads=2, mlp_ratio=2.0, chunk_tokens=12),
        text=SonarConfig(width=16, layers=2, heads=2, hidden=32, vocabulary=1706),
        joint=16,
    ),
    data=DataConfig(
        train=(GroupConfig("tones", ("*.tar",)),), crop_seconds=0.5, eval_seconds=0.5, max_tokens=16
    ),
    batch=8,
    frozen=(("^(audio|text)/", True), (".*", False)),
)
"""


@pytest.fixture
def root(tmp_path, shard):
    """A folder of twelve shards of two clips, some longer than what is heard of them."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(Path("data/samples/spm.model"), folder)
    for number in range(12):
        shard(folder / f"{number:02d}.tar", [f"{number}{key}" for key in "ab"], seconds=SECONDS[number % 3])
    return folder


@pytest.fixture(params=["text", "audio"])
def tower(request):
    return request.param


@pytest.fixture
def words(tmp_path, root, tower, cache_folder):
    """The words of the command, but for the folder that they end with."""
    (tmp_path / "tiny.py").write_text(CONFIG)
    words = ["data", f"embed-{tower}", str(tmp_path / "tiny.py"), "--data.root", str(root)]
    return [*words, f"--data.{tower}-cache"]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def vectors_of(folder, shard):
    """The vectors of a shard."""
    accounts = {path: json.loads(path.read_text())["shard"] for path in (folder / "parts").glob("*.json")}
    (account,) = (path for path, its in accounts.items() if its.endswith(shard))
    return np.load(account.with_name(account.name.replace("keys.npy.json", "rows.npy")))


@pytest.mark.slow
def test_a_killed_run_goes_on_and_processes_find_the_same(tmp_path, words, killed):
    """kill -9 in the middle: what was done stays, the rest comes, equal to what was made without it."""
    out = tmp_path / "killed"
    done = killed([*words, out], out / "parts", "*.keys.npy.json")
    assert 2 <= len(done) < 12
    assert not (out / "index.npy").exists()
    assert cli.main([*words, str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert cli.main([*words, str(tmp_path / "two"), "--workers", "1"]) == 0
    assert contents(out) == contents(tmp_path / "two")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["vectors"] == 24
    sums = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "parts").glob("*.npy")}
    accounts = manifest["shards"]
    assert {account[name] for account in accounts for name in ("sha256", "rows_sha256")} == sums


def open_tower(*_):
    """What stands for a tower, in functions that need none."""
    tower = lambda rows, real: np.stack([rows.sum(1), rows.std(1)], 1).astype(np.float32)  # noqa: E731
    return tower, "a tower"


def test_what_is_done_stays_and_what_is_new_or_changed_comes(
    monkeypatch, tmp_path, words, root, shard, tower
):
    monkeypatch.setattr(embedding, "open_tower", open_tower)
    out = tmp_path / "out"
    assert cli.main([*words, str(out)]) == 0
    before = times(out / "parts")
    if tower == "audio":
        short, heard, long = (vectors_of(out, f"{number:02d}.tar") for number in range(3))
        np.testing.assert_array_equal(long, heard)
        assert (short != heard).any()
    assert cli.main([*words, str(out)]) == 0
    assert times(out / "parts") == before
    shard(root / "00.tar", ["0a", "0c"], seconds=0.4)
    shard(root / "new.tar", ["0d"])
    assert cli.main([*words, str(out)]) == 0
    after = times(out / "parts")
    assert before.items() <= after.items()
    assert len(after) == len(before) * 14 // 12
    assert len(vectors_of(out, "new.tar")) == 1


def test_a_worker_with_another_tower(monkeypatch, tmp_path, words, tower):
    monkeypatch.setattr(embedding, "open_tower", open_tower)
    planned = []
    monkeypatch.setattr(embedding.work, "run", lambda function, tasks, *_, **__: planned.extend(tasks))
    assert cli.main([*words, str(tmp_path / "out")]) == 0
    monkeypatch.setattr(embedding, "open_tower", lambda *_: (print, "another"))
    with pytest.raises(GlapError, match=f"a worker has another {tower} tower than this process"):
        embedding.embed_shard(planned[0])


@pytest.mark.beam
@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="needs the extra `beam`")
def test_beam_does_the_same(tmp_path, words):
    assert cli.main([*words, str(tmp_path / "here")]) == 0
    command = [sys.executable, "-m", "glap_jax.cli", *words, str(tmp_path / "beam")]
    subprocess.run([*command, "--beam", "runner=DirectRunner"], check=True)
    assert contents(tmp_path / "here") == contents(tmp_path / "beam")
