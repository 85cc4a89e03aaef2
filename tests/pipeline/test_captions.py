from collections import Counter

import numpy as np
import pytest

from glap_jax.config import DataConfig
from glap_jax.errors import GlapError
from glap_jax.pipeline.bad import BadClip
from glap_jax.pipeline.captions import Caption, check_language, draw, is_broken, read_captions, read_fixed


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
        (Caption("hallo", "eng_Latn"),),
    )
    true = read_captions(metadata, language="true")
    assert (true.own, true.translations) == ((Caption("ahoj", "ces_Latn"),), (Caption("hallo", "deu_Latn"),))
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
    assert texts(captions.translations) == ["un chien"]


def test_translations_share_their_probability():
    config = DataConfig(translations=0.3)
    metadata = {"captions": ["one", "two"], "caption_deu_Latn": "drei", "caption_fra_Latn": "quatre"}
    rng = np.random.default_rng(0)
    count = 20000
    counts = Counter(draw(metadata, rng, config=config).text for _ in range(count))
    for text, share in (("one", 0.35), ("two", 0.35), ("drei", 0.15), ("quatre", 0.15)):
        # Four standard deviations.
        assert counts[text] / count == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / count))
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
