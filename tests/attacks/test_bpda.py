from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attacks import bpda, pgd

KEY = jax.random.key(0)


def posterize(images, key):
    """Flat nearly everywhere, random, and not symmetric about zero."""
    offset = jax.random.uniform(key, images.shape, images.dtype)
    return jnp.floor(images * 5 + offset) / 5


def smooth(images):
    return jnp.sin(3 * images)


def some_images(shape=(2, 3, 4, 1)):
    return jax.random.uniform(jax.random.key(1), shape)


@pytest.mark.parametrize("backward", [None, smooth])
@settings(max_examples=50, deadline=None)
@given(
    images=hnp.arrays(
        np.float32, (1, 2, 2, 1), elements=st.floats(-1e6, 1e6, width=32)
    ),
    seed=st.integers(0, 100),
)
def test_the_value_is_the_transforms_bit_for_bit(backward, images, seed):
    key = jax.random.key(seed)
    replaced = bpda(posterize, backward)
    expected = np.asarray(posterize(images, key)).tobytes()
    assert np.asarray(replaced(images, key)).tobytes() == expected
    value, _ = jax.vjp(lambda x: replaced(x, key), images)
    assert np.asarray(value).tobytes() == expected


@pytest.mark.parametrize("value", [-0.0, np.nan, np.inf])
def test_odd_values_pass_unchanged(value):
    # Adding and subtracting the approximation would lose each of these.
    def odd(images, key):
        return jnp.full_like(images, value)

    images = some_images()
    result, _ = jax.vjp(lambda x: bpda(odd, smooth)(x, KEY), images)
    assert np.asarray(result).tobytes() == np.asarray(odd(images, KEY)).tobytes()


def test_the_derivative_is_the_identity_by_default():
    images, tangent = some_images(), jax.random.normal(KEY, (2, 3, 4, 1))
    replaced = lambda x: bpda(posterize)(x, KEY)
    _, forward = jax.jvp(replaced, (images,), (tangent,))
    _, pullback = jax.vjp(replaced, images)
    np.testing.assert_array_equal(forward, tangent)
    np.testing.assert_array_equal(pullback(tangent)[0], tangent)
    assert not jax.grad(lambda x: posterize(x, KEY).sum())(images).any()


def test_the_derivative_is_that_of_backward():
    images, tangent = some_images(), jax.random.normal(KEY, (2, 3, 4, 1))
    replaced = lambda x: bpda(posterize, smooth)(x, KEY)
    expected = 3 * np.cos(3 * np.asarray(images, np.float64)) * tangent
    _, forward = jax.jvp(replaced, (images,), (tangent,))
    _, pullback = jax.vjp(replaced, images)
    np.testing.assert_allclose(forward, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pullback(tangent)[0], expected, rtol=1e-5, atol=1e-6)


def test_the_second_derivative_is_that_of_backward():
    image = some_images((1, 1, 3, 1))
    # L = sum of t'(x)^2 has L'' = 2 (b')^2 + 2 t b'' where t' stands in for t.
    total = lambda x: (bpda(posterize, smooth)(x, KEY) ** 2).sum()
    hessian = jax.jit(jax.hessian(total))(image)
    x = np.asarray(image, np.float64).ravel()
    t = np.asarray(posterize(image, KEY), np.float64).ravel()
    expected = 2 * (3 * np.cos(3 * x)) ** 2 + 2 * t * -9 * np.sin(3 * x)
    np.testing.assert_allclose(
        np.asarray(hessian).reshape(3, 3), np.diag(expected), rtol=1e-5, atol=1e-5
    )


def test_the_transform_need_not_be_differentiable():
    def through_numpy(images, key):
        shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
        return jax.pure_callback(lambda x: np.round(x, 1), shape, images)

    images = some_images()
    total = lambda x: (bpda(through_numpy)(x, KEY) ** 2).sum()
    gradient = jax.jit(jax.grad(total))(images)
    np.testing.assert_allclose(gradient, 2 * np.round(np.asarray(images), 1), rtol=1e-6)
    with pytest.raises(ValueError, match="callbacks do not support JVP"):
        jax.grad(lambda x: through_numpy(x, KEY).sum())(images)


def test_under_vmap_and_jit():
    images = some_images((4, 1, 3, 3, 2))
    keys = jax.random.split(KEY, 4)
    total = lambda x, key: (bpda(posterize, smooth)(x, key) ** 2).sum()
    together = jax.jit(jax.vmap(jax.grad(total)))(images, keys)
    one = jax.jit(jax.grad(total))
    alone = [one(x, key) for x, key in zip(images, keys, strict=True)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("transform", "backward", "returned"),
    [
        (lambda x, key: x[:, ::2], None, r"\(2, 2, 4, 1\), 'float32'"),
        (lambda x, key: x, lambda x: x[:, 1:], r"\(2, 2, 4, 1\), 'float32'"),
        (lambda x, key: jnp.round(x * 255).astype(jnp.uint8), None, "'uint8'"),
    ],
)
def test_refuses_a_backward_of_another_shape_or_dtype(transform, backward, returned):
    replaced = bpda(transform, backward)
    with pytest.raises(ValueError, match=returned):
        jax.vjp(lambda x: replaced(x, KEY), some_images())


def test_pgd_breaks_a_defense_only_with_bpda():
    def light(images):
        total = images.mean(axis=(1, 2, 3)) - 0.5
        return jnp.stack([-total, total], axis=1)

    def defense(images, key):
        return jnp.round(images * 255) / 255

    images, labels = jnp.full((3, 4, 4, 3), 0.52), jnp.ones(3, jnp.int32)
    masked = lambda x, key: light(defense(x, key))
    seen = lambda x, key: light(bpda(defense)(x, key))
    attack = lambda model: jax.jit(partial(pgd, model))(images, labels, KEY)
    assert not attack(masked).success.any()
    assert attack(seen).success.all()
