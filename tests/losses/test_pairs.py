"""Targets for repeated clips, and rows that do not pair up."""

import numpy as np
import pytest

from glap_jax import losses
from glap_jax.errors import GlapError
from glap_jax.losses.pairs import float32_pairs


def test_targets_of_repeated_clips():
    ids = np.array([7, 3, 7, 7, 1], np.int32)
    joint = np.asarray(losses.joint_targets(ids))
    np.testing.assert_allclose(joint[0], [1 / 3, 0, 1 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(joint.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.diag(losses.diagonal_targets(ids)), [1 / 3, 1, 1 / 3, 1 / 3, 1], rtol=1e-6)
    distinct = np.arange(4, dtype=np.int32)
    np.testing.assert_array_equal(losses.joint_targets(distinct), np.eye(4))


@pytest.mark.parametrize("shapes", [((4, 8), (5, 8)), ((4, 8), (4, 6)), ((4,), (4,)), ((0, 8), (0, 8))])
def test_rows_that_do_not_pair_up_are_an_error(shapes):
    audio, text = (np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(GlapError, match="one audio row and one text row per pair"):
        float32_pairs(audio, text)
