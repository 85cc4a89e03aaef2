"""Average precision of clips drawn anew, against scikit-learn on lists of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from glap_jax.eval import bootstrap, precision


def ties(seed, clips, classes):
    """Scores that are few whole numbers, and what is right."""
    draw = np.random.default_rng(seed)
    return draw.integers(-2, 3, (clips, classes)).astype(np.float32), draw.random((clips, classes)) < 0.4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_average_precision_is_that_of_scikit_learn(seed, clips):
    scores, truth = ties(seed, clips, 1)
    counts = np.concatenate([np.ones((clips, 1), np.uint8), bootstrap.drawn_counts(clips, 4)], axis=1)
    if not truth.any():
        return
    found = precision.average_precision(scores[:, 0], truth[:, 0], counts)
    for column, value in zip(counts.T, found, strict=True):
        rows = np.repeat(np.arange(clips), column)
        if truth[rows].any():
            expected = average_precision_score(truth[rows, 0], scores[rows, 0])
            assert value == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(value)


def test_means_leave_out_classes_without_a_clip(monkeypatch):
    monkeypatch.setattr(precision, "TOGETHER", 3)
    scores, truth = ties(5, 8, 4)
    truth[:, 1] = False
    figure, draws = precision.mean_precision(lambda one: scores[:, one], truth, draws=10)
    there = [0, 2, 3]
    assert figure == pytest.approx(average_precision_score(truth[:, there], scores[:, there]))
    for counts, value in zip(bootstrap.drawn_counts(8, 10).T, draws, strict=True):
        rows = np.repeat(np.arange(8), counts)
        each = [
            average_precision_score(truth[rows, one], scores[rows, one])
            for one in there
            if truth[rows, one].any()
        ]
        assert value == pytest.approx(np.mean(each))


def test_large_sets_are_drawn_less_often(monkeypatch):
    scores, truth = ties(6, 20, 2)
    monkeypatch.setattr(precision, "BUDGET", 40 * 300)
    figure, draws = precision.mean_precision(lambda one: scores[:, one], truth)
    assert len(draws) == 300
    monkeypatch.setattr(precision, "BUDGET", 0)
    again, fewer = precision.mean_precision(lambda one: scores[:, one], truth)
    assert (again, len(fewer)) == (figure, precision.FEWEST)
    np.testing.assert_array_equal(fewer, draws[: precision.FEWEST])
