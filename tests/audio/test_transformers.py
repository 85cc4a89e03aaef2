"""wav2vec 2.0, HuBERT and WavLM against `transformers`: random small models, and the published sizes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.hubert import HubertConfig
from glap_jax.audio.speech import normalised
from glap_jax.audio.wav2vec2 import Wav2Vec2Config
from glap_jax.audio.wavlm import WavLMConfig
from glap_jax.convert.engine import export
from glap_jax.families import family_module, from_torch, to_torch

pytestmark = [
    pytest.mark.torch,
    # transformers' WavLM hands torch two kinds of masks.
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
]
torch = pytest.importorskip("torch", reason="install the extra 'torch'")
transformers = pytest.importorskip("transformers", reason="install the extra 'dev'")

MODELS = {
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
    "hubert": (transformers.HubertConfig, transformers.HubertModel),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
}
# Without SpecAugment there is no `masked_spec_embed`, which only training uses.
COMMON = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "num_conv_pos_embedding_groups": 4}
SIZES = [
    {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 40, "num_hidden_layers": 3},
    {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 1},
]
LENGTHS = np.array([4000, 2011, 721], np.int32)
# The recorded numbers' limit for states.
STATES = 1e-4

encode = nnx.jit(lambda module, values, lengths: module.encode(values, lengths))


def random_model(family, layer_normed, seed):
    """A reference model all of whose parameters are random."""
    config, model = MODELS[family]
    kind = "layer" if layer_normed else "group"
    torch.manual_seed(seed)
    reference = model(
        config(
            **COMMON,
            **SIZES[layer_normed],
            conv_dim=[12 + 4 * layer_normed] * 7,
            conv_bias=layer_normed and family != "wavlm",
            feat_extract_norm=kind,
            do_stable_layer_norm=layer_normed,
            # An odd kernel has as many taps before a token as after it, an even one does not.
            num_conv_pos_embeddings=9 if layer_normed else 16,
            attn_implementation="eager",
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            centre = 1.0 if name.endswith("norm.weight") or "original0" in name else 0.0
            parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
    return reference


@pytest.fixture(scope="module")
def clips():
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(3, LENGTHS.max())).astype(np.float32) * [[1.0], [0.1], [3.0]]
    return np.where(np.arange(LENGTHS.max()) < LENGTHS[:, None], rows, 0.0).astype(np.float32)


@pytest.mark.parametrize("layer_normed", [False, True], ids=["group", "layer"])
@pytest.mark.parametrize("family", MODELS)
def test_a_random_model_computes_the_same_and_is_written_back(family, layer_normed, clips, close):
    reference = random_model(family, layer_normed, seed=layer_normed)
    config = reference.config.to_dict()
    ours = from_torch(family, reference.state_dict(), config, compat=True)
    with torch.no_grad():
        mask = torch.arange(clips.shape[1]) < torch.from_numpy(LENGTHS)[:, None]
        states = reference(torch.from_numpy(clips), attention_mask=mask.long()).last_hidden_state.numpy()
        alone = reference(torch.from_numpy(clips[1:2, : LENGTHS[1]])).last_hidden_state.numpy()[0]
    found = encode(ours, jnp.asarray(clips), jnp.asarray(LENGTHS))
    close(found.tokens, states, STATES)
    sound = from_torch(family, reference.state_dict(), config)
    found = encode(sound, jnp.asarray(clips), jnp.asarray(LENGTHS))
    close(found.tokens[1, : len(alone)], alone, STATES)
    kind, model = MODELS[family]
    words = family_module(family).config_to_torch(sound.config)
    del words["do_normalize"]
    again = model(kind(**COMMON | words, attn_implementation="eager")).eval()
    again.load_state_dict({key: torch.from_numpy(np.array(x)) for key, x in to_torch(sound).items()})
    with torch.no_grad():
        written = again(torch.from_numpy(clips[1:2, : LENGTHS[1]])).last_hidden_state.numpy()[0]
    np.testing.assert_array_equal(written, alone)


@pytest.mark.parametrize(
    "config",
    [
        *(Wav2Vec2Config.base(), Wav2Vec2Config.large(), Wav2Vec2Config.large_lv60()),
        *(Wav2Vec2Config.xls_r_1b(), Wav2Vec2Config.xls_r_2b()),
        *(HubertConfig.base(), HubertConfig.large(), HubertConfig.xlarge()),
        *(WavLMConfig.base(), WavLMConfig.large()),
    ],
    ids=lambda config: f"{config.family}-{config.width}-{config.conv_norm}",
)
def test_every_key_and_shape_of_the_full_sizes_is_explained(config):
    home = family_module(config.family)
    kind, model = MODELS[config.family]
    words = home.config_to_torch(config)
    with torch.device("meta"):
        reference = model(kind(**COMMON | {key: words[key] for key in words if key != "do_normalize"}))
    shapes = {key: tuple(tensor.shape) for key, tensor in reference.state_dict().items()}
    assert home.config_from_torch(shapes, words) == config
    assert home.config_from_torch(shapes, {}) == config
    module = nnx.eval_shape(lambda: home.Module(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)))
    written = export(module, home.TORCH_RULES, family=config.family)
    assert {key: tensor.shape for key, tensor in written.items()} == shapes


def test_the_extractor_normalises_the_same(clips, close):
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    rows = [row[:length] for row, length in zip(clips, LENGTHS, strict=True)]
    expected = extractor(rows, sampling_rate=16_000, padding=True, return_tensors="np")["input_values"]
    real = np.arange(clips.shape[1]) < LENGTHS[:, None]
    close(normalised(jnp.asarray(clips), jnp.asarray(real)), expected, 2e-5)
