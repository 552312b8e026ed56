"""What every transform of one image keeps to, whatever it does, and test images."""

import jax
import jax.numpy as jnp
import numpy as np

KEY = jax.random.key(7)


def photograph(shape, seed=0, noise=0.05):
    """Low frequencies and some noise, float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    i, j = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width))
    waves = [
        rng.normal(size=channels) * np.cos(np.pi * (a * i + b * j) + phase)[..., None]
        for a in range(3)
        for b in range(3)
        for phase in [rng.uniform(0, 6)]
    ]
    image = 0.5 + 0.1 * np.swapaxes(sum(waves), 0, 1)
    image += noise * rng.normal(size=shape)
    return np.clip(image, 0, 1).astype(np.float32)


def check(transform, one, config, *, flat=1e-6, alone=0, thin=True, eager=True):
    """Ugly images, alone as in a batch to the bit, compiled as not compiled.

    Args:
        transform: of batches.
        one: the function of one image that it is made from.
        config: their settings.
        flat: how far from itself a flat image may come back; None for any distance.
        alone: how far an image alone may be from the same in a batch.
        thin: whether it takes an image of one channel too.
        eager: whether to run it without compilation too.
    """
    shape = (5, 7, 3)
    black, gray = np.zeros(shape, np.float32), np.full(shape, 0.6, np.float32)
    images = np.stack([photograph(shape), black, gray])
    done = np.asarray(transform(images, KEY, config))
    assert done.shape == images.shape and done.dtype == np.float32
    assert ((done >= 0) & (done <= 1)).all()
    if flat is not None:
        np.testing.assert_allclose(done[1:], images[1:], rtol=0, atol=flat)
    for index in (0, 2):
        single = transform(images[index], KEY, config, first_index=index)
        np.testing.assert_allclose(single, done[index], rtol=0, atol=alone)
    if eager:
        single = one(jnp.asarray(images[0]), jax.random.fold_in(KEY, 0), config)
        np.testing.assert_allclose(jnp.clip(single, 0, 1), done[0], rtol=0, atol=1e-6)
    if thin:
        image = np.arange(6, dtype=np.uint8).reshape(1, 6, 1) * 40
        done = transform(image, KEY, config)
        assert done.shape == image.shape and done.dtype == np.uint8


def check_derivative(function, image, key, config, step=1e-5):
    """The derivative in a direction is that of a small step, in float64."""
    direction = np.random.default_rng(1).normal(size=image.shape)

    @jax.jit
    @jax.value_and_grad
    def f(t):
        return jnp.sum(jnp.sin(3 * function(image + t * direction, key, config)))

    slope = (f(step)[0] - f(-step)[0]) / (2 * step)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(f(0.0)[1], slope, rtol=1e-5)
