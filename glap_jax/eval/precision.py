"""Average precision of classes, and how sure their mean is."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Integer

from glap_jax.eval import bootstrap
from glap_jax.progress import track

# Clips times classes times draws of the bootstrap; so much takes under ten seconds.
BUDGET = 2_000_000_000
# Draws at the least.
FEWEST = 200
# Draws that are counted at once.
TOGETHER = 128


def average_precision(
    scores: Float[np.ndarray, " A"], truth: Bool[np.ndarray, " A"], counts: Integer[np.ndarray, "A W"]
) -> Float[np.ndarray, " W"]:
    """Average precision of a class, from 0 to 1, as scikit-learn defines it: the sum over thresholds of the
    precision there times the recall gained; clips of one score are taken in together.

    Args:
        scores: of each clip; they are sorted once for all columns of `counts`.
        truth: whether it is of the class; one at least is.
        counts: how often each clip counts: columns of ones, or draws.

    Returns:
        one a column; NaN where no clip of the class counts.
    """
    order = np.argsort(-scores, kind="stable")
    right = np.flatnonzero(truth[order])
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(order) - 1)
    # Thresholds at which the recall rises, and the first of the class's clips at each.
    steps, first = np.unique(np.searchsorted(last, right), return_index=True)
    until = last[steps]
    starts = np.concatenate([[0], until[:-1] + 1])
    found = []
    for column in range(0, counts.shape[1], TOGETHER):
        drawn = counts[:, column : column + TOGETHER]
        gained = np.add.reduceat(drawn[order[right]], first, axis=0, dtype=np.int32).astype(np.float64)
        taken = np.add.reduceat(drawn[order[: until[-1] + 1]], starts, axis=0, dtype=np.int32)
        hits, total = np.cumsum(gained, axis=0), np.cumsum(taken, axis=0, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            found.append((gained * hits / np.maximum(total, 1)).sum(axis=0) / hits[-1])
    return np.concatenate(found)


def mean_precision(
    scores: Callable[[int], Float[np.ndarray, " A"]], truth: Bool[np.ndarray, "A C"], draws: int | None = None
) -> tuple[float, Float[np.ndarray, " draws"]]:
    """The mean over the classes that have a clip of their average precision, from 0 to 1, and the same of
    clips drawn anew. What clips are drawn depends on their number alone.

    Args:
        scores: what gives the scores of all clips for a class.
        truth: which clips are of which class; one at least is of one.
        draws: by default `bootstrap.DRAWS`, or as many as `BUDGET` allows.
    """
    if draws is None:
        draws = int(np.clip(BUDGET // truth.size, FEWEST, bootstrap.DRAWS))
    counts = np.concatenate(
        [np.ones((len(truth), 1), np.uint8), bootstrap.drawn_counts(len(truth), draws)], axis=1
    )
    total, there = np.zeros(draws + 1), np.zeros(draws + 1)
    classes = np.flatnonzero(truth.any(axis=0))
    long = truth.size * draws > BUDGET // 4
    for column in track(classes, "average precision", unit="class") if long else classes:
        found = average_precision(scores(int(column)), truth[:, column], counts)
        total += np.nan_to_num(found)
        there += ~np.isnan(found)
    means = total / np.maximum(there, 1)
    return float(means[0]), means[1:]
