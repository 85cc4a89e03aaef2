import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from glap_jax.config import DataConfig
from glap_jax.errors import GlapError
from glap_jax.pipeline.bad import BadClip
from glap_jax.pipeline.captions import (
    Caption,
    check_language,
    draw,
    drawable,
    is_broken,
    own_count,
    read_captions,
    read_fixed,
)


def texts(captions):
    return [caption.text for caption in captions]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"caption": "a dog"}, ["a dog"]),
        ({"captions": ["a dog", " a cat ", "a dog", "  "]}, ["a dog", "a cat"]),
        ({"text": "hello"}, ["hello"]),
        ({"text": "hello", "caption": "a man speaks"}, ["a man speaks"]),
        ({"caption": None, "text": "hello"}, ["hello"]),
    ],
)
def test_own_captions(metadata, expected):
    captions = read_captions(metadata, language="eng_Latn")
    assert texts(captions.own) == expected
    assert captions.translations == ()


def test_languages_told():
    metadata = {"text": "ahoj", "language": "ces_Latn", "caption_deu_Latn": "hallo", "caption_source": "x"}
    fixed = read_captions(metadata, language="eng_Latn")
    assert (fixed.own, fixed.translations) == (
        (Caption("ahoj", "eng_Latn"),),
        ((Caption("hallo", "eng_Latn"),),),
    )
    true = read_captions(metadata, language="true")
    assert true.own == (Caption("ahoj", "ces_Latn"),)
    assert true.translations == ((Caption("hallo", "deu_Latn"),),)
    assert read_captions({"text": "hi"}, language="true").own == (Caption("hi", "eng_Latn"),)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "no_text"),
        ({"caption": ""}, "no_text"),
        ({"caption": " \n"}, "no_text"),
        ({"captions": []}, "no_text"),
        ({"caption": 7}, "not_text"),
        ({"captions": ["a", None]}, "not_text"),
        ({"caption": "\ud800"}, "not_text"),
        ({"caption": "a", "language": "cs"}, "unknown_language"),
        ({"caption": "a", "language": 3}, "unknown_language"),
        ({"caption": "a", "caption_xxx_Latn": "b"}, "unknown_language"),
    ],
)
def test_bad_captions(metadata, reason):
    with pytest.raises(BadClip) as error:
        read_captions(metadata, language="true")
    assert error.value.reason == reason


def test_broken_translations_are_dropped():
    assert not is_broken("abcd" * 4 + "x")
    assert is_broken("abcd" * 5)
    assert not is_broken("")
    metadata = {
        "caption": "abcd" * 9,
        "caption_deu_Latn": "ha ha ha ha ha ha ha",
        "caption_fra_Latn": "un chien",
    }
    captions = read_captions(metadata, language="eng_Latn")
    assert texts(captions.own) == ["abcd" * 9]
    assert list(map(texts, captions.translations)) == [["un chien"]]


class Every(np.random.Generator):
    """Stands for a generator that draws each of some values equally often: all pairs, one after the other."""

    def __init__(self, first, second):
        super().__init__(np.random.PCG64(0))
        pairs = itertools.product(range(first), range(second))
        self.values = [
            (number + 0.5) / size
            for pair in pairs
            for number, size in zip(pair, (first, second), strict=True)
        ]

    def random(self, *_, **__):
        return self.values.pop(0)


