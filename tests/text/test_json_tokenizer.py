"""Rows of a `tokenizer.json`: markers, cuts, prefix, and files that do not fit."""

import logging
import pickle

import pytest
import tokenizers

from glap_jax.errors import GlapError
from glap_jax.text.bert import BertConfig
from glap_jax.text.clara import ClaraTextConfig
from glap_jax.text.json_tokenizer import JsonTokenizer
from glap_jax.text.sonar import SonarConfig
from glap_jax.text.tokenizers import open_tokenizer

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "##s", "bark", "query", ":", "!")
IDS = {word: place for place, word in enumerate(WORDS)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A BERT tokenizer of eleven pieces, with the cutting and padding that sentence encoders' files carry."""
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(IDS, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(4)
    made.enable_padding(length=8)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def named(*words):
    return [IDS[word] for word in words]


def test_rows(path):
    tokenizer = JsonTokenizer(path)
    assert tokenizer.vocabulary == len(WORDS)
    row = named("[CLS]", "a", "dog", "##s", "bark", "!", "[UNK]", "[SEP]")
    assert tokenizer.encode("A dogs bark! xyz") == row
    assert tokenizer.encode("A dogs bark! xyz", language="ces_Latn") == row
    assert tokenizer.encode("") == named("[CLS]", "[SEP]")
    assert JsonTokenizer(path, prefix="query: ").encode("dog") == named("[CLS]", "query", ":", "dog", "[SEP]")


def test_cuts_as_the_library_does(path, caplog):
    tokenizer = JsonTokenizer(path)
    library = tokenizers.Tokenizer.from_file(str(path))
    library.no_padding()
    for length in range(3, 10):
        library.enable_truncation(length)
        with caplog.at_level(logging.WARNING):
            found = tokenizer.encode_all(["a dogs bark a dog", "dog"], max_tokens=length)
        assert found == [library.encode(text).ids for text in ("a dogs bark a dog", "dog")]
    assert "cut 1 of 2 texts to 3 tokens (the longest has 8)" in caplog.text
    with pytest.raises(GlapError, match="max_tokens is 2"):
        tokenizer.cut([2, 4, 3], 2)


def test_workers_can_have_it(path):
    again = pickle.loads(pickle.dumps(JsonTokenizer(path, prefix="a ")))
    assert again.encode("dog") == named("[CLS]", "a", "dog", "[SEP]")


def test_the_tower_says_which_tokenizer(path):
    found = open_tokenizer(path, BertConfig.tiny(vocabulary=20))
    assert found.encode("dog") == named("[CLS]", "dog", "[SEP]")
    assert open_tokenizer(path, BertConfig(prefix="query: ")).encode("dog")[1] == IDS["query"]
    with pytest.raises(GlapError, match="needs 11 embedding rows and the model has 10"):
        open_tokenizer(path, BertConfig.tiny(vocabulary=10))
    with pytest.raises(GlapError, match="'sonar' reads a SentencePiece model"):
        open_tokenizer(path, SonarConfig.tiny(vocabulary=20))
    with pytest.raises(GlapError, match=r"'bert' reads a tokenizer\.json"):
        open_tokenizer(path.with_name("spm.model"), BertConfig())


@pytest.mark.parametrize("text", [None, 3, "\ud800"])
def test_what_is_no_text(path, text):
    with pytest.raises(GlapError, match=r"tokenizer: "):
        JsonTokenizer(path).encode(text)


def test_files_that_are_none(tmp_path):
    with pytest.raises(GlapError, match="no file"):
        JsonTokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(GlapError, match=r"is no tokenizer\.json"):
        JsonTokenizer(tmp_path / "tokenizer.json")


@pytest.fixture(scope="module")
def clara(tmp_path_factory):
    """Byte pieces with CLARA's kind of markers."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: place for place, letter in enumerate(alphabet)}, [])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<|en|>", "<|zh|>", "<|iw|>", "<|no|>", "<|speech|>"])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return open_tokenizer(path, ClaraTextConfig.tiny(vocabulary=300))


@pytest.mark.parametrize(
    ("language", "marker"), [("eng_Latn", 256), ("zho_Hant", 257), ("heb_Hebr", 258), ("nob_Latn", 259)]
)
def test_clara_s_markers(clara, language, marker):
    row = clara.encode("a b", language=language)
    assert row[:2] == [marker, 260]
    assert len(row) == 2 + len(" a b")
    assert clara.cut(row, 3) == row[:3]


def test_languages_that_clara_has_no_marker_for(clara):
    with pytest.raises(GlapError, match=r"no marker '<\|cs\|>' for ces_Latn"):
        clara.encode("a", language="ces_Latn")
    with pytest.raises(GlapError, match=r"no marker '<\|yue\|>'"):
        clara.encode("a", language="yue_Hant")
    with pytest.raises(GlapError, match="no NLLB code"):
        clara.encode("a", language="en")
