"""SONAR against recorded sentence vectors."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.families import from_torch, to_torch
from glap_jax.text.sonar import sinusoids

SENTENCE = 1e-5
encode = nnx.jit(lambda module, ids, mask: module(ids, mask))


@pytest.fixture(scope="module")
def tensors(weights):
    prefix = "text_encoder.model."
    found = weights("glap").items()
    return {key.removeprefix(prefix): value for key, value in found if key.startswith(prefix)}


@pytest.fixture(scope="module")
def sonar(tensors):
    return from_torch("sonar", tensors, {"num_heads": 4})


FAIRSEQ = {
    "encoder_frontend.embed": "embed_tokens",
    "encoder.layers": "layers",
    "self_attn.output_proj": "self_attn.out_proj",
    "ffn_layer_norm": "final_layer_norm",
    "ffn.inner_proj": "fc1",
    "ffn.output_proj": "fc2",
}


def test_the_published_layout_of_fairseq(sonar, tensors):
    """Other names, control tokens in fairseq's order, two markers: the same encoder, and back bit for bit."""
    published = {"version": np.array([3.0], np.float32)}
    published["embed_positions._float_tensor"] = np.zeros(1, np.float32)
    for key, value in tensors.items():
        for ours, theirs in FAIRSEQ.items():
            key = key.replace(ours, theirs)
        published[key] = value
    pad, unknown, begin, end, *_ = embedding = published["embed_tokens.weight"].copy()
    published["embed_tokens.weight"] = np.concatenate([[begin, pad, end, unknown], embedding[4:]])
    kept = {key: value.copy() for key, value in published.items()}
    module = from_torch("sonar", published, {"num_heads": 4})
    assert module.config == sonar.config
    for found, expected in zip(
        jax.tree.leaves(nnx.state(module)), jax.tree.leaves(nnx.state(sonar)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    back = to_torch(module)
    assert set(back) == set(kept)
    for key, value in kept.items():
        assert back[key].tobytes() == value.tobytes() == published[key].tobytes(), key


def test_positions_are_fairseq_s(golden):
    """Angles reach 515 and the reference keeps them in float32, whose last bit is 3e-5 there."""
    np.testing.assert_allclose(
        sinusoids(514, 48)[::16], golden("glap")["sinusoid_table"], rtol=0, atol=3.1e-5
    )


def test_a_padded_batch(sonar, golden, close):
    io = golden("glap")
    ids, mask = jnp.asarray(io["text/batch/ids"]), jnp.asarray(~io["text/batch/padding_mask"])
    close(encode(sonar, ids, mask).pooled, io["text/batch/sentence"], SENTENCE)
    garbage = jnp.where(mask, ids, 77)
    close(encode(sonar, garbage, mask).pooled, io["text/batch/sentence"], SENTENCE)


def test_single_sentences_and_a_truncated_one(sonar, golden, close):
    io = golden("glap")
    path = Path(__file__).parents[1] / "golden" / "glap" / "tokenizer.json"
    sentences = json.loads(path.read_text(encoding="utf-8"))["sentences"]
    for number in (0, 14, 18):
        ids = jnp.asarray([sentences[number]["ids_reduced"]], jnp.int32)
        close(
            encode(sonar, ids, jnp.ones(ids.shape, bool)).pooled[0],
            io[f"text/single/{number:02}/sentence"],
            SENTENCE,
        )
    ids = jnp.asarray([sentences[-1]["ids_reduced"][:514]], jnp.int32)
    close(
        encode(sonar, ids, jnp.ones(ids.shape, bool)).pooled[0], io["text/long_truncated/sentence"], SENTENCE
    )


def test_every_layer_agrees_with_the_trace(sonar, golden, close):
    io = golden("glap")
    ids, mask = jnp.asarray(io["text/batch/ids"][:4]), jnp.asarray(~io["text/batch/padding_mask"][:4])
    real = np.asarray(mask, np.float32)[..., None]
    x = sonar.embedding(ids) * 48**0.5 + jnp.asarray(sinusoids(ids.shape[1], 48))
    close(x * real, io["trace/text/frontend"] * real, SENTENCE)
    graph, layers = nnx.split(sonar.blocks.layers)
    for number in range(2):
        block = nnx.merge(graph, jax.tree.map(lambda leaf, number=number: leaf[number], layers))
        attended = block.attention(block.attention_norm(x), mask)
        close(attended * real, io[f"trace/text/layer{number}.self_attn"] * real, SENTENCE)
        x = block(x, mask)
        close(x * real, io[f"trace/text/layer{number}"] * real, 2e-5)
    close(sonar.norm(x) * real, io["trace/text/final_layer_norm"] * real, SENTENCE)


def test_padding_changes_nothing(sonar, golden):
    ids = jnp.asarray(golden("glap")["text/batch/ids"][:1, :9])
    alone = encode(sonar, ids, jnp.ones(ids.shape, bool)).pooled
    padded = jnp.pad(ids, ((0, 0), (0, 40)), constant_values=5)
    together = encode(sonar, padded, jnp.arange(49)[None] < 9).pooled
    np.testing.assert_allclose(together, alone, atol=1e-6)
