"""CTranslate2's binary files: read tensor by tensor, told apart from torch's, and refused when damaged."""

import json
import struct

import numpy as np
import pytest

from glap_jax.convert.readers import open_checkpoint
from glap_jax.errors import GlapError
from glap_jax.families import from_torch, guess_family, to_torch

TYPES = {"float32": 0, "int16": 2, "float16": 4}


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def write(path, tensors, *, version=6, aliases=()):
    parts = [struct.pack("<I", version), string("WhisperSpec"), struct.pack("<II", 3, len(tensors))]
    for key, value in tensors.items():
        shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        parts += [
            string(key),
            shape,
            struct.pack("<BI", TYPES[str(value.dtype)], value.nbytes),
            value.tobytes(),
        ]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [string(second) + string(first) for second, first in aliases]
    path.write_bytes(b"".join(parts))


NORM = (("gamma", "weight"), ("beta", "bias"))
LINEAR = {"ffn/linear_0": "fc1", "ffn/linear_1": "fc2", "self_attention/linear_1": "self_attn.out_proj"}
LAYER_NORM = {"self_attention/layer_norm": "self_attn_layer_norm", "ffn/layer_norm": "final_layer_norm"}


@pytest.fixture(scope="module")
def tensors(weights):
    """The recorded Whisper by CTranslate2's names, in half precision, with queries, keys and values fused."""
    old = {key.removeprefix("encoder."): value for key, value in weights("hf_whisper").items()}
    new = {f"encoder/layer_norm/{kind}": old[f"layer_norm.{other}"] for kind, other in NORM}
    new["encoder/position_encodings/encodings"] = old["embed_positions.weight"]
    new["decoder/embeddings/weight"] = np.ones((5, 48), np.float32)
    for part in ("conv1", "conv2"):
        new |= {f"encoder/{part}/{kind}": old[f"{part}.{kind}"] for kind in ("weight", "bias")}
    for number in range(3):
        layer, here = f"encoder/layer_{number}", f"layers.{number}"
        old[f"{here}.self_attn.k_proj.bias"] = np.zeros(48, np.float32)
        for kind in ("weight", "bias"):
            new |= {f"{layer}/{name}/{kind}": old[f"{here}.{part}.{kind}"] for name, part in LINEAR.items()}
            parts = [old[f"{here}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            new[f"{layer}/self_attention/linear_0/{kind}"] = np.concatenate(parts)
        for name, part in LAYER_NORM.items():
            new |= {f"{layer}/{name}/{kind}": old[f"{here}.{part}.{other}"] for kind, other in NORM}
    halves = {key: value.astype(np.float16) for key, value in new.items()}
    return {**halves, "encoder/num_heads": np.int16(4).reshape(())}


def test_a_folder_there_and_back(tensors, weights, tmp_path):
    """Its config.json is no configuration of sizes; the way back gives the same names, types and bits."""
    write(
        tmp_path / "model.bin", tensors, aliases=[("decoder/projection/weight", "decoder/embeddings/weight")]
    )
    (tmp_path / "config.json").write_text(json.dumps({"alignment_heads": [[1, 0]], "lang_ids": [50259]}))
    source = open_checkpoint(tmp_path)
    assert source["encoder/conv1/weight"].tobytes() == tensors["encoder/conv1/weight"].tobytes()
    assert source.shapes["decoder/projection/weight"] == (5, 48)
    assert guess_family(source) == "whisper"
    module = from_torch("whisper", source, {"num_heads": 4})
    found = to_torch(module)
    assert set(found) == {key for key in tensors if not key.startswith("decoder")}
    for key, value in found.items():
        assert value.dtype == tensors[key].dtype
        assert value.tobytes() == tensors[key].tobytes(), key
    original = {key: value.astype(np.float16) for key, value in weights("hf_whisper").items()}
    other = from_torch("whisper", original, {"num_heads": 4})
    np.testing.assert_array_equal(
        module.blocks.layers.attention.qkv.bias[...], other.blocks.layers.attention.qkv.bias[...]
    )


@pytest.mark.parametrize("cut", [12, 40, 4000])
def test_a_file_that_breaks_off(tensors, tmp_path, cut):
    path = tmp_path / "model.bin"
    write(path, tensors)
    path.write_bytes(path.read_bytes()[:-cut] if cut == 4000 else path.read_bytes()[:cut])
    with pytest.raises(GlapError, match=r"model\.bin' is damaged"):
        open_checkpoint(path)


def test_a_newer_layout(tensors, tmp_path):
    write(tmp_path / "model.bin", tensors, version=7)
    with pytest.raises(GlapError, match="layout 7; known are layouts up to 6"):
        open_checkpoint(tmp_path / "model.bin")
