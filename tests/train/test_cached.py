"""Training on cached vectors of texts is training with the frozen tower that made them."""

import contextlib
import dataclasses
import gc
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax import folder
from glap_jax.config import LayoutConfig
from glap_jax.errors import GlapError
from glap_jax.offline.vectors import VectorCacheWriter
from glap_jax.parallel.sharding import ParallelConfig, like_parameters, make_mesh, place
from glap_jax.pipeline.vectors import open_text_cache
from glap_jax.text.sonar import SonarConfig
from glap_jax.text.tokenizers import open_tokenizer
from glap_jax.train import batches, embed_text, embedding, loop, start
from glap_jax.train import cached as cached_towers
from glap_jax.train import state as states
from glap_jax.train.writers import read

FROZEN = (("^text/", True), (".*", False))


def one_device():
    return jax.devices()[:1]


@pytest.fixture
def config(small_run, changed, beside):
    """A run with a frozen text tower, in a copy of the samples that a cache may lie beside."""
    group = dataclasses.replace(small_run.data.train[0], shards=("train-sound_music-*.tar",))
    data = {"root": beside("*sound_music*.tar"), "train": (group,), "translations": 0.5, "language": "true"}
    return changed(small_run, data=data, frozen=FROZEN, steps=20, checkpoint_every=10, calibrate_batches=0)


def losses(out) -> list[float]:
    return [row["loss"] for row in read(Path(out) / "metrics.csv")]


def arrays(module) -> dict[str, np.ndarray]:
    return {str(path): np.array(x[...]) for path, x in nnx.to_flat_state(nnx.state(module))}


@pytest.mark.slow
def test_losses_and_models_are_those_of_the_frozen_tower(config, changed, tmp_path, monkeypatch):
    """Bit for bit, over twenty steps, an evaluation and a resumption."""
    texts = embed_text.embed_text(config, devices=one_device())
    cached = changed(config, data={"text_cache": Path(texts).name}, eval_every=10)
    embedding = (config.model.text.vocabulary, config.model.text.width)
    on_device, towers = [], []
    next_batch = loop.next_batch

    def watched(*args, **options):
        gc.collect()
        on_device.append(embedding in {x.shape for x in jax.live_arrays()})
        return next_batch(*args, **options)

    evaluate = lambda module, step: towers.append(arrays(module.text)) or {"r1": 1.0}  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(loop, "next_batch", watched)
        result = loop.train(cached, evaluate=evaluate, devices=one_device())
    assert on_device == [False] * 20
    plain = changed(config, out=str(tmp_path / "whole"))
    whole = loop.train(plain, devices=one_device())
    assert losses(result.out) == losses(whole.out)
    assert len(set(losses(result.out))) == 20

    mine, its = (folder.load_module(each.model)[0] for each in (result, whole))
    for found, expected in ((arrays(mine), its), (towers[0], its.text), (towers[1], its.text)):
        for path, value in arrays(expected).items():
            np.testing.assert_array_equal(found.pop(path), value)
        assert not found

    before = losses(whole.out)
    shutil.rmtree(whole.out / "checkpoints" / "20")
    resumed = loop.train(changed(cached, out=plain.out), resume=True, devices=one_device())
    assert resumed.step == 20
    assert losses(resumed.out) == before


def test_cached_texts_follow_their_clips_into_packed_rows(config, changed, monkeypatch):
    """Where several devices share the clips out in another order."""
    tower = lambda ids, mask: ids.astype(np.float32)  # noqa: E731
    monkeypatch.setattr(embedding, "open_tower", lambda *_: (tower, "a tower"))
    texts = Path(embed_text.embed_text(config, devices=one_device())).name
    mesh, found = make_mesh(config.parallel, jax.devices()[:4]), []
    for layout in (LayoutConfig(), LayoutConfig("packed", row_seconds=0.96)):
        data = {"text_cache": texts, "crop_seconds": 0.48, "layout": layout}
        with contextlib.closing(batches.open_data(changed(config, batch=16, data=data), mesh)[0]) as opened:
            batch, _ = batches.next_batch(opened, mesh, "pair")
        found.append(np.column_stack([batch["identity"], batch["text_pooled"]]).tolist())
    assert "place" in batch
    padded, packed = found
    assert packed != padded
    assert sorted(packed) == sorted(padded)


