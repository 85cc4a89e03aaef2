"""The sigmoid loss: chunks, forms, repeated clips, meshes, memory and bad input."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from glap_jax import losses
from glap_jax.errors import GlapError
from glap_jax.losses.sharded import choose


def unit_rows(seed, batch=12, joint=6):
    rows = np.random.default_rng(seed).standard_normal((2, batch, joint)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@functools.cache
def compiled(**options):
    """Loss and gradients of (audio, text, temperature, bias, ids), jitted."""

    def loss(audio, text, temperature, bias, ids):
        return losses.sigmoid(audio, text, temperature=temperature, bias=bias, ids=ids, **options)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))


def brute_force(audio, text, temperature, bias, ids):
    """Float64, pair by pair."""
    total = 0.0
    for i, clip in enumerate(audio.astype(np.float64)):
        for j, caption in enumerate(text.astype(np.float64)):
            sign = 1.0 if ids[i] == ids[j] else -1.0
            total += np.logaddexp(0.0, -sign * (clip @ caption / temperature + bias))
    return total / len(audio)


@pytest.mark.parametrize("chunk", [1, 4, 5, 11])
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.02, 2.0),
    bias=st.floats(-12.0, 3.0),
    kinds=st.integers(1, 12),
)
def test_chunks_change_nothing_and_agree_with_brute_force(chunk, seed, temperature, bias, kinds):
    audio, text = unit_rows(seed)
    ids = jnp.asarray(np.random.default_rng(seed).integers(0, kinds, len(audio)), jnp.int32)
    inputs = (audio, text, jnp.float32(temperature), jnp.float32(bias), ids)
    value, gradients = compiled(regularise=True)(*inputs)
    chunked_value, chunked = compiled(regularise=True, chunk=chunk)(*inputs)
    np.testing.assert_allclose(chunked_value, value, rtol=1e-5)
    for one, other in zip(chunked, gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * float(jnp.abs(other).max()) + 1e-6)
    expected = brute_force(audio, text, temperature, bias, np.asarray(ids))
    extra = float(losses.embedding_regulariser(audio, text))
    np.testing.assert_allclose(value, expected + extra, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_pairs_does_not_matter(seed):
    audio, text = unit_rows(seed)
    order = np.random.default_rng(seed).permutation(len(audio))
    ids = jnp.arange(len(audio))
    scalars = (jnp.float32(0.07), jnp.float32(-10.0))
    value, gradients = compiled(chunk=5)(audio, text, *scalars, ids)
    shuffled, other = compiled(chunk=5)(audio[order], text[order], *scalars, ids)
    np.testing.assert_allclose(shuffled, value, rtol=1e-5)
    np.testing.assert_allclose(other[0], gradients[0][order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("temperature", "bias"), [(0.07, -10.0), (0.5, -1.0)])
def test_forms_differ_only_by_the_converted_bias(temperature, bias):
    audio, text = unit_rows(1)
    code_bias = losses.convert_bias(bias, temperature, source="paper", target="code")
    assert code_bias == pytest.approx(bias / temperature)
    assert losses.convert_bias(code_bias, temperature, source="code", target="paper") == pytest.approx(bias)
    assert losses.convert_bias(bias, temperature, source="code", target="code") == bias
    paper = losses.sigmoid(audio, text, temperature=temperature, bias=bias, form="paper")
    code = losses.sigmoid(audio, text, temperature=temperature, bias=code_bias, form="code")
    literal = losses.sigmoid(audio, text, temperature=temperature, bias=bias, form="code")
    np.testing.assert_allclose(paper, code, rtol=1e-5)
    assert abs(float(literal) - float(code)) > 0.1


def array_sizes(jaxpr):
    """Sizes of everything that a program computes, inner programs included."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield variable.aval.size
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from array_sizes(inner)


