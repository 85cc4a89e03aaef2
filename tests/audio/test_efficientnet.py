"""EfficientNet against recorded logits, its published sizes, and the picture that it looks at."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio import picture
from glap_jax.audio.efficientnet import EfficientNet, EfficientNetConfig, StageConfig
from glap_jax.convert.engine import export
from glap_jax.errors import GlapError
from glap_jax.families import family_module, from_torch, guess_family, to_torch

# The golden numbers' own limits.
LOGITS, DECIBELS = 1e-4, (0.1, 5e-3)
STAGES = [
    [1, 3, 1, 8, 8, 1],
    [6, 3, 2, 8, 8, 2],
    [6, 5, 2, 8, 8, 2],
    [6, 3, 2, 8, 16, 3],
    [6, 5, 1, 16, 24, 3],
]
# Parameters that torchvision publishes.
PARAMETERS = {
    "b0": 5_288_548,
    "b1": 7_794_184,
    "b2": 9_109_994,
    "b3": 12_233_232,
    "b4": 19_341_616,
    "b5": 30_389_784,
    "b6": 43_040_704,
    "b7": 66_347_960,
}


@pytest.fixture(scope="module")
def net(weights):
    return from_torch("efficientnet", weights("efficientnet"), {"stages": STAGES})


@nnx.jit
def trace(net, image):
    """The logits, and what each part makes of a picture, in one program."""
    parts, x = [], image
    for part in (net.stem, *net.stages):
        x = part(x)
        parts.append(x[0, ::4, ::3].transpose(2, 0, 1))
    return net.classify(image), parts


def test_every_stage_and_the_logits(net, golden, close):
    io = golden("efficientnet")
    logits, parts = trace(net, jnp.asarray(io["image_uint8_hwc"], jnp.float32))
    close(logits, io["logits"], LOGITS)
    for number, part in enumerate(parts):
        close(part, io[f"trace/features.{number}"], LOGITS)


def test_there_and_back(weights, net):
    original = weights("efficientnet")
    found = to_torch(net)
    assert set(found) == set(original)
    assert all(found[key].tobytes() == value.tobytes() for key, value in original.items())
    assert guess_family(original) == "efficientnet"


def test_unused_and_missing_tensors_are_named(weights):
    tensors = dict(weights("efficientnet"))
    tensors["features.3.2.block.0.0.weight"] = tensors.pop("features.4.1.block.0.0.weight")
    with pytest.raises(
        GlapError, match=r"missing: features\.4\.1\.block\.0\.0\.weight.*features\.3\.2\.block"
    ):
        from_torch("efficientnet", tensors, {"stages": STAGES})


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_sizes(name):
    config = getattr(EfficientNetConfig, name)()
    home = family_module("efficientnet")
    module = nnx.eval_shape(lambda: EfficientNet(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)))
    parameters = nnx.to_flat_state(nnx.state(module, nnx.Param))
    assert sum(math.prod(value.shape) for _, value in parameters) == PARAMETERS[name]
    written = export(module, home.TORCH_RULES, family="efficientnet")
    shapes = {key: tensor.shape for key, tensor in written.items()}
    assert home.config_from_torch(shapes, {}) == config
    assert home.config_from_torch(shapes, {"name": f"efficientnet_{name}"}) == config
    assert home.config_from_torch(shapes, home.config_to_torch(config)) == config
    if name == "b7":
        assert len(shapes) == 1200
        first = StageConfig(1, 3, 1, 64, 32, 4)
        assert (config.stages[0], config.stages[-1].outputs, config.channels) == (first, 640, 2560)


def test_sizes_that_are_not_published(weights):
    home = family_module("efficientnet")
    shapes = {key: value.shape for key, value in weights("efficientnet").items()}
    with pytest.raises(GlapError, match=r"no tensor 'features\.7\.0|give 'stages'"):
        home.config_from_torch(shapes, {})


def test_decibels_are_librosa_s(golden, close):
    io = golden("clasp")
    level, real = picture.decibels(jnp.asarray(io["spec/c0_5s/resampled_22050"])[None], None)
    close(level[0, io["spec/c0_5s/frame_index"]].T, io["spec/c0_5s/db"], *DECIBELS)
    assert real.all()


def test_a_picture_does_not_show_padding():
    wave = np.random.default_rng(0).normal(0, 0.1, (2, 9000)).astype(np.float32)
    alone = picture.draw(jnp.asarray(wave[:1, :5000]), None, height=24, width=32)
    together = picture.draw(jnp.asarray(wave), jnp.array([5000, 9000], jnp.int32), height=24, width=32)
    np.testing.assert_array_equal(together[0], alone[0])
    assert together.shape == (2, 24, 32, 3)
    assert 0 <= float(together.min()) <= float(together.max()) <= 255


def test_a_tone_is_the_brightest_row_at_its_height():
    time = np.arange(22_050) / picture.SAMPLE_RATE
    image = picture.draw(
        jnp.asarray(np.sin(2 * np.pi * 1000 * time), jnp.float32)[None], None, height=100, width=50
    )
    # 1 kHz lies 4.93 of 8.4 octaves-and-one above the bottom; magma's and coolwarm's ends are reddest.
    row = int(image[0, :, 25, 2].argmax())
    top = 1 + math.log2(11_025 / picture.LINEAR_BELOW)
    assert abs((100 - row - 0.5) / 100 * top - (1 + math.log2(1000 / picture.LINEAR_BELOW))) < 0.2


def test_the_encoder_gives_its_logits_as_one_token(net):
    wave = np.random.default_rng(1).normal(0, 0.1, (2, 2, 4000)).astype(np.float32)
    wave[1, :, :3000] = wave[0, :, :3000]
    module = nnx.merge(*nnx.split(net))
    module.config = EfficientNetConfig(net.config.stages, 48, 13, 1e-3, picture=(32, 48))
    encode = nnx.jit(lambda module, waveform: module(waveform, jnp.array([3000, 2900], jnp.int32)))
    found, other = (encode(module, jnp.asarray(batch)) for batch in wave)
    assert found.tokens.shape == (2, 1, 13)
    np.testing.assert_array_equal(found.tokens[:, 0], found.pooled)
    np.testing.assert_array_equal(found.pooled, other.pooled)