def test_killed_embedding_goes_on(config, changed, monkeypatch):
    """Each shard is done once, whatever happens in between."""
    width = config.model.text.width
    tower = lambda ids, mask: ids[:, [1] * width].astype(np.float32)  # noqa: E731
    monkeypatch.setattr(embedding, "open_tower", lambda *_: (tower, "a tower"))
    written = []
    write = VectorCacheWriter.write

    def counted(self, part, *arrays, shard):
        if len(written) == 1 and killed:
            raise KeyboardInterrupt
        written.append(part)
        write(self, part, *arrays, shard=shard)

    groups = [
        dataclasses.replace(config.data.train[0], name=kind, shards=(f"{kind}-sound_music-*.tar",))
        for kind in ("train", "test")
    ]
    config = changed(config, data={"train": tuple(groups)})
    named = changed(config, data={"text_cache": "text_cache"})
    monkeypatch.setattr(VectorCacheWriter, "write", counted)
    killed = True
    with pytest.raises(KeyboardInterrupt):
        embed_text.embed_text(config, devices=one_device())
    with pytest.raises(GlapError, match="not complete"):
        open_text_cache(named.data)
    killed = False
    folders = {embed_text.embed_text(each, devices=one_device()) for each in (config, named)}
    assert len(folders) == 1
    assert len(set(written)) == len(written) == 2
    tokenizer = open_tokenizer(Path(config.data.root) / "spm.model", config.model.text)
    row = tokenizer.encode("bubbles rising in water", language="eng_Latn")
    np.testing.assert_array_equal(open_text_cache(named.data).take([row])[0], [[row[1]] * width])


def test_fingerprint_is_the_towers_wherever_it_lies(parts):
    tower, found = {"text": parts.trainable["text"]}, set()
    for count in (1, 4):
        config = ParallelConfig(fsdp=count)
        mesh = make_mesh(config, jax.devices()[:count])
        shapes = {cached_towers.path_name(path): x.shape for path, x in nnx.to_flat_state(nnx.State(tower))}
        places = place(config, shapes, mesh)
        state = jax.device_put(nnx.State(tower), like_parameters(nnx.State(tower), places, shapes, mesh))
        found.add(cached_towers.fingerprint(state, SonarConfig(), mesh))
    assert len(found) == 1
    flat = dict(nnx.to_flat_state(state))
    path, kernel = next((path, x) for path, x in flat.items() if path[-1] == "kernel")
    last = (-1,) * kernel.ndim
    flat[path] = kernel.replace(kernel[...].at[last].set(jnp.nextafter(kernel[last], jnp.float32(9.0))))
    found.add(cached_towers.fingerprint(nnx.from_flat_state(flat), SonarConfig(), mesh))
    flat[path] = kernel.replace(jnp.flip(kernel[...], 0))
    found.add(cached_towers.fingerprint(nnx.from_flat_state(flat), SonarConfig(), mesh))
    assert len(found) == 3


def test_another_tower_and_a_learning_one_are_refused(config, changed):
    texts = embed_text.embed_text(config, devices=one_device())
    cached = changed(config, data={"text_cache": Path(texts).name})
    with pytest.raises(GlapError, match="was made with another text tower"):
        loop.train(changed(cached, seed=1), devices=one_device())
    assert not Path(cached.out, "frozen").exists()
    with pytest.raises(GlapError, match=r"'text/\S+' learns; begin 'frozen' with"):
        embed_text.embed_text(changed(config, frozen=((".*", False),)), devices=one_device())
    data, _ = batches.open_data(changed(cached, data={"templates": ("A {licence}",)}))
    with contextlib.closing(data), pytest.raises(GlapError, match="lacks the caption"):
        next(data)


def test_design_without_text_holds_none(tiny, changed):
    """Steps neither hold the tower nor optimizer state for it; what is stored and published is whole."""
    config = changed(tiny, frozen=FROZEN, data={"text_cache": "texts"})
    mesh = start.mesh_of(config, one_device())
    design, plain = (states.design(each, mesh) for each in (config, changed(tiny, frozen=FROZEN)))

    def below(tree) -> list[str]:
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        return [path for path in paths if "'text'" in path]

    assert below(plain.frozen)
    assert not below(design.frozen)
    assert not below(design.state)
    assert not below(plain.state)
    assert below(design.stored) == below(plain.stored) == below(plain.frozen)
    assert design.whole.graph == plain.parts.graph
