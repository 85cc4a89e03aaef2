"""`glap-jax score` and `glap-jax embed` as functions."""

import logging
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx

from glap_jax import commands, folder
from glap_jax.audio.dasheng import DashengConfig
from glap_jax.config import ModelConfig
from glap_jax.errors import GlapError
from glap_jax.inference import load
from glap_jax.model import DualEncoder
from glap_jax.text.sonar import SonarConfig

SPM = Path(__file__).parent / "golden" / "glap" / "spm.model"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = ModelConfig(
        audio=DashengConfig(width=32, layers=1, heads=2),
        text=SonarConfig(width=32, layers=1, heads=2, hidden=64, vocabulary=1006, max_tokens=32),
        joint=24,
    )
    place = tmp_path_factory.mktemp("run") / "model"
    folder.save(place, DualEncoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0)), config, SPM)
    return str(place)


@pytest.fixture
def recordings(tmp_path):
    """Two good recordings in a tree, and files that are none."""
    place = tmp_path / "recordings"
    (place / "deep").mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 12_000).astype(np.float32)
    soundfile.write(place / "b.flac", noise, 16_000)
    soundfile.write(place / "deep" / "a.WAV", noise[:5000], 22_050)
    (place / "deep" / "notes.txt").write_text("a list of birds")
    (place / ".hidden.wav").write_text("not for listening")
    return place


def test_score_prints_a_sorted_table(model, recordings, capsys):
    commands.score(model, recordings / "b.flac", "a dog; un chien;犬;;")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("b.flac")
    rows = [line.split(maxsplit=2) for line in lines[3:]]
    assert {row[2] for row in rows} == {"a dog", "un chien", "犬"}
    scores = [float(row[0]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    loaded = load(model)
    expected = loaded.score(loaded.encode_audio([recordings / "b.flac"]), loaded.encode_text([rows[0][2]]))
    assert scores[0] == pytest.approx(float(expected[0, 0]), abs=0.01)
    assert all(0 <= float(row[1]) <= 1 for row in rows)


@pytest.mark.parametrize(
    ("clip", "captions", "language", "message"),
    [
        ("b.flac", " ; ", "eng_Latn", "no captions"),
        ("b.flac", "a dog", "english", "'english' is no NLLB code"),
        ("missing.wav", "a dog", "eng_Latn", "missing"),
        ("deep/notes.txt", "a dog", "eng_Latn", "not_audio"),
    ],
)
def test_score_errors_are_one_line(model, recordings, clip, captions, language, message):
    with pytest.raises(GlapError, match=message):
        commands.score(model, recordings / clip, captions, language)


def test_embed_walks_a_folder_and_names_bad_files(model, recordings, tmp_path, capsys, caplog):
    (recordings / "broken.ogg").write_text("text in disguise " * 100)
    (recordings / "silent.mp3").touch()
    out = tmp_path / "new" / "out.npz"
    with caplog.at_level(logging.WARNING):
        commands.embed(recordings, out, model)
    with np.load(out, allow_pickle=False) as found:
        assert list(found["paths"]) == [str(recordings / "b.flac"), str(recordings / "deep" / "a.WAV")]
        expected = load(model).encode_audio([recordings / "b.flac", recordings / "deep" / "a.WAV"])
        np.testing.assert_allclose(found["embeddings"], expected, atol=3e-6)
        assert found["embeddings"].dtype == np.float32
    assert "broken.ogg: not_audio" in caplog.text
    assert "silent.mp3: empty" in caplog.text
    printed = capsys.readouterr().out
    assert "embedded 2 of 4 recordings" in printed
    assert "skipped 2 (1 empty, 1 not_audio)" in printed
    assert [path.name for path in out.parent.iterdir()] == ["out.npz"]


def test_embed_takes_a_single_file(model, recordings, tmp_path):
    commands.embed(recordings / "b.flac", tmp_path / "out.npz", model)
    with np.load(tmp_path / "out.npz") as found:
        assert found["embeddings"].shape == (1, 24)


def test_embed_errors_come_before_the_work(model, recordings, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "empty", "no recordings in"),
        (tmp_path / "gone", "no file or folder"),
    ):
        with pytest.raises(GlapError, match=message):
            commands.embed(source, tmp_path / "out.npz", model)
    with pytest.raises(GlapError, match="is a folder"):
        commands.embed(recordings, tmp_path / "empty", model)
    with pytest.raises(GlapError, match="cannot make"):
        commands.embed(recordings, recordings / "b.flac" / "out.npz", model)
    with pytest.raises(GlapError, match="glap-jax quickstart"):
        commands.embed(recordings, tmp_path / "out.npz", str(tmp_path / "no model"))


def test_embed_of_bad_files_only_writes_nothing(model, tmp_path):
    place = tmp_path / "bad"
    place.mkdir()
    (place / "a.wav").write_text("text in disguise " * 100)
    with pytest.raises(GlapError, match=r"none of 1 recordings .* can be used \(1 not_audio\)"):
        commands.embed(place, tmp_path / "out.npz", model)
    assert not (tmp_path / "out.npz").exists()


def test_embed_on_a_full_disk_keeps_the_earlier_file(model, recordings, tmp_path, monkeypatch):
    out = tmp_path / "out.npz"
    shutil.copy(recordings / "b.flac", out)
    before = out.read_bytes()

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(GlapError, match=r"cannot write .*No space left on device"):
        commands.embed(recordings, out, model)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*partial"))
