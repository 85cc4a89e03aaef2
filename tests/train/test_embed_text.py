"""What `glap-jax data embed-text` gives its tower."""

import numpy as np

from glap_jax.train import embed_text


def test_texts_of_like_lengths_share_rows_as_long_as_they_ask():
    asked = []

    def encode(ids, mask):
        asked.append(ids.shape)
        return np.stack([ids[:, 0], mask.sum(1)], 1).astype(np.float32)

    lengths = [4, 50, 24, 1, 25, 3, 40]
    ids = [[10 + number] * length for number, length in enumerate(lengths)]
    found = list(embed_text.encoded(ids, encode, rows=3, tokens=50))
    assert asked == [(3, 24), (3, 48), (3, 50)]
    places, vectors = (np.concatenate(each) for each in zip(*found, strict=True))
    assert list(places) == [3, 5, 0, 2, 4, 6, 1]
    np.testing.assert_array_equal(vectors[:, 0], 10 + places)
    np.testing.assert_array_equal(vectors[:, 1], np.take(lengths, places))
    # Rows of a run are never shorter.
    asked.clear()
    assert len(list(embed_text.encoded([[1]] * 4, encode, rows=3, tokens=4))) == 2
    assert asked == [(3, 4)] * 2
    assert list(embed_text.encoded([], encode, rows=3, tokens=4)) == []