@pytest.mark.parametrize("languages", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("own", [1, 2])
def test_each_of_n_translations_has_exactly_a_tenth_over_n(languages, own):
    """The long run to the last draw: of all numbers that may be drawn, the share that gives each caption."""
    codes = ["deu_Latn", "fra_Latn", "spa_Latn", "ces_Latn", "zho_Hans"][:languages]
    metadata = {"captions": [f"own {number}" for number in range(own)], "caption_ita_Latn": "ah " * 9}
    metadata |= {f"caption_{code}": f"in {code}" for code in codes}
    rng = Every(20, 60)
    counts = Counter(draw(metadata, rng, config=DataConfig(language="true")) for _ in range(1200))
    tenth = 0.1 if languages else 0.0
    expected = {Caption(f"own {number}", "eng_Latn"): (1 - tenth) / own for number in range(own)}
    expected |= {Caption(f"in {code}", code): tenth / languages for code in codes}
    assert {caption: number / 1200 for caption, number in counts.items()} == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("place", [None, 0])
def test_several_translations_into_a_language_share_what_it_has(place):
    """Other languages keep their shares, and what is broken or too long has none."""
    metadata = {"caption": "own", "caption_deu_Latn": ["eins", "zwei", "ha " * 9, "x" * 21, "drei"]}
    metadata |= {
        "caption_fra_Latn": ["un", "deux"],
        "caption_spa_Latn": "uno",
        "caption_ita_Latn": ["x" * 21],
    }
    config, rng = DataConfig(max_characters=20), Every(20, 180)
    counts = Counter(draw(metadata, rng, config=config, place=place).text for _ in range(3600))
    shares = {"own": 3240, "eins": 40, "zwei": 40, "drei": 40, "un": 60, "deux": 60, "uno": 120}
    assert counts == shares
    assert set(texts(drawable(metadata, config=config))) == shares.keys()


def test_one_language_only():
    config = DataConfig(caption_language="deu_Latn", max_characters=20, templates=("{who} bellt",))
    rng = np.random.default_rng(0)

    def drawn(told="true", **metadata):
        each = dataclasses.replace(config, language=told)
        found = drawable(metadata, config=each)
        assert {draw(metadata, rng, config=each) for _ in range(30)} == set(found)
        return found

    english = {"caption": "a dog", "caption_fra_Latn": "un chien", "who": "Rex"}
    assert drawn(**english, caption_deu_Latn="ein Hund") == [Caption("ein Hund", "deu_Latn")]
    both = ["ein Hund", "ein Hund bellt", "ha " * 9, "x" * 21]
    assert texts(drawn(**english, caption_deu_Latn=both)) == both[:2]
    assert drawn("eng_Latn", **english, caption_deu_Latn="ein Hund") == [Caption("ein Hund", "eng_Latn")]
    german = {"captions": ["ein Hund", "Hunde"], "language": "deu_Latn", "caption_deu_Latn": "anders"}
    assert texts(drawn(**german)) == ["ein Hund", "Hunde"]
    assert texts(drawn(**german, who="Rex")) == ["Rex bellt"]
    for metadata in (english, {**english, "caption_deu_Latn": "ha " * 9}):
        with pytest.raises(BadClip, match="other_language: no caption in deu_Latn"):
            drawable(metadata, config=config)


def test_one_caption_by_its_place():
    config = DataConfig(translations=0.25, language="true")
    metadata = {"captions": ["one", "two", "x" * 181, "three"], "caption_deu_Latn": "drei"}
    assert own_count(metadata, config=config) == 3
    for place, own in enumerate(("one", "two", "three")):
        rng = Every(4, 5)
        counts = Counter(draw(metadata, rng, config=config, place=place).text for _ in range(20))
        assert counts == {own: 15, "drei": 5}


def test_no_translations_where_none_are_asked_for():
    rng, metadata = np.random.default_rng(0), {"captions": ["one", "two"], "caption_deu_Latn": "drei"}
    never = DataConfig(translations=0.0)
    assert {draw(metadata, rng, config=never).text for _ in range(100)} == {"one", "two"}


def test_long_captions_are_left_out():
    config = DataConfig(max_characters=10, translations=0.0)
    rng = np.random.default_rng(0)
    assert {draw({"captions": ["x" * 11, "犬" * 10]}, rng, config=config).text for _ in range(50)} == {
        "犬" * 10
    }
    with pytest.raises(BadClip, match="long_text: 11 characters"):
        draw({"captions": ["x" * 12, "y" * 11]}, rng, config=config)


TEMPLATES = ("A {gender} saying {text}", "{gender} voice", "a {age} year old")


def test_templates_take_the_place_of_own_captions_in_training():
    config = DataConfig(templates=TEMPLATES, language="true", translations=0.2)
    metadata = {"text": "ahoj", "language": "ces_Latn", "gender": "man", "caption_eng_Latn": "hello"}
    rng = np.random.default_rng(0)
    count = 8000
    counts = Counter(draw(metadata, rng, config=config) for _ in range(count))
    shares = {
        Caption("A man saying ahoj", "ces_Latn"): 0.4,
        Caption("man voice", "ces_Latn"): 0.4,
        Caption("hello", "eng_Latn"): 0.2,
    }
    assert counts.keys() == shares.keys()
    for caption, share in shares.items():
        # Four standard deviations.
        assert counts[caption] / count == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / count))
    assert draw(metadata, rng, config=config, translated=False).language == "ces_Latn"


def test_clips_without_a_usable_template_keep_their_captions():
    config = DataConfig(templates=TEMPLATES, max_characters=14)
    rng = np.random.default_rng(0)
    assert draw({"text": "ahoj"}, rng, config=config).text == "ahoj"
    assert {draw({"text": "ahoj", "gender": "man"}, rng, config=config).text for _ in range(20)} == {
        "man voice"
    }
    # Filled templates that are too long are not usable.
    assert draw({"text": "ahoj", "gender": "gentleman"}, rng, config=config).text == "ahoj"
    assert draw({"age": 30}, rng, config=config).text == "a 30 year old"
    with pytest.raises(BadClip, match=r"no_text: json has none of .* and not all fields of any template"):
        draw({"emotion": "sad"}, rng, config=config)
    with pytest.raises(BadClip, match="long_text: 15 characters are more than 14"):
        draw({"gender": "x" * 9}, rng, config=config)
    with pytest.raises(BadClip, match="not_text: 'templates' holds a lone surrogate"):
        draw({"text": "ahoj", "gender": "\ud800"}, rng, config=config)


def test_evaluation_fills_the_first_template_for_a_clip_without_captions():
    config = DataConfig(templates=TEMPLATES)
    assert texts(read_fixed({"text": "ahoj", "gender": "man"}, config=config).own) == ["ahoj"]
    assert texts(read_fixed({"age": 30, "gender": "man"}, config=config).own) == ["man voice"]
    assert texts(read_fixed({"age": 30}, config=config).own) == ["a 30 year old"]
    with pytest.raises(BadClip, match="no_text"):
        read_fixed({"name": "x"}, config=config)


def test_unknown_configured_language():
    check_language(DataConfig(language="true"))
    check_language(DataConfig(language="ces_Latn"))
    with pytest.raises(GlapError, match=r"data\.language.*ces_Latn"):
        check_language(DataConfig(language="cs"))
    check_language(DataConfig(caption_language="ces_Latn"))
    with pytest.raises(GlapError, match=r"'data.caption_language' is no NLLB code: .*ces_Latn"):
        check_language(DataConfig(caption_language="cs"))
