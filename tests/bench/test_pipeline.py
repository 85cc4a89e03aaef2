"""`glap-jax bench pipeline` as a user types it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from glap_jax import cli
from glap_jax import config as configs
from glap_jax.bench import formats
from glap_jax.bench import pipeline as bench
from glap_jax.config import TrainConfig
from glap_jax.pipeline.decode import decode


def test_json(capsys):
    words = "configs/quickstart.py --batch 4 --batches 2 --workers 0 --data.crop-seconds 0.5 --json"
    assert cli.main(["bench", "pipeline", *words.split()]) == 0
    found = json.loads(capsys.readouterr().out)
    alone, threads = found.pop("rows")
    assert found == {"batch": 4, "batches": 2, "crop_seconds": 0.5}
    assert alone["what"] == "decoding alone, one thread"
    assert threads["what"].startswith("pipeline, ")
    for row in (alone, threads):
        # No clip is longer than it is cut to, and hardly one shorter.
        assert 0.2 * row["clips"] < row["real_time"] <= 0.5 * row["clips"]


def test_a_table_with_a_process(capsys, monkeypatch):
    monkeypatch.setattr(bench, "decoding", lambda config, clips: bench.Row("alone", 2.0, 4.0))
    rows = (
        bench.Row("a", 1.4, 2.6),
        bench.Row("b", 1.6, 4.8, 2),
        bench.Row("a", 1.2, 1.8),
        bench.Row("b", 1.8, 7.2, 2),
    )
    given = iter(rows)
    monkeypatch.setattr(bench, "loading", lambda config, workers, batches: next(given))
    assert cli.main("bench pipeline configs/quickstart.py --batches 1 --workers 1 2 --repeats 2".split()) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| what | clips/s | x real time | a process, of decoding alone |"
    assert rows == ["| alone | 2 | 4 | 1.00 |", "| a | 1 | 2 | 0.55 |", "| b | 2 | 6 | 0.75 |"]


def test_clips_encoded_anew(capsys):
    words = "configs/quickstart.py --batch 4 --batches 1 --workers 0 --clips 6 --data.crop-seconds 0.5 --json"
    forms = ("flac", "wav", "vorbis", "mp3", "opus", "flac-44100")
    assert cli.main(["bench", "pipeline", *words.split(), "--formats", *forms]) == 0
    found = json.loads(capsys.readouterr().out)["files"]
    assert tuple(found) == forms
    for rows in found.values():
        for row in rows:
            # All are as long as a crop, but that encoders add a little.
            assert row["real_time"] == pytest.approx(0.5 * row["clips"], rel=1e-3)


def test_encoded_clips_are_the_same_sound(tmp_path):
    data = configs.load(Path("configs/quickstart.py")).data
    data = dataclasses.replace(data, crop_seconds=0.75)
    found = formats.encode(data, ("wav", "flac-44100", "opus"), tmp_path, 2)
    wav, flac, opus = (next(bench._records(TrainConfig(data=each), 1)) for each in found.values())
    assert [record.suffix for record in (wav, flac, opus)] == ["wav", "flac", "opus"]
    assert wav.metadata == flac.metadata == opus.metadata
    sound = [decode(record.audio, sample_rate=16_000) for record in (wav, flac, opus)]
    assert [len(each) for each in sound[:2]] == [12_000] * 2
    np.testing.assert_allclose(sound[1], sound[0], atol=0.02)
    assert np.corrcoef(sound[2][:12_000], sound[0])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--batches 0", "must be above 0, and --workers"),
        ("--workers -1", "numbers of processes"),
        ("--clips 0", "--repeats and --clips must be above 0"),
        ("configs/nothing.py", "no file 'configs/nothing.py'"),
        ("configs/quickstart.py --data.root nowhere", "no shard matches"),
    ],
)
def test_mistakes(words, told, capsys):
    assert cli.main(["bench", "pipeline", *words.split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert told in line
