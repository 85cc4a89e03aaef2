"""Chunks of examples: nothing is lost, changed or moved on the way."""

import dataclasses
import json
import pickle
import time

import grain
import numpy as np
import pytest

from glap_jax.pipeline import handover, loader
from glap_jax.pipeline.examples import EvaluationExample
from glap_jax.pipeline.sources import ShardSource


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[name], value, strict=True)
        else:
            assert found[name] == value


@pytest.fixture
def few(config, tokenizer, tmp_path, tar, audio):
    """Examples of training and of evaluation, each with a bad one among them."""
    about = {"caption": "tone", "language": "eng_Latn", "nested": {"n": [1, 2.5]}}
    members = [("good.flac", audio(0.5)), ("good.json", json.dumps(about).encode()), ("bad.json", b"{")]
    path = tar(tmp_path / "d.tar", members)
    group = dataclasses.replace(config.train[0], name="d", shards=("d.tar",))
    config = dataclasses.replace(config, train=(config.train[0], group))
    stream = loader.examples(config, seed=0, tokenizer=tokenizer)
    evaluation = [EvaluationExample(config, 0)(record) for record in ShardSource([path])]
    return [stream[number] for number in range(5)], evaluation


def test_examples_pass_a_pipe_as_they_are(few):
    for examples in few:
        assert {bool(example["reason"]) for example in examples} == {False, True}
        for some in (examples, examples[:1]):
            found = pickle.loads(pickle.dumps(handover.Message(some))).found
            assert len(found) == len(some)
            for one, other in zip(found, some, strict=True):
                assert_same(one, other)


@pytest.mark.parametrize("ahead", [1, 12, 40])
def test_chunks_keep_the_order_and_the_last_is_shorter(ahead):
    seen = []

    def finish(found):
        seen.append(len(found))
        return [{**example, "done": True} for example in found]

    stream = grain.MapDataset.range(23).map(lambda number: {"number": number})
    examples = handover.read(stream, 0, ahead=ahead, samples=0, finish=finish)
    assert list(examples) == [{"number": number, "done": True} for number in range(23)]
    examples.close()
    size = handover.together(0, ahead)
    assert sorted(seen) == sorted([size] * (23 // size) + [23 % size] * bool(23 % size))


def test_processes_end_though_nobody_reads_their_messages():
    """Each is larger than a pipe, so that whoever sends it waits."""
    stream = grain.MapDataset.range(1000).map(lambda number: {"sound": np.full(1_000_000, number)})
    examples = handover.read(stream, 2, ahead=8, samples=0)
    for number in range(8):
        assert next(examples)["sound"][0] == number
    time.sleep(1.0)
    began = time.monotonic()
    examples.close()
    assert time.monotonic() - began < 10.0


def test_chunks_are_small():
    """At most 2 MiB of sound, or one clip; and a fraction of what is made ahead."""
    assert handover.together(16_000, 1000) == 32
    assert handover.together(160_000, 1000) == 3
    assert handover.together(10**7, 1000) == 1
    assert handover.together(0, 1000) == 64
    assert handover.together(16_000, 12) == 3
