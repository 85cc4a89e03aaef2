"""What `glap-jax bench ...` takes: thin functions whose docstrings are the help."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

Config = Annotated[Path, tyro.conf.arg(metavar="CONFIG")]
Data = Annotated[Path | None, tyro.conf.arg(metavar="CONFIG")]
Encoders = Annotated[tuple[str, ...], tyro.conf.arg(metavar="[ENCODER ...]")]
Overrides = Annotated[Sequence[str], tyro.conf.Suppress]


def encode(
    encoders: Encoders = (),
    /,
    *,
    against: Literal["none", "torch"] = "none",
    batch: int = 4,
    seconds: float = 10.0,
    repeats: int = 7,
    json: bool = False,
) -> None:
    """Measures how long encoders with random parameters take for the embedded recordings on this device.

    Prints a Markdown table of medians in milliseconds a clip (or text of 64 tokens).

    Args:
        encoders: names such as whisper.base bert.minilm; by default every family's base size.
        against: `torch` runs the PyTorch code that each comes from, or an equal one, in turns in the same
            process, with the same parameters and inputs, and says how much the outputs differ.
        batch: clips or texts encoded together.
        seconds: length of each clip.
        repeats: runs of each, of which the median counts.
        json: print JSON instead of a table.
    """
    from glap_jax.bench import encode as body

    body.run(encoders, against=against, batch=batch, seconds=seconds, repeats=repeats, as_json=json)


def train(
    config: Config = Path("configs/glap.py"),
    /,
    *,
    against: Literal["none", "torch"] = "none",
    batch: str = "4",
    repeats: int = 5,
    memory: bool = False,
    json: bool = False,
    overrides: Overrides = (),
) -> None:
    """Measures the training step of a configuration on one device: speed, MFU and peak memory.

    Parameters are random, clips the embedded recordings, at the configuration's length. MFU is what model and
    batch ask for over what this device's matrix products reach in the same run. Keys of the configuration are
    overridden as in training: --remat none, or --frozen '.*' False to train the text tower too.

    Args:
        config: configuration of the run.
        against: `torch` takes turns with the same step in PyTorch: the same parameters, batch and loss, Adam
            in 32 bits; on a GPU with torch.compile and, where the run computes in it, bfloat16.
        batch: pairs, or `largest` that fit into the memory of a GPU or TPU.
        repeats: steps of each, of which the median counts.
        memory: measure peak memory too; on a CPU in processes of their own, compilation included.
        json: print JSON instead of a table.
        overrides: the words of those options.
    """
    from glap_jax import memory as allocator
    from glap_jax.bench import train as body

    allocator.keep()
    options = {"against": against, "batch": batch, "repeats": repeats, "memory": memory}
    body.run(config, overrides=overrides, **options, as_json=json)


def loss(
    *,
    kinds: tuple[Literal["sigmoid", "infonce"], ...] = ("sigmoid", "infonce"),
    strategies: tuple[Literal["dense", "gather", "ring"], ...] = ("dense", "gather", "ring"),
    batch: int = 1024,
    joint: int = 1024,
    devices: int | None = None,
    chunk: int | None = None,
    repeats: int = 5,
    json: bool = False,
) -> None:
    """Measures a loss over all pairs of a batch with its gradient: milliseconds, and memory of each device.

    Prints a Markdown table; the memory is what XLA plans beside inputs and results.

    Args:
        kinds: which losses.
        strategies: how the pairs of all devices come together.
        batch: pairs, over all devices.
        joint: width of the rows.
        devices: how many of those here; by default all. JAX_NUM_CPU_DEVICES=8 in the environment makes a CPU
            8 of them.
        chunk: captions per block of logits; by default a device's share. `dense` has no blocks.
        repeats: runs of each, of which the median counts.
        json: print JSON instead of a table.
    """
    from glap_jax.bench import loss as body

    options = {"batch": batch, "joint": joint, "devices": devices, "chunk": chunk, "repeats": repeats}
    body.run(kinds=kinds, strategies=strategies, **options, as_json=json)


def pipeline(
    config: Data = None,
    /,
    *,
    workers: tuple[int, ...] = (0, 1, 2),
    batches: int = 20,
    repeats: int = 1,
    formats: tuple[Literal["flac", "wav", "vorbis", "mp3", "opus", "flac-44100"], ...] = (),
    clips: int = 200,
    augment: bool = False,
    json: bool = False,
    overrides: Overrides = (),
) -> None:
    """Measures how many clips a second the input pipeline delivers, beside what decoding alone takes.

    The pipeline decodes, crops, tokenises and batches. Prints a Markdown table of clips a second, audio over
    wall-clock time, and what of decoding alone each process keeps. Keys of the configuration are overridden
    as in training, for instance --batch 128 --data.root DIR.

    Args:
        config: configuration whose training groups are read; by default the quickstart's.
        workers: processes that decode; 0 is threads of this one.
        batches: that are waited for.
        repeats: of all, in turns; medians count.
        formats: encode some clips of the groups anew in each of these, and read them from there.
        clips: that are encoded so, one behind the other until each is as long as a crop.
        augment: change clips too, as `data.augment` says.
        json: print JSON instead of a table.
        overrides: the words of those options.
    """
    from glap_jax.bench import pipeline as body

    options = {"workers": workers, "batches": batches, "repeats": repeats, "augment": augment}
    body.run(config, overrides=overrides, encodings=formats, clips=clips, **options, as_json=json)


def packing(
    config: Data = None,
    /,
    *,
    kinds: tuple[Literal["padded", "bucketed", "packed"], ...] = ("padded", "bucketed", "packed"),
    batches: int = 20,
    steps: int = 0,
    repeats: int = 3,
    json: bool = False,
    overrides: Overrides = (),
) -> None:
    """Measures how much of a batch's rows is sound with each way of laying out clips, and what it buys.

    Prints a Markdown table. Keys of the configuration are overridden as in training, for instance
    --batch 256 --data.layout.row-seconds 20; the layout is each of `kinds` in turns.

    Args:
        config: configuration whose training groups are read; by default the quickstart's.
        kinds: of layouts.
        batches: that are looked at.
        steps: of training, on the first batches of each layout in turns, on one device; 0 makes none.
        repeats: of all these steps, of which the median counts.
        json: print JSON instead of a table.
        overrides: the words of those options.
    """
    from glap_jax import memory
    from glap_jax.bench import packing as body

    memory.keep()
    options = {"kinds": kinds, "batches": batches, "steps": steps, "repeats": repeats}
    body.run(config, overrides=overrides, **options, as_json=json)


def index(*, pairs: int = 1_000_000, shards: int = 100) -> None:
    """Measures how long pairs take to be found in many tar shards, and the memory that the index needs.

    Writes made-up shards into the system's folder for temporary files (2 KB a pair); prints a Markdown table.

    Args:
        pairs: in all.
        shards: that they are in.
    """
    from glap_jax.bench import index as body

    body.run(pairs=pairs, shards=shards)


def retrieval(*, size: int = 100_000, width: int = 512, clips: int | None = None) -> None:
    """Measures how long retrieval figures of made-up clips take, and the memory; prints a Markdown table.

    Args:
        size: captions, and as many clips unless `clips` says fewer.
        width: of their embeddings.
        clips: they share the captions evenly, each being right for several.
    """
    from glap_jax.bench import retrieval as body

    body.run(size=size, width=width, clips=clips)


def soak(
    *, batches: int = 20_000, batch: int = 16, clips: int = 1500, share: float = 0.03, workers: int = 0
) -> None:
    """Runs the input pipeline for a long time over made-up shards with faults of every kind.

    Checks that every good clip comes exactly once an epoch, and that every bad one is named, once and with
    its reason; prints a Markdown table of the memory of this process.

    Args:
        batches: that are drawn.
        batch: clips of one.
        clips: of each of three groups.
        share: of them that are bad.
        workers: processes that decode; 0 is threads of this one.
    """
    from glap_jax.bench import soak as body

    body.run(batches=batches, batch=batch, clips=clips, share=share, workers=workers)
