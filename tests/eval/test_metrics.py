"""Retrieval figures: recorded numbers, brute force with many ties, chance, and bad input."""

import json
import math
import tracemalloc
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glap_jax.errors import GlapError
from glap_jax.eval.metrics import chance, retrieval_metrics, retrieval_ranks

CASES = json.loads((Path(__file__).parent.parent / "golden/metrics/cases.json").read_text())


def lower(figures):
    return {
        direction: {key.lower(): value for key, value in one.items()} for direction, one in figures.items()
    }


def assert_recorded(actual, recorded):
    for direction, figures in recorded.items():
        for key, value in figures.items():
            assert actual[direction][key] == pytest.approx(value, abs=1e-6), (direction, key)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunk", [None, 7])
def test_as_recorded_from_glap_model(golden, name, chunk):
    arrays, case = golden("metrics"), CASES[name]
    captions = case["num_caps"]
    audio, text = arrays[f"{name}/audio"], arrays[f"{name}/text"]
    assert_recorded(retrieval_metrics(audio, text, captions, chunk=chunk), lower(case["metrics"]))
    once = retrieval_metrics(jnp.asarray(audio[::captions]), jnp.asarray(text), captions, chunk=chunk)
    assert_recorded(once, lower(case["metrics"]))
    short = retrieval_metrics(audio, text, captions, recall_at=(1, 3), map_at=5, chunk=chunk)
    assert set(short["a2t"]) == {"r1", "r3", "map5", "meanr", "medr", "mrr", "hits1"}
    renamed = {
        direction: {key.replace("mAP10", "map5"): value for key, value in figures.items()}
        for direction, figures in case["topk5_recall_1_3"].items()
    }
    assert_recorded(short, renamed)


def brute_force(scores, right, k=10):
    """One direction, candidate by candidate; wrong candidates come first among equals."""
    ranks, precisions = [], []
    for row, good in zip(scores, right, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], good[j]))
        places = [place for place, j in enumerate(order, 1) if good[j]]
        ranks.append(places[0])
        precisions.append(sum(n / place for n, place in enumerate(places, 1) if place <= k) / len(places))
    ranks = sorted(ranks)
    half = len(ranks) // 2
    median = (ranks[half] + ranks[~half]) / 2
    return {
        **{f"r{n}": 100 * sum(rank <= n for rank in ranks) / len(ranks) for n in (1, 5, 10)},
        "map10": 100 * sum(precisions) / len(precisions),
        "meanr": sum(ranks) / len(ranks),
        "medr": math.floor(median),
        "mrr": sum(1 / rank for rank in ranks) / len(ranks),
        "hits1": sum(rank == 1 for rank in ranks) / len(ranks),
    }


def signs(generator, rows, joint=4):
    """Rows of +-1: their cosines take five values only, so ties abound."""
    return generator.choice([-1.0, 1.0], size=(rows, joint)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), clips=st.integers(1, 17), captions=st.integers(1, 4), chunk=st.integers(1, 20)
)
def test_against_brute_force_with_ties(seed, clips, captions, chunk):
    generator = np.random.default_rng(seed)
    audio, text = signs(generator, clips), signs(generator, clips * captions)
    actual = retrieval_metrics(audio, text, captions, chunk=chunk)
    right = np.arange(clips)[:, None] == np.arange(clips * captions)[None, :] // captions
    for direction, expected in {
        "a2t": brute_force(audio @ text.T, right),
        "t2a": brute_force(text @ audio.T, right.T),
    }.items():
        assert actual[direction] == pytest.approx(expected, abs=1e-9)
    order = generator.permutation(clips)
    shuffled = text.reshape(clips, captions, -1)[order].reshape(text.shape)
    again = retrieval_metrics(audio[order], shuffled, captions)
    for direction in actual:
        assert again[direction] == pytest.approx(actual[direction])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), clips=st.integers(1, 12), distinct=st.integers(1, 5))
