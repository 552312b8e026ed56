"""Trains a network on purified images and tests it behind the same defence."""

import jax
import optax
from digits import accuracy, images, train_images, train_labels

from splic_jax import purify

mask_key, test_key, *keys = jax.random.split(jax.random.key(0), 4)
purified, labels = purify(train_images[:500], mask_key), train_labels[:500]
optimizer = optax.adam(1e-3)


def network(weights, images):
    hidden = jax.nn.relu(images.reshape(len(images), -1) @ weights[0])
    return hidden @ weights[1]


def loss(weights):
    logits = network(weights, purified)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def step(state, _):
    weights, moments = state
    value, gradient = jax.value_and_grad(loss)(weights)
    updates, moments = optimizer.update(gradient, moments)
    return (optax.apply_updates(weights, updates), moments), value


first = 0.03 * jax.random.normal(keys[0], (32 * 32, 64))
weights = [first, 0.1 * jax.random.normal(keys[1], (64, 10))]
state = (weights, optimizer.init(weights))
(weights, _), losses = jax.lax.scan(step, state, length=100)
print(f"loss: {losses[0]:.2f} at first, {losses[-1]:.2f} after 100 steps")
print(f"test images as they are: {accuracy(network(weights, images)):.0f} %")
purified = purify(images, test_key)
print(f"test images, purified: {accuracy(network(weights, purified)):.0f} %")
