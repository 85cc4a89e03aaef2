"""Filling modules from tables: exact both ways, and every problem named in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.dasheng import DashengConfig
from glap_jax.convert.layout import TorchLayout
from glap_jax.errors import GlapError
from glap_jax.families import from_torch, to_torch

HEADS = {"num_heads": 4}


@pytest.fixture
def dasheng(weights):
    return dict(weights("dasheng"))


@pytest.fixture(scope="module")
def glap_config():
    return {"audio": {"num_heads": 4}, "text": {"num_heads": 4}}


def test_dasheng_there_and_back(dasheng, assert_equal):
    assert_equal(to_torch(from_torch("dasheng", dasheng, HEADS)), dasheng)


def test_glap_there_and_back(weights, glap_config, assert_equal):
    tensors = weights("glap")
    assert_equal(to_torch(from_torch("glap", tensors, glap_config)), tensors)


def test_the_hugging_face_layout_of_dasheng(dasheng, assert_equal):
    published = {f"encoder.{key}": value for key, value in dasheng.items() if "front_end" not in key}
    config = {
        "encoder_kwargs": {"embed_dim": 96, "depth": 3, **HEADS},
        "model_type": "dasheng",
        "loss": "BCELoss",
    }
    module = from_torch("dasheng", published, config)
    assert_equal(to_torch(module), published)
    np.testing.assert_array_equal(module.norm.bias[...], dasheng["norm.bias"])


def test_the_hugging_face_layout_of_glap(weights, glap_config, assert_equal):
    published = {key.replace(".model.", ".", 1): value for key, value in weights("glap").items()}
    assert_equal(to_torch(from_torch("glap", published, glap_config)), published)


def test_stacked_layers_hold_the_right_tensors(dasheng):
    blocks = from_torch("dasheng", dasheng, HEADS).blocks.layers
    for layer in range(3):
        kernel = dasheng[f"blocks.{layer}.mlp.fc1.weight"].T
        np.testing.assert_array_equal(blocks.mlp.up.kernel[...][layer], kernel)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_floats_come_back_as_they_were(dasheng, dtype, assert_equal):
    short = {
        key: value.astype(jnp.dtype(dtype)) if "blocks" in key else value for key, value in dasheng.items()
    }
    module = from_torch("dasheng", short, HEADS)
    assert module.blocks.layers.mlp.up.kernel[...].dtype == jnp.float32
    assert_equal(to_torch(module), short)


def test_torch_and_jax_tensors_are_taken_too(dasheng):
    torch = pytest.importorskip("torch", reason="install the extra 'torch'")
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in dasheng.items()}
    tensors["norm.weight"] = tensors["norm.weight"].to(torch.bfloat16)
    tensors["norm.bias"] = jnp.asarray(dasheng["norm.bias"])
    back = to_torch(from_torch("dasheng", tensors, HEADS))
    np.testing.assert_array_equal(back["norm.bias"], dasheng["norm.bias"])
    assert back["norm.weight"].dtype == jnp.bfloat16


def test_learnt_loss_scalars_are_written_and_read(weights, glap_config, assert_equal):
    tensors = weights("glap")
    module = from_torch("glap", tensors, glap_config)
    assert "temperature" not in to_torch(module)
    module.temperature[...] = jnp.asarray(0.05, jnp.float32)
    written = to_torch(module)
    assert set(written) - set(tensors) == {"temperature"}
    again = from_torch("glap", written, glap_config)
    assert float(again.temperature[...]) == pytest.approx(0.05)
    assert_equal(to_torch(again), written)


def test_a_fresh_module_is_written_in_the_published_layout(dasheng, assert_equal):
    config = DashengConfig(width=96, layers=3, heads=4)
    written = to_torch(config.build(dtype=jnp.float32, remat="none", rngs=nnx.Rngs(0)))
    assert {key: (value.shape, value.dtype) for key, value in written.items()} == {
        key: (value.shape, value.dtype) for key, value in dasheng.items()
    }
    assert_equal(to_torch(from_torch("dasheng", written, HEADS)), written)


def test_changed_parameters_are_what_is_written(dasheng):
    module = from_torch("dasheng", dasheng, HEADS)
    nnx.update(module, jax.tree.map(lambda leaf: leaf + 1, nnx.state(module, nnx.Param)))
    back = to_torch(module)
    np.testing.assert_array_equal(back["blocks.2.attn.qkv.weight"], dasheng["blocks.2.attn.qkv.weight"] + 1)
    np.testing.assert_array_equal(back["init_bn.1.running_mean"], dasheng["init_bn.1.running_mean"])


def test_the_layout_survives_a_folder(dasheng, tmp_path):
    layout = from_torch("dasheng", dasheng, HEADS).torch_layout
    layout.save(tmp_path)
    module = from_torch("dasheng", {k: v * 0 for k, v in dasheng.items() if "front_end" not in k}, HEADS)
    module.torch_layout = TorchLayout.load(tmp_path)
    back = to_torch(module)
    assert set(back) == set(dasheng)
    for key in (
        "front_end.0.mel_scale.fb",
        "front_end.0.spectrogram.window",
        "init_bn.1.num_batches_tracked",
    ):
        assert back[key].tobytes() == dasheng[key].tobytes()
    (tmp_path / "torch_layout.json").write_text("{", encoding="utf-8")
    with pytest.raises(GlapError, match=r"torch_layout\.json.*damaged"):
        TorchLayout.load(tmp_path)
    assert TorchLayout.load(tmp_path / "elsewhere") is None


def test_all_problems_are_listed_in_one_line(dasheng):
    del dasheng["blocks.1.norm1.bias"], dasheng["norm.weight"]
    dasheng["extra"] = np.zeros(3, np.float32)
    dasheng["blocks.0.mlp.fc1.weight"] = np.zeros((5, 96), np.float32)
    dasheng["norm.bias"] = dasheng["norm.bias"].astype(np.float64)
    dasheng["front_end.0.mel_scale.fb"] = dasheng["front_end.0.mel_scale.fb"] * 2
    config = {**HEADS, "embed_dim": 96, "mlp_ratio": 4.0}
    with pytest.raises(GlapError) as raised:
        from_torch("dasheng", dasheng, config)
    message = str(raised.value)
    assert "\n" not in message
    assert "2 missing: blocks.1.norm1.bias, norm.weight" in message
    assert "1 that the model has no place for: extra" in message
    assert "blocks.0.mlp.fc1.weight is [5, 96] and should be [384, 96]" in message
    assert "norm.bias is float64" in message
    assert "mel_scale.fb differs" in message


def test_hundreds_of_problems_are_counted_not_recited(dasheng):
    kept = {key: value for key, value in dasheng.items() if ".norm" not in key and ".mlp" not in key}
    with pytest.raises(GlapError, match="and 16 more") as raised:
        from_torch("dasheng", kept, {**HEADS, "mlp_ratio": 4.0})
    assert len(str(raised.value)) < 600


def test_two_spellings_at_once_are_refused(dasheng):
    dasheng["encoder.norm.bias"] = dasheng["norm.bias"]
    with pytest.raises(GlapError, match=r"no place for: encoder\.norm\.bias"):
        from_torch("dasheng", dasheng, HEADS)