def test_no_more_logits_than_batch_times_chunk_exist():
    batch, chunk, joint = 64, 8, 4
    audio, text = unit_rows(2, batch, joint)
    inputs = (audio, text, jnp.float32(0.07), jnp.float32(-10.0), jnp.arange(batch))
    largest = {
        size: max(array_sizes(jax.make_jaxpr(compiled(chunk=size))(*inputs).jaxpr)) for size in (None, chunk)
    }
    assert largest == {None: batch * batch, chunk: batch * chunk}


MESHES = {"data": (8,), "fsdp": (1, 8), "both": (4, 2), "three": (3,)}


@pytest.mark.parametrize(
    ("mesh", "strategy", "chunk"),
    [
        *(("both", strategy, chunk) for strategy in ("gather", "ring") for chunk in (None, 1, 2, 5)),
        *((mesh, strategy, 2) for strategy in ("gather", "ring") for mesh in ("data", "fsdp", "three")),
    ],
)
def test_a_sharded_batch_gives_the_dense_value_and_gradients(mesh, strategy, chunk):
    audio, text = unit_rows(3, batch=24)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 15, 24), jnp.int32)
    scalars = (jnp.float32(0.1), jnp.float32(-3.0))
    value, gradients = compiled(strategy="dense", regularise=True)(audio, text, *scalars, ids)
    shape = MESHES[mesh]
    devices = np.asarray(jax.devices()[: math.prod(shape)]).reshape(shape)
    mesh = Mesh(devices, ("data", "fsdp")[: len(shape)])
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    sharded = jax.device_put(audio, rows), jax.device_put(text, rows)
    loss = compiled(mesh=mesh, strategy=strategy, chunk=chunk, regularise=True)
    on_mesh, other = loss(*sharded, *scalars, ids)
    np.testing.assert_allclose(on_mesh, value, rtol=1e-5)
    for one, two in zip(other, gradients, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    assert other[0].sharding.is_equivalent_to(rows, 2)


def test_one_pair_a_device_travels_one_way():
    audio, text = unit_rows(4, batch=8)
    inputs = (audio, text, jnp.float32(0.1), jnp.float32(-3.0), jnp.arange(8))
    value, gradients = compiled()(*inputs)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    on_mesh, other = compiled(mesh=mesh, strategy="ring")(*inputs)
    np.testing.assert_allclose(on_mesh, value, rtol=1e-5)
    for one, two in zip(other, gradients, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_what_auto_stands_for():
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    found = functools.partial(choose, "auto", loss="it")
    assert found(4096, 1024, None, None) == "dense"
    assert found(4096, 1024, None, 512) == "gather"
    assert found(4096, 1024, mesh, None) == "gather"
    assert found(8192, 1024, mesh, None) == "ring"


def test_half_precision_rows_are_computed_in_float32():
    audio, text = (jnp.asarray(rows, jnp.bfloat16) for rows in unit_rows(4))
    loss = losses.sigmoid(audio, text, temperature=0.07, bias=-10.0)
    wide = losses.sigmoid(
        audio.astype(jnp.float32), text.astype(jnp.float32), temperature=0.07, bias=-10.0, chunk=5
    )
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, wide, rtol=1e-5)


def test_extreme_logits_stay_finite():
    audio, text = unit_rows(5)
    inputs = (audio, text, jnp.float32(1e-3), jnp.float32(-500.0), jnp.arange(12))
    value, gradients = compiled(form="paper", chunk=5)(*inputs)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"form": "papr"}, "papr"),
        ({"strategy": "rign"}, "rign"),
        ({"strategy": "dense", "chunk": 4}, "all pairs at once"),
        ({"chunk": 0}, "chunks of 0"),
    ],
)
def test_unknown_options_are_named(options, named):
    audio, text = unit_rows(6)
    with pytest.raises(GlapError, match=named):
        losses.sigmoid(audio, text, temperature=0.07, bias=None, **options)


def test_a_batch_that_does_not_split_over_the_mesh_is_an_error():
    audio, text = unit_rows(7, batch=12)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    with pytest.raises(GlapError, match="12 pairs does not split over 8 devices"):
        losses.sigmoid(audio, text, temperature=0.07, bias=-10.0, mesh=mesh)
