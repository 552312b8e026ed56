"""Every attack returns an empty result for no images, without querying the network."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import linear

import attacks
from attacks import Attacked, autoattack_stages, pgd, quantized

SHAPE, CLASSES, KEY = (4, 4, 3), 5, jax.random.key(0)
NOTHING, NO_LABELS = np.zeros((0, *SHAPE), np.float32), np.zeros(0, np.int32)
_matmul, _ = linear(SHAPE, CLASSES, middle=0.5)

# All that take images, labels and a key, except the checks, which return findings.
ATTACKS = {
    name: function
    for name, function in vars(attacks).items()
    if inspect.isfunction(function)
    and {"images", "labels", "key"} <= set(inspect.signature(function).parameters)
    and not name.startswith("check_")
}
OPTIONS = {
    "sparse_rs": {"pixels": 1},
    "transfer": {"target_fn": None, "attack": pgd},
    "quantized": {"epsilon": 0.1},
}


def flattens(images, key):
    """A network that rejects an empty batch, as many do."""
    assert len(images)
    return _matmul(images.reshape(len(images), -1).reshape(images.shape), key)


def call(name, images, labels, key, **more):
    """Runs the attack of that name on `flattens`."""
    options = OPTIONS.get(name, {}) | more
    first = "source_fn" if name == "transfer" else "logits_fn"
    options = {k: flattens if k == "target_fn" else v for k, v in options.items()}
    if name == "quantized":
        whole = jnp.zeros(len(images), jnp.int32)
        options["attacked"] = Attacked(images, whole > 0, 1.0 * whole, whole, whole)
    options |= {first: flattens, "images": images, "labels": labels, "key": key}
    return ATTACKS[name](**options)


def test_all_attacks_are_here():
    assert {"pgd", "autoattack", "fab_minimal", "judge", "transfer"} <= set(ATTACKS)
    assert len(ATTACKS) == 18


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", ATTACKS)
def test_no_images_give_an_empty_result(name, compiled):
    attack = functools.partial(call, name)
    found = (jax.jit(attack) if compiled else attack)(NOTHING, NO_LABELS, KEY)
    arrays = jax.tree.leaves(found)
    assert len(arrays) > 1 and all(len(array) == 0 for array in arrays)
    assert all(a.shape[1:] in ((), SHAPE) for a in arrays)


@pytest.mark.parametrize("name", ["pgd", "fgsm", "transfer", "boundary"])
def test_targets_and_starts_may_be_missing_with_the_images(name):
    options = {"starts": NOTHING} if name == "boundary" else {}
    found = call(name, NOTHING, NO_LABELS, KEY, targets=NO_LABELS, **options)
    assert all(len(array) == 0 for array in jax.tree.leaves(found))


def test_invalid_arguments_are_still_refused():
    with pytest.raises(ValueError, match="steps must be at least 0"):
        pgd(flattens, NOTHING, NO_LABELS, KEY, steps=-1)


def test_the_loop_over_stages_may_run_out_of_images():
    images = np.random.default_rng(0).uniform(0.4, 0.6, (2, *SHAPE)).astype(np.float32)
    labels = np.asarray(flattens(images, KEY).argmax(axis=1), np.int32)
    left = []
    for _, attack in autoattack_stages("standard"):
        found = attack(flattens, images, labels, KEY, epsilon=0.4)
        images, labels = images[~found.success], labels[~found.success]
        left.append(len(images))
    assert left == [0, 0, 0, 0]
    found = quantized(flattens, found, images, labels, KEY)
    assert found.images.shape == NOTHING.shape
