"""What a model scores in an evaluation task."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from glap_jax.eval.task import Task


@dataclasses.dataclass(frozen=True)
class Row:
    """Figures of one language or group of a task.

    Attributes:
        name: NLLB code, or another value of what sets apart.
        clips: how many of them.
        figures, chance, intervals: as those of TaskResult.
    """

    name: str
    clips: int
    figures: Mapping[str, float]
    chance: Mapping[str, float] = dataclasses.field(default_factory=dict)
    intervals: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)


class Curve(NamedTuple):
    """How many queries have their right answer among the first k: percent for each k, beside chance."""

    name: str
    k: list[float]
    recall: list[float]
    chance: list[float]


class Sample(NamedTuple):
    """Some clips of a task and a text of each, for pictures.

    Attributes:
        audio, text: `N E` unit rows.
        groups: `N` names of sets of clips.
        what: the texts are.
    """

    audio: Float[np.ndarray, "N E"]
    text: Float[np.ndarray, "N E"]
    groups: list[str]
    what: str


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """What a model scores in a task.

    Attributes:
        task: the task.
        figures: metric -> figure, of the metrics that the task shows and in their order. Accuracies, recalls
            and mean average precisions are in percent.
        chance: metric -> what guessing is expected to score, where that is known.
        clips: how many were measured.
        seconds: reading and encoding them took.
        rows: the same by language or group.
        notes: sentences that a reader of the figures must know.
        intervals: metric -> where it lies with 95 %, by the bootstrap over queries or clips.
        curves: what is looked for -> a curve of each set, the first of all.
        sample: what pictures are drawn of; not in the JSON.
    """

    task: Task
    figures: Mapping[str, float]
    chance: Mapping[str, float]
    clips: int
    seconds: float
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    intervals: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Sequence[Curve]] = dataclasses.field(default_factory=dict)
    sample: Sample | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def clips_per_second(self) -> float:
        """Reading and encoding, with what was compiled for it."""
        return self.clips / max(self.seconds, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values, the task by its name."""
        found = dataclasses.asdict(dataclasses.replace(self, sample=None))
        found["curves"] = {what: [one._asdict() for one in some] for what, some in self.curves.items()}
        del found["sample"]
        return found | {"task": self.task.name, "clips_per_second": self.clips_per_second}
