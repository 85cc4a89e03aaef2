"""Tables per set, and the heat map's sample."""

import numpy as np
import pytest

from glap_jax.errors import GlapError
from glap_jax.eval.metrics import retrieval_metrics
from glap_jax.eval.retrieval import heat_map, ids_of_clips, retrieval_tables


def noisy_pairs(clips, joint=16, noise=1.0, seed=0):
    generator = np.random.default_rng(seed)
    audio = generator.standard_normal((clips, joint)).astype(np.float32)
    return audio, audio + noise * generator.standard_normal((clips, joint)).astype(np.float32)


def test_the_pooled_and_the_group_tables_are_those_of_the_metrics():
    audio, text = noisy_pairs(30)
    groups = ["music", "speech", "sound"] * 10
    tables = retrieval_tables(audio, text, groups=groups, languages=["eng_Latn"] * 30)
    assert [(t.kind, t.name, t.clips, t.captions) for t in tables] == [
        ("pooled", "all", 30, 30),
        ("group", "music", 10, 10),
        ("group", "sound", 10, 10),
        ("group", "speech", 10, 10),
    ]
    assert tables[0].metrics == retrieval_metrics(audio, text)
    assert tables[3].metrics == retrieval_metrics(audio[1::3], text[1::3])
    assert tables[0].chance["a2t"]["r5"] == pytest.approx(100 * 5 / 30)
    assert tables[1].chance["t2a"]["r1"] == pytest.approx(10.0)
    assert tables[0].curve["k"] == list(range(1, 31))
    for cut in (1, 5, 10):
        assert tables[0].curve["a2t"][cut - 1] == tables[0].metrics["a2t"][f"r{cut}"]
        assert tables[0].curve["t2a_chance"][cut - 1] == pytest.approx(100 * cut / 30)


def test_clips_with_different_numbers_of_captions_in_any_order():
    audio = np.eye(3, dtype=np.float32)
    owners = [2, 0, 2, 1, 2]
    figures = retrieval_tables(audio, audio[owners], owners=owners)[0].metrics
    assert figures["a2t"]["r1"] == figures["a2t"]["map10"] == figures["t2a"]["r1"] == 100.0
    owners_by_captions = retrieval_tables(
        np.repeat(audio, 2, 0)[:4], audio[[0, 0, 1, 1]], owners=[1, 0, 3, 2]
    )
    assert owners_by_captions[0].metrics["a2t"]["r1"] == 0.0


def test_equal_captions_are_right_for_each_other():
    audio, text = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[[1, 0, 2, 3]]
    assert retrieval_tables(audio, text)[0].metrics["a2t"]["r1"] == 50.0
    table = retrieval_tables(audio, text, captions=["one", "one", "two", "three"])[0]
    assert table.metrics["a2t"]["r1"] == table.metrics["t2a"]["r1"] == 100.0
    assert table.chance["a2t"]["r1"] == pytest.approx(100 * (2 + 2 + 1 + 1) / 16)


def test_captions_are_shared_within_a_set_only():
    audio, text = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)
    tables = retrieval_tables(audio, text, captions=["a"] * 4, languages=["deu_Latn", "fra_Latn"] * 2)
    assert [(t.kind, t.name, t.chance["a2t"]["r1"]) for t in tables] == [
        ("pooled", "all", 100.0),
        ("language", "deu_Latn", 100.0),
        ("language", "fra_Latn", 100.0),
    ]


def test_clips_that_do_not_ask_are_found():
    audio, text = noisy_pairs(12, seed=1)
    asking, groups = np.arange(12) < 4, ["odd", "even"] * 6
    whole, even, odd = retrieval_tables(audio, text, groups=groups, asking=asking)
    assert [(t.name, t.clips, t.captions) for t in (whole, even, odd)] == [
        ("all", 4, 4),
        ("even", 2, 2),
        ("odd", 2, 2),
    ]
    assert whole.ranks["a2t"].candidates == 12
    assert odd.chance["t2a"]["r1"] == pytest.approx(100 / 6)
    scores = audio @ text.T / np.linalg.norm(audio, axis=1)[:, None] / np.linalg.norm(text, axis=1)
    before = (scores[:4] > np.diag(scores)[:4, None]).sum(axis=1)
    assert whole.metrics["a2t"]["meanr"] == pytest.approx(np.mean(before + 1))
    before = (scores[::2, :4:2] > np.diag(scores)[None, :4:2]).sum(axis=0)
    assert odd.metrics["t2a"]["meanr"] == pytest.approx(np.mean(before + 1))
    # A set in which none asks has no table.
    asking = np.arange(12) % 2 == 0
    assert [t.name for t in retrieval_tables(audio, text, groups=groups, asking=asking)] == ["all", "odd"]


def test_caption_ids_are_padded():
    ids = ids_of_clips(np.array([1, 0, 1, 1]), np.array([7, 8, 9, 7]), 2)
    np.testing.assert_array_equal(ids, [[8, -1, -1], [7, 9, 7]])


def test_the_heat_map_samples_all_groups_and_pairs_rows_with_columns():
    audio, text = noisy_pairs(200, noise=0.0)
    groups = ["b", "a"] * 100
    owners = np.repeat(np.arange(200), 2)
    shown = heat_map(audio, text[owners], owners=owners, groups=groups, limit=10)
    assert shown.groups == ["a"] * 5 + ["b"] * 5
    np.testing.assert_allclose(np.diag(shown.scores), 1.0, rtol=1e-5)
    assert len(heat_map(audio[:3], text[:3]).groups) == 3


AUDIO, TEXT = noisy_pairs(4)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: retrieval_tables(AUDIO, TEXT, groups=["a"] * 3), "3 groups given for 4 clips"),
        (lambda: retrieval_tables(AUDIO, TEXT, captions=["a"] * 5), "5 captions given for 4 text rows"),
        (lambda: retrieval_tables(AUDIO, TEXT, languages=[]), "0 languages given for 4 clips"),
        (lambda: retrieval_tables(AUDIO, TEXT, owners=[0, 1]), "2 owners given for 4 captions"),
        (lambda: retrieval_tables(AUDIO, TEXT, owners=[0, 1, 2, 4]), "belongs to clip 4"),
        (lambda: retrieval_tables(AUDIO, TEXT, owners=[0, -1, 2, 1]), "belongs to clip -1"),
        (lambda: retrieval_tables(AUDIO, TEXT, owners=[0, 1, 2, 2]), "clip 3 has no caption"),
        (lambda: retrieval_tables(AUDIO, TEXT * np.float32(np.nan)), "text embeddings hold NaN"),
        (lambda: retrieval_tables(AUDIO[:0], TEXT[:0]), "audio embeddings have shape"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(GlapError, match=named):
        call()
