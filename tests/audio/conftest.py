"""What tests of audio towers share."""

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def alone_and_together():
    """`alone_and_together(encode, encoder, one, longest)`: a clip by itself; and at the start of a row of
    `longest` samples of noise, beside another such row."""

    def run(encode, encoder, one: np.ndarray, longest: int):
        batch = np.random.default_rng(len(one)).uniform(-1, 1, (2, longest)).astype(np.float32)
        batch[0, : len(one)] = one
        lengths = jnp.array([len(one), longest], jnp.int32)
        alone = encode(encoder, jnp.asarray(one)[None], None)
        return alone, encode(encoder, jnp.asarray(batch), lengths)

    return run
