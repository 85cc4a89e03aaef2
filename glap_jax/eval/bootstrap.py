"""Bootstrap confidence intervals of figures over queries or clips (Efron & Tibshirani, 1993, percentiles)."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from glap_jax.eval.ranking import Ranks

DRAWS = 1000
# Percent of the draws that lie within an interval.
SHARE = 95.0
# Numbers that are drawn at once: 8 MB.
BLOCK = 1_000_000


Values = Float[np.ndarray, " Q"] | Int[np.ndarray, " Q"] | Bool[np.ndarray, " Q"]


def interval(values: Values, seed: int = 0) -> list[float]:
    """Lower and upper end of where the mean of `values` lies when queries are drawn, with replacement."""
    distinct, draws = _draws(values, np.random.default_rng(seed))
    return ends(np.concatenate([counts @ distinct for counts in draws]) / len(values))


def strata_interval(parts: Sequence[Float[np.ndarray, " _"]], seed: int = 0) -> list[float]:
    """That of the mean over parts (languages, classes) of the mean of each one's values; each is drawn anew
    by itself, so that it keeps its size."""
    generator, total = np.random.default_rng(seed), np.zeros(DRAWS)
    for values in parts:
        distinct, draws = _draws(values, generator)
        total += np.concatenate([counts @ distinct for counts in draws]) / len(values)
    return ends(total / len(parts))


def drawn_sums(values: Float[np.ndarray, "A K"], seed: int = 0) -> Float[np.ndarray, "draws K"]:
    """The sum of each column over rows that are drawn anew, the same rows for all columns."""
    return np.stack([counts.astype(np.float64) @ values for counts in _counts(len(values), DRAWS, seed)])


def drawn_medians(
    ranks: Int[np.ndarray, " Q"], owners: Int[np.ndarray, " Q"], size: int, seed: int = 0
) -> Float[np.ndarray, " draws"]:
    """The median of ranks, of two middle ones their mean rounded down, where each of `size` rows is drawn
    with all the queries that it owns; NaN for a draw without any. The rows are those of `drawn_sums`."""
    order = np.argsort(ranks, kind="stable")
    ranks, owners, found = ranks[order], owners[order], []
    for counts in _counts(size, DRAWS, seed):
        reached = np.cumsum(counts[owners])
        middle = np.searchsorted(reached, [(reached[-1] + 1) // 2, reached[-1] // 2 + 1])
        found.append(np.floor(ranks[middle].mean()) if reached[-1] else np.nan)
    return np.array(found)


def drawn_counts(size: int, draws: int, seed: int = 0) -> UInt8[np.ndarray, "A draws"]:
    """How often each of `size` rows is drawn, draw by draw. (That one is drawn 256 times never happens.)"""
    found = np.zeros((size, draws), np.uint8)
    for column, counts in zip(found.T, _counts(size, draws, seed), strict=True):
        column[:] = counts
    return found


def ends(draws: Float[np.ndarray, " draws"]) -> list[float]:
    """Between which `SHARE` percent of the draws lie."""
    low, high = np.percentile(draws, [(100 - SHARE) / 2, (100 + SHARE) / 2])
    return [float(low), float(high)]


def _counts(size: int, draws: int, seed: int) -> Iterator[Int[np.ndarray, " A"]]:
    generator = np.random.default_rng(seed)
    return (np.bincount(generator.integers(size, size=size), minlength=size) for _ in range(draws))


def _draws(
    values: Values, generator: np.random.Generator
) -> tuple[Float[np.ndarray, " D"], Iterator[Int[np.ndarray, "_ D"]]]:
    """The distinct values, ascending, and how often each is drawn, a block of draws at a time.

    That number is multinomial: the same draws, without a list of queries.
    """
    distinct, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    size, rows = len(values), max(1, BLOCK // len(distinct))
    sizes = (min(rows, DRAWS - first) for first in range(0, DRAWS, rows))
    return distinct, (generator.multinomial(size, counts / size, some) for some in sizes)


def per_query(
    first: Int[np.ndarray, " Q"],
    precision: Float[np.ndarray, " Q"],
    map_at: int = 10,
    recall_at: Sequence[int] = (1, 5, 10),
) -> dict[str, Float[np.ndarray, " Q"]]:
    """What each query adds to the recalls and to `map<k>`, in percent, and to `mrr`; of `Ranks`' arrays."""
    found = {f"r{k}": 100.0 * (first <= k) for k in recall_at}
    return found | {f"map{map_at}": 100.0 * precision, "mrr": 1.0 / first}


def intervals(ranks: Ranks) -> dict[str, list[float]]:
    """The interval of each figure of `per_query`, and of `meanr` and `medr`."""
    values = per_query(ranks.first, ranks.precision, ranks.map_at) | {"meanr": ranks.first}
    found = {name: interval(each) for name, each in values.items()}
    rows = np.arange(len(ranks.first))
    return found | {"medr": ends(drawn_medians(ranks.first, rows, len(rows)))}


def differences(
    before: Mapping[str, Float[np.ndarray, " Q"]], after: Mapping[str, Float[np.ndarray, " Q"]]
) -> dict[str, list[float]]:
    """The intervals of what a model gains over another one, both `per_query`; queries are drawn for both."""
    return {name: interval(after[name] - before[name]) for name in after}
