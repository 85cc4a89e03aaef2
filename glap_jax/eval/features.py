"""What a model makes of a task's clips, computed once and kept in the user's cache folder."""

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from glap_jax import caches, fingerprint
from glap_jax.eval.engine import Run
from glap_jax.pipeline import files
from glap_jax.pipeline.shards import find_shards

# Counts up when what is kept changes its meaning.
VERSION = 2


class Frozen(NamedTuple):
    """Clips as the task's `features`, and the json of each."""

    audio: Float[np.ndarray, "A E"]
    fields: list[dict[str, Any]]


def frozen(run: Run, split: str | None = None) -> Frozen:
    """The labelled clips of a split (by default the task's) as the task's `features`.

    They are kept in `features` of the cache folder, under a hash of the model's parameters and what it
    computes in, the shards with their sizes and ages, and what of them the task reads; a second call of any
    task with these reads them.

    Raises:
        GlapError: as `Run.known` and `Run.encoded` do.
    """
    path = caches.folder("features") / f"{_key(run, split)}.npz"
    kept = caches.read_arrays(path)
    if kept is None:
        before = run.seconds
        encoded = run.encoded(list(run.known(split)), split)
        texts = json.dumps([clip.fields for clip in encoded.clips]).encode()
        kept = {"audio": encoded.audio, "fields": np.frombuffer(texts, np.uint8)}
        kept["seconds"] = np.asarray(run.seconds - before)
        caches.write_arrays(path, kept)
    else:
        # As long as it took then: the result says how fast the model is.
        run.clips, run.seconds = run.clips + len(kept["audio"]), run.seconds + float(kept["seconds"])
    return Frozen(kept["audio"], json.loads(kept["fields"].tobytes()))


def _key(run: Run, split: str | None) -> str:
    data, task = run.data(split), run.task
    shards = [dataclasses.astuple(files.stamp(path)) for path in find_shards(data.test[0].shards, data.root)]
    read = (task.dataset.where, task.label, data.sample_rate, data.eval_seconds, data.min_seconds)
    module, config = run.model.module, run.model.config
    model = (fingerprint.of_module(module, config), fingerprint.dtypes(module), jax.default_backend())
    kept = (VERSION, task.features, model, shards, read)
    return hashlib.blake2b(repr(kept).encode(), digest_size=16).hexdigest()
