"""Few shapes, nothing lost."""

from hypothesis import given
from hypothesis import strategies as st

from glap_jax.batching import ceiling, groups


def test_sizes_go_up_in_steps():
    found = [ceiling(size, (10, 20)) for size in (0, 10, 11, 20, 21, 40, 41, 60, 61, 80, 81, 121, 161)]
    assert found == [10, 10, 20, 20, 40, 40, 60, 60, 80, 80, 120, 160, 240]


@given(st.lists(st.integers(1, 1000)), st.integers(1, 9))
def test_every_item_is_in_one_batch_that_holds_it(sizes, limit):
    seen = []
    for size, rows, indices in groups(sizes, lambda size: ceiling(size, (50, 100)), lambda _: limit):
        assert len(indices) <= rows <= limit
        assert rows == limit or rows < 2 * len(indices)
        assert all(sizes[index] <= size for index in indices)
        seen += indices
    assert sorted(seen) == list(range(len(sizes)))
