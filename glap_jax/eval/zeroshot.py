"""Zero-shot classification: the class whose name, put into prompts, is nearest to a clip."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from glap_jax.errors import GlapError
from glap_jax.eval.bootstrap import ends, interval
from glap_jax.eval.engine import Encoded, Run
from glap_jax.eval.precision import mean_precision
from glap_jax.eval.ranking import TIE, blocks
from glap_jax.eval.result import Curve, Row, Sample, TaskResult
from glap_jax.eval.retrieval import CURVE
from glap_jax.eval.task import Task, labels_of
from glap_jax.eval.task_figures import take_sample
from glap_jax.inference import Model
from glap_jax.pipeline.captions import DEFAULT_LANGUAGE


def single(run: Run) -> TaskResult:
    """Classification with one label a clip: `accuracy` and `r5` in percent; with several languages of class
    names, their means, and a row for each.

    Raises:
        GlapError: a clip with several labels, or with one that the task does not name.
    """
    known = run.known()
    names = class_names(run.task, [label for each in known.values() for label in each.labels])
    several = next((each.labels for each in known.values() if len(each.labels) > 1), None)
    if several:
        raise GlapError(f"task '{run.task.name}': a clip has the labels {several}; its kind is multilabel")
    encoded = run.encoded(list(known))
    rows, found, curves, samples = [], [], [], []
    for language, texts in names.items():
        classes, place = distinct(texts)
        truth = np.array([place[labels_of(clip.fields, run.task.label)[0]] for clip in encoded.clips])
        vectors = class_vectors(run.model, run.task, classes, language)
        ranks = label_ranks(encoded.audio, vectors, truth)
        curves.append(_curve(language, ranks, len(classes)))
        samples.append(_sample(encoded, vectors, classes, truth))
        found.append(hits(ranks))
        likely = {name: interval(each) for name, each in found[-1].items()}
        rows.append(Row(language, len(ranks), accuracies(ranks), chances(len(classes)), likely))
    # Clips are drawn, each with what it is taken for in every language.
    likely = {name: interval(np.mean([each[name] for each in found], axis=0)) for name in found[0]}
    return run.result(
        *means(rows),
        rows=rows if len(rows) > 1 else (),
        intervals=likely,
        curves={"Clip to class: find what a clip is": curves},
        sample=samples[0],
    )


def multiple(run: Run) -> TaskResult:
    """Classification with any number of labels a clip: `map`, the mean over classes of the average precision
    with which their clips are found, in percent. A class without a clip counts for nothing."""
    known = run.known()
    names = class_names(run.task, [label for each in known.values() for label in each.labels])
    encoded = run.encoded(list(known))
    rows, found, samples = [], [], []
    for language, texts in names.items():
        classes, place = distinct(texts)
        truth = np.zeros((len(encoded.clips), len(classes)), bool)
        for clip, line in zip(encoded.clips, truth, strict=True):
            line[[place[label] for label in labels_of(clip.fields, run.task.label)]] = True
        vectors = class_vectors(run.model, run.task, classes, language)
        row, draws = precision_row(language, lambda one, of=vectors: encoded.audio @ of[one], truth)
        rows.append(row)
        found.append(draws)
        samples.append(_sample(encoded, vectors, classes, truth.argmax(axis=1)))
    # The first draws are of the same clips in every language.
    few = min(map(len, found))
    likely = {"map": ends(np.mean([draws[:few] for draws in found], axis=0))}
    return run.result(*means(rows), rows=rows if len(rows) > 1 else (), intervals=likely, sample=samples[0])


def _sample(
    encoded: Encoded, vectors: Float[np.ndarray, "C E"], classes: Sequence[str], truth: Int[np.ndarray, " A"]
) -> Sample:
    """Some clips, each with the vector of its class."""
    names = [classes[one] for one in truth]
    return take_sample(encoded.audio, vectors[truth], np.arange(len(truth)), names, "classes")


def _curve(name: str, ranks: Int[np.ndarray, " A"], classes: int) -> Curve:
    """How often the right one is among the first k classes."""
    cuts = np.arange(1, min(CURVE, classes) + 1)
    recall = [100.0 * float(np.mean(ranks <= cut)) for cut in cuts]
    return Curve(name, cuts.astype(float).tolist(), recall, (100.0 * cuts / classes).tolist())


def precision_row(
    name: str, scores: Callable[[int], Float[np.ndarray, " A"]], truth: Bool[np.ndarray, "A C"]
) -> tuple[Row, Float[np.ndarray, " draws"]]:
    """`map` of clips in percent, with chance and interval, and of what it comes to in each draw of clips;
    the arguments are those of `mean_precision`."""
    share, draws = mean_precision(scores, truth)
    luck = 100.0 * float(truth.mean(axis=0)[truth.any(axis=0)].mean())
    draws = 100.0 * draws
    return Row(name, len(truth), {"map": 100.0 * share}, {"map": luck}, {"map": ends(draws)}), draws


def class_names(task: Task, occurring: Sequence[str]) -> dict[str, dict[str, str]]:
    """What each label is called, in each language of the task.

    Args:
        task: its `class_map`, else its `labels`, else those that occur.
        occurring: labels in the data.

    Raises:
        GlapError: a label that occurs and has no name.
    """
    languages = task.languages or (DEFAULT_LANGUAGE,)
    if task.class_map:
        names = read_class_map(Path(task.class_map), languages)
    else:
        names = {
            language: {one: one for one in task.labels or sorted(set(occurring))} for language in languages
        }
    unknown = sorted(set(occurring) - names[languages[0]].keys())
    if unknown:
        raise GlapError(
            f"task '{task.name}': clips have labels that the task does not name, such as '{unknown[0]}' "
            f"({len(unknown)} of them); add them to its 'labels' or class map, or leave these clips out by "
            "'dataset.where'"
        )
    return names


def read_class_map(path: Path, languages: Sequence[str]) -> dict[str, dict[str, str]]:
    """A TSV file with a column `label` and one for each language, as language -> label -> name.

    Raises:
        GlapError: no such file, a column that is missing, or a class without a name.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GlapError(f"class map '{path}': cannot be read ({error}); mend the file") from None
    for column in ("label", *languages):
        empty = [line for line, row in enumerate(rows, 2) if not (row.get(column) or "").strip()]
        if empty or not rows:
            place = f"line {empty[0]}" if empty else "the file"
            raise GlapError(f"class map '{path}': {place} has nothing in column '{column}'; fill it in")
    return {language: {row["label"].strip(): row[language].strip() for row in rows} for language in languages}


