"""CLASP's audio tower against its parts taken one by one, and what it makes of padding and loudness."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.clasp import ClaspFusionConfig
from glap_jax.audio.clasp_tower import ClaspAudioConfig
from glap_jax.audio.efficientnet import EfficientNetConfig, StageConfig
from glap_jax.audio.frontend import resample
from glap_jax.audio.hubert import HubertConfig
from glap_jax.audio.wav2vec2 import Wav2Vec2Config
from glap_jax.errors import GlapError
from glap_jax.heads import unit

SMALL = {"width": 16, "layers": 1, "heads": 2, "hidden": 32, "conv_width": 8, "position_groups": 2}
IMAGE = EfficientNetConfig(
    (StageConfig(1, 3, 1, 8, 8, 1), StageConfig(6, 3, 2, 8, 8, 1)), classes=10, picture=(24, 32)
)
FUSION = ClaspFusionConfig("concat", 16, 10, 12, 12, 8, 12, (14, 10))
TINY = ClaspAudioConfig(HubertConfig(**SMALL, position_taps=8), IMAGE, FUSION)

encode = nnx.jit(lambda tower, waveform, lengths: tower(waveform, lengths))
train = nnx.jit(lambda tower, waveform, key: tower(waveform, key=key).pooled)


@nnx.jit
def by_parts(tower, clip):
    """As the reference takes them: the peak at 1 and 16 kHz for the speech, the clip itself to draw."""
    rows, _ = resample(clip / jnp.abs(clip).max(), None, source=22_050, target=16_000)
    speech, logits = tower.speech(rows, None), tower.image(clip, None).pooled
    return speech.tokens, tower.fusion(unit(speech.pooled), unit(logits))


@pytest.fixture(scope="module")
def tower(random_module):
    return random_module(lambda: TINY.build(dtype=jnp.dtype("float32"), remat="none", rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def batch():
    """Two clips at 22.05 kHz, of 6000 and 5000 samples, then noise that is no part of them."""
    rows = np.random.default_rng(0).normal(0, 0.1, (2, 6000)).astype(np.float32)
    return jnp.asarray(rows), jnp.array([6000, 5000], jnp.int32)


def test_the_parts_one_by_one_without_padding_or_batch_mates(tower, batch, close):
    together = encode(tower, *batch)
    tokens, pooled = by_parts(tower, batch[0][1:, :5000])
    assert together.mask.sum(1).tolist() == [13, 11]
    close(together.tokens[1, :11], tokens[0], 5e-6)
    close(together.pooled[1], pooled[0], 1e-6)


def test_loudness_does_not_reach_the_speech_and_silence_is_no_nan(tower, batch):
    waveform, lengths = batch
    loud, soft = (encode(tower, scale * waveform, lengths).tokens for scale in (1.0, 0.01))
    np.testing.assert_allclose(loud, soft, rtol=0, atol=1e-5)
    silent = encode(tower, 0.0 * waveform, jnp.array([6000, 1], jnp.int32))
    assert np.isfinite(silent.pooled).all()


def test_training_draws_and_stores_statistics(tower, batch):
    module = nnx.clone(tower)
    assert module.draws
    keys = jax.random.split(jax.random.key(0), (2, len(batch[0])))
    one, other = (train(module, batch[0], key) for key in keys)
    assert not np.allclose(one, other, atol=1e-4)
    assert not np.array_equal(module.fusion.mix.wide.norm.mean[...], tower.fusion.mix.wide.norm.mean[...])
    # What the frozen network stores is not touched.
    np.testing.assert_array_equal(module.image.stem.norm.mean[...], tower.image.stem.norm.mean[...])


def test_published_forms():
    assert ClaspAudioConfig.hubert().width == 768
    assert ClaspAudioConfig.hubert_gating().fusion.kind == "gating"
    assert isinstance(ClaspAudioConfig.wav2vec2().speech, Wav2Vec2Config)


def test_widths_that_do_not_meet():
    with pytest.raises(GlapError, match=r"'audio\.fusion\.speech' is 16 and 'audio\.speech' gives 1024"):
        dataclasses.replace(TINY, speech=HubertConfig.large())
    with pytest.raises(GlapError, match=r"'audio\.fusion\.image' is 10 and 'audio\.image' gives 1000"):
        dataclasses.replace(TINY, image=EfficientNetConfig.b0())
