"""Templates: what fills them, and the messages for what is none."""

import pytest

from glap_jax.config import BackgroundConfig, DataConfig
from glap_jax.errors import GlapError
from glap_jax.pipeline.templates import check, fill


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("A {gender} saying {text}", ["A woman saying good day"]),
        ("a {age} year old {speaker.accent} speaker", ["a 41 year old Welsh speaker"]),
        ("{tags}", ["wind, rain"]),
        ("{level} dB of {gender} {gender}", ["2.5 dB of woman woman"]),
        ("{braces} and {gender}", ["{gender} and woman"]),
        ("A {emotion} {gender}", []),
        ("{nothing}", []),
        ("{blank}", []),
        ("{empty}", []),
        ("{mixed}", []),
        ("{yes}", []),
        ("{speaker}", []),
        ("{speaker.height}", []),
        ("{gender.accent}", []),
    ],
)
def test_fill(template, expected):
    fields = {
        "gender": "woman", "text": " good day\n", "age": 41, "speaker": {"accent": "Welsh"}, "level": 2.5,
        "tags": ["wind", "rain"], "braces": "{gender}", "nothing": None, "blank": "  ", "empty": [],
        "mixed": ["a", None], "yes": True,
    }  # fmt: skip
    assert fill([template], fields) == expected


def test_filled_templates_keep_their_order():
    assert fill(["b {x}", "{y}", "a {x}"], {"x": 0}) == ["b 0", "a 0"]


@pytest.mark.parametrize("template", ["", "  ", "a caption"])
def test_no_placeholder(template):
    with pytest.raises(
        GlapError, match=r"^config: 'data\.templates': template '.*' has no placeholder; write"
    ):
        DataConfig(templates=(template,))


@pytest.mark.parametrize(
    "template", ["{}", "{a b}", "{a", "a}", "{a!r}", "{a:>3}", "{{a}}", "{a[b]}", "{a.}", "{0}"]
)
def test_unknown_syntax(template):
    with pytest.raises(
        GlapError, match=r"has braces that are no placeholder; write {field}, or {field\.inner}"
    ):
        check([template, "{fine}"], "data.templates")


def test_a_joined_caption_names_the_background():
    with pytest.raises(
        GlapError, match=r"'data\.augment\.background\.captions': template '{caption}' lacks .* {background}"
    ):
        BackgroundConfig(captions=("{caption}",))
