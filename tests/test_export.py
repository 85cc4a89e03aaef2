"""Encoders as StableHLO programs: run in a process without this package, on any number of rows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax import cli, export, folder
from glap_jax.audio.dasheng import DashengConfig
from glap_jax.audio.whisper import WhisperConfig
from glap_jax.config import ModelConfig
from glap_jax.errors import GlapError
from glap_jax.model import DualEncoder
from glap_jax.text.sonar import SonarConfig

SPM = Path(__file__).parent / "golden" / "glap" / "spm.model"
TEXT = SonarConfig(width=16, layers=2, heads=2, hidden=32, vocabulary=1006, max_tokens=32)
CONFIG = ModelConfig(
    audio=DashengConfig(width=16, layers=2, heads=2, chunk_tokens=10), text=TEXT, joint=12, temperature=0.1
)
# Knows JAX and safetensors only; gives the largest difference from what was recorded, for 1 and 3 rows.
FRESH = """
import json, sys
from pathlib import Path
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file
folder = Path(sys.argv[1])
recorded = np.load(folder / "recorded.npz")
programs = json.loads((folder / "export.json").read_text())["programs"]
def run(name, *inputs):
    program = export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu"), program.platforms
    return program.call(load_file(folder / f"{name}.safetensors"), *inputs)
for rows in (1, 3):
    clips = recorded["waveform"][:rows], recorded["lengths"][:rows]
    audio = run("audio", *(run("frontend", *clips) if "frontend" in programs else clips))
    text = run("text", recorded["ids"][:rows], recorded["mask"][:rows])
    print(np.abs(audio - recorded["audio"][:rows]).max(), np.abs(text - recorded["text"][:rows]).max())
assert "glap_jax" not in sys.modules and "flax" not in sys.modules
"""


@pytest.fixture(scope="module")
def module():
    return nnx.jit(lambda: DualEncoder(CONFIG, rngs=nnx.Rngs(3)))()


@pytest.fixture(scope="module")
def inputs():
    draw = np.random.default_rng(0)
    ids = draw.integers(1, 1006, (3, 12)).astype(np.int32)
    return {
        # Longer than one chunk of the encoder.
        "waveform": draw.standard_normal((3, 9600)).astype(np.float32) / 4,
        "lengths": np.array([9600, 700, 5000], np.int32),
        "ids": ids,
        "mask": np.arange(12) < np.array([[12], [3], [7]]),
    }


@pytest.fixture(scope="module")
def model(module, tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "model"
    folder.save(place, module, CONFIG, SPM)
    return place


@pytest.fixture(scope="module", params=["inside", "apart"])
def exported(request, model, tmp_path_factory):
    """Programs that the command line wrote."""
    out = tmp_path_factory.mktemp("programs") / request.param
    words = f"export {model} {out} --seconds 0.6 --tokens 12 --frontend {request.param}"
    assert cli.main(words.split()) == 0
    return out


def test_programs_run_without_this_package(exported, module, inputs, tmp_path):
    place = Path(shutil.copytree(exported, tmp_path / "copy"))
    arrays = {name: jnp.asarray(array) for name, array in inputs.items()}
    audio = module.encode_audio(arrays["waveform"], arrays["lengths"])
    text = module.encode_text(arrays["ids"], arrays["mask"])
    np.savez(place / "recorded.npz", audio=audio, text=text, **inputs)
    done = subprocess.run([sys.executable, "-c", FRESH, str(place)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    differences = [float(word) for word in done.stdout.split()]
    assert len(differences) == 4
    assert max(differences) <= 1e-6


def test_the_loader_and_what_is_said_of_the_programs(exported, module, inputs):
    programs = export.load(exported)
    arrays = {name: jnp.asarray(array[:2]) for name, array in inputs.items()}
    found = programs.encode_audio(arrays["waveform"], arrays["lengths"])
    np.testing.assert_allclose(found, module.encode_audio(arrays["waveform"], arrays["lengths"]), atol=1e-6)
    found = programs.encode_text(arrays["ids"], arrays["mask"])
    np.testing.assert_allclose(found, module.encode_text(arrays["ids"], arrays["mask"]), atol=1e-6)
    words = json.loads((exported / "export.json").read_text())
    assert (words["sample_rate"], words["tokenizer"]) == (16_000, "spm.model")
    assert (exported / "spm.model").read_bytes() == SPM.read_bytes()
    waveform = words["programs"]["frontend" if exported.name == "apart" else "audio"]["inputs"]["waveform"]
    assert waveform == {"shape": ["b", 9600], "dtype": "float32"}
    assert words["programs"]["text"]["outputs"] == [{"shape": ["b", 12], "dtype": "float32"}]
    # Parameters stand beside the programs, which hold no more than filters and tables.
    assert (exported / "audio.stablehlo").stat().st_size < 1e6


def test_an_export_replaces_an_earlier_one_and_nothing_else(model, exported, tmp_path):
    place = Path(shutil.copytree(exported, tmp_path / "copy"))
    export.save(model, place, platforms=("cpu",), seconds=0.1, tokens=99)
    assert not (place / "frontend.stablehlo").exists()
    words = export.load(place).words
    assert words["platforms"] == ["cpu"]
    assert words["programs"]["text"]["inputs"]["ids"]["shape"] == ["b", 32]
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").touch()
    with pytest.raises(GlapError, match="holds something else"):
        export.save(model, tmp_path / "letters", seconds=0.1)


def test_models_that_cannot_be_exported_so(tmp_path, capsys):
    config = ModelConfig(audio=WhisperConfig(width=16, layers=1, heads=2), text=TEXT, joint=12)
    module = nnx.jit(lambda: DualEncoder(config, rngs=nnx.Rngs(0)))()
    folder.save(tmp_path / "whisper", module, config)
    words = f"export {tmp_path / 'whisper'} {tmp_path / 'out'} --frontend apart"
    assert cli.main(words.split()) == 2
    assert "the frontend of 'whisper' cannot stand apart" in capsys.readouterr().err
    with pytest.raises(GlapError, match="must be more than nothing"):
        export.save(tmp_path / "whisper", tmp_path / "out", seconds=0.0)
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_no_programs(exported, tmp_path):
    with pytest.raises(GlapError, match=r"has no export\.json"):
        export.load(tmp_path)
    place = Path(shutil.copytree(exported, tmp_path / "copy"))
    (place / "text.stablehlo").write_bytes(b"half")
    with pytest.raises(GlapError, match="is damaged") as raised:
        export.load(place)
    assert "\n" not in str(raised.value)
