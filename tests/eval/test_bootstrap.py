"""Intervals: those of drawing queries one by one, and of the right width."""

import numpy as np
import pytest

from glap_jax.eval import bootstrap
from glap_jax.eval.metrics import retrieval_ranks, summarise


def ranks(noise, seed=0):
    audio = np.random.default_rng(0).standard_normal((150, 16)).astype(np.float32)
    text = audio + noise * np.random.default_rng(seed + 1).standard_normal((150, 16)).astype(np.float32)
    return retrieval_ranks(audio, text)["t2a"]


def test_as_drawing_queries_one_by_one():
    generator = np.random.default_rng(1)
    values = generator.choice([0.0, 0.5, 1.0], 80, p=[0.5, 0.2, 0.3])
    drawn = values[generator.integers(0, 80, (20_000, 80))].mean(axis=1)
    expected = np.percentile(drawn, [2.5, 97.5])
    np.testing.assert_allclose(bootstrap.interval(values), expected, atol=0.02)
    assert bootstrap.interval(values) == bootstrap.interval(values)
    assert bootstrap.interval(values, seed=1) != bootstrap.interval(values)


def test_blocks_of_draws_cover_all(monkeypatch):
    values = np.random.default_rng(2).standard_normal(50)
    whole = bootstrap.interval(values)
    monkeypatch.setattr(bootstrap, "BLOCK", 50 * 300)
    np.testing.assert_allclose(bootstrap.interval(values), whole, atol=0.1)


def test_parts_keep_their_sizes():
    generator = np.random.default_rng(3)
    parts = [generator.standard_normal(40), generator.standard_normal(7), np.array([5.0])]
    drawn = [part[generator.integers(0, len(part), (20_000, len(part)))].mean(axis=1) for part in parts]
    expected = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    np.testing.assert_allclose(bootstrap.strata_interval(parts), expected, atol=0.05)


def test_sums_and_medians_of_the_same_rows():
    generator = np.random.default_rng(4)
    ranks, owners = generator.integers(1, 9, 12), generator.integers(0, 6, 12)
    counts = bootstrap.drawn_counts(6, bootstrap.DRAWS)
    sums = bootstrap.drawn_sums(np.bincount(owners, weights=ranks, minlength=6)[:, None])
    medians = bootstrap.drawn_medians(ranks, owners, 6)
    for row in range(50):
        drawn = np.repeat(ranks, counts[owners, row])
        assert sums[row, 0] == drawn.sum()
        assert medians[row] == np.floor(np.median(drawn))


def test_recall_is_as_wide_as_a_binomial():
    found = ranks(2.5)
    figures, ends = summarise(found), bootstrap.intervals(found)
    assert set(ends) == {"r1", "r5", "r10", "map10", "mrr", "meanr", "medr"}
    for name, (low, high) in ends.items():
        assert low <= figures[name] <= high
    share = figures["r1"] / 100
    width = 2 * 1.96 * 100 * np.sqrt(share * (1 - share) / 150)
    low, high = ends["r1"]
    assert high - low == pytest.approx(width, rel=0.15)


def test_a_pair_of_models_is_closer_than_two():
    models = [ranks(2.5), ranks(2.2)]
    before, after = (bootstrap.per_query(each.first, each.precision) for each in models)
    low, high = bootstrap.differences(before, after)["r10"]
    old, new = (summarise(each)["r10"] for each in models)
    assert low < new - old < high
    widths = [high - low for low, high in (bootstrap.intervals(each)["r10"] for each in models)]
    assert high - low < sum(widths)
    assert bootstrap.differences(before, before)["r10"] == [0.0, 0.0]
