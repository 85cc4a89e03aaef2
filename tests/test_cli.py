"""The command line as a user types it."""

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

import glap_jax
from glap_jax import cli

ROOT = Path(__file__).parents[1]
VERBS = (
    *("quickstart", "train", "data embed-text", "data embed-audio", "eval", "embed", "score", "convert"),
    *("export", "plan", "bench encode"),
)
# The smallest run that is still one: a few steps of a narrow model on the embedded recordings.
SMALL = (
    "--steps 4 --batch 8 --model.audio.width 16 --model.audio.layers 1 --model.audio.heads 2 "
    "--model.text.width 12 --model.text.hidden 16 --model.joint 16 --optimizer.warmup-steps 2 "
    "--checkpoint-every 2 --log-every 1"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run folder, made by the command line from the repository's root."""
    out = tmp_path_factory.mktemp("cli") / "run"
    here = os.getcwd()
    os.chdir(ROOT)
    try:
        assert cli.main(["train", "configs/quickstart.py", "--out", str(out), *SMALL]) == 0
    finally:
        os.chdir(here)
    return out


def fails(words, capsys):
    """Runs a command that must fail as a user's mistake; returns the one line that it prints."""
    capsys.readouterr()
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("glap-jax: error: ")
    return line


def test_usage_names_every_verb(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"glap-jax {verb}" in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_every_argument(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*verb.split(), "--help"])
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert f"usage: glap-jax {verb}" in printed
    assert len(printed.splitlines()) > 8


def test_help_of_a_configuration_lists_its_keys(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "configs/quickstart.py", "--help"])
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert "--optimizer.learning-rate" in printed
    assert "--data.bad-share" in printed


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"glap-jax {glap_jax.__version__}"


def test_mistakes_in_words(capsys):
    assert "did you mean 'train'" in fails(["trian"], capsys)
    assert "CAPTIONS" in fails(["score", "clip.wav"], capsys)
    assert "--langage" in fails(["score", "clip.wav", "a", "--langage", "x"], capsys)
    assert "no file 'nothing.py'" in fails(["train", "nothing.py"], capsys)
    assert "there is no 'nothing'" in fails(["eval", "nothing"], capsys)


def test_unknown_key_and_wrong_type(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert "--learnng" in fails(["train", "configs/quickstart.py", "--learnng", "3"], capsys)
    assert "--batch" in fails(["train", "configs/quickstart.py", "--batch", "many"], capsys)


def test_train_leaves_what_it_promises(run):
    for name in (
        "model/config.json",
        "metrics.csv",
        "training.png",
        "evaluation/report.md",
        "evaluation.csv",
    ):
        assert (run / name).is_file(), name
    assert "chance" in (run / "evaluation" / "report.md").read_text()


def test_train_refuses_to_overwrite(run, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = fails(["train", "configs/quickstart.py", "--out", str(run), *SMALL], capsys)
    assert "--resume" in line


@pytest.mark.parametrize(
    ("environment", "finished", "status"), [("", True, 0), ("", False, 0), ("143", False, 143)]
)
def test_status_of_a_run_that_a_signal_stopped(environment, finished, status, monkeypatch):
    """Schedulers start it again by the status that they ask for; users see an ordinary end."""
    from glap_jax.train import loop

    monkeypatch.chdir(ROOT)
    if environment:
        monkeypatch.setenv("GLAP_JAX_STOPPED", environment)
    monkeypatch.setattr(loop, "train", lambda *_, **__: types.SimpleNamespace(finished=finished))
    words = ["train", "configs/quickstart.py"]
    if finished:
        assert cli.main(words) == status
    else:
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == status


def test_whoever_reads_may_leave():
    """As `| head` does; Python would show a traceback."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "glap_jax.cli", "eval", "--tasks"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_eval(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["eval", str(run), "configs/quickstart.py", "-o", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert "sound_music" in printed
    assert {"report.md", "report.json", "recall.png"} <= {
        path.name for path in (tmp_path / "report").iterdir()
    }


def test_score_and_embed(run, tmp_path, capsys):
    draw = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * draw.standard_normal(9000 + number), 22_050)
    (tmp_path / "4.wav").write_text("no sound")
    clip, captions = str(tmp_path / "0.wav"), "a dog;un chien;犬"
    assert cli.main(["score", clip, captions, "--model", str(run)]) == 0
    printed = capsys.readouterr().out
    assert all(caption in printed for caption in captions.split(";"))
    out = tmp_path / "out.npz"
    assert cli.main(["embed", str(tmp_path), "-o", str(out), "--model", str(run)]) == 0
    with np.load(out) as found:
        assert found["embeddings"].shape == (3, 16)
        assert [Path(path).name for path in found["paths"]] == ["0.wav", "1.wav", "2.wav"]
    line = fails(["score", clip, "a dog", "--language", "en", "--model", str(run)], capsys)
    assert "'en'" in line
    assert "did you mean eng_Latn" in line


def test_quickstart_outside_a_clone_says_so(monkeypatch, tmp_path, capsys):
    from glap_jax import quickstart

    monkeypatch.setattr(quickstart, "__file__", str(tmp_path / "glap_jax" / "quickstart.py"))
    assert "clone" in fails(["quickstart", "--out", str(tmp_path / "run")], capsys)


@pytest.mark.slow
def test_quickstart_and_again(tmp_path):
    """As a user types it, in a process of its own, shortened; the second call trains nothing anew."""
    words = [
        sys.executable,
        "-m",
        "glap_jax.cli",
        "quickstart",
        "--out",
        str(tmp_path / "run"),
        "--steps",
        "12",
    ]
    environment = {**os.environ, "XLA_FLAGS": ""}
    first, again = (
        subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        for _ in range(2)
    )
    for result in (first, again):
        assert result.returncode == 0, result.stderr
        assert "chance" in result.stdout
        assert result.stdout.count("_Latn)") >= 5
        assert "Type next:" in result.stdout
    assert (tmp_path / "run" / "model" / "spm.model").is_file()
    tables = [result.stdout.split(" s in all.")[0].rsplit("\n", 1)[0] for result in (first, again)]
    assert tables[0] == tables[1]
