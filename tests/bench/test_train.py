"""`glap-jax bench train`: what it prints, and that PyTorch's step computes the same."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from glap_jax import cli
from glap_jax.bench import device, references
from glap_jax.bench import train as bench
from glap_jax.errors import GlapError

TINY = (
    "configs/quickstart.py --batch 2 --repeats 1 --data.crop-seconds 0.5 --model.audio.width 16 "
    "--model.audio.layers 1 --model.text.width 24 --model.joint 16 --loss.positives pair"
).split()
# Nothing is read from there.
CACHED = "--frozen ^text/ True .* False --data.text-cache nowhere".split()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Products of small matrices for the peak, and this process's allocator left as it is."""
    monkeypatch.setattr(device, "SIZES", {"cpu": 64})
    monkeypatch.setattr("glap_jax.memory.keep", lambda: False)


def test_a_table(capsys, monkeypatch):
    rows = [bench.Row("ours", 200.4, 180.6, 5.0, 10.0, 5.0, 0.456, 9.0, 1_234_000_000)]
    rows += [bench.Row("torch", 400.0, 390.0, 2.5, 5.0, 2.5, 0.228, 9.0)]
    monkeypatch.setattr(bench, "measure", lambda config, **options: rows)
    assert cli.main(["bench", "train", *TINY, "--data.layout.kind", "packed"]) == 0
    head, _, ours, torch, _, about = capsys.readouterr().out.splitlines()
    assert head == "| step of | ms | best, ms | clips/s | x real time | MFU, % | peak memory, GB |"
    assert ours == "| glap_jax | 200 | 181 | 10.00 | 5.0 | 45.6 | 1.23 |"
    assert torch == "| PyTorch | 400 | 390 | 5.00 | 2.5 | 22.8 | – |"
    assert about.startswith("quickstart, batch 2, 0.5 s, float32, remat full, adam: ")
    assert about.endswith("as in padded batches; those of this run are packed")


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "more",
    [(), ("--frozen", "^text/", "True", ".*", "False"), (*CACHED,)],
    ids=["trained", "frozen", "cached"],
)
def test_json_beside_torch(capsys, more):
    pytest.importorskip("torch", reason="install the extra 'torch'")
    pytest.importorskip("dasheng", reason="install the extra 'bench'")
    pytest.importorskip("glap_model", reason="install the extra 'bench'")
    assert cli.main(["bench", "train", *TINY, "--against", "torch", "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    ours, torch = found["rows"]
    assert found["loss_difference"] < 1e-5
    assert found["throughput_ratio"] == pytest.approx(ours["clips_per_second"] / torch["clips_per_second"])


def test_json(capsys):
    assert cli.main(["bench", "train", *TINY, *CACHED, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]
    seconds = row["milliseconds"] / 1e3
    assert (found["batch"], found["seconds"], found["dtype"]) == (2, 0.5, "float32")
    assert row["clips_per_second"] == pytest.approx(2 / seconds)
    assert row["audio_seconds_per_second"] == pytest.approx(1 / seconds)
    speed = found["model_flops"] / seconds
    assert row["mfu"] == pytest.approx(speed / found["matmul_flops_per_second"])
    assert row["peak_bytes"] is None
    assert np.isfinite(row["loss"])


def touch(count):
    bytearray(count)[::4096] = b"1" * len(range(0, count, 4096))


@pytest.mark.slow
def test_growth_is_that_of_a_process_of_its_own():
    grown = device.growth(touch, 2**28)
    assert grown is None or 0.9 * 2**28 < grown < 1.5 * 2**28


@pytest.mark.parametrize(("most", "found"), [(8, 8), (15, 15), (100, 96), (4097, 4096)])
def test_the_largest_batch_that_fits(most, found):
    tried = []
    assert bench.largest(lambda rows: tried.append(rows) or rows <= most) == found
    assert len(tried) < 15


def test_nothing_fits():
    with pytest.raises(GlapError, match="not even a batch of 8 fits"):
        bench.largest(lambda rows: False)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--batch 0", "--batch must be a number above 0 or 'largest'"),
        ("--batch many", "--batch must be a number above 0 or 'largest'"),
        ("--repeats 0", "--repeats above 0"),
        ("--batch largest", "this device (cpu) does not tell its memory; give --batch a number"),
        ("--against torch --loss.positives clip", "'loss.positives' pair, and this is clip"),
        ("--steps none", "--steps"),
    ],
)
def test_mistakes(words, told, capsys):
    assert cli.main(["bench", "train", *TINY, *words.split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert told in line


def test_a_library_that_is_not_there(monkeypatch, capsys):
    absent = SimpleNamespace(import_module=lambda name: exec("import no_such_module"))
    monkeypatch.setattr(references, "importlib", absent)
    assert cli.main(["bench", "train", *TINY, "--against", "torch"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'glap_jax[bench]'" in line
