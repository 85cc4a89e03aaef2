"""Runs evaluation tasks: reads and encodes their clips, and calls what measures their kind."""

import dataclasses
import pkgutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from glap_jax.errors import GlapError
from glap_jax.eval.result import Curve, Row, Sample, TaskResult
from glap_jax.eval.task import KINDS, Task, labels_of, read
from glap_jax.inference import Model
from glap_jax.pipeline import files
from glap_jax.pipeline.bad import BadClip
from glap_jax.pipeline.captions import DEFAULT_LANGUAGE, LANGUAGE_FIELD
from glap_jax.pipeline.config import DataConfig, GroupConfig
from glap_jax.pipeline.evaluation import Clip, evaluation
from glap_jax.pipeline.shards import find_shards
from glap_jax.pipeline.sources import ShardSource
from glap_jax.progress import track

# Clips that are encoded together.
BATCH = 32
# Batches whose clips are sorted by length: at most 250 MB of them.
WINDOW = 4
# Seconds; a benchmark is evaluated whole, down to what encoders need to see anything.
SHORTEST = 0.05


class Known(NamedTuple):
    """What the json of a clip says: the language of its captions, and its labels."""

    language: str
    labels: list[str]


class Encoded(NamedTuple):
    """Some clips of a task: unit rows (or the task's other `features`), and what is known of each."""

    audio: Float[np.ndarray, "A E"]
    clips: tuple[Clip, ...]


@dataclasses.dataclass
class Run:
    """A model in a task: what the function of a kind reads the clips by, and makes its result with.

    Attributes:
        model: as `glap_jax.load` returns it.
        task: checked.
        root: folder of the evaluation sets.
        clips: how many have been encoded so far.
        seconds: that this took, reading included.
    """

    model: Model
    task: Task
    root: Path
    clips: int = 0
    seconds: float = 0.0

    def data(self, split: str | None = None) -> DataConfig:
        """How the clips of a split (by default the task's) are read: changed by nothing, up to `seconds`.

        Raises:
            GlapError: there are none; it says where to get them, and how to lay them out.
        """
        task, patterns = self.task, find(self.task, self.root, split)
        # Where labels are what counts, clips may be in languages that the text tower does not know.
        told = task.language if KINDS[task.kind].captioned else DEFAULT_LANGUAGE
        return DataConfig(
            root=str(self.root),
            test=(GroupConfig(task.name, patterns),),
            sample_rate=self.model.sample_rate,
            eval_seconds=task.seconds,
            min_seconds=min(SHORTEST, task.seconds),
            max_tokens=self.model.module.text.config.max_tokens,
            language=told,
            templates=(f"{{{task.label}}}",),
        )

    def known(
        self, split: str | None = None, where: Mapping[str, Sequence[str]] | None = None
    ) -> dict[int, Known]:
        """The clips of a split that the task evaluates, by number, without their recordings: those of
        `where` (by default `dataset.where`), and with a label unless the task is one of captions."""
        data, key = self.data(split), "dataset.where" if where is None else "gallery.where"
        where = self.task.dataset.where if where is None else where
        source = ShardSource(find_shards(data.test[0].shards, data.root))
        found = {}
        for row in track(range(len(source)), f"listing {self.task.name}", unit="clip"):
            try:
                fields = source.metadata(row)
            except BadClip:
                continue
            labels = labels_of(fields, self.task.label)
            chosen = all(_has(labels_of(fields, name), values) for name, values in where.items())
            if chosen and (labels or KINDS[self.task.kind].captioned):
                found[row] = Known(str(fields.get(LANGUAGE_FIELD, DEFAULT_LANGUAGE)), labels)
        if not found:
            raise GlapError(
                f"eval: no clip of task '{self.task.name}' has what '{key}' and 'label' ask for; "
                f"mend the task, or build its shards anew in '{self.root}'"
            )
        return found

    def has(self, split: str) -> bool:
        """Whether there are shards of a split."""
        try:
            find(self.task, self.root, split)
        except GlapError:
            return False
        return True

    def batches(self, rows: Sequence[int] | None = None, split: str | None = None) -> Iterator[Encoded]:
        """Encodes the clips of a split, those of `rows` or all, in any order; bad ones are left out."""
        data, tokenizer = self.data(split), self.model.require_tokenizer()
        found = evaluation(data, data.test[0], batch=BATCH, tokenizer=tokenizer, rows=rows, window=WINDOW)
        joint = self.task.features == "joint"
        encode = self.model.encode_waveforms if joint else self.model.pool_waveforms
        start = time.perf_counter()
        for batch in track(found, f"encoding {self.task.name}", unit="batch"):
            audio = encode(batch.waveform, batch.lengths)[batch.valid]
            self.clips += len(batch.clips)
            self.seconds += time.perf_counter() - start
            yield Encoded(audio, batch.clips)
            start = time.perf_counter()

    def encoded(self, rows: Sequence[int] | None = None, split: str | None = None) -> Encoded:
        """All `batches` together."""
        parts = list(self.batches(rows, split))
        return Encoded(
            np.concatenate([part.audio for part in parts]),
            tuple(clip for part in parts for clip in part.clips),
        )

    def result(
        self,
        figures: Mapping[str, float],
        chance: Mapping[str, float],
        *,
        rows: Sequence[Row] = (),
        notes: Sequence[str] = (),
        intervals: Mapping[str, list[float]] = MappingProxyType({}),
        curves: Mapping[str, Sequence[Curve]] = MappingProxyType({}),
        sample: Sample | None = None,
    ) -> TaskResult:
        """The result of the clips encoded, with the figures that the task shows."""
        shown, published = self.task.shown(), self.task.dataset.clips
        notes = [*self.task.notes, *notes]
        if published is not None and self.clips != published:
            notes.append(f"These are {self.clips:,} clips; the published set has {published:,}.")
        rows = [
            dataclasses.replace(
                row,
                figures={name: row.figures[name] for name in shown if name in row.figures},
                intervals={name: row.intervals[name] for name in shown if name in row.intervals},
            )
            for row in rows
        ]
        return TaskResult(
            task=self.task,
            figures={name: float(figures[name]) for name in shown},
            chance={name: float(chance[name]) for name in shown if name in chance},
            clips=self.clips,
            seconds=self.seconds,
            rows=tuple(rows),
            notes=tuple(notes),
            intervals={name: intervals[name] for name in shown if name in intervals},
            curves=dict(curves),
            sample=sample,
        )


