"""w2v-BERT 2.0 against `transformers`: features, random small models, and the published size."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.conformer import stacked_fbank
from glap_jax.audio.w2v_bert import TORCH_RULES, W2vBertConfig, config_from_torch, config_to_torch
from glap_jax.convert.engine import export
from glap_jax.errors import GlapError
from glap_jax.families import from_torch, to_torch

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="install the extra 'torch'")
transformers = pytest.importorskip("transformers", reason="install the extra 'dev'")

# Without SpecAugment there is no `masked_spec_embed`, which only training uses.
COMMON = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
SIZES = {
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "conv_depthwise_kernel_size": 5,
    "left_max_position_embeddings": 6,
    "right_max_position_embeddings": 3,
}
LENGTHS = np.array([12000, 5999, 5041], np.int32)
# The limits of other models' states and of SONAR's features, which are the same.
STATES, FEATURES = 1e-4, 7e-4

encode = nnx.jit(lambda module, features, mask: module.encode(features, mask))


@pytest.fixture(scope="module")
def reference():
    """A reference model all of whose parameters are random."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2BertConfig(**COMMON, **SIZES)
    model = transformers.Wav2Vec2BertModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def module(reference):
    return from_torch("w2v_bert", reference.state_dict(), reference.config.to_dict())


@pytest.fixture(scope="module")
def heard():
    """Clips of three lengths, zero beyond these, and what the reference hears."""
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(3, LENGTHS.max())) * [[0.1], [0.01], [0.3]]
    rows = np.where(np.arange(LENGTHS.max()) < LENGTHS[:, None], rows, 0.0).astype(np.float32)
    extractor = transformers.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2)
    clips = [row[:length] for row, length in zip(rows, LENGTHS, strict=True)]
    return rows, extractor(clips, sampling_rate=16_000, return_tensors="np")


def test_the_features(heard, close):
    """Of even and odd numbers of frames; the reference pads an odd one to a token that is not real."""
    rows, expected = heard
    found, mask = jax.jit(stacked_fbank)(jnp.asarray(rows), jnp.asarray(LENGTHS))
    real = np.asarray(mask)
    np.testing.assert_array_equal(np.pad(real, ((0, 0), (0, 1))), expected["attention_mask"])
    close(found[real], expected["input_features"][:, :-1][real], FEATURES)


def test_a_random_model_computes_the_same(reference, module, heard, close):
    _, inputs = heard
    features, mask = inputs["input_features"], inputs["attention_mask"]
    with torch.no_grad():
        states = reference(torch.from_numpy(features), attention_mask=torch.from_numpy(mask).long())
    real = mask.astype(bool)
    found = encode(module, jnp.asarray(features), jnp.asarray(real))
    close(np.asarray(found.tokens)[real], states.last_hidden_state.numpy()[real], STATES)


def test_padding_and_batch_mates_change_nothing(module, heard):
    rows, _ = heard
    hear = nnx.jit(lambda module, waveform, lengths: module(waveform, lengths))
    together = hear(module, jnp.asarray(rows), jnp.asarray(LENGTHS))
    alone = hear(module, jnp.asarray(rows[1:2, : LENGTHS[1]]), None)
    count = alone.tokens.shape[1]
    assert int(together.mask[1].sum()) == count
    np.testing.assert_allclose(together.tokens[1, :count], alone.tokens[0], atol=1e-4)
    np.testing.assert_allclose(together.pooled[1], alone.pooled[0], atol=1e-5)


@pytest.mark.parametrize("head", [False, True], ids=["encoder", "recognition"])
def test_the_way_back_is_bit_for_bit(reference, head):
    if head:
        config = transformers.Wav2Vec2BertConfig(vocab_size=7, **SIZES)
        original = transformers.Wav2Vec2BertForCTC(config).state_dict()
    else:
        original = reference.state_dict()
    back = to_torch(from_torch("w2v_bert", original, reference.config.to_dict()))
    assert set(back) == set(original)
    assert all(back[key].tobytes() == value.numpy().tobytes() for key, value in original.items())


def test_what_is_written_loads_there(close, heard):
    """A fresh module's tensors and config.json make a reference model that computes the same."""
    sizes = W2vBertConfig(width=16, layers=1, heads=2, hidden=24, taps=3, before=4, after=2)
    ours = nnx.jit(lambda: sizes.build(dtype=jnp.float32, remat="none", rngs=nnx.Rngs(0)))()
    words = transformers.Wav2Vec2BertConfig(**COMMON | config_to_torch(sizes))
    reference = transformers.Wav2Vec2BertModel(words).eval()
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in to_torch(ours).items()}
    reference.load_state_dict(tensors, strict=True)
    features = heard[1]["input_features"][:1]
    with torch.no_grad():
        states = reference(torch.from_numpy(features)).last_hidden_state.numpy()
    close(encode(ours, jnp.asarray(features), jnp.ones(features.shape[:2], bool)).tokens, states, STATES)


def test_every_key_and_shape_of_the_full_size_is_explained():
    config = W2vBertConfig.v2()
    words = config_to_torch(config)
    with torch.device("meta"):
        reference = transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(**COMMON | words))
    shapes = {key: tuple(tensor.shape) for key, tensor in reference.state_dict().items()}
    assert config_from_torch(shapes, words) == config
    assert config_from_torch(shapes, {}) == config
    full = nnx.eval_shape(lambda: config.build(dtype=jnp.dtype("float32"), remat="none", rngs=nnx.Rngs(0)))
    written = export(full, TORCH_RULES, family="w2v_bert")
    assert {key: tensor.shape for key, tensor in written.items()} == shapes
    assert round(sum(map(math.prod, shapes.values())) / 1e6) == 580


def test_what_cannot_be_honoured_is_said_in_one_line(reference):
    given = {"position_embeddings_type": "rotary", "add_adapter": True, "colour": 1}
    with pytest.raises(GlapError, match=r"position_embeddings_type.*add_adapter.*colour") as raised:
        from_torch("w2v_bert", reference.state_dict(), {"num_attention_heads": 3, **given})
    assert "\n" not in str(raised.value)
