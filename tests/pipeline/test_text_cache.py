"""Vectors of texts: found by their exact token rows, refused when another tower's, never half there."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from glap_jax.errors import GlapError
from glap_jax.offline.vectors import VectorCacheWriter
from glap_jax.pipeline import loader
from glap_jax.pipeline.shards import find_shards
from glap_jax.pipeline.sources import ShardSource
from glap_jax.pipeline.text_cache import KIND, TextCache, hash_of, settings
from glap_jax.pipeline.texts import part_number, texts_of
from glap_jax.pipeline.vector_cache import folder_of
from glap_jax.pipeline.vectors import open_text_cache

WIDTH = 3


def vectors(rows):
    """What stands for a text tower here."""
    return np.asarray([[len(row), sum(row), row[0]] for row in rows], np.float32)


def fill(config, tokenizer, *, groups=None, stored="float32"):
    """Writes the vectors of the groups' shards; returns the writer."""
    stamp = {**settings(config), "tower": "t", "computed": "float32", "stored": stored, "width": WIDTH}
    writer = VectorCacheWriter(KIND, folder_of(config, config.text_cache), stamp)
    for group in groups or config.train:
        for shard in find_shards(group.shards, config.root):
            texts = texts_of(ShardSource([shard]), config, tokenizer)
            writer.write(part_number(shard, config), texts.keys, vectors(texts.ids), shard=str(shard))
    writer.finish()
    return writer


@pytest.fixture
def cached(config, tmp_path):
    (tmp_path / "spm.model").write_text("pieces")
    return dataclasses.replace(config, text_cache="vectors")


def test_loader_delivers_vectors_in_place_of_tokens(cached, tokenizer):
    fill(cached, tokenizer)
    plain = dataclasses.replace(cached, text_cache=None)
    for workers in (0, 1):
        read = [
            loader.training(dataclasses.replace(each, workers=workers), batch=4, seed=3, tokenizer=tokenizer)
            for each in (cached, plain)
        ]
        for _ in range(3):
            found, expected = (next(each) for each in read)
            ids, mask = expected.pop("ids"), expected.pop("text_mask")
            rows = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
            np.testing.assert_array_equal(found.pop("text_pooled"), vectors(rows))
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                np.testing.assert_array_equal(found[key], value)
        for each in read:
            each.close()


def test_vectors_in_a_store_are_read_as_those_on_a_disk(cached, tokenizer):
    there = dataclasses.replace(cached, text_cache="memory://vectors/texts")
    fill(there, tokenizer)
    fill(cached, tokenizer)
    row = tokenizer.encode("tone b03", language="eng_Latn")
    (found, there), expected = (open_text_cache(config).take([row]) for config in (there, cached))
    assert there.all()
    np.testing.assert_array_equal(found, expected[0])


def test_bad_clip_leaves_a_row_that_is_masked(cached, tokenizer, tmp_path, tar):
    text = json.dumps({"caption": "never heard"}).encode()
    tar(tmp_path / "d.tar", [("d.flac", b"noise"), ("d.json", text)])
    group = dataclasses.replace(cached.train[0], name="d", shards=("d.tar",))
    config = dataclasses.replace(cached, train=(cached.train[0], group), test=(), bad_share=1.0)
    fill(config, tokenizer)
    stream = loader.training(config, batch=8, seed=3, tokenizer=tokenizer)
    batch = next(stream)
    stream.close()
    assert 0 < batch["pair_mask"].sum() < 8
    np.testing.assert_array_equal(batch["text_pooled"][~batch["pair_mask"]], 1.0)


def test_texts_are_all_that_may_be_drawn_each_once(tar, tmp_path, config, tokenizer):
    words = [
        {"captions": ["a dog", "barking"], "caption_deu_Latn": "ein Hund", "who": "Rex"},
        {"caption": "a dog", "language": "eng_Latn"},
        {"caption": "x" * 200},
        {"nothing": 1},
    ]
    members = [(f"{number}.json", json.dumps(each).encode()) for number, each in enumerate(words)]
    shard = ShardSource([tar(tmp_path / "x.tar", [*members, ("0.flac", b"")])])

    def texts(**change):
        each = dataclasses.replace(config, max_tokens=64, **change)
        found = texts_of(shard, each, tokenizer)
        assert [hash_of(row) for row in found.ids] == [tuple(map(int, key)) for key in found.keys]
        return ["".join(chr(token - 4 + 0) for token in row[1:-1]) for row in found.ids]

    assert texts(translations=0.0) == ["a dog", "barking"]
    assert texts(translations=0.1) == ["a dog", "barking", "ein Hund"]
    assert texts(translations=0.0, templates=("{who} barks",)) == ["Rex barks", "a dog"]
    # The same words are another row of tokens where another language is told with them.
    assert len(texts(language="true", translations=0.1)) == 3


