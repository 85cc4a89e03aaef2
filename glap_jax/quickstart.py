"""`glap-jax quickstart`: the whole road on the embedded recordings, from files to search by text."""

import dataclasses
import os
import shutil
import time
from pathlib import Path

from glap_jax import config as configs
from glap_jax import fingerprint, inference
from glap_jax.config import TrainConfig
from glap_jax.errors import GlapError
from glap_jax.eval import evaluate
from glap_jax.eval.evaluate import Embedded
from glap_jax.eval.nearest import top_k
from glap_jax.eval.report import markdown_tables
from glap_jax.eval.retrieval import Table
from glap_jax.inference import Model
from glap_jax.train.loop import train

CONFIG = Path("configs/quickstart.py")
# Words that the held-out recordings hold, each in a language of its own.
QUERIES = (("a tabla drum stroke", "eng_Latn"), ("Huit.", "fra_Latn"), ("Восемь.", "rus_Cyrl"))
BEST = 5

NEXT = """
In {out}: model/, checkpoints/, metrics.csv, training.png, evaluation/report.html with its plots.
Type next:
  glap-jax score CLIP.wav "seven;sept;семь" --model {out}/model   match a recording of yours
  glap-jax embed FOLDER -o out.npz --model {out}/model            embed a folder
  glap-jax train configs/quickstart.py --steps 4000 --out runs/longer   train longer
This model has heard a quarter of an hour of audio: it shows that all works. Real work starts from published
weights (glap-jax convert --help)."""


def run(out: Path, *, fresh: bool, steps: int | None = None) -> None:
    """Trains (or goes on), evaluates on the held-out recordings, searches them, and says what to type next.

    Args:
        out: run folder.
        fresh: delete an earlier run in `out` first.
        steps: of training; by default those of the configuration.

    Raises:
        GlapError: no clone of the repository around the package, or whatever training finds wrong.
    """
    began = time.monotonic()
    config = settings(out)
    if steps is not None:
        warmup = min(config.optimizer.warmup_steps, steps // 10)
        optimizer = dataclasses.replace(config.optimizer, warmup_steps=warmup)
        config = dataclasses.replace(config, steps=steps, optimizer=optimizer)
    if fresh and (out / "config.json").is_file():
        shutil.rmtree(out)
    result = train(config, resume=True)
    if result.model is None:
        return
    model = inference.load(result.model)
    embedded = evaluate.embed(model, config.data)
    tables = evaluate.tables(embedded)
    facts = {"steps": result.step, "parameters": fingerprint.of_module(model.module, model.config)}
    evaluate.report(embedded, tables, out / evaluate.EVALUATION, title="Quickstart", facts=facts)
    print(summary(tables))
    print(search(model, embedded))
    print(f"\n{time.monotonic() - began:.0f} s in all.")
    print(NEXT.format(out=out))


def settings(out: Path) -> TrainConfig:
    """The quickstart's configuration, with the run folder `out` and paths that hold from here.

    Raises:
        GlapError: the package does not lie in a clone of the repository, which holds the recordings.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / CONFIG).is_file():
        raise GlapError(
            "quickstart: the recordings come with the repository, not with the package; clone it, and "
            "install with `pip install -e .` there"
        )
    config = configs.load(root / CONFIG)
    data = dataclasses.replace(config.data, root=os.path.relpath(root / config.data.root))
    return dataclasses.replace(config, out=str(out), data=data)


def summary(tables: list[Table]) -> str:
    """What the held-out recordings show, pooled and per group."""
    shown = markdown_tables([table for table in tables if table.kind != "language"])
    return (
        "\nHeld-out recordings of words and sounds of which training heard other recordings, mostly by the "
        f"same voices\n(data/samples/README.md). Percent, chance in parentheses.\n\n{shown}"
    )


def search(model: Model, embedded: Embedded) -> str:
    """The best five held-out clips for three texts in three languages."""
    lines = ["\nThe held-out recordings, searched by text:"]
    for text, language in QUERIES:
        places, scores = top_k(model.encode_text([text], language=language), embedded.audio, BEST)
        lines.append(f'\n  "{text}" ({language})')
        for place, score in zip(places[0], scores[0], strict=True):
            clip = embedded.clips[place]
            spoken = f"{clip.captions[0].text} ({clip.language})"
            lines.append(f"  {100 * score:6.1f}  {clip.key:34}  {spoken}")
    return "\n".join(lines)
