"""Shards and a tokenizer made on the spot."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from glap_jax.config import DataConfig, GroupConfig
from glap_jax.text.languages import LANGUAGES


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Every test has an index cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GLAP_JAX_CACHE", str(folder))
    return folder


def make_audio(seconds=0.5, rate=16000, form="FLAC", subtype=None, channels=1, frequency=440.0, peak=0.3):
    """An encoded tone."""
    time = np.arange(round(seconds * rate)) / rate
    tone = (peak * np.sin(2 * np.pi * frequency * time)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, np.tile(tone[:, None], (1, channels)), rate, format=form, subtype=subtype)
    return file.getvalue()


def make_tar(path, members):
    """A tar of (name, bytes) members."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_shard(path, keys, **audio):
    """A shard of one tone and one caption for each key."""
    members = []
    for number, key in enumerate(keys):
        sound = make_audio(frequency=200.0 + 10 * number, **audio)
        text = json.dumps({"caption": f"tone {key}"}).encode()
        members += [(f"{key}.flac", sound), (f"{key}.json", text)]
    return make_tar(path, members)


class LetterTokenizer:
    """One id a character, between a language id and 3."""

    def encode(self, text, *, language):
        return [1000 + LANGUAGES[language], *(4 + ord(letter) % 500 for letter in text), 3]

    def cut(self, ids, max_tokens):
        return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], 3]


@pytest.fixture
def audio():
    return make_audio


@pytest.fixture
def tar():
    return make_tar


@pytest.fixture
def shard():
    return make_shard


@pytest.fixture
def tokenizer():
    return LetterTokenizer()


@pytest.fixture
def config(tmp_path, shard):
    """Three groups of 8, 5 and 12 tones, 16 kHz, crops of 0.25 s out of clips of 0.5 s."""
    for group, count in (("a", 8), ("b", 5), ("c", 12)):
        shard(tmp_path / f"{group}-0.tar", [f"{group}{number:02d}" for number in range(count // 2)])
        shard(tmp_path / f"{group}-1.tar", [f"{group}{number:02d}" for number in range(count // 2, count)])
    groups = tuple(GroupConfig(name, (f"{name}-*.tar",), weight=1.0) for name in "abc")
    return DataConfig(root=str(tmp_path), train=groups, test=groups, crop_seconds=0.25, max_tokens=12)
