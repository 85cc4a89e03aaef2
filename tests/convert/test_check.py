"""`glap-jax convert --check`: recorded activations of the references, and recordings that do not fit."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from glap_jax import cli, folder
from glap_jax.convert.check import check
from glap_jax.errors import GlapError
from glap_jax.families import from_torch


@pytest.fixture(scope="module")
def published(weights, tmp_path_factory):
    """A folder with the recorded GLAP as it might be published."""
    place = tmp_path_factory.mktemp("glap")
    save_file(dict(weights("glap")), place / "model.safetensors")
    given = {"audio": {"num_heads": 4}, "text": {"num_heads": 4}}
    (place / "config.json").write_text(json.dumps(given), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def recorded(golden, clip):
    """One clip of 10.08 s and a batch of captions, and what the reference gave for them."""
    io = golden("glap")
    return {
        "waveform": clip("cut161280"),
        "sample_rate": np.array(16_000),
        "audio": io["audio/cut161280/emb"],
        "audio_pooled": io["audio/cut161280/pooled"],
        "ids": io["text/batch/ids"],
        "mask": ~io["text/batch/padding_mask"],
        "text": io["text/batch/emb"],
    }


def write(path, arrays):
    np.savez(path, allow_pickle=False, **arrays)
    return str(path)


def test_a_published_checkpoint_is_converted_and_compared(published, recorded, tmp_path, capsys):
    """The reference pads a clip over 10.08 s with attended zeros: only with its quirks the outputs agree."""
    io, out = write(tmp_path / "io.npz", recorded), str(tmp_path / "model")
    assert cli.main(["convert", str(published), out, "--check", io]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "is off by" in said.err
    assert "try --compat" in said.err
    assert "text_pooled" not in said.out
    assert cli.main(["convert", out, "--check", io, "--compat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["output", "audio", "audio_pooled", "text"]
    assert all(float(line.split()[-1]) < 1e-5 for line in lines[1:])
    # What was written is the sound model.
    assert folder.read_config(out)[1].audio.mode == "sound"


def test_towers_alone(weights, golden, padded, capsys):
    dasheng = from_torch("dasheng", weights("dasheng"), {"num_heads": 4})
    tokens = golden("dasheng")["c3s/tokens"]
    waveform, lengths = padded([("c3s", 0, None), ("c0_5s", 0, None)])
    rows = np.full((2, *tokens.shape), 1e9, np.float32)
    rows[0], rows[1, :12] = tokens, golden("dasheng")["c0_5s/tokens"]
    # Padded tokens, here senseless, are not compared.
    check(dasheng, {"waveform": waveform, "lengths": lengths, "tokens": rows}, limit=1e-4)
    bert, io = from_torch("bert", weights("hf_bert"), {"num_attention_heads": 4}), golden("hf_bert")
    inputs = {"ids": io["input_ids"], "mask": io["attention_mask"]}
    check(bert, {**inputs, "tokens": io["last_hidden_state"]}, limit=1e-4)
    fusion, io = from_torch("clasp_fusion", weights("clasp")), golden("clasp")
    inputs = {"speech": io["ssl_features"], "image": io["image_features"]}
    check(fusion, {**inputs, "embedding": io["concat/out"]}, limit=1e-4)
    assert capsys.readouterr().out.count("embedding") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sample_rate": np.array(44_100)}, "recorded at 44100 Hz, and the model takes 16000"),
        ({"audios": np.zeros(3)}, "holds 'audios'; this model takes waveform, .* makes audio_tokens, "),
        ({"audio": np.zeros((1, 39), np.float32)}, r"'audio' is \[1, 39\] in the recording and \[1, 40\]"),
        ({"audio": np.full(40, np.nan, np.float32)}, "'audio' is off by nan"),
        ({"lengths": np.array([5, 6])}, "'lengths' is .*; give one a row"),
        ({"mask": np.ones((2, 3))}, "'mask' is .* and 'ids'"),
        ({"waveform": np.zeros((1, 2, 3))}, "'waveform' is .*; give one row a clip"),
        ({"waveform": None, "audio": None, "audio_pooled": None, "text": None}, "holds no output"),
    ],
)
def test_recordings_that_do_not_fit(weights, recorded, change, words):
    given = {"audio": {"num_heads": 4}, "text": {"num_heads": 4}}
    module = from_torch("glap", weights("glap"), given, compat=True)
    arrays = {name: array for name, array in {**recorded, **change}.items() if array is not None}
    arrays["waveform"] = arrays["waveform"][..., :8000] if "waveform" in arrays else None
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(GlapError, match=words) as raised:
        check(module, arrays, limit=1e-4)
    assert "\n" not in str(raised.value)


def test_files_that_are_no_recordings(published, tmp_path, capsys):
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4 and no more")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "words.npz", words=np.array(["a"]))
    for name, words in (
        ("cut.npz", "cannot be read"),
        ("array.npy", "cannot be read"),
        ("none.npz", "cannot be read"),
        ("words.npz", "record numbers"),
    ):
        assert cli.main(["convert", str(published), "--check", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "nothing to do"), (["OUT", "--compat"], "--compat acts on --check only")],
)
def test_commands_that_make_no_sense(published, words, message, capsys, tmp_path):
    words = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    assert cli.main(["convert", str(published), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_hub_name_without_a_network(tmp_path, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert cli.main(["convert", "hf:mispeech/GLAP", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "'hf:mispeech/GLAP' cannot be downloaded" in error
    assert error.count("\n") == 1


def test_a_hub_name(published, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, *, allow_patterns):
        asked.append((name, allow_patterns[-1]))
        return str(published)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert cli.main(["convert", "hf:mispeech/GLAP", str(tmp_path / "out")]) == 0
    assert folder.is_model(tmp_path / "out")
    assert asked == [("mispeech/GLAP", "*.safetensors")]
