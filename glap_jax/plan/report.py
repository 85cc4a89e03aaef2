"""What a plan says: memory, talk, arithmetic and a roofline, as a dict for JSON and as text."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from glap_jax.config import TrainConfig
from glap_jax.flops import Flops
from glap_jax.plan.chips import GIB, Chip
from glap_jax.plan.compile import Compiled

SECONDS_A_DAY = 86_400
# Nobody knows here how long the clips of a run are.
AS_PADDED = "each clip in a row of 'data.crop_seconds', as in padded batches; those of this run are {}"


def roofline(compiled: Compiled, flops: Flops, config: TrainConfig, chip: Chip) -> dict[str, float]:
    """The least time that a step takes on `chip`s, and what follows from it.

    Each instruction takes as long as its products or its memory traffic do, at the peak of either, whichever
    is longer; they run one after the other. What devices send each other runs beside them, over all links at
    once. Arithmetic that is no product or stands in a kernel written by hand, waiting, and what slices tell
    each other over their slower network cost nothing here, so that real steps are longer.

    Args:
        compiled: the step.
        flops: of the model's step, which MFU is reckoned from.
        config: of the run.
        chip: what it runs on.
    """
    products = sum(one.times * one.flops for one in compiled.work) / chip.flops
    traffic = sum(one.times * one.bytes for one in compiled.work) / chip.bandwidth
    busy = sum(one.times * max(one.flops / chip.flops, one.bytes / chip.bandwidth) for one in compiled.work)
    talk = sum(one.sent for one in compiled.collectives) / chip.links
    step = max(busy, talk)
    return {
        "step_seconds": step,
        "mfu": flops.model / (step * chip.flops * compiled.devices),
        "clips_per_second": config.batch / step,
        "days": config.steps * step / SECONDS_A_DAY,
        "product_seconds": products,
        "memory_seconds": traffic,
        "busy_seconds": busy,
        "talk_seconds": talk,
    }


def fits(compiled: Compiled, chip: Chip | None) -> bool | None:
    """Whether the program and its arrays go into a device's memory; None if nobody knows that."""
    if not compiled.compiled:
        return False
    return None if chip is None else compiled.memory["total"] <= chip.memory


def described(
    config: TrainConfig, topology: str, compiled: Compiled, flops: Flops, chip: Chip | None
) -> dict[str, Any]:
    """A plan as JSON holds it."""
    return {
        "topology": topology,
        "devices": compiled.devices,
        "batch": config.batch,
        "accumulation": config.accumulation,
        "layout": config.data.layout.kind,
        "remat": config.remat,
        "fsdp": config.parallel.fsdp,
        "slices": config.parallel.slices,
        "dtype": config.dtype,
        "memory_bytes_per_device": compiled.memory,
        "fits": fits(compiled, chip),
        "collectives": [dataclasses.asdict(one) for one in compiled.collectives],
        "flops": dataclasses.asdict(flops) | {"model": flops.model},
        "roofline": roofline(compiled, flops, config, chip) if chip and compiled.compiled else None,
        "constants": dataclasses.asdict(chip) if chip else None,
        "suggestions": [],
    }


def text(plan: Mapping[str, Any]) -> str:
    """A plan as it is printed."""
    memory = {kind: size for kind, size in plan["memory_bytes_per_device"].items() if size}
    lines = [
        f"{plan['devices']} devices ({_slices(plan)}), batch {plan['batch']}: "
        f"{plan['batch'] // plan['devices']} pairs a device; remat {plan['remat']}, fsdp {plan['fsdp']}, "
        f"accumulation {plan['accumulation']}, {plan['dtype']}",
        *([] if plan["layout"] == "padded" else [AS_PADDED.format(plan["layout"])]),
        "",
        "| memory a device | GiB |",
        "|-|-|",
        *(f"| {kind} | {size / GIB:.2f} |" for kind, size in memory.items()),
        "",
        _verdict(plan),
    ]
    if plan["collectives"]:
        lines += ["", "| collective | axis | devices | a step | MiB a device |", "|-|-|-|-|-|"]
        lines += map(_collective, plan["collectives"])
    flops = plan["flops"]
    parts = ", ".join(f"{part} {flops[part] / 1e12:.4g}" for part in ("audio", "text", "heads", "loss"))
    lines += ["", f"model FLOPs a step: {flops['model'] / 1e12:.4g} T ({parts}; the loss apart)"]
    if plan["roofline"]:
        lines += ["", *_times(plan)]
    return "\n".join(lines)


def _slices(plan: Mapping[str, Any]) -> str:
    return plan["topology"] if plan["slices"] == 1 else f"{plan['slices']} x {plan['topology']}"


def _collective(one: Mapping[str, Any]) -> str:
    size = one["bytes"] / 2**20
    return f"| {one['kind']} | {one['axis']} | {one['devices']} | {one['count']} | {size:.2f} |"


def _verdict(plan: Mapping[str, Any]) -> str:
    total = plan["memory_bytes_per_device"]["total"] / GIB
    if plan["fits"] is None:
        return f"{total:.2f} GiB"
    if not plan["constants"]:
        return f"does not fit: {total:.2f} GiB"
    has = f"{plan['constants']['memory'] / GIB:.0f} GiB"
    return f"fits: {total:.2f} of {has}" if plan["fits"] else f"does not fit: {total:.2f} of {has}"


def _times(plan: Mapping[str, Any]) -> list[str]:
    line, constants = plan["roofline"], plan["constants"]
    return [
        f"at best {line['step_seconds']:.3g} s a step (products alone {line['product_seconds']:.3g} s, "
        f"memory alone {line['memory_seconds']:.3g} s, between devices {line['talk_seconds']:.3g} s): "
        f"{line['clips_per_second']:.0f} clips/s, MFU {100 * line['mfu']:.1f} %, {line['days']:.3g} days for "
        "the run",
        f"a chip: {constants['flops'] / 1e12:.0f} TFLOP/s in bfloat16, memory "
        f"{constants['bandwidth'] / 1e9:.0f} GB/s, links {constants['links'] / 1e9:.0f} GB/s each way",
    ]
