"""Accumulation is exact, frozen towers rest, averages average, nothing is compiled twice."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax import flops
from glap_jax.drawing import Masking
from glap_jax.parallel.sharding import make_mesh, over_batch, replicated
from glap_jax.plan.program import abstract_batch
from glap_jax.text.sonar import Sonar
from glap_jax.train import optimizer as optimizers
from glap_jax.train import state as states
from glap_jax.train.step import (
    cosine_means,
    cut,
    embed,
    join,
    make_loss,
    make_step,
    prepare,
    row_keys,
    step_key,
    value_and_gradient,
)


def gradient_of(config, parts, accumulation: int):
    loss = make_loss(config.loss)
    return functools.partial(value_and_gradient, parts, loss=loss, accumulation=accumulation)


def norm(tree) -> float:
    return float(np.sqrt(sum(np.square(np.asarray(x, np.float64)).sum() for x in jax.tree.leaves(tree))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "accumulations"),
    [
        ({"kind": "sigmoid", "chunk": 4, "positives": "caption"}, (2, 4)),
        ({"kind": "infonce", "positives": "clip", "regularise": False}, (4,)),
    ],
)
def test_accumulation_is_exact(tiny, parts, noise, changed, loss, accumulations):
    config, batch = changed(tiny, loss=loss), noise(8)
    run = lambda count: jax.jit(gradient_of(config, parts, count))(*inputs)  # noqa: E731
    inputs = (parts.trainable, parts.frozen, batch, step_key(0, jnp.int32(0)))
    expected = run(1)
    assert norm(expected[1]) > 0.1
    for accumulation in accumulations:
        same_gradient(run(accumulation), expected)


def same_gradient(found, expected) -> None:
    """Value, gradient and rows are equal up to the noise of float32."""
    (its_value, its_gradient, its_rows), (value, gradient, rows) = found[:3], expected[:3]
    assert float(its_value) == pytest.approx(float(value), rel=1e-6)
    np.testing.assert_allclose(its_rows, rows, atol=1e-6)
    assert norm(jax.tree.map(jnp.subtract, its_gradient, gradient)) < 1e-6 * norm(gradient)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(its_gradient), strict=True
    ):
        assert norm(other - one) <= 5e-6 * norm(one), path


@pytest.fixture
def drawn(tiny, changed, monkeypatch):
    """The tiny run, whose training blanks spectrograms and multiplies text vectors by noise."""
    forward = Sonar.__call__

    def noisy(self, *inputs, key=None):
        encoded = forward(self, *inputs)
        if key is None:
            return encoded
        return encoded._replace(pooled=encoded.pooled * jax.random.uniform(key[0], encoded.pooled.shape))

    monkeypatch.setattr(Sonar, "__call__", noisy)
    monkeypatch.setattr(Sonar, "draws", True, raising=False)
    masking = Masking(times=1, time_share=0.9, bands=1, band_share=0.9)
    return changed(tiny, model={"audio": dataclasses.replace(tiny.model.audio, masking=masking)})


@pytest.mark.slow
def test_accumulation_is_exact_given_the_same_draws(tiny, noise, drawn, build):
    """The reference encodes each part with its key, once, and differentiates through everything."""
    module = build(drawn)
    held = states.part(module, (("^text/", True), (".*", False)))
    batch, key = noise(8), step_key(0, jnp.int32(3))
    loss = make_loss(tiny.loss)

    def direct(weights):
        module = nnx.merge(held.graph, weights, held.frozen)
        pieces = jax.tree.map(lambda x: cut(x, 2), (batch, row_keys(batch, key)))
        each = [jax.tree.map(lambda x, number=number: x[number], pieces) for number in range(2)]
        inputs = [prepare(module, *part, audio=True, text=False) for part in each]
        rows = jax.tree.map(lambda *side: join(jnp.stack(side)), *(embed(module, part) for part in inputs))
        return loss(module, *rows, batch), rows

    (value, rows), gradient = jax.jit(jax.value_and_grad(direct, has_aux=True))(held.trainable)
    assert np.abs(rows[0] - module.encode_audio(batch["waveform"], batch["lengths"])).max() > 0.01
    # A frozen tower is as it will be used.
    np.testing.assert_allclose(rows[1], module.encode_text(batch["ids"], batch["text_mask"]), atol=1e-6)
    found = jax.jit(gradient_of(tiny, held, 2))(held.trainable, held.frozen, batch, key)
    same_gradient(found, (value, gradient, rows))


@pytest.mark.slow
def test_draws_are_a_function_of_seed_and_step(changed, noise, drawn):
    """One device and eight draw the same. At rate 0 nothing but the draws differs from step to step."""
    config = changed(drawn, optimizer={"scale": ((".*", 0.0),)})
    found = {}
    for count in (1, 8):
        mesh = make_mesh(config.parallel, jax.devices()[:count])
        design = states.design(config, mesh)
        step, batch = make_step(config, design, mesh), noise(8)
        state, frozen = states.begin(states.build(config, design), config, design)
        for number in (0, 1, 0):
            state = state._replace(step=jax.device_put(jnp.int32(number), replicated(mesh)))
            state, metrics = step(state, frozen, jax.device_put(batch, over_batch(mesh)))
            found.setdefault(count, []).append(float(metrics["loss"]))
    first, second, again = found[1]
    assert first == again
    assert abs(first - second) > 1e-3
    np.testing.assert_allclose(found[8], found[1], rtol=1e-5)
    keys = [jax.random.key_data(step_key(seed, jnp.int32(1))) for seed in (0, 1)]
    assert (keys[0] != keys[1]).any()


def test_cut_and_join_are_inverse():
    x = jnp.arange(24).reshape(12, 2)
    pieces = cut(x, 3)
    assert pieces.shape == (3, 4, 2)
    np.testing.assert_array_equal(pieces[1, :, 0] // 2, [1, 4, 7, 10])
    np.testing.assert_array_equal(join(pieces), x)


def test_frozen_tower_runs_once_and_its_head_learns(tiny, parts, noise, changed, monkeypatch):
    module = nnx.merge(parts.graph, parts.trainable, parts.frozen)
    calls = []
    forward = Sonar.__call__
    monkeypatch.setattr(Sonar, "__call__", lambda self, *args: calls.append(1) or forward(self, *args))
    seen = {}
    for name, rules in (("free", ((".*", False),)), ("frozen", (("^text/", True), (".*", False)))):
        calls.clear()
        held = states.part(module, rules)
        _, gradient, *_ = jax.eval_shape(
            gradient_of(tiny, held, 2), held.trainable, held.frozen, noise(8), jax.random.key(0)
        )
        seen[name] = len(calls)
    assert seen == {"free": 2, "frozen": 1}
    paths = {optimizers.parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(gradient)}
    assert "text_head/out/kernel" in paths
    assert not [path for path in paths if path.startswith("text/")]


def test_what_stays_takes_no_backward_pass(tiny, changed):
    """Nor, with a text cache, a forward pass; nothing that stays has a place in the optimizer."""
    still, cached = (("^text/", True), (".*", False)), {"text_cache": "texts"}
    kinds = {"free": (tiny.frozen, {}), "frozen": (still, {}), "cached": (still, cached)}
    spent = {}
    for name, (rules, data) in kinds.items():
        config = changed(tiny, frozen=rules, data={"crop_seconds": 0.25, "max_tokens": 8, **data})
        mesh = make_mesh(config.parallel, jax.devices()[:1])
        design, batch = states.design(config, mesh), abstract_batch(config, mesh)
        spent[name] = flops.count(make_step(config, design, mesh), design.state, design.frozen, batch)
        held = jax.tree_util.tree_leaves_with_path(design.state)
        assert any("['text']" in jax.tree_util.keystr(path) for path, _ in held) == (name == "free")
    forward = flops.forward(config, pairs=config.batch).text
    # Nothing asks for the gradient of what goes into the head, either.
    into_head = 2 * config.batch * config.model.text.width * config.model.joint
    assert spent["free"] - spent["frozen"] == 2 * forward + into_head
    assert spent["frozen"] - spent["cached"] == forward


def test_bfloat16_compute_keeps_loss_and_gradients_float32(tiny, noise, changed):
    config = changed(tiny, dtype="bfloat16", remat="dots")
    module = nnx.eval_shape(lambda: states.fresh(config))
    assert module.audio.patch.dtype == jnp.bfloat16
    held = states.part(module, config.frozen)
    found = jax.eval_shape(
        gradient_of(config, held, 2), held.trainable, held.frozen, noise(8), jax.random.key(0)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_infonce_shares_targets_of_equal_identity(tiny, parts, changed):
    module = nnx.merge(parts.graph, parts.trainable, parts.frozen)
    loss = make_loss(changed(tiny, loss={"kind": "infonce", "positives": "clip", "regularise": False}).loss)
    draw = np.random.default_rng(0)
    audio, text = (
        jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
        for x in draw.normal(size=(2, 4, 8)).astype(np.float32)
    )
    batch = {"identity": jnp.asarray([0, 1, 0, 2], jnp.int32), "pair_mask": jnp.ones(4, bool)}
    value = loss(module, audio, text, batch)
    logits = np.asarray(audio, np.float64) @ np.asarray(text, np.float64).T / 0.07
    targets = np.array([[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1]])
    logs = [x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (logits, logits.T)]
    assert float(value) == pytest.approx(-np.mean([(targets * x).sum(1).mean() for x in logs]), rel=1e-5)


def test_cosine_means():
    draw = np.random.default_rng(1)
    audio, text = draw.normal(size=(2, 8, 5)).astype(np.float32)
    mask = np.arange(8) < 6
    means = cosine_means(jnp.asarray(audio), jnp.asarray(text), jnp.asarray(mask))
    cosines = audio[mask] @ text[mask].T
    assert float(means["positive"]) == pytest.approx(np.diag(cosines).mean(), rel=1e-5)
    others = cosines[~np.eye(6, dtype=bool)].mean()
    assert float(means["negative"]) == pytest.approx(others, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_steps_train_average_and_compile_once(tiny, noise, changed):
    """Also: one device and eight give the same losses, whether each of these holds a copy of all or not."""
    run = changed(tiny, ema=0.5, frozen=(("^text/", True), (".*", False)))
    losses = {}
    for count, fsdp in ((1, 1), (8, 1), (8, 4)):
        config = changed(run, parallel={"fsdp": fsdp})
        mesh = make_mesh(config.parallel, jax.devices()[:count])
        design = states.design(config, mesh)
        step, schedule = make_step(config, design, mesh), design.schedule
        state, frozen = states.begin(states.build(config, design), config, design)
        before = jax.tree.map(np.array, frozen)
        # Copies: an array that NumPy looks into keeps its memory.
        average = [np.array(x) for x in jax.tree.leaves(state.average)]
        found = losses[count, fsdp] = []
        for number in range(3):
            batch = jax.device_put(noise(8, seed=number % 2), over_batch(mesh))
            old = state
            state, metrics = step(old, frozen, batch)
            # Its memory is that of the new state now.
            assert all(x.is_deleted() for x in jax.tree.leaves(old))
            found.append(float(metrics["loss"]))
            assert float(metrics["learning_rate"]) == pytest.approx(float(schedule(number)), rel=1e-6)
            decay = min(0.5, (2 + number) / (11 + number))
            new = [np.array(x) for x in jax.tree.leaves(state.trainable)]
            average = [decay * old + (1 - decay) * fresh for old, fresh in zip(average, new, strict=True)]
        assert step._cache_size() == 1
        assert int(state.step) == 3
        for mine, theirs in zip(jax.tree.leaves(state.average), average, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(frozen), strict=True):
            np.testing.assert_array_equal(old, new)
        assert state.published is state.average
    alone, *others = losses.values()
    assert alone[2] < alone[0]
    for each in others:
        np.testing.assert_allclose(each, alone, rtol=1e-5)
