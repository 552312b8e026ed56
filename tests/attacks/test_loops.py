import re

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from attacks import pgd
from attacks.loops import canonical

LAYOUTS = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NHWC", "OIHW", "NCHW")]


def some(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def arranged(array, usual, layout):
    return array.transpose(*(usual.index(axis) for axis in layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", [1, 2])
def test_value_and_gradient_are_those_of_the_function(layout, stride):
    images, kernel = some((2, 7, 6, 4)), some((3, 2, 2, 6), seed=1)
    images = arranged(images, "NHWC", layout[0])
    kernel = arranged(kernel, "HWIO", layout[1])

    @jax.jit
    def total(images):
        result = jax.lax.conv_general_dilated(
            images,
            kernel,
            (stride, 1),
            [(1, 0), (2, 1)],
            rhs_dilation=(1, 2),
            dimension_numbers=layout,
            feature_group_count=2,
        )
        return (jnp.sin(result) * jnp.arange(result.size).reshape(result.shape)).sum()

    both = jax.value_and_grad(total)
    expected = both(images)
    got = jax.jit(canonical(both))(images)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-4, atol=1e-3)


def test_supports_pytrees_keys_literals_and_closures():
    kernel, key = some((1, 1, 3, 3)), jax.random.key(0)

    def outer(images, offset):
        def function(images, options):
            noise = jax.random.normal(options["key"], images.shape)
            result = jax.lax.conv_general_dilated(
                images + noise, kernel, (1, 1), "SAME", dimension_numbers=LAYOUTS[0]
            )
            return {"sum": result.sum() + offset, "two": 2, "same": options["key"]}

        return canonical(function)(images, {"key": key})

    images = some((1, 2, 2, 3))
    found = jax.jit(outer)(images, 3.0)
    noisy = images + np.asarray(jax.random.normal(key, images.shape))
    expected = np.einsum("nhwi,io->", noisy, kernel[0, 0]) + 3
    np.testing.assert_allclose(found["sum"], expected, rtol=1e-5)
    assert found["two"] == 2 and found["same"] == key


def test_a_function_without_convolutions_is_unchanged():
    @jax.custom_jvp
    def twice(x):
        return 2 * x

    twice.defjvp(lambda primals, tangents: (twice(*primals), 5 * tangents[0]))
    assert jax.grad(canonical(twice))(1.0) == 5


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a matter of CPUs")
def test_an_attack_has_only_fast_convolutions_in_its_loop():
    network, (images, labels) = networks.network(), networks.data(2, seed=0)
    attack = jax.jit(lambda x: pgd(network, x, labels, jax.random.key(0)))
    program = attack.lower(images).compile().as_text()
    layouts = set(re.findall(r" convolution\(.*dim_labels=(\S+?)[,\s]", program))
    assert layouts == {"b01f_01io->b01f"}
