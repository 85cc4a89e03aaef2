"""What tests of conversion share."""

import pytest


@pytest.fixture(scope="session")
def assert_equal():
    """`assert_equal(found, expected)`: the same names, types, shapes and bits."""

    def check(found, expected) -> None:
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert found[key].dtype == value.dtype, key
            assert found[key].shape == value.shape, key
            assert found[key].tobytes() == value.tobytes(), key

    return check
