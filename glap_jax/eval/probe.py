"""Linear probes: a classifier learned on a model's frozen embeddings of some clips, and tried on others."""

import numpy as np
from jaxtyping import Bool, Float

from glap_jax.errors import GlapError
from glap_jax.eval.bootstrap import interval, strata_interval
from glap_jax.eval.classifiers import CLASSIFIERS, Labelled
from glap_jax.eval.engine import Run
from glap_jax.eval.features import Frozen, frozen
from glap_jax.eval.folds import SEED, parted
from glap_jax.eval.result import TaskResult
from glap_jax.eval.task import Task, labels_of
from glap_jax.eval.zeroshot import accuracies, chances, hits, precision_row
from glap_jax.progress import track

# Of the training clips of a corpus that has no validation split, one in so many validates.
HELD_OUT = 10

Masks = tuple[Bool[np.ndarray, " A"], Bool[np.ndarray, " A"], Bool[np.ndarray, " A"]]


def single(run: Run) -> TaskResult:
    """A probe of one label a clip: `accuracy`, `r5` and `class_accuracy` (the mean over classes, which is
    what CLARA's code counts), in percent.

    Raises:
        GlapError: a clip with several labels, or with one that the task does not name; too few clips.
    """
    scores, truth, notes = _try(run, several=False)
    right = np.take_along_axis(scores, truth.argmax(axis=1)[:, None], axis=1)
    ranks = np.count_nonzero(scores >= right, axis=1)
    found = accuracies(ranks)
    by_class = [100.0 * (ranks[column] == 1) for column in truth.T if column.any()]
    found["class_accuracy"] = float(np.mean([each.mean() for each in by_class]))
    luck = chances(truth.shape[1])
    likely = {name: interval(each) for name, each in hits(ranks).items()}
    likely["class_accuracy"] = strata_interval(by_class)
    chance = {**luck, "class_accuracy": luck["accuracy"]}
    return run.result(found, chance, notes=notes, intervals=likely)


def multiple(run: Run) -> TaskResult:
    """A probe of any number of labels a clip: `map`, the mean average precision over classes, in percent."""
    scores, truth, notes = _try(run, several=True)
    row, _ = precision_row(run.task.name, lambda one: scores[:, one], truth)
    return run.result(row.figures, row.chance, notes=notes, intervals=row.intervals)


def _try(
    run: Run, *, several: bool
) -> tuple[Float[np.ndarray, "T C"], Bool[np.ndarray, "T C"], tuple[str, ...]]:
    """Scores and classes of all clips that were tried, and what a reader must know of how."""
    task = run.task
    clips, trials, note = _folds(run) if task.folds else _splits(run)
    truth = _truth(task, clips, several)
    scores, tried = np.zeros(truth.shape), np.zeros(len(truth), bool)
    for learn, check, wanted in track(trials, f"probing {task.name}", unit="fold"):
        train, val = (Labelled(clips.audio[some], truth[some]) for some in (learn, check))
        scores[wanted] = CLASSIFIERS[task.classifier](
            train, val, clips.audio[wanted], several=several, seed=SEED
        )
        tried |= wanted
    # Figures are of the clips that were tried; reading them took their share of the time.
    run.clips, run.seconds = int(tried.sum()), run.seconds * float(tried.mean())
    named = {"layers": "three layers", "logistic": "logistic regression"}[task.classifier]
    on = {"joint": "frozen embeddings", "pooled": "what the frozen audio tower pools"}[task.features]
    return scores[tried], truth[tried], (f"A probe: {named} on {on}; {note}.",)


def _folds(run: Run) -> tuple[Frozen, list[Masks], str]:
    """One split's clips, every fold of which is tried once; the next one validates, the others train."""
    clips, count = frozen(run), run.task.folds
    part = parted(run.task, clips.fields, count)
    trials = []
    for fold in range(count):
        wanted, check = part == fold, part == (fold + 1) % count
        trials.append((~wanted & ~check, check, wanted))
    by = f" by {run.task.fold}" if run.task.fold else ""
    return clips, trials, f"{count} folds{by}, each tried once, the next one validates"


def _splits(run: Run) -> tuple[Frozen, list[Masks], str]:
    """The corpus's own splits; without one to validate by, some training clips do."""
    found = {split: frozen(run, split) for split in ("train", "val") if split == "train" or run.has(split)}
    found[run.task.dataset.split] = frozen(run)
    names = [split for split, each in found.items() for _ in each.fields]
    clips = Frozen(
        np.concatenate([each.audio for each in found.values()]),
        [fields for each in found.values() for fields in each.fields],
    )
    learn, check, wanted = (np.array(names) == split for split in ("train", "val", run.task.dataset.split))
    note = "the corpus's own splits"
    if not check.any():
        mine = np.flatnonzero(learn)
        part = parted(run.task, [clips.fields[row] for row in mine], min(HELD_OUT, max(2, len(mine))))
        check[mine[part == 0]], learn[mine[part == 0]] = True, False
        note = f"one in {HELD_OUT} training clips validates"
    return clips, [(learn, check, wanted)], note


def _truth(task: Task, clips: Frozen, several: bool) -> Bool[np.ndarray, "A C"]:
    labels = [labels_of(fields, task.label) for fields in clips.fields]
    classes = task.labels or tuple(sorted({label for each in labels for label in each}))
    place = {label: number for number, label in enumerate(classes)}
    truth = np.zeros((len(labels), len(classes)), bool)
    for line, each in zip(truth, labels, strict=True):
        unknown = [label for label in each if label not in place]
        if unknown or (len(each) > 1 and not several):
            raise GlapError(
                f"task '{task.name}': a clip has the labels {each}; "
                + (f"add '{unknown[0]}' to 'labels'" if unknown else "its kind is multilabel_probe")
            )
        line[[place[label] for label in each]] = True
    return truth
