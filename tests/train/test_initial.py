"""Towers from model folders of their own: taken whole, by place, and only where sizes are the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax import config as configs
from glap_jax import folder
from glap_jax.audio.dasheng import Dasheng
from glap_jax.errors import GlapError
from glap_jax.model import DualEncoder
from glap_jax.train.initial import at_random, measured, put_parts


def new(kind, config):
    """Builds one, for `random_module`."""
    return lambda: kind(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))


@pytest.fixture
def model(tiny, random_module):
    """The tiny model; every value is 2."""
    module = random_module(new(DualEncoder, tiny.model))
    nnx.update(module, jax.tree.map(lambda x: jnp.full_like(x, 2), nnx.state(module)))
    return module


def values(module):
    return jax.tree.leaves(nnx.state(module))


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(values(one), values(other), strict=True))


def test_a_tower_of_its_own_and_one_of_another_model(tiny, model, random_module, tmp_path):
    audio = random_module(new(Dasheng, tiny.model.audio))
    folder.save(tmp_path / "audio", audio, tiny.model.audio)
    # Another joint width does not matter for a tower.
    config = dataclasses.replace(tiny.model, joint=8)
    other = random_module(new(DualEncoder, config))
    folder.save(tmp_path / "other", other, config)
    parts = (("audio", str(tmp_path / "audio")), ("text", str(tmp_path / "other")))
    put_parts(model, parts)
    assert same(model.audio, audio)
    assert same(model.text, other.text)
    assert all((x == 2).all() for head in (model.audio_head, model.text_head) for x in values(head))
    assert measured(parts)
    assert measured((("audio/speech", ""),))
    assert not measured(parts[1:])


def test_towers_that_no_folder_gives(tiny):
    assert at_random(tiny) == ["audio", "text"]
    assert at_random(dataclasses.replace(tiny, initial="models/glap")) == []
    assert at_random(dataclasses.replace(tiny, parts=(("audio/speech", "a"),))) == ["text"]


def test_what_cannot_be_put_in(tiny, model, random_module, tmp_path):
    sizes = dataclasses.replace(tiny.model.audio, width=24)
    folder.save(tmp_path / "wide", random_module(new(Dasheng, sizes)), sizes)
    wide = str(tmp_path / "wide")
    with pytest.raises(GlapError, match=r"'model\.audio\.width' is 16 in this run and 24 in '.*wide'"):
        put_parts(model, (("audio", wide),))
    with pytest.raises(GlapError, match=r"'model\.text\.\w+' is .* in this run and"):
        put_parts(model, (("text", wide),))
    with pytest.raises(GlapError, match="no encoder at 'audio/speech'; places are audio, text"):
        put_parts(model, (("audio/speech", wide),))
    with pytest.raises(GlapError, match="no model folder"):
        put_parts(model, (("audio", str(tmp_path / "none")),))


def test_on_the_command_line(tiny):
    words = "--parts audio models/whisper text models/e5".split()
    config = configs.override(tiny, words)
    assert config.parts == (("audio", "models/whisper"), ("text", "models/e5"))
