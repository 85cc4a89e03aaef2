"""What `glap-jax data embed-text` gives its tower."""

import numpy as np

from glap_jax.train import embed_text


def test_vectors_come_in_order_as_devices_give_them():
    asked = []

    def encode(ids, mask):
        asked.append(ids.shape)
        return ids[:, :1].astype(np.float32)

    rows = [[number] for number in range(7)]
    found = list(embed_text.encoded(rows, encode, rows=3, tokens=4))
    assert [len(some) for some in found] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(found)[:, 0], np.arange(7))
    assert asked == [(3, 4)] * 3
    assert list(embed_text.encoded([], encode, rows=3, tokens=4)) == []
