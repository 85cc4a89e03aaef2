"""`glap-jax bench packing` as a user types it."""

import json

import pytest

from glap_jax import cli


def test_json(capsys):
    words = "configs/quickstart.py --batch 24 --batches 2 --data.layout.row-seconds 4 --json"
    assert cli.main(["bench", "packing", *words.split()]) == 0
    found = json.loads(capsys.readouterr().out)
    padded, bucketed, packed = found.pop("rows")
    assert found == {"batch": 24, "batches": 2, "steps": 0}
    assert (padded["kind"], padded["rows"], padded["seconds"], padded["shapes"]) == ("padded", 24, 1.6, 1)
    assert (bucketed["rows"], packed["seconds"]) == (24, 4)
    for row in (bucketed, packed):
        # The same sound, in fewer samples.
        held = row["share"] * row["rows"] * row["seconds"]
        assert held == pytest.approx(padded["share"] * 24 * 1.6, rel=1e-6)
        assert row["share"] >= padded["share"]
    assert packed["share"] > padded["share"] + 0.1


@pytest.mark.slow
def test_a_table_with_training(capsys):
    words = "configs/quickstart.py --batch 8 --batches 1 --steps 1 --repeats 1 --kinds packed"
    small = "--model.audio.layers 1 --model.audio.width 16 --remat none"
    assert cli.main(["bench", "packing", *words.split(), *small.split()]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| clips | rows | seconds | shapes | sound in rows, % | training, clips/s | x real time |"
    kind, rows, seconds, shapes, _, clips, real_time = row.strip("| ").split(" | ")
    assert (kind, rows, seconds, shapes) == ("packed", "1.0", "10.00", "1")
    assert 0 < float(real_time) <= 1.6 * float(clips) + 0.1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--batches 2 --steps 3", "--steps at most --batches"),
        ("--kinds packed --audio-encoder hubert", "family 'hubert' would hear a clip's neighbours"),
        (
            "--kinds packed --audio-encoder whisper.tiny",
            "'model.audio.window' is silence, in which clips",
        ),
        ("--kinds packed --data.crop-seconds 12", "longer than the 10.08 s that the audio tower hears"),
        ("--kinds packed --data.layout.row-seconds 1", "no row is to be shorter than a clip"),
    ],
)
def test_mistakes(words, told, capsys):
    assert cli.main(["bench", "packing", "configs/quickstart.py", *words.split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert told in line
