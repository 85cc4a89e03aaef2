"""What replaces XLA's convolution on CPUs gives its numbers and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glap_jax.convolutions import _convolved, depthwise


@pytest.mark.parametrize(("taps", "stride", "size"), [(3, 1, (6, 7)), (3, 2, (7, 8)), (5, 2, (9, 4))])
def test_depthwise_equals_a_grouped_convolution(taps, stride, size, close):
    draw = np.random.default_rng(taps)
    x = jnp.asarray(draw.normal(size=(2, *size, 4)).astype(np.float32))
    kernel = jnp.asarray(draw.normal(size=(taps, taps, 1, 4)).astype(np.float32))

    def loss(function, x, kernel):
        found = function(x, kernel, stride)
        return jnp.sum(jnp.sin(found)), found

    gradient = jax.jit(jax.grad(loss, argnums=(1, 2), has_aux=True), static_argnums=0)
    (by_x, by_kernel), found = gradient(depthwise, x, kernel)
    (x_expected, kernel_expected), expected = gradient(_convolved, x, kernel)
    close(found, expected, 1e-5)
    close(by_x, x_expected, 1e-5)
    close(by_kernel, kernel_expected, 1e-5)


def test_depthwise_sums_in_float32():
    """In bfloat16, 1 + 24 * 2^-9 would stay 1."""
    x = jnp.full((1, 5, 5, 1), 2.0**-9, jnp.bfloat16).at[0, 2, 2, 0].set(1)
    found = depthwise(x, jnp.ones((5, 5, 1, 1), jnp.bfloat16), 1)
    assert found.dtype == jnp.bfloat16
    assert float(found[0, 2, 2, 0]) == float(jnp.bfloat16(1 + 24 * 2.0**-9))
