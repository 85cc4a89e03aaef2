"""Clips that share rows come out as they do alone, whatever lies beside them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glap_jax.audio.packed import Spans
from glap_jax.audio.whisper import WhisperConfig
from glap_jax.drawing import Masking
from glap_jax.families import from_torch

encode = nnx.jit(lambda module, waveform, lengths, **drawn: module(waveform, lengths, **drawn))
encode_packed = nnx.jit(lambda module, *rows, **drawn: module.encode_packed(*rows, **drawn))

# Samples around the edges of frames, tokens and slots; the first fill a row by themselves.
LENGTHS = (
    161280,
    640,
    1,
    479,
    480,
    639,
    641,
    799,
    800,
    1000,
    1119,
    1120,
    1279,
    1280,
    1281,
    8000,
    43999,
    1760,
)


def lie(clips, *, slot: int, size: int, order=None):
    """Rows of `size` slots with the clips one behind the other, in that order, and where they lie."""
    rows: list[list[int]] = [[]]
    room = size
    for number in order if order is not None else range(len(clips)):
        need = -(-len(clips[number]) // slot)
        if need > room:
            rows.append([])
            room = size
        rows[-1].append(number)
        room -= need
    most = max(map(len, rows)) + 1
    waveform = np.random.default_rng(3).uniform(-1, 1, (len(rows), size * slot)).astype(np.float32)
    starts, lengths = np.zeros((2, len(rows), most), np.int32)
    place = np.zeros(len(clips), np.int32)
    for row, numbers in enumerate(rows):
        at = 0
        for which, number in enumerate(numbers):
            starts[row, which], lengths[row, which] = at, len(clips[number])
            place[number] = row * most + which
            waveform[row, at * slot : at * slot + len(clips[number])] = clips[number]
            at += -(-len(clips[number]) // slot)
    return jnp.asarray(waveform), Spans(jnp.asarray(starts), jnp.asarray(lengths), jnp.asarray(place))


@pytest.fixture(scope="module")
def clips(clip):
    """Pieces of a recording, one of them 60 dB more quiet."""
    pieces = [clip("c23_7s", 1000 * number, 1000 * number + length) for number, length in enumerate(LENGTHS)]
    pieces[7] = pieces[7] * np.float32(1e-3)
    return pieces


def alone(module, clips, **drawn):
    """Of all clips, each in a padded row."""
    lengths = np.array([len(each) for each in clips], np.int32)
    waveform = np.zeros((len(clips), lengths.max()), np.float32)
    for row, each in zip(waveform, clips, strict=True):
        row[: len(each)] = each
    return encode(module, jnp.asarray(waveform), jnp.asarray(lengths), **drawn)


@pytest.fixture
def tower(weights):
    """`tower(family)`: of recorded parameters; Whisper pools all layers, with positions for 10.08 s."""

    def make(family):
        if family != "whisper":
            return from_torch(family, weights(family), {"num_heads": 4})
        config = WhisperConfig(48, 3, 4, 96, 80, 504, window="clip", pooling="layers")
        module = config.build(dtype=jnp.float32, remat="none", rngs=nnx.Rngs(0))
        recorded = from_torch(family, weights("hf_whisper"), {"encoder_attention_heads": 4})
        nnx.update(module, nnx.state(recorded, nnx.Param))
        return module

    return make


@pytest.mark.parametrize("family", ["dasheng", "ced", "whisper"])
def test_packed_clips_equal_the_clips_alone(tower, clips, family):
    """In whichever row and order they lie; what else is in a row is noise here."""
    module = tower(family)
    expected = alone(module, clips)
    waveform, spans = lie(clips, slot=module.SLOT, size=161280 // module.SLOT)
    found = encode_packed(module, waveform, spans)
    np.testing.assert_allclose(found.pooled, expected.pooled, atol=1e-5)
    assert int(found.mask.sum()) == int(expected.mask.sum())
    other, elsewhere = lie(clips, slot=module.SLOT, size=166400 // module.SLOT, order=range(len(clips))[::-1])
    assert (elsewhere.place != spans.place).any()
    moved = encode_packed(module, other, elsewhere)
    np.testing.assert_allclose(moved.pooled, expected.pooled, atol=1e-5)
    if family != "ced":
        # Tokens, of a clip in the middle of its row.
        row, which = divmod(int(spans.place[16]), spans.starts.shape[1])
        first, count = int(spans.starts[row, which]), int(expected.mask[16].sum())
        assert first > 0
        tokens = found.tokens[row, first : first + count]
        np.testing.assert_allclose(tokens, expected.tokens[16, :count], atol=2e-5)


@pytest.mark.parametrize("family", ["dasheng", "ced"])
def test_packed_clips_draw_what_the_clips_alone_draw(tower, clips, family):
    """Wherever they lie: a clip's key decides what is blanked and left out of it."""
    module, drawing = tower(family), {"masking": Masking(2, 0.3, 1, 0.5)}
    drawing |= {} if family == "dasheng" else {"patch_dropout": 0.4}
    module.config = dataclasses.replace(module.config, **drawing)
    keys = jax.random.split(jax.random.key(0), len(clips))
    expected = alone(module, clips, key=keys)
    waveform, spans = lie(clips, slot=module.SLOT, size=161280 // module.SLOT)
    numbers = np.zeros(spans.starts.size, int)
    numbers[spans.place] = np.arange(len(clips))
    found = encode_packed(module, waveform, spans, key=keys[numbers.reshape(spans.starts.shape)])
    np.testing.assert_allclose(found.pooled, expected.pooled, atol=1e-5)
    assert int(found.mask.sum()) == int(expected.mask.sum())
    plain = encode_packed(module, waveform, spans).pooled
    assert (np.abs(np.asarray(found.pooled - plain)).max(axis=1) > 1e-3).sum() > 10
