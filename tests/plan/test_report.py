"""The arithmetic of a plan, and what is printed of it."""

import dataclasses

import pytest

from glap_jax import cli
from glap_jax.config import LayoutConfig, TrainConfig
from glap_jax.errors import GlapError
from glap_jax.flops import Flops
from glap_jax.plan import chips, command, report
from glap_jax.plan.chips import CHIPS, GIB
from glap_jax.plan.compile import Compiled
from glap_jax.plan.work import Collective, Work

V5E = CHIPS["v5e"]
RUN = TrainConfig(batch=64, steps=1000, remat="dots")
FLOPS = Flops(audio=6 * 10**12, text=10**12, heads=10**12, loss=10**11)


def compiled(**changed) -> Compiled:
    memory = {"parameters": GIB, "optimizer": 2 * GIB, "average": 0, "frozen": GIB, "batch": 0}
    memory |= {"activations": 6 * GIB, "loss": 0, "program": 0, "padding": 0, "total": 10 * GIB}
    work = (
        Work(flops=197 * 10**10, bytes=8190, times=10),
        Work(flops=0, bytes=8190 * 10**5, times=20),
    )
    talk = (Collective("all-reduce", "data", 4, bytes=4 * 10**9, count=3),)
    return Compiled(
        **{"devices": 4, "memory": memory, "usable": None, "compiled": True, "work": work}
        | {"collectives": talk}
        | changed
    )


def test_a_roofline_takes_each_instruction_by_what_holds_it_up():
    """0.1 s of products, then 0.02 s of traffic; 6e9 of 2e11 bytes a second are sent meanwhile."""
    found = report.roofline(compiled(), FLOPS, RUN, V5E)
    assert found["step_seconds"] == pytest.approx(0.12)
    assert found["talk_seconds"] == pytest.approx(2 * 4e9 * 3 / 4 / 200e9)
    assert found["mfu"] == pytest.approx(8e12 / (0.12 * 4 * 197e12))
    assert found["clips_per_second"] == pytest.approx(64 / 0.12)
    assert found["days"] == pytest.approx(1000 * 0.12 / 86400)


def test_talk_that_lasts_longer_is_the_step():
    slow = Collective("collective-permute", "data", 4, bytes=10**11, count=1)
    assert report.roofline(compiled(collectives=(slow,)), FLOPS, RUN, V5E)["step_seconds"] == 0.5


def test_what_is_sent_of_each_kind():
    sent = {
        kind: Collective(kind, "data", 4, bytes=400, count=1).sent
        for kind in ("all-reduce", "all-gather", "reduce-scatter", "collective-permute")
    }
    assert sent == {"all-reduce": 600, "all-gather": 300, "reduce-scatter": 300, "collective-permute": 400}


def test_whether_it_fits():
    large = compiled(memory={"total": 17 * GIB})
    assert report.fits(compiled(), V5E) is True
    assert report.fits(large, V5E) is False
    assert report.fits(large, CHIPS["v4"]) is True
    assert report.fits(compiled(compiled=False), CHIPS["v4"]) is False
    assert report.fits(compiled(), None) is None


def test_a_plan_as_it_is_printed():
    text = report.text(report.described(RUN, "v5e:2x2", compiled(), FLOPS, V5E))
    assert "4 devices (v5e:2x2), batch 64: 16 pairs a device; remat dots, fsdp 1, accumulation 1" in text
    assert "| optimizer | 2.00 |" in text
    assert "average" not in text
    assert "fits: 10.00 of 16 GiB" in text
    assert "| all-reduce | data | 4 | 3 | 3814.70 |" in text
    assert "model FLOPs a step: 8 T (audio 6, text 1, heads 1, loss 0.1; the loss apart)" in text
    assert "at best 0.12 s a step" in text
    assert "533 clips/s, MFU 8.5 %" in text
    assert "padded" not in text
    data = dataclasses.replace(RUN.data, layout=LayoutConfig("packed"))
    text = report.text(
        report.described(dataclasses.replace(RUN, data=data), "v5e:2x2", compiled(), FLOPS, V5E)
    )
    assert text.splitlines()[1].endswith("as in padded batches; those of this run are packed")


def plan_of(total: int, held: int) -> dict:
    memory = {"parameters": held, "optimizer": 0, "average": 0, "frozen": 0, "total": total}
    return report.described(RUN, "v5e:4x4", compiled(devices=16, memory=memory), FLOPS, V5E)


def test_less_memory_is_tried_cheapest_first():
    """Parameters of 4 GiB shared by four spare three: not enough of the four that lack without remat."""
    ways = [words for words, _ in command.less_memory(RUN, plan_of(20 * GIB, 4 * GIB))]
    assert ways == [
        "--remat full --parallel.fsdp 1 --accumulation 1",
        "--remat full --parallel.fsdp 4 --accumulation 1",
        "--remat full --parallel.fsdp 16 --accumulation 1",
        "--remat full --parallel.fsdp 16 --accumulation 2",
        "--remat full --parallel.fsdp 16 --accumulation 4",
    ]


def test_parameters_that_do_not_fit_alone_are_shared_at_once():
    ways = list(command.less_memory(RUN, plan_of(24 * GIB, 20 * GIB)))
    assert ways[0][0] == "--remat dots --parallel.fsdp 4 --accumulation 1"
    changed = ways[0][1]
    assert changed == dataclasses.replace(RUN, parallel=dataclasses.replace(RUN.parallel, fsdp=4))


def test_chips_and_their_numbers():
    assert chips.parse("v5e:16x16") == ("v5e", (16, 16))
    assert chips.parse("v4:4x4x4") == ("v4", (4, 4, 4))


@pytest.mark.parametrize("name", ["v5e", "v5e:", "v5e:16x", "v5e:0x4", "v3:8", "h100:8", "v5e:16*16"])
def test_no_such_topology(name):
    with pytest.raises(
        GlapError,
        match=rf"^plan: no topology '{name}'; give a chip \(v4, v5e, v5p, v6e\)".replace("*", r"\*"),
    ):
        chips.parse(name)


def test_settings_are_tried_until_one_fits(monkeypatch, capsys):
    """Of 20 GiB, full remat leaves 17, with parameters shared by four 15."""
    sizes = {("dots", 1): 20, ("full", 1): 17, ("dots", 4): 18, ("full", 4): 15}

    def step(run: TrainConfig, topology: str) -> Compiled:
        assert run.dtype == "bfloat16"
        total = sizes[run.remat, run.parallel.fsdp] * GIB
        memory = {"parameters": 4 * GIB, "optimizer": 0, "average": 0, "frozen": 0, "total": total}
        return compiled(devices=16, memory=memory)

    monkeypatch.setattr(command.compile, "step", step)
    monkeypatch.setattr(command.configs, "load", lambda path: dataclasses.replace(RUN, dtype="auto"))
    monkeypatch.setattr(command.flops, "train", lambda run: FLOPS)
    assert cli.main(["plan", "run.py", "--topology", "v5e:4x4"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "does not fit: 20.00 of 16 GiB" in printed
    assert printed[-2:] == [
        "--remat full --parallel.fsdp 1 --accumulation 1: does not fit, 17.00 GiB",
        "--remat full --parallel.fsdp 4 --accumulation 1: fits, 15.00 GiB",
    ]
    assert cli.main(["plan", "run.py", "--topology", "v5e:4x4", "--alone"]) == 0
    assert "--remat" not in capsys.readouterr().out
