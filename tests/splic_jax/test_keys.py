"""An image's result never depends on its batch, of whatever type the key is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attacks import norms
from attacks.keys import image_keys
from attacks.losses import cross_entropy
from attacks.oracle import Sampling, make_goal, mean_logits, query
from splic_jax import METHODS, SPLICConfig, transform
from splic_jax.keys import generator, mappable
from splic_jax.transforms import AblationConfig, fitted

TYPES = ("rbg", "unsafe_rbg")
IMAGES = np.random.default_rng(0).random((3, 5, 4, 3)).astype(np.float32)


def is_by_image(config, key):
    together = transform(IMAGES, key, config)
    for index, image in enumerate(IMAGES):
        alone = transform(image, key, config, first_index=index)
        np.testing.assert_array_equal(alone, together[index])
    return np.asarray(together)


@pytest.mark.parametrize("impl", TYPES)
@pytest.mark.parametrize("config", [AblationConfig(), SPLICConfig(max_steps=1)])
def test_an_image_alone_is_the_image_in_its_batch(impl, config):
    key = jax.random.key(1, impl=impl)
    done = is_by_image(config, key)
    other = transform(IMAGES, jax.random.key(2, impl=impl), config)
    assert (done != other).any()


@pytest.mark.slow
@pytest.mark.parametrize("impl", TYPES)
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.random])
def test_of_every_random_transform(name, impl):
    config = METHODS[name].config
    training = np.random.default_rng(1).integers(0, 256, (9, 9, 9, 3), np.uint8)
    config = fitted(config, training, jax.random.key(0))
    is_by_image(config, jax.random.key(1, impl=impl))


def test_threefry_keys_come_back_and_old_ones_are_taken():
    key = jax.random.key(3)
    assert mappable(key) is key
    data = jax.random.key_data(key)
    old = mappable(jax.random.PRNGKey(3))
    np.testing.assert_array_equal(jax.random.key_data(old), data)
    for impl in TYPES:
        made = [mappable(jax.random.key(seed, impl=impl)) for seed in (0, 0, 1)]
        same, again, other = (jax.random.key_data(key).tolist() for key in made)
        assert same == again != other
    assert generator(key) == {
        "key_type": "threefry2x32",
        "jax_threefry_partitionable": True,
    }


@pytest.mark.parametrize("impl", TYPES)
def test_starts_of_attacks_are_each_images_own(impl):
    key = jax.random.key(1, impl=impl)
    start = lambda first, images: norms.random_in_ball(
        image_keys(key, first, images), images, 0.1, "linf"
    )
    images = jnp.asarray(IMAGES)
    together = start(0, images)
    for index in range(len(IMAGES)):
        alone = start(index, images[index : index + 1])[0]
        np.testing.assert_array_equal(alone, together[index])


@pytest.mark.parametrize("impl", TYPES)
def test_expectations_are_over_draws_that_differ(impl):
    def noise(images, key):
        drawn = jax.random.normal(key, (len(images),))
        return jnp.stack([drawn, -drawn], axis=1)

    images, key = jnp.asarray(IMAGES), jax.random.key(1, impl=impl)
    goal = make_goal(cross_entropy, jnp.zeros(len(images), jnp.int32))
    by_chunk = query(noise, goal, images, key, sampling=Sampling(4, 4)).logits
    one_by_one = query(noise, goal, images, key, sampling=Sampling(4)).logits
    np.testing.assert_allclose(by_chunk, one_by_one, rtol=1e-6, atol=1e-6)
    mean = mean_logits(noise, images, key, Sampling(4, 4))
    np.testing.assert_allclose(mean, one_by_one, rtol=1e-6, atol=1e-6)
