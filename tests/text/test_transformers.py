"""BERT and XLM-RoBERTa against `transformers`: random small models, and the published sizes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.convert.engine import export
from glap_jax.families import family_module, from_torch, to_torch
from glap_jax.text.bert import BertConfig
from glap_jax.text.xlm_roberta import XlmRobertaConfig

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="install the extra 'torch'")
transformers = pytest.importorskip("transformers", reason="install the extra 'dev'")

MODELS = {
    "bert": (transformers.BertConfig, transformers.BertModel),
    "xlm_roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaModel),
}
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
# The recorded numbers' limit for states and pooled vectors.
STATES = 2e-5

encode = nnx.jit(lambda module, ids, mask: module(ids, mask))


@pytest.fixture(scope="module")
def rows():
    """Ids and masks of rows of 9, 4 and 1 tokens; what stands behind them is no padding token."""
    ids = np.random.default_rng(0).integers(5, 40, (3, 9), dtype=np.int32)
    return ids, np.arange(9) < np.array([[9], [4], [1]])


def config_of(words, family):
    """The configuration there that this package writes, less the entries that only it reads."""
    kind, _ = MODELS[family]
    return kind(**{key: value for key, value in words.items() if key not in ("pooling", "prefix")})


def states(reference, ids, mask):
    with torch.no_grad():
        found = reference(torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long())
    return found.last_hidden_state.numpy(), found.pooler_output.numpy()


@pytest.mark.parametrize("family", MODELS)
def test_a_random_model_computes_the_same_and_is_written_back(family, rows, close):
    kind, model = MODELS[family]
    torch.manual_seed(0)
    reference = model(kind(**SIZES, vocab_size=40, max_position_embeddings=12, type_vocab_size=3)).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
    ours = from_torch(family, reference.state_dict(), reference.config.to_dict())
    found = encode(ours, *map(jnp.asarray, rows))
    tokens, pooled = states(reference, *rows)
    # `transformers` counts positions of XLM-RoBERTa by ids alone, so that tokens behind the mask differ.
    close(np.where(rows[1][..., None], found.tokens, 0), np.where(rows[1][..., None], tokens, 0), STATES)
    close(found.pooled, pooled, STATES)
    again = model(config_of(family_module(family).config_to_torch(ours.config), family)).eval()
    again.load_state_dict({key: torch.from_numpy(np.array(x)) for key, x in to_torch(ours).items()})
    np.testing.assert_array_equal(states(again, *rows)[0], tokens)


@pytest.mark.parametrize(
    "config",
    [
        BertConfig.base(),
        BertConfig.large(),
        BertConfig.e5_small(),
        XlmRobertaConfig.base(),
        XlmRobertaConfig.large(),
    ],
    ids=lambda config: f"{config.family}-{config.width}",
)
def test_every_key_and_shape_of_the_full_sizes_is_explained(config):
    home = family_module(config.family)
    words = home.config_to_torch(config)
    with torch.device("meta"):
        reference = MODELS[config.family][1](config_of(words, config.family))
    shapes = {key: tuple(tensor.shape) for key, tensor in reference.state_dict().items()}
    assert home.config_from_torch(shapes, words) == config
    module = nnx.eval_shape(lambda: home.Module(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)))
    written = export(module, home.TORCH_RULES, family=config.family)
    assert {key: tensor.shape for key, tensor in written.items()} == shapes
