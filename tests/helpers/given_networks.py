"""A user's networks: each tells ten grey levels apart by the mean of an image.

Level l has the logit 2 k l m - k l^2, of the mean m: the largest where l is nearest.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

LEVELS = (np.arange(10, dtype=np.float32) + 0.5) / 10
WEIGHTS = {"kernel": 200 * LEVELS[None], "bias": -100 * LEVELS**2}


def greys(count=40, size=32, seed=0):
    """Noisy grey images uint8 ``[count, size, size, 3]``, and their labels."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.int32)
    pixels = LEVELS[labels][:, None, None, None] * 255
    return (pixels + rng.normal(0, 3, (count, size, size, 3))).astype(np.uint8), labels


def write_cifar(folder, split, count):
    """Writes such images as CIFAR-10's binary files."""
    images, labels = greys(count)
    planes = images.transpose(0, 3, 1, 2).reshape(count, -1)
    records = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1)
    (folder / f"{split}.bin").write_bytes(records.tobytes())


def means(images):
    return images.mean(axis=(1, 2, 3))[:, None]


def logits(images):
    """A function that needs no weights."""
    return means(images) @ WEIGHTS["kernel"] + WEIGHTS["bias"]


def upside_down(images):
    """Logits of other classes than those it is shown."""
    return logits(images)[:, ::-1]


def plain(weights):
    return lambda images: means(images) @ weights["kernel"] + weights["bias"]


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.9, rngs=rngs)
        self.head = nnx.Linear(1, 10, rngs=rngs)

    def __call__(self, images):
        return self.head(self.dropout(means(images)))


def of_nnx(weights):
    model = NNX(nnx.Rngs(0))
    for name, array in weights.items():
        getattr(model.head, name)[...] = array
    return model


class Linen(linen.Module):
    @linen.compact
    def __call__(self, images):
        return linen.Dense(10)(means(images))


def of_linen(weights):
    return lambda images: Linen().apply({"params": {"Dense_0": weights}}, images)


def of_equinox(weights):
    import equinox

    linear = equinox.nn.Linear(1, 10, key=jax.random.key(0))
    values = jnp.asarray(weights["kernel"].T), jnp.asarray(weights["bias"])
    linear = equinox.tree_at(lambda x: (x.weight, x.bias), linear, values)
    return lambda images: jax.vmap(linear)(means(images))
