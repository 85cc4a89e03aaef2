"""Vectors of clips: found by shard and key, refused when of another part of the clip, never half there."""

import dataclasses

import numpy as np
import pytest

from glap_jax.config import AugmentConfig
from glap_jax.errors import GlapError
from glap_jax.offline.vectors import VectorCacheWriter
from glap_jax.pipeline import loader
from glap_jax.pipeline.audio_cache import KIND, clip_key, part_number, settings
from glap_jax.pipeline.shards import find_shards
from glap_jax.pipeline.sources import ShardSource
from glap_jax.pipeline.vectors import open_audio_cache

WIDTH = 3


def vector(key):
    """What stands for an audio tower here."""
    return np.frombuffer(key.encode(), np.uint8)[:WIDTH].astype(np.float32)


def fill(config, *, groups=None, left_out=()):
    """Writes the vectors of the groups' clips, but for some."""
    stamp = {**settings(config), "tower": "t", "computed": "float32", "stored": "float32", "width": WIDTH}
    writer = VectorCacheWriter(KIND, f"{config.root}/{config.audio_cache}", stamp)
    for group in groups or config.train:
        for shard in find_shards(group.shards, config.root):
            source, part = ShardSource([shard]), part_number(shard)
            keys = [key for key in map(source.key, range(len(source))) if key not in left_out]
            places = np.asarray([clip_key(part, key) for key in keys], np.uint64)
            writer.write(part, places, np.stack([vector(key) for key in keys]), shard=str(shard))
    writer.finish()


@pytest.fixture
def cached(config):
    return dataclasses.replace(config, audio_cache="vectors", crop_seconds=1.0, eval_seconds=1.0)


def test_loader_delivers_vectors_and_reads_no_recording(cached, tokenizer, monkeypatch):
    """Order and texts are those of a run that reads them."""
    fill(cached)
    plain = dataclasses.replace(cached, audio_cache=None)
    whole = loader.training(plain, batch=4, seed=3, tokenizer=tokenizer)
    expected = [(next(whole), whole.keys) for _ in range(3)]
    whole.close()
    monkeypatch.setattr("glap_jax.pipeline.examples.sound", lambda *_, **__: pytest.fail("it was read"))
    read = loader.training(cached, batch=4, seed=3, tokenizer=tokenizer)
    for batch, keys in expected:
        found = next(read)
        assert read.keys == keys
        np.testing.assert_array_equal(found["audio_pooled"], [vector(key) for key in keys])
        assert not found["lengths"].any()
        assert "waveform" not in found
        for name in ("ids", "text_mask", "pair_mask", "clip", "caption", "group"):
            np.testing.assert_array_equal(found[name], batch[name])
    read.close()


def test_a_clip_that_was_bad_then_is_bad_now(cached, tokenizer):
    fill(cached, left_out=("a00",))
    read = loader.training(dataclasses.replace(cached, bad_share=0.5), batch=24, seed=3, tokenizer=tokenizer)
    batch = next(read)
    bad = np.asarray(read.keys) == "a00"
    assert bad.any()
    np.testing.assert_array_equal(batch["pair_mask"], ~bad)
    assert read.ledger.get_state()["reasons"] == {"not_embedded": int(bad.sum())}
    read.close()


def test_shards_that_are_new_or_have_changed_are_missed(cached, tokenizer, tmp_path, shard):
    def first(config):
        read = loader.training(config, batch=24, seed=3, tokenizer=tokenizer)
        try:
            return next(read)
        finally:
            read.close()

    with pytest.raises(GlapError, match=r"audio cache: '\S+vectors' is none, or not complete; `glap-jax"):
        first(cached)
    fill(cached, groups=cached.train[:2])
    with pytest.raises(GlapError, match=r"'vectors' lacks the clip of \S+/c-\d\.tar:c\d\d; `glap-jax data"):
        first(cached)
    fill(cached)
    first(cached)
    shard(tmp_path / "c-0.tar", [f"c{number:02d}" for number in range(7)])
    with pytest.raises(GlapError, match=r"'vectors' lacks the clip of \S+/c-0\.tar:c\d\d"):
        first(cached)


def test_what_does_not_go_with_it_is_refused(cached, tokenizer):
    fill(cached)
    with pytest.raises(GlapError, match=r"another 'data\.eval_seconds' \(1\.0, here 0\.5\); name"):
        open_audio_cache(dataclasses.replace(cached, eval_seconds=0.5))
    with pytest.raises(GlapError, match=r"'data\.augment' changes clips anew each time"):
        dataclasses.replace(cached, augment=AugmentConfig(speed=0.1))
    with pytest.raises(GlapError, match=r"'data\.crop_seconds' is 0\.5 .* make them the same"):
        dataclasses.replace(cached, crop_seconds=0.5)
