"""Items of many sizes into batches of few shapes, so that little is compiled and little is padded."""

from collections.abc import Callable, Iterator, Sequence


def ceiling(size: int, steps: Sequence[int]) -> int:
    """The least step that is not below `size`; above the last one, its multiples by 2, 3, 4, 6, 8, 12, ..."""
    for step in steps:
        if size <= step:
            return step
    factor = 2
    while True:
        for multiple in (factor, factor + factor // 2):
            if size <= multiple * steps[-1]:
                return multiple * steps[-1]
        factor *= 2


def groups(
    sizes: Sequence[int], padded: Callable[[int], int], most: Callable[[int], int]
) -> Iterator[tuple[int, int, list[int]]]:
    """Items of like size: (padded size, rows of the batch, indices), the rows a power of two up to `most`."""
    by_size: dict[int, list[int]] = {}
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        by_size.setdefault(padded(sizes[index]), []).append(index)
    for size, indices in by_size.items():
        limit = max(1, most(size))
        for start in range(0, len(indices), limit):
            part = indices[start : start + limit]
            yield size, min(limit, 1 << (len(part) - 1).bit_length()), part
