"""Arguments that every attack refuses."""

import functools

import jax
import jax.numpy as jnp
import pytest
from networks import some_images

import attacks

IMAGES, LABELS = some_images(3, (4, 4, 3)), jnp.array([0, 1, 0])
ATTACKS = {
    name: getattr(attacks, name)
    for name in (
        "fgsm",
        "pgd",
        "mi_fgsm",
        "multi_targeted",
        "autopgd",
        "targeted_autopgd",
        "carlini_wagner",
        "deepfool",
        "fab",
        "fab_minimal",
        "square",
        "spsa",
        "boundary",
        "autoattack",
    )
} | {"sparse_rs": functools.partial(attacks.sparse_rs, pixels=1)}


def light(images, key):
    """One logit per image, positive if it is light."""
    return images.mean(axis=(1, 2, 3))[:, None] - 0.5


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_one_logit_is_refused_with_a_fix(name, compiled):
    attack = functools.partial(ATTACKS[name], light)
    attack = jax.jit(attack) if compiled else attack
    with pytest.raises(ValueError, match="returned 1 logits .*concatenate"):
        attack(IMAGES, jnp.zeros(3, int), jax.random.key(0))


def test_the_suggested_fix_works():
    def both(images, key):
        z = light(images, key)
        return jnp.concatenate([-z, z], axis=1)

    labels = both(IMAGES, None).argmax(axis=1)
    found = attacks.pgd(both, IMAGES, labels, jax.random.key(0), epsilon=0.4)
    assert (found.success == (both(found.images, None).argmax(axis=1) != labels)).all()
    assert found.success.any()
