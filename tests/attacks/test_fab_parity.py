"""FAB against torchattacks' port of AutoAttack's, on one trained network."""

import functools
import warnings

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from attacks import norms
from attacks.fab import fab, fab_minimal

torch, torchattacks = networks.import_or_skip("torch", "torchattacks")
pytestmark = pytest.mark.slow

STEPS = 30


def originals(norm, epsilon, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torchattacks.FAB(
            networks.torch_network(), norm=norm, eps=epsilon, steps=STEPS, **options
        )


# Radii at which about half of the images are fooled.
@pytest.mark.parametrize(
    ("norm", "theirs", "epsilon"), [("linf", "Linf", 0.065), ("l2", "L2", 0.9)]
)
def test_same_robust_images_and_distances(norm, theirs, epsilon):
    images, labels = networks.data(128, seed=7)
    tensors = networks.to_torch(images), torch.tensor(labels).long()
    attack = functools.partial(fab, networks.network(), epsilon=epsilon, norm=norm)
    attack = jax.jit(functools.partial(attack, steps=STEPS))
    attacked = attack(images, labels, jax.random.key(0))
    # As the original counts: misclassified within the radius.
    expected = originals(theirs, epsilon).attack_single_run(*tensors)
    answers = networks.torch_network()(expected).argmax(dim=1).numpy()
    moved = networks.from_torch(expected) - images
    expected = np.asarray(norms.size(jnp.asarray(moved), norm))
    robust = (~np.asarray(attacked.success)).sum()
    assert 32 < robust < 96
    assert abs(robust - ((answers == labels) | (expected > epsilon)).sum()) <= 1

    minimal = functools.partial(fab_minimal, networks.network(), epsilon=epsilon)
    minimal = jax.jit(functools.partial(minimal, norm=norm, steps=STEPS))
    distances = np.asarray(minimal(images, labels, jax.random.key(0)).distances)
    assert (expected > 0).sum() > 100
    np.testing.assert_allclose(np.median(distances), np.median(expected), rtol=1e-3)
    # Rounding may send a path to another part of the boundary.
    same = np.isclose(distances, expected, rtol=1e-3, atol=1e-6)
    assert same.mean() > 0.95


@pytest.mark.parametrize(
    ("norm", "theirs", "epsilon"), [("linf", "Linf", 0.065), ("l2", "L2", 0.9)]
)
def test_same_robust_images_with_targets(norm, theirs, epsilon):
    images, labels = networks.data(128, seed=7)
    options = {"norm": norm, "steps": STEPS, "target_classes": networks.CLASSES - 1}
    attack = functools.partial(fab, networks.network(), epsilon=epsilon, **options)
    attacked = jax.jit(attack)(images, labels, jax.random.key(0))
    original = originals(
        theirs, epsilon, multi_targeted=True, n_classes=networks.CLASSES
    )
    expected = original(networks.to_torch(images), torch.tensor(labels).long())
    answers = networks.torch_network()(expected).argmax(dim=1).numpy()
    robust = (~np.asarray(attacked.success)).sum()
    assert 32 < robust < 96
    assert abs(robust - (answers == labels).sum()) <= 1
