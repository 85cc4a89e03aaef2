"""Where clips lie: nothing is lost or overlaps, shapes are few and agreed, and the pairs stay the same."""

import dataclasses
import itertools
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from glap_jax.config import LayoutConfig
from glap_jax.errors import GlapError
from glap_jax.pipeline import loader, packing
from glap_jax.pipeline.config import DataConfig

SLOT = 640


def examples(draw, count, longest=16000):
    sizes = draw.integers(1, longest + 1, count)
    sizes[::7] = 0
    return [{"waveform": draw.uniform(0.1, 1, size).astype(np.float32)} for size in sizes]


def data(kind, **layout):
    return DataConfig(crop_seconds=1.0, layout=LayoutConfig(kind=kind, **layout))


@pytest.mark.parametrize(("shares", "parts"), [(1, 1), (4, 1), (2, 3)])
def test_every_clip_lies_where_its_device_and_part_looks(shares, parts):
    """Parts are cut as a step cuts them; a bad clip takes a slot of silence."""
    found = examples(np.random.default_rng(0), 48)
    own = {"slot": SLOT, "shares": shares, "parts": parts, "rows": range(96, 144)}
    arrange = packing.arrangement(data("packed", row_seconds=2.0), **own)
    batch = arrange(found)
    rows, size = batch["waveform"].shape
    assert size == 2 * 16000
    assert rows % (shares * parts) == 0
    assert batch["lengths"].tolist() == [len(each["waveform"]) or SLOT for each in found]
    covered = np.zeros(batch["waveform"].shape, bool)
    for part in range(parts):
        names = ("waveform", "starts", "sizes", "numbers", "place", "order")
        cut = {name: batch[name][part::parts] for name in names}
        for of, (place, number) in enumerate(zip(cut["place"], cut["order"], strict=True)):
            example = found[number]
            row, which = divmod(int(place), packing.MOST_CLIPS)
            # The device that holds the clip holds the row.
            assert row * shares // (rows // parts) == of * shares // (48 // parts)
            first, sound = int(cut["starts"][row, which]) * SLOT, example["waveform"]
            assert cut["sizes"][row, which] == (len(sound) or SLOT)
            assert cut["numbers"][row, which] == 96 + number
            np.testing.assert_array_equal(cut["waveform"][row, first : first + len(sound)], sound)
            taken = covered[part::parts][row, first : first + (len(sound) or SLOT)]
            assert not taken.any()
            taken[:] = True
    assert not batch["waveform"][~covered].any()
    assert sorted(batch["order"]) == list(range(48))
    assert (batch["sizes"] > 0).sum() == 48


def test_first_fit_fills_rows_and_bounds_their_clips():
    needs = np.array([10, 90, 40, 60, 30, 70, 100])
    row, which, start = packing.first_fit(needs, 100)
    assert row.tolist() == [1, 1, 3, 3, 2, 2, 0]
    assert which.tolist() == [1, 0, 1, 0, 1, 0, 0]
    assert start.tolist() == [90, 0, 60, 0, 70, 0, 0]
    row, which, _ = packing.first_fit(np.ones(2 * packing.MOST_CLIPS + 1, int), 1000)
    assert np.bincount(row).tolist() == [packing.MOST_CLIPS] * 2 + [1]
    assert which.max() == packing.MOST_CLIPS - 1


def test_devices_have_as_many_clips_and_as_much_to_hear():
    lengths = np.random.default_rng(1).integers(1, 160_000, 8 * 32)
    cells = packing.balanced(lengths, 8)
    assert sorted(cells.reshape(-1)) == list(range(len(lengths)))
    totals = lengths[cells].sum(axis=1)
    assert totals.max() < 1.01 * totals.mean()
    by_chance = lengths.reshape(8, 32).sum(axis=1)
    assert by_chance.max() > 1.1 * by_chance.mean()


def test_shapes_are_few():
    steps = sorted({packing.ladder(need) for need in range(1, 1000)})
    assert steps[:5] == [1, 2, 3, 4, 5]
    assert all(more <= max(rows + 1, 1.03 * rows) for rows, more in itertools.pairwise(steps))
    assert len(steps) < 170
    assert all(packing.ladder(need) >= need for need in (1, 17, 333))


