"""What all launch scripts share: shellcheck, help, and one-line errors."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = ("local.sh", "slurm.sh", "tpu_vm.sh", "xpk.sh")
TPU = ("--name", "glap", "--zone", "z", "--type", "v6e-256")
XPK = ("--name", "glap", "--cluster", "pods", "--type", "v6e-256")


def test_shellcheck_finds_nothing():
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    found = subprocess.run([shellcheck, *sorted(LAUNCH.glob("*.sh"))], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script, launch):
    assert os.access(LAUNCH / script, os.X_OK)
    shown = launch(script, "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"usage: launch/{script} ")
    assert "--dry-run" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 110


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        ("local.sh", [], "nothing to run; end with the words of a glap-jax command"),
        ("local.sh", ["--proceses", "3", "train", "x.py"], "no option '--proceses'; local.sh --help lists"),
        ("local.sh", ["--processes"], "--processes needs a value"),
        ("local.sh", ["--processes", "two", "train"], "whole number of at least 1, not 'two'"),
        ("local.sh", ["--processes=0", "train"], "whole number of at least 1, not '0'"),
        ("local.sh", ["--dry-run=yes", "train"], "--dry-run takes no value"),
        ("local.sh", ["configs/glap.py"], "write: train configs/glap.py"),
        ("local.sh", ["--program", "nothing-here", "train"], "no program 'nothing-here'; activate"),
        ("slurm.sh", ["--dry-run", "train", "nothing.py"], "no file 'nothing.py'"),
        ("slurm.sh", ["--dry-run", "--gpus", "-1", "eval"], "--gpus must be a whole number"),
        ("tpu_vm.sh", ["--name", "x", "train", "configs/glap.py"], "--zone is missing"),
        ("tpu_vm.sh", [*TPU[:5], "v9-8", "--dry-run", "eval"], "no runtime is known for --type 'v9-8'"),
        ("tpu_vm.sh", [*TPU, "--name", "My Pod", "--dry-run", "eval"], "not 'My Pod'"),
        ("tpu_vm.sh", [*TPU, "--dry-run", "train", "mine.py"], "'mine.py' is not in this clone's last"),
        ("xpk.sh", ["--name", "x", "--type", "v6e-8", "train", "configs/glap.py"], "--cluster is missing"),
        ("xpk.sh", [*XPK, "--dry-run", "train", "configs/glap.py", "--name", "a\nb"], "line break"),
        ("xpk.sh", [*XPK, "--dry-run", "train", "nothing.py"], "no file 'nothing.py' in this clone"),
    ],
)
def test_mistakes_are_one_line(script, words, says, launch):
    refused = launch(script, *words)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"{script}: error: ")
    assert says in line
    assert refused.stdout == ""