def run(model: Model, task: str | Path | Task, root: str | Path) -> TaskResult:
    """What a model scores in a task.

    Args:
        model: as `glap_jax.load` returns it.
        task: its name, the path of its yaml file, or a Task.
        root: folder of the evaluation sets, one folder each.

    Raises:
        GlapError: no such task, a wrong one, a dataset that is not there, or no tokenizer in the model.
    """
    task = read(task)
    measure = pkgutil.resolve_name(KINDS[task.kind].measure)
    return measure(Run(model, task, Path(root)))


def _has(found: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a field has one of the values `wanted`, or, where none is wanted, has none."""
    return bool(set(found) & set(wanted)) if wanted else not found


def require(task: Task, root: Path) -> None:
    """Raises GlapError where a split that a task needs has no shards."""
    for split in task.splits():
        find(task, root, split)


def find(task: Task, root: Path, split: str | None = None) -> tuple[str, ...]:
    """The patterns of the shards of a task's split (by default its own), each of which matches some.

    Raises:
        GlapError: one does not; it says where to get the dataset, and how to lay it out.
    """
    data = task.dataset
    patterns = data.patterns(split)
    for pattern in patterns:
        full = pattern if files.is_url(pattern) else str(root / pattern)
        if files.matching(full):
            continue
        said = f"eval: task '{task.name}': no shard matches '{full}'"
        if not data.recipe:
            raise GlapError(f"{said}; mend 'dataset.shards' or --root")
        folder = root / (data.folder or data.recipe)
        source = f" from {data.page}" * bool(data.page) + f" ({data.layout})" * bool(data.layout)
        raise GlapError(
            f"{said}; get the corpus{source}, then run `glap-jax data build "
            f"data/recipes/{data.recipe}.py CORPUS {folder}`, or name another --root"
        )
    return patterns