def test_shared_captions_against_brute_force(seed, clips, distinct):
    generator = np.random.default_rng(seed)
    audio = signs(generator, clips)
    owned = generator.integers(0, distinct, (clips, 2)).astype(np.int64)
    owned[generator.random(clips) < 0.5, 1] = -1
    text_ids = np.unique(owned[owned >= 0])
    text_ids = np.concatenate([text_ids, text_ids[: len(text_ids) // 2]])
    text = signs(generator, len(text_ids))
    actual = retrieval_metrics(audio, text, audio_ids=owned, text_ids=text_ids)
    right = (owned[:, :, None] == text_ids).any(axis=1)
    assert actual["a2t"] == pytest.approx(brute_force(audio @ text.T, right), abs=1e-9)
    assert actual["t2a"] == pytest.approx(brute_force(text @ audio.T, right.T), abs=1e-9)


def test_a_model_that_says_the_same_of_everything_gets_nothing():
    same = np.ones((50, 8), np.float32) * np.linspace(0.3, 3.0, 50, dtype=np.float32)[:, None]
    figures = retrieval_metrics(same, np.ones((50, 8), np.float32))["a2t"]
    assert figures["r10"] == figures["map10"] == figures["hits1"] == 0.0
    assert figures["meanr"] == figures["medr"] == 50.0
    nothing = retrieval_metrics(np.zeros((50, 8), np.float32), np.ones((50, 8), np.float32))
    assert nothing["t2a"]["r1"] == 0.0


def test_clips_with_the_same_caption_are_right_for_each_other():
    audio = np.eye(4, dtype=np.float32)
    text = np.eye(4, dtype=np.float32)[[1, 0, 3, 2]]
    assert retrieval_metrics(audio, text)["a2t"]["r1"] == 0.0
    ids = np.array([0, 0, 1, 1])
    figures = retrieval_metrics(audio, text, audio_ids=ids, text_ids=ids)
    assert figures["a2t"]["r1"] == figures["t2a"]["r1"] == 100.0


@pytest.mark.parametrize(("clips", "captions", "kinds"), [(9, 1, None), (6, 3, None), (12, 1, 4)])
def test_chance_is_what_random_embeddings_get(clips, captions, kinds):
    generator = np.random.default_rng(0)
    ids = {}
    if kinds is not None:
        ids = {"audio_ids": np.arange(clips) % kinds, "text_ids": generator.permutation(clips) % kinds}
    drawn = {"a2t": [], "t2a": []}
    for _ in range(400):
        audio = generator.standard_normal((clips, 8)).astype(np.float32)
        text = generator.standard_normal((clips * captions, 8)).astype(np.float32)
        ranks = retrieval_ranks(audio, text, captions, **ids)
        for direction, one in ranks.items():
            drawn[direction].append(one.first)
    for direction, firsts in drawn.items():
        expected = chance(ranks[direction], (1, 5, 100))
        firsts = np.stack(firsts)
        assert expected["r1"] == pytest.approx(100 * np.mean(firsts <= 1), abs=3.0)
        assert expected["r5"] == pytest.approx(100 * np.mean(firsts <= 5), abs=3.0)
        assert expected["r100"] == 100.0
        assert expected["meanr"] == pytest.approx(np.mean(firsts), rel=0.05)


def test_rounding_noise_is_a_tie():
    generator = np.random.default_rng(3)
    clip = generator.standard_normal(64).astype(np.float32)
    text = np.stack([clip, clip * np.float32(3.0), clip * np.float32(0.7)])
    figures = retrieval_metrics(np.stack([clip] * 3), text)
    assert figures["a2t"]["meanr"] == figures["t2a"]["meanr"] == 3.0


def test_the_matrix_of_all_scores_is_never_held():
    rows = np.random.default_rng(4).standard_normal((3000, 4)).astype(np.float32)
    retrieval_metrics(rows[:10], rows[:10])
    tracemalloc.start()
    retrieval_metrics(rows, rows, chunk=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 3000 * 4 / 6


ROWS = np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    ("audio", "text", "options", "named"),
    [
        (ROWS, ROWS[:3], {}, "4 clips with 1 captions each do not make 3 text rows"),
        (ROWS, np.ones((9, 3), np.float32), {"captions_per_clip": 2}, "do not make 9 text rows"),
        (ROWS, ROWS, {"captions_per_clip": 0}, "do not make 4 text rows"),
        (ROWS, ROWS[:, :2], {}, "different widths, 3 and 2"),
        (ROWS[:0], ROWS[:0], {}, "audio embeddings have shape"),
        (ROWS, ROWS[0], {}, "text embeddings have shape"),
        (
            ROWS * np.array([[1], [1], [np.nan], [1]], np.float32),
            ROWS,
            {},
            "audio embeddings hold NaN.*row 2",
        ),
        (ROWS, ROWS * np.float32(np.inf), {}, "text embeddings hold NaN or infinite numbers in 4 of 4"),
        (ROWS, ROWS, {"audio_ids": np.arange(4)}, "both audio_ids and text_ids"),
        (ROWS, ROWS, {"audio_ids": np.arange(4), "text_ids": np.arange(3)}, "do not fit 4 clips"),
        (ROWS, ROWS, {"audio_ids": np.arange(4), "text_ids": np.arange(4) - 1}, "negative id"),
        (ROWS, ROWS, {"audio_ids": np.arange(4), "text_ids": np.arange(4) + 1}, "clip 0 has no right answer"),
        (ROWS, ROWS, {"chunk": 0}, "chunks of 0"),
    ],
)
def test_bad_input_is_named(audio, text, options, named):
    with pytest.raises(GlapError, match=named):
        retrieval_metrics(audio, text, **options)
