"""CLASP's fusion against recorded outputs of its three forms, in use and in training."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from glap_jax.audio.clasp import ClaspFusion, ClaspFusionConfig
from glap_jax.convert.engine import export
from glap_jax.errors import GlapError
from glap_jax.families import family_module, from_torch, guess_family, to_torch

GOLDEN = Path(__file__).parents[1] / "golden" / "clasp"
FILES = {"concat": "weights", "gating": "weights_gating", "wav2vec_concat": "weights_wav2vec_concat"}
# The golden numbers' own limits.
LIMITS = {"concat": 5e-6, "gating": 5e-7, "wav2vec_concat": 5e-6}


@pytest.fixture(scope="module", params=FILES)
def case(request, golden):
    """Name, state dict, module, inputs and recorded arrays of one form."""
    io = golden("clasp")
    tensors = load_file(GOLDEN / f"{FILES[request.param]}.safetensors")
    speech = io["wav2vec_features" if request.param == "wav2vec_concat" else "ssl_features"]
    inputs = jnp.asarray(speech), jnp.asarray(io["image_features"])
    return request.param, tensors, from_torch("clasp_fusion", tensors), inputs, io


def test_the_output_and_the_branches(case, close):
    name, _, module, inputs, io = case
    close(nnx.jit(lambda module, *inputs: module(*inputs))(module, *inputs), io[f"{name}/out"], LIMITS[name])
    if name != "gating":
        close(module.speech(inputs[0]), io[f"{name}/audio_seq"], 5e-6)
        close(module.image(inputs[1]), io[f"{name}/image_seq"], 5e-6)
    else:
        close(module.speech.branch(inputs[0]), io["gating/text_seq"], 5e-6)


def test_training_uses_and_stores_the_batch_s_statistics(case, close):
    name, tensors, _, inputs, io = case
    module = from_torch("clasp_fusion", tensors)
    without = dataclasses.replace(module.config, dropout=(0.0, 0.0))
    graph = nnx.graphdef(nnx.eval_shape(lambda: ClaspFusion(without, dtype=jnp.float32, rngs=nnx.Rngs(0))))
    module = nnx.merge(graph, nnx.state(module))
    found = module(*inputs, key=jax.random.key(0))
    close(found, io[f"{name}/train_mode_no_dropout_out"], LIMITS[name])
    # Recorded are those of the image branch's first norm.
    norm = (module.image.branch if name == "gating" else module.image).wide.norm
    close(norm.mean[...], io[f"{name}/train_mode_running_mean_after"], 1e-6)
    close(norm.variance[...], io[f"{name}/train_mode_running_var_after"], 1e-6)


def test_dropout_is_random_and_off_in_use(case):
    name, tensors, _, inputs, _ = case
    module = from_torch("clasp_fusion", tensors)
    one, other = (module(*inputs, key=jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(one, other, atol=LIMITS[name])
    np.testing.assert_array_equal(module(*inputs), module(*inputs))


def test_there_and_back(case):
    _, tensors, module, _, _ = case
    found = to_torch(module)
    assert set(found) == set(tensors)
    assert all(found[key].tobytes() == value.tobytes() for key, value in tensors.items())
    assert guess_family(tensors) == "clasp_fusion"


@pytest.mark.parametrize(
    ("name", "keys", "shapes"),
    [
        ("hubert", 43, {"mix_seq.0.weight": (1024, 1536), "audio_seq.0.weight": (768, 1024)}),
        ("hubert_gating", 46, {"weight.0.weight": (1536, 1536), "text_seq.0.weight": (768, 1024)}),
        ("wav2vec2", 43, {"mix_seq.5.weight": (768, 800), "audio_seq.0.weight": (700, 768)}),
    ],
)
def test_published_sizes(name, keys, shapes):
    config = getattr(ClaspFusionConfig, name)()
    home = family_module("clasp_fusion")
    module = nnx.eval_shape(lambda: ClaspFusion(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)))
    written = export(module, home.TORCH_RULES, family="clasp_fusion")
    found = {key: tensor.shape for key, tensor in written.items()}
    assert len(found) == keys
    assert shapes.items() <= found.items()
    assert home.config_from_torch(found, home.config_to_torch(config)) == config


def test_features_of_another_width_are_refused(case):
    _, tensors, module, _, _ = case
    width = module.config.speech
    with pytest.raises(GlapError, match=f"'in_features_text' must be {width}"):
        from_torch("clasp_fusion", tensors, {"in_features_text": width + 1})
