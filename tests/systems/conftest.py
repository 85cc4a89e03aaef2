"""What tests of whole systems share."""

from pathlib import Path

import jax
import numpy as np
import pytest

from glap_jax import inference
from glap_jax.train.loop import train
from glap_jax.train.writers import read


@pytest.fixture
def little_compiled():
    """For programs that run once: compiling them well would take longer than they do."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def step_and_load():
    """`step_and_load(config)`: the metrics of a run of one step, and the model that it leaves."""

    def run(config) -> tuple[dict[str, float], inference.Model]:
        result = train(config, devices=jax.devices()[:1])
        assert result.step == 1
        (row,) = read(Path(config.out) / "metrics.csv")
        assert np.isfinite(row["loss"])
        assert row["grad_norm"] > 0
        model = inference.load(config.out)
        assert model.config == config.model
        return row, model

    return run
