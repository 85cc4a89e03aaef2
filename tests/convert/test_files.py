"""Reading and writing checkpoint files, and refusing what is damaged, foreign or dangerous."""

import json
from pathlib import Path, PurePosixPath

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from glap_jax import folder
from glap_jax.convert.command import convert
from glap_jax.convert.readers import open_checkpoint
from glap_jax.convert.writers import save_pt, save_safetensors
from glap_jax.errors import GlapError
from glap_jax.families import from_torch, to_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.array([1.5, -2], np.float16),
    "brain": np.array([[1.5], [3]], jnp.bfloat16),
    "count": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "byte": np.array([1, 2, 3], np.uint8),
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="install the extra 'torch'")


def tensor(torch, array):
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def test_safetensors_both_ways(tmp_path, assert_equal):
    path = tmp_path / "model.safetensors"
    save_safetensors(path, TENSORS)
    assert_equal(open_checkpoint(path), TENSORS)
    assert_equal(safetensors.numpy.load_file(path), TENSORS)
    plain = {key: value for key, value in TENSORS.items() if key != "brain"}
    safetensors.numpy.save_file(plain, path, metadata={"format": "pt"})
    assert_equal(open_checkpoint(path), plain)
    assert_equal(open_checkpoint(tmp_path), plain)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_shards_and_the_configuration_beside_them(tmp_path, assert_equal):
    keys = sorted(TENSORS)
    save_safetensors(tmp_path / "one.safetensors", {key: TENSORS[key] for key in keys[:2]})
    save_safetensors(tmp_path / "two.safetensors", {key: TENSORS[key] for key in keys[2:]})
    places = {key: ("one" if key in keys[:2] else "two") + ".safetensors" for key in keys}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"embed_size": 8}', encoding="utf-8")
    found = open_checkpoint(tmp_path)
    assert_equal(found, TENSORS)
    assert found.config == {"embed_size": 8}
    index.write_text(json.dumps({"weight_map": places | {"lost": "one.safetensors"}}), encoding="utf-8")
    with pytest.raises(GlapError, match="lack 1 tensors, such as 'lost'"):
        open_checkpoint(index)


