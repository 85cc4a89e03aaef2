"""Classifiers on frozen embeddings: that they learn, when they stop, and the reference's sizes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from glap_jax.eval import classifiers
from glap_jax.eval.classifiers import Labelled, Layers, LayersConfig, layers, logistic

# Enough to learn by, and few enough to wait for.
QUICK = LayersConfig(hidden=(24, 12), dropout=0.1, learning_rate=1e-2, epochs=30, patience=10)


@pytest.fixture(scope="module")
def clouds():
    """Three classes around three points: train, val and test, linearly separable but for a few."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(3, 8))

    def some(count):
        labels = draw.integers(3, size=count)
        rows = (centres[labels] + 0.6 * draw.normal(size=(count, 8))).astype(np.float32)
        return Labelled(rows, np.eye(3, dtype=bool)[labels])

    return some(90), some(30), some(60)


def accuracy(scores, known):
    return np.mean(scores.argmax(axis=1) == known.truth.argmax(axis=1))


@pytest.fixture(scope="module")
def learned(clouds):
    train, val, test = clouds
    return layers(train, val, test.rows, several=False, config=QUICK)


def test_layers_learn_and_are_seeded(clouds, learned):
    train, val, test = clouds
    assert accuracy(learned, test) > 0.85
    np.testing.assert_array_equal(learned, layers(train, val, test.rows, several=False, config=QUICK))


def test_layers_stop_early_with_the_best_parameters(clouds, learned):
    """Where the validation clips have other labels, learning only makes their loss worse."""
    train, val, test = clouds
    wrong = Labelled(val.rows, np.roll(val.truth, 1, axis=1))
    config = dataclasses.replace(QUICK, patience=1)
    few = layers(train, wrong, test.rows, several=False, config=config)
    assert np.abs(few).max() < np.abs(learned).max() / 2


def test_several_labels_a_clip(clouds):
    train, val, test = (
        Labelled(each.rows, np.column_stack([each.truth, each.truth[:, 0] | each.truth[:, 1]]))
        for each in clouds
    )
    for scores in (
        layers(train, val, test.rows, several=True, config=QUICK),
        logistic(train, val, test.rows, several=True),
    ):
        assert average_precision_score(test.truth, scores) > 0.85


def test_layers_are_claras():
    """faec8a5: linear layers of 512, 128 and as many as there are classes, ReLU between, dropout 0.6."""
    config = LayersConfig()
    module = Layers(4, 5, config, rngs=nnx.Rngs(0))
    shapes = [leaf.shape for leaf in (module.first.kernel, module.second.kernel, module.out.kernel)]
    assert shapes == [(4, 512), (512, 128), (128, 5)]
    rows = jnp.ones((2, 4))
    expected = rows
    for layer in (module.first, module.second):
        expected = jnp.maximum(expected @ layer.kernel[...] + layer.bias[...], 0)
    expected = expected @ module.out.kernel[...] + module.out.bias[...]
    np.testing.assert_allclose(module(rows), expected, atol=1e-5)
    assert (config.dropout, config.learning_rate, config.least_rate, config.batch) == (0.6, 1e-4, 2e-5, 16)


def test_logistic_regression_is_scikit_learns_with_the_best_strength(clouds):
    train, val, test = clouds
    scaler, labels = StandardScaler().fit(train.rows), train.truth.argmax(axis=1)
    best, most = None, -1.0
    for strength in classifiers.STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(scaler.transform(train.rows), labels)
        score = model.score(scaler.transform(val.rows), val.truth.argmax(axis=1))
        best, most = (model, score) if score > most else (best, most)
    found = logistic(train, val, test.rows, several=False)
    np.testing.assert_allclose(found, best.decision_function(scaler.transform(test.rows)), atol=1e-6)
    assert accuracy(found, test) > 0.85


def test_a_class_that_training_lacks_is_never_found(clouds):
    train, val, test = clouds
    kept = ~train.truth[:, 1]
    lacking = Labelled(train.rows[kept], train.truth[kept])
    assert 1 not in logistic(lacking, val, test.rows, several=False).argmax(axis=1)
    scores = logistic(lacking, val, test.rows, several=True)
    assert np.isfinite(scores).all()
    assert (scores[:, 1] < scores[:, [0, 2]].min()).all()
    alone = Labelled(train.rows[~kept], train.truth[~kept])
    assert (logistic(alone, val, test.rows, several=False).argmax(axis=1) == 1).all()
