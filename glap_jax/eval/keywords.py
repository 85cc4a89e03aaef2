"""Keyword spotting in many languages: each clip among all the words of its language."""

from collections import defaultdict

import numpy as np
from jaxtyping import Float

from glap_jax.eval.bootstrap import interval, strata_interval
from glap_jax.eval.engine import Run
from glap_jax.eval.result import Row, TaskResult
from glap_jax.eval.task import labels_of
from glap_jax.eval.zeroshot import class_vectors, label_ranks
from glap_jax.pipeline.captions import DEFAULT_LANGUAGE, LANGUAGE_FIELD
from glap_jax.text.languages import LANGUAGES


def measure(run: Run) -> TaskResult:
    """`accuracy`, the share of clips whose word is found among those of its language, in percent;
    `language_accuracy`, its mean over languages; and a row for each language, best first.

    Words are those that the task's clips of a language are labelled with. They are encoded once, and clips
    are scored as they are read: memory holds the words' vectors and one batch.
    """
    words: dict[str, set[str]] = defaultdict(set)
    rows = []
    for row, known in run.known().items():
        if not run.task.languages or known.language in run.task.languages:
            words[known.language].add(known.labels[0])
            rows.append(row)
    place = {language: {word: n for n, word in enumerate(sorted(some))} for language, some in words.items()}
    vectors: dict[str, Float[np.ndarray, "C E"]] = {}
    right, total = defaultdict(int), defaultdict(int)
    for batch in run.batches(rows):
        spoken = np.array([str(clip.fields.get(LANGUAGE_FIELD, DEFAULT_LANGUAGE)) for clip in batch.clips])
        for language in np.unique(spoken).tolist():
            if language not in vectors:
                told = language if language in LANGUAGES else DEFAULT_LANGUAGE
                vectors[language] = class_vectors(run.model, run.task, list(place[language]), told)
            chosen = np.flatnonzero(spoken == language)
            labels = [labels_of(batch.clips[one].fields, run.task.label)[0] for one in chosen]
            truth = np.array([place[language][label] for label in labels])
            ranks = label_ranks(batch.audio[chosen], vectors[language], truth)
            right[language] += int(np.count_nonzero(ranks == 1))
            total[language] += len(ranks)
    return _result(run, right, total, {language: len(words[language]) for language in total})


def _result(run: Run, right: dict[str, int], total: dict[str, int], words: dict[str, int]) -> TaskResult:
    """The result of so many right answers, clips and words of each language."""
    rows, found = [], {}
    for language, clips in total.items():
        share, luck = 100.0 * right[language] / clips, 100.0 / words[language]
        found[language] = np.repeat([100.0, 0.0], [right[language], clips - right[language]])
        likely = {"accuracy": interval(found[language])}
        rows.append(Row(language, clips, {"accuracy": share}, {"accuracy": luck}, likely))
    rows.sort(key=lambda row: (-row.figures["accuracy"], row.name))
    count = np.array([row.clips for row in rows])
    figures, chance = (
        {"accuracy": float(np.average(values, weights=count)), "language_accuracy": float(np.mean(values))}
        for values in (
            [row.figures["accuracy"] for row in rows],
            [row.chance["accuracy"] for row in rows],
        )
    )
    least, most = min(words.values()), max(words.values())
    notes = [f"Languages: {len(rows)}; words to choose from in one: {least:,} to {most:,}."]
    likely = {
        "accuracy": interval(np.concatenate(list(found.values()))),
        "language_accuracy": strata_interval(list(found.values())),
    }
    return run.result(figures, chance, rows=rows, notes=notes, intervals=likely)