def distinct(texts: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """The distinct names of classes, and the number of each label's. Labels of one name are one class."""
    classes = list(dict.fromkeys(texts.values()))
    number = {name: place for place, name in enumerate(classes)}
    return classes, {label: number[name] for label, name in texts.items()}


def class_vectors(
    model: Model, task: Task, classes: Sequence[str], language: str
) -> Float[np.ndarray, "C E"]:
    """Unit rows of classes: of each the mean of the unit vectors of its prompts, made a unit vector again."""
    prompts = task.translated_prompts.get(language, task.prompts)
    told, total = task.told(language), np.float32(0.0)
    for prompt in prompts:
        total = total + model.encode_text(
            [prompt.replace("{label}", name) for name in classes], language=told
        )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), np.float32(1e-12))


def label_ranks(
    audio: Float[np.ndarray, "A E"], classes: Float[np.ndarray, "C E"], truth: Int[np.ndarray, " A"]
) -> Int[np.ndarray, " A"]:
    """The rank, from 1, of each clip's own class among all. A tie counts against the model; scores are held
    for a block of clips at a time."""
    ranks = np.zeros(len(audio), np.int64)
    for rows in blocks(len(audio), len(classes), None, "classifying"):
        scores = audio[rows] @ classes.T
        right = np.take_along_axis(scores, truth[rows, None], axis=1)
        ranks[rows] = np.count_nonzero(scores >= right - np.float32(TIE), axis=1)
    return ranks


def accuracies(ranks: Int[np.ndarray, " A"]) -> dict[str, float]:
    """`accuracy` and `r5`, in percent, of the ranks of right classes."""
    return {name: float(np.mean(each)) for name, each in hits(ranks).items()}


def hits(ranks: Int[np.ndarray, " A"]) -> dict[str, Float[np.ndarray, " A"]]:
    """What each clip adds to `accuracies`: 100 or 0."""
    return {name: 100.0 * (ranks <= cut) for name, cut in (("accuracy", 1), ("r5", 5))}


def chances(classes: int) -> dict[str, float]:
    """What guessing among so many classes is expected to score."""
    return {"accuracy": 100.0 / classes, "r5": 100.0 * min(5, classes) / classes}


def means(rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, float]]:
    """Figures and chance, each the mean over the rows."""
    figures, chance = (
        {name: float(np.mean([each[name] for each in some])) for name in some[0]}
        for some in ([row.figures for row in rows], [row.chance for row in rows])
    )
    return figures, chance
