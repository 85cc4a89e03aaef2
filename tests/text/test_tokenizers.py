"""Token ids against the recorded reference, cuts, padding and bad input."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from glap_jax.errors import GlapError
from glap_jax.text.languages import LANGUAGES
from glap_jax.text.tokenizers import END, SonarTokenizer, pad

GOLDEN = Path(__file__).parents[1] / "golden" / "glap"
RECORD = json.loads((GOLDEN / "tokenizer.json").read_text())


@pytest.fixture(scope="module")
def published():
    return SonarTokenizer(GOLDEN / "spm.model")


@pytest.fixture(scope="module")
def compact():
    return SonarTokenizer(GOLDEN / "spm.model", compact=True)


def test_language_table_is_the_published_one(published):
    assert {code: 256_001 + place for code, place in LANGUAGES.items()} == RECORD["lang_token_ids"]
    assert published.language_id("eng_Latn") == 256_047
    assert published.vocabulary == 256_206


@pytest.mark.parametrize(
    "case", RECORD["sentences"], ids=lambda case: f"{case['lang']}-{case['text'][:12]!r}"
)
def test_ids_equal_the_reference(published, compact, case):
    assert published.encode(case["text"], language=case["lang"]) == case["ids_reference"]
    assert compact.encode(case["text"], language=case["lang"]) == case["ids_reduced"]


def test_compact_vocabulary_has_room_for_every_id(compact):
    assert compact.vocabulary == RECORD["reference_vocab_size_property"]
    assert max(compact.language_id(code) for code in LANGUAGES) == compact.vocabulary - 4


@pytest.mark.parametrize("language", ["eng_Latn", "spa_Latn", "zho_Hans"])
def test_batches_give_each_text_its_own_ids(published, language):
    texts = json.loads((GOLDEN / f"langbatch_{language}.json").read_text())["texts"]
    rows = published.encode_all(texts, language=language)
    assert rows == [published.encode(text, language=language) for text in texts]
    assert rows == published.encode_all(texts, language=[language] * len(texts))
    known = {(case["text"], case["lang"]): case["ids_reference"] for case in RECORD["sentences"]}
    for text, row in zip(texts, rows, strict=True):
        assert row == known.get((text, language), row)


def test_recorded_batch_rows(golden, compact):
    """The recorded padded batch holds the reduced ids of sentences 0..27."""
    record = golden("glap")
    cases = RECORD["sentences"][:28]
    ids, mask = pad([compact.encode(case["text"], language=case["lang"]) for case in cases])
    np.testing.assert_array_equal(ids, record["text/batch/ids"])
    np.testing.assert_array_equal(mask, ~record["text/batch/padding_mask"])


def test_cut_keeps_the_end_and_says_so(published, caplog):
    case = RECORD["sentences"][-1]
    with caplog.at_level(logging.WARNING):
        ids = published.encode(case["text"], language=case["lang"], max_tokens=514)
    assert ids == [*case["ids_reference"][:513], END]
    assert "cut 1 of 1 texts to 514 tokens (the longest has 1866)" in caplog.text


def test_compat_cut_loses_the_end_like_the_reference(published):
    case = RECORD["sentences"][-1]
    ids = published.encode(case["text"], language=case["lang"], max_tokens=514, compat=True)
    assert ids == case["ids_reference"][:514]


def test_one_warning_for_many_cut_texts(published, caplog):
    with caplog.at_level(logging.WARNING):
        rows = published.encode_all(
            ["a long text about a dog", "", "a longer text about a cat"], max_tokens=5
        )
    assert [len(row) for row in rows] == [5, 2, 5]
    assert len(caplog.records) == 1
    assert "cut 2 of 3" in caplog.text


def test_text_that_just_fits_is_not_cut(published, caplog):
    ids = published.encode("a dog barks")
    assert published.encode("a dog barks", max_tokens=len(ids)) == ids
    assert not caplog.records


@pytest.mark.parametrize("marker", ["<s>", "</s>", "<unk>", "<pad>", "eng_Latn"])
def test_markers_are_plain_text(published, marker):
    ids = published.encode(f"{marker}")
    assert len(ids) > 3
    assert not {0, 2, 3} & set(ids[1:-1])


def test_empty_text_has_language_and_end(published):
    assert published.encode("", language="ces_Latn") == [RECORD["lang_token_ids"]["ces_Latn"], END]


@pytest.mark.parametrize(
    ("slip", "hint"),
    [
        ("en", "eng_Latn"),
        ("de", "deu_Latn"),
        ("deu", "deu_Latn"),
        ("ger", "deu_Latn"),
        ("pt-BR", "por_Latn"),
        ("ENG_LATN", "eng_Latn"),
        ("zh", "zho_Hans or zho_Hant"),
        ("eng_Latin", "eng_Latn"),
        ("klingon", "one of the 202"),
        ("", "one of the 202"),
    ],
)
def test_unknown_language_is_named_with_near_ones(published, slip, hint):
    with pytest.raises(GlapError, match=f"'{slip}' is no NLLB code.*{hint}"):
        published.encode("a dog", language=slip)


@pytest.mark.parametrize("text", [None, 5, b"a dog", ["a dog"], "a\ud800b"])
def test_what_is_no_text_is_refused(published, text):
    with pytest.raises(GlapError, match=r"give a str|lone surrogate at character 1"):
        published.encode(text)


def test_as_many_languages_as_texts(published):
    with pytest.raises(GlapError, match="2 texts and 1 languages"):
        published.encode_all(["a", "b"], language=["eng_Latn"])


@pytest.mark.parametrize(
    "content", [None, b"", b"a text in disguise", (GOLDEN / "spm.model").read_bytes()[:1000]]
)
def test_missing_or_broken_model(tmp_path, content):
    path = tmp_path / "spm.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GlapError, match=r"tokenizer: .*spm\.model") as caught:
        SonarTokenizer(path)
    assert "\n" not in str(caught.value)


def test_fitting_chooses_by_embedding_rows():
    assert SonarTokenizer.fitting(GOLDEN / "spm.model", 1006).compact
    assert not SonarTokenizer.fitting(GOLDEN / "spm.model", 256_206).compact
    with pytest.raises(GlapError, match="needs 1006 embedding rows and the model has 2000"):
        SonarTokenizer.fitting(GOLDEN / "spm.model", 2000)


def test_survives_the_way_into_a_worker(compact):
    again = pickle.loads(pickle.dumps(compact))
    assert again.encode("a dog", language="fra_Latn") == compact.encode("a dog", language="fra_Latn")


def test_pad_fills_with_zero_under_a_mask():
    ids, mask = pad([[5, 6, 3], [7, 3]], 4)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, [[5, 6, 3, 0], [7, 3, 0, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0], [1, 1, 0, 0]])
    assert pad([])[0].shape == (0, 0)
    with pytest.raises(GlapError, match="row of 3 tokens does not fit into 2"):
        pad([[1, 2, 3]], 2)


@pytest.mark.parametrize("limit", [0, 1, 2, -5])
def test_a_row_without_room_is_refused(published, limit):
    with pytest.raises(GlapError, match="at least 3"):
        published.encode("a dog", max_tokens=limit)
