"""From a model and test groups to embeddings, retrieval tables and a report."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Float, Int

from glap_jax.config import DataConfig, TrainConfig
from glap_jax.errors import GlapError
from glap_jax.eval import engine
from glap_jax.eval.caption_retrieval import searched, told_captions
from glap_jax.eval.page import surroundings
from glap_jax.eval.plane import plane
from glap_jax.eval.report import write_report
from glap_jax.eval.result import TaskResult
from glap_jax.eval.retrieval import Table, heat_map, retrieval_tables
from glap_jax.eval.task import Task
from glap_jax.folder import is_model
from glap_jax.inference import Model
from glap_jax.pipeline.captions import TRUE_LANGUAGE
from glap_jax.pipeline.evaluation import Clip, evaluation
from glap_jax.progress import track

# The report's folder.
EVALUATION = "evaluation"
# Where evaluation sets are built.
SETS = Path("data/eval")


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Embedded test groups.

    Attributes:
        audio: `A E` unit rows, float32, one a clip.
        text: `C E` unit rows, float32, one a caption; a clip's captions follow one another.
        owners: `C`, the row of the clip that each caption describes.
        clips: `A`, what is known of each clip.
    """

    audio: Float[np.ndarray, "A E"]
    text: Float[np.ndarray, "C E"]
    owners: Int[np.ndarray, " C"]
    clips: tuple[Clip, ...]


def embed(model: Model, data: DataConfig) -> Embedded:
    """Embeds every good clip and caption of `data`'s test groups, in order.

    Raises:
        GlapError: no test groups, no tokenizer in the model, or shards that cannot be read.
    """
    if not data.test:
        raise GlapError("config: 'data.test' names no groups; give at least one GroupConfig to evaluate on")
    tokenizer = model.require_tokenizer()
    rows, clips = [], []
    for group in data.test:
        batches = evaluation(data, group, batch=engine.BATCH, tokenizer=tokenizer)
        for batch in track(batches, f"embedding {group.name}", unit="batch"):
            rows.append(model.encode_waveforms(batch.waveform, batch.lengths)[batch.valid])
            clips.extend(batch.clips)
    ids = [row for clip in clips for row in clip.ids]
    owners = np.repeat(np.arange(len(clips)), [len(clip.ids) for clip in clips])
    return Embedded(np.concatenate(rows), model.encode_ids(ids), owners, tuple(clips))


def language_tables(model: Model, embedded: Embedded, languages: Sequence[str], told: str) -> list[Table]:
    """Retrieval among the clips that have captions in a language, their own or translated, by these alone;
    a table of kind `text` for each language. `told` is what the text tower is told: a language, or `true`.

    Raises:
        GlapError: no clip has a caption in one of the languages.
    """
    found = []
    for language in languages:
        captions = told_captions(embedded.clips, language, language if told == TRUE_LANGUAGE else told)
        one = searched(model, engine.Encoded(embedded.audio, embedded.clips), captions, same=True)
        found.append(dataclasses.replace(one.tables[0], kind="text", name=language))
    return found


def tables(embedded: Embedded) -> list[Table]:
    """Retrieval both ways, pooled, per group and per language, beside chance.

    Clips with the same caption in the same language are right answers for each other's captions.
    """
    clips = embedded.clips
    return retrieval_tables(
        embedded.audio,
        embedded.text,
        owners=embedded.owners,
        captions=[f"{clip.language} {caption.text}" for clip in clips for caption in clip.captions],
        groups=[clip.group for clip in clips],
        languages=[clip.language for clip in clips],
    )


@overload
def evaluate(
    model: Model,
    task: DataConfig | TrainConfig,
    *,
    root: str | Path = ...,
    out: Path | None = ...,
    title: str = ...,
    facts: Mapping[str, str | int | float] | None = ...,
    points: bool = ...,
    languages: Sequence[str] = ...,
) -> list[Table]: ...
@overload
def evaluate(model: Model, task: str | Path | Task, *, root: str | Path = ...) -> TaskResult: ...


def evaluate(
    model: Model,
    task: str | Path | Task | DataConfig | TrainConfig,
    *,
    root: str | Path = SETS,
    out: Path | None = None,
    title: str = "Retrieval",
    facts: Mapping[str, str | int | float] | None = None,
    points: bool = False,
    languages: Sequence[str] = (),
) -> TaskResult | list[Table]:
    """What a model scores in a task, or retrieval figures on the test groups of a configuration.

    Args:
        model: as `glap_jax.load` returns it.
        task: name of a task (`glap-jax eval --tasks` lists them), path of a yaml file, or a Task; or what
            to read, or the configuration of a run that says so.
        root: folder of the evaluation sets that tasks read.
        out: folder for report.md, report.json and plots of a configuration; none writes nothing.
        title, facts: what that report says of the model besides what is known here.
        points: draw clips and captions as points too, which takes seconds.
        languages: NLLB codes; each searches once more by the captions in it, own or translated ones.

    Raises:
        GlapError: no such task or dataset, no test groups, no tokenizer in the model, shards that cannot be
            read, no place to write.
    """
    if not isinstance(task, DataConfig | TrainConfig):
        return engine.run(model, task, root)
    data = task.data if isinstance(task, TrainConfig) else task
    embedded = embed(model, data)
    found = tables(embedded) + language_tables(model, embedded, languages, data.language)
    if out is not None:
        report(embedded, found, out, title=title, facts=facts, points=points)
    return found


def report_folder(model: str) -> Path:
    """Where the report of a model goes unless the user says: `evaluation` in its run folder, beside another
    model folder or file, or in the working folder for one on the hub."""
    path = Path(model)
    if is_model(path / "model"):
        return path / EVALUATION
    return (path.parent if path.exists() else Path()) / EVALUATION


def report(
    embedded: Embedded,
    found: list[Table],
    out: Path,
    *,
    title: str,
    facts: Mapping[str, str | int | float] | None = None,
    points: bool = False,
) -> list[Path]:
    """Writes the report of `tables(embedded)`, which tells the surroundings; returns the files."""
    known = {"clips": len(embedded.clips), "captions": len(embedded.text), "width": embedded.audio.shape[1]}
    names = [clip.group for clip in embedded.clips]
    shown = (embedded.audio, embedded.text)
    return write_report(
        out,
        found,
        title=title,
        facts={**known, **(facts or {}), **surroundings()},
        heat_map=heat_map(*shown, owners=embedded.owners, groups=names),
        plane=plane(*shown, owners=embedded.owners, groups=names) if points else None,
        queries=queries(embedded.clips),
    )


def queries(clips: Sequence[Clip]) -> str:
    """32 hexadecimal digits that tell one list of clips and captions, translated ones too, from another."""
    hashed = hashlib.blake2b(digest_size=16)
    for clip in clips:
        own = [caption.text for caption in clip.captions]
        others = sorted((name, text) for name, text in clip.fields.items() if name.startswith("caption"))
        hashed.update(repr((clip.key, own, others)).encode())
    return hashed.hexdigest()