def test_a_family_in_shards(tmp_path, weights, assert_equal):
    """As the hub keeps large models: shards, an index that counts bytes, and the sizes beside them."""
    tensors, source = dict(weights("ced")), tmp_path / "published"
    source.mkdir()
    keys = sorted(tensors)
    names = {key: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, key in enumerate(keys)}
    for name in set(names.values()):
        part = {key: tensors[key] for key in keys if names[key] == name}
        safetensors.numpy.save_file(part, source / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(map(np.size, tensors.values()))}, "weight_map": names}
    (source / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (source / "config.json").write_text('{"num_heads": 4}', encoding="utf-8")
    convert(source, tmp_path / "model", family="ced")
    assert_equal(to_checkpoint(folder.load_module(tmp_path / "model")[0]), tensors)


@pytest.mark.parametrize("wrapped", ["flat", "model", "state_dict", "legacy"])
def test_torch_files(torch, tmp_path, wrapped, assert_equal):
    state = {key: tensor(torch, value) for key, value in TENSORS.items()}
    path = tmp_path / "x.pt"
    config = {"out": Path("a/b"), "pure": PurePosixPath("c"), "sizes": (1, 2)}
    stored = {wrapped: state, "config": config} if wrapped in ("model", "state_dict") else state
    torch.save(stored, path, _use_new_zipfile_serialization=wrapped != "legacy")
    found = open_checkpoint(path)
    assert_equal(found, TENSORS)
    assert found.config == (config if wrapped in ("model", "state_dict") else {})


def test_views_that_share_memory_are_read_as_what_they_show(torch, tmp_path):
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    views = {"turned": whole.t(), "part": whole[1:3, 2:5], "same": whole}
    torch.save(views, tmp_path / "x.pth")
    found = open_checkpoint(tmp_path / "x.pth")
    for key, value in views.items():
        np.testing.assert_array_equal(found[key], value.numpy())


def test_torch_reads_what_is_written(torch, tmp_path, weights, assert_equal):
    tensors = weights("glap")
    module = from_torch("glap", tensors, {"audio": {"num_heads": 4}, "text": {"num_heads": 4}})
    save_pt(tmp_path / "x.pt", to_checkpoint(module))
    stored = torch.load(tmp_path / "x.pt", weights_only=True)
    assert_equal({key: value.numpy() for key, value in stored["model"].items()}, tensors)
    assert all(value.is_contiguous() for value in stored["model"].values())
    assert stored["config"]["model_args"]["embed_size"] == 40


class Dangerous:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_in_a_file_is_executed(torch, tmp_path):
    trace = tmp_path / "trace"
    torch.save({"model": Dangerous(trace)}, tmp_path / "x.pt")
    with pytest.raises(GlapError, match=r"holds pickled objects"):
        open_checkpoint(tmp_path / "x.pt")
    assert not trace.exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickled_module_is_refused(torch, tmp_path, legacy):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(GlapError, match=r"pickled objects.*Linear.*state_dict"):
        open_checkpoint(tmp_path / "x.pt")


def test_what_is_no_state_dict_is_refused(torch, tmp_path):
    for stored, words in (
        ([1, 2], "list instead"),
        ({"a": 1}, "'a', which is no tensor"),
        ({}, "instead of"),
    ):
        torch.save(stored, tmp_path / "x.pt")
        with pytest.raises(GlapError, match=words):
            open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_damaged_files(torch, tmp_path, name):
    path = tmp_path / name
    if name == "x.pt":
        torch.save({"a": torch.zeros(5000)}, path)
    else:
        save_safetensors(path, {"a": np.zeros(5000, np.float32)})
    whole = path.read_bytes()
    for bad in (whole[: len(whole) // 2], b"", b"hello, this is text", whole[:4]):
        path.write_bytes(bad)
        with pytest.raises(GlapError, match="damaged"):
            open_checkpoint(path)


def test_paths_that_hold_no_checkpoint(tmp_path):
    with pytest.raises(GlapError, match="no file or folder"):
        open_checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(GlapError, match="holds no checkpoint"):
        open_checkpoint(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        save_safetensors(tmp_path / name, TENSORS)
    with pytest.raises(GlapError, match="holds 2 checkpoints"):
        open_checkpoint(tmp_path)
    (tmp_path / "x.onnx").touch()
    with pytest.raises(GlapError, match="unknown ending"):
        open_checkpoint(tmp_path / "x.onnx")


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(self, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(GlapError, match="No space left"):
        save_safetensors(tmp_path / "x.safetensors", TENSORS)
    assert list(tmp_path.iterdir()) == []


def test_without_torch_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "x.pt").touch()
    with pytest.raises(GlapError, match=r"pip install 'glap_jax\[torch\]'"):
        open_checkpoint(tmp_path / "x.pt")


def test_the_command_there_and_back(torch, tmp_path, weights, assert_equal):
    """Published .pt to model folder to .pt and safetensors: tensors and sizes as they were."""
    tensors = weights("glap")
    towers = {"audio_encoder_args": {"num_heads": 4}, "text_encoder_args": {"num_heads": 4}}
    stored = {"model": {k: tensor(torch, v) for k, v in tensors.items()}, "config": {"model_args": towers}}
    torch.save(stored, tmp_path / "glap.pt")
    convert(tmp_path / "glap.pt", tmp_path / "jax", tokenizer=GOLDEN / "glap" / "spm.model")
    assert folder.is_model(tmp_path / "jax")
    convert(tmp_path / "jax", tmp_path / "back.pt", to="pt")
    convert(tmp_path / "jax", tmp_path / "hf", to="safetensors")
    for path in ("back.pt", "hf"):
        found = open_checkpoint(tmp_path / path)
        assert_equal(found, tensors)
        assert from_torch("glap", found).config.text.heads == 4
    convert(tmp_path / "hf", tmp_path / "again")
    assert (tmp_path / "again" / "spm.model").is_file()
    assert_equal(to_checkpoint(folder.load_module(tmp_path / "again")[0]), tensors)


def test_the_command_wants_targets_that_fit(tmp_path):
    with pytest.raises(GlapError, match=r"must be a file that ends in \.pt"):
        convert(tmp_path, tmp_path / "out", to="pt")
    with pytest.raises(GlapError, match="writes a folder"):
        convert(tmp_path, tmp_path / "out.safetensors", to="safetensors")
    (tmp_path / "config.json").write_text('{"glap_jax_format": 1}', encoding="utf-8")
    with pytest.raises(GlapError, match="is a model folder"):
        convert(tmp_path, tmp_path, to="safetensors")