def test_half_a_cache_is_none_and_grows(cached, tokenizer):
    with pytest.raises(GlapError, match=r"is none, or not complete; `glap-jax data embed-text CONFIG`"):
        open_text_cache(cached)
    writer = fill(cached, tokenizer, groups=cached.train[:1])
    few = open_text_cache(cached)
    stream = loader.training(cached, batch=4, seed=3, tokenizer=tokenizer)
    with pytest.raises(GlapError, match=r"lacks the caption 'tone [bc]\d\d' of .*:[bc]\d\d; `glap-jax data"):
        next(stream)
    stream.close()
    done = {path.name: path.stat().st_mtime_ns for path in Path(writer.folder, "parts").iterdir()}
    assert fill(cached, tokenizer).finish() == 25
    # Of each of two shards vectors, hashes and an account.
    assert len(done) == 6
    many = open_text_cache(cached)
    rows = [tokenizer.encode(f"tone {key}", language="eng_Latn") for key in ("c01", "b9", "a00", "c11")]
    assert few.take(rows)[1].tolist() == [False, False, True, False]
    found, there = many.take(rows)
    assert there.tolist() == [True, False, True, True]
    np.testing.assert_array_equal(found[there], vectors(rows)[there])
    assert many.take([])[0].shape == (0, WIDTH)
    assert not list(Path(writer.folder).rglob("*partial*"))


def test_part_is_that_of_a_shard_and_its_captions(cached, tmp_path, shard):
    path = find_shards(("a-0.tar",), cached.root)[0]
    number = part_number(path, cached)
    assert part_number(path, dataclasses.replace(cached, language="true", workers=3)) == number
    assert part_number(path, dataclasses.replace(cached, translations=0.0)) != number
    shard(tmp_path / "a-0.tar", ["another"])
    assert part_number(path, cached) != number


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"language": "true"}, r"'data.language' \(eng_Latn, here true\)"),
        ({"max_tokens": 9}, r"'data.max_tokens' \(12, here 9\)"),
        ({"tokenizer": "other.model"}, "tokenizer"),
    ],
)
def test_vectors_of_something_else_are_refused(cached, tokenizer, tmp_path, change, named):
    fill(cached, tokenizer)
    (tmp_path / "other.model").write_text("other pieces")
    with pytest.raises(GlapError, match=f"was made with another {named}") as caught:
        open_text_cache(dataclasses.replace(cached, **change))
    assert "\n" not in str(caught.value)
    with pytest.raises(GlapError, match="was made with another text tower"):
        TextCache(tmp_path / "vectors", {"tower": "u"})
    with pytest.raises(GlapError, match="was made with another stored type"):
        fill(cached, tokenizer, stored="float16")


def test_smaller_numbers_and_what_they_cannot_hold(cached, tokenizer):
    writer = fill(cached, tokenizer, stored="float16")
    row = tokenizer.encode("tone a00", language="eng_Latn")
    found, _ = open_text_cache(cached).take([row])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, vectors([row]), rtol=2**-11)
    with pytest.raises(GlapError, match=r"float16 cannot hold .*; store float32"):
        writer.write(1, np.zeros((1, 2), np.uint64), np.full((1, WIDTH), 1e6, np.float32), shard="x")


def test_damage_is_one_line(cached, tokenizer, tmp_path):
    writer = fill(cached, tokenizer)
    (rows, *_) = Path(writer.folder, "parts").glob("*.rows.npy")
    rows.write_bytes(b"nothing")
    cache = open_text_cache(cached)
    keys = ("a00", "a04", "b00", "b02", "c00", "c06")
    every = [tokenizer.encode(f"tone {key}", language="eng_Latn") for key in keys]
    with pytest.raises(GlapError, match=r"cannot be read .* makes it anew"):
        cache.take(every)
    Path(writer.folder, "stamp.json").write_text("{")
    with pytest.raises(GlapError, match="no readable stamp"):
        open_text_cache(cached)


def test_joined_captions_cannot_be_cached(cached):
    background = dataclasses.replace(cached.augment.background, probability=0.5, shards=("a-*.tar",))
    augment = dataclasses.replace(cached.augment, background=background)
    with pytest.raises(GlapError, match=r"'data.augment.background' joins captions"):
        dataclasses.replace(cached, augment=augment)