@pytest.mark.parametrize("kind", ["bucketed", "packed"])
def test_another_process_may_need_more(kind):
    found = [{"waveform": np.ones(3000, np.float32)}] * 3
    asked = []
    arrange = packing.arrangement(data(kind), slot=SLOT, agree=lambda need: asked.append(need) or 4 * need)
    batch = arrange(found)
    assert asked == [4000 if kind == "bucketed" else 1]
    assert batch["waveform"].shape == ((3, 16000) if kind == "bucketed" else (4, 160000))
    assert batch["lengths"].tolist() == [3000] * 3


def test_buckets_hold_the_longest_clip_and_nothing_is_cut():
    found = [{"waveform": np.full(size, 0.5, np.float32)} for size in (7000, 0, 8001)]
    batch = packing.arrangement(data("bucketed"))(found)
    assert batch["waveform"].shape == (3, 10000)
    assert (batch["waveform"] != 0).sum(axis=1).tolist() == [7000, 0, 8001]
    assert batch["lengths"].tolist() == [7000, 10000, 8001]


@pytest.mark.parametrize("kind", ["bucketed", "packed"])
def test_pairs_and_their_order_stay(config, tokenizer, kind):
    """So does the iterator's state."""
    arrange = packing.arrangement(dataclasses.replace(config, layout=LayoutConfig(kind)), slot=SLOT)
    plain = loader.training(config, batch=6, seed=0, tokenizer=tokenizer)
    other = loader.training(config, batch=6, seed=0, tokenizer=tokenizer, arrange=arrange)
    for _ in range(3):
        one, two = next(plain), next(other)
        assert plain.keys == other.keys
        for name in ("lengths", "ids", "text_mask", "pair_mask", "clip", "caption", "group"):
            np.testing.assert_array_equal(one[name], two[name])
    assert plain.get_state() == other.get_state()


def test_settings_that_make_no_sense():
    with pytest.raises(GlapError, match=r"row_seconds' 0.5; no row is to be shorter than a clip"):
        packing.arrangement(data("packed", row_seconds=0.5), slot=SLOT)
    with pytest.raises(GlapError, match="no audio tower says how"):
        packing.arrangement(data("packed"))
    with pytest.raises(GlapError, match=r"data\.layout\.row_seconds"):
        data("packed", row_seconds=0.0)


# One of two processes: prints the shapes of its batches.
RUN = """
import sys
import jax
from glap_jax.bench import soak
from glap_jax.config import DataConfig, GroupConfig, LayoutConfig
from glap_jax.parallel import processes
from glap_jax.pipeline import loader, packing

processes.start()
first = 4 * jax.process_index()
groups = tuple(GroupConfig(each, (f"{each}-*.tar",)) for each in "ab")
for kind in ("bucketed", "packed"):
    layout = LayoutConfig(kind, row_seconds=1.0)
    config = DataConfig(root=sys.argv[1], train=groups, crop_seconds=1.0, layout=layout)
    arrange = packing.arrangement(config, slot=640, shares=2, agree=processes.most)
    rows = range(first, first + 4)
    data = loader.training(config, batch=8, seed=5, tokenizer=soak.Bytes(), rows=rows, arrange=arrange)
    print(*(next(data)["waveform"].shape for _ in range(20)), sep=";")
    data.close()
"""


def test_processes_agree_on_shapes(tmp_path, shard):
    """Also where the clips of one are longer than those of the other."""
    for number in range(16):
        shard(tmp_path / f"a-{number}.tar", [f"a{number}"], seconds=0.2 + 0.05 * number)
    shard(tmp_path / "b-0.tar", ["b0"], seconds=0.3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"GLAP_JAX_COORDINATOR": f"127.0.0.1:{free.getsockname()[1]}", "GLAP_JAX_PROCESSES": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path)],
            env=os.environ | place | {"GLAP_JAX_PROCESS": str(index)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    one, other = (each.communicate(timeout=300)[0] for each in started)
    assert [each.returncode for each in started] == [0, 0]
    assert one == other
    for shapes in one.splitlines():
        assert len(set(shapes.split(";"))) > 1, "all steps need the same"
