"""Random changes of training clips, each off by default and none at evaluation."""

import numpy as np
import soxr
from jaxtyping import Float

from glap_jax.pipeline.config import DataConfig


def augment(
    waveform: Float[np.ndarray, " T"], rng: np.random.Generator, *, config: DataConfig
) -> Float[np.ndarray, " T2"]:
    """A training clip at another speed (and pitch), loudness and place in its row of `crop_seconds`.

    The result is a function of the clip and the generator; switching one change on or off does not alter
    what is drawn for the others.
    """
    speed, loudness, place = rng.uniform(-1.0, 1.0), rng.uniform(-1.0, 1.0), rng.random()
    row = round(config.crop_seconds * config.sample_rate)
    if config.speed:
        # Ko et al., "Audio augmentation for speech recognition" (2015): resampled, so that pitch moves along.
        faster = config.sample_rate * (1.0 + config.speed * speed)
        waveform = soxr.resample(waveform, faster, config.sample_rate, quality="LQ")[:row]
    if config.gain_decibels:
        waveform = waveform * np.float32(10.0 ** (config.gain_decibels * loudness / 20.0))
    if config.shift_seconds:
        room = min(row - len(waveform), round(config.shift_seconds * config.sample_rate))
        waveform = np.pad(waveform, (int(place * (room + 1)), 0))
    return waveform
