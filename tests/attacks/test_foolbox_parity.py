"""Ours against Foolbox 3.3.4, whose attacks run on the same JAX function."""

import functools
import warnings

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from attacks import fgsm, pgd
from attacks.carlini_wagner import carlini_wagner
from attacks.deepfool import deepfool

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Foolbox imports from old places of SciPy
    import foolbox

KEY = jax.random.key(0)
EPSILON, STEP_SIZE = 8 / 255, 2 / 255


@functools.cache
def problem(count=32):
    """Classifier, Foolbox's view of it, and correctly classified images."""
    network = networks.network()
    images, labels = networks.data(2 * count, seed=5)
    right = np.asarray(network(images, KEY)).argmax(axis=1) == labels
    model = foolbox.JAXModel(jax.jit(lambda x: network(x, KEY)), bounds=(0, 1))
    return network, model, images[right][:count], labels[right][:count]


def theirs(attack, model, images, labels, epsilons, targets=None):
    """Foolbox's images, and where they are adversarial."""
    criterion = jnp.asarray(labels)
    if targets is not None:
        criterion = foolbox.TargetedMisclassification(jnp.asarray(targets))
    _, found, success = attack(model, jnp.asarray(images), criterion, epsilons=epsilons)
    return np.asarray(found), np.asarray(success)


def length(difference):
    return np.sqrt((np.asarray(difference, np.float64) ** 2).sum(axis=(1, 2, 3)))


def run(attack, network, *arguments, **options):
    return jax.jit(functools.partial(attack, network, **options))(*arguments, key=KEY)


def starting_at(attack, start):
    """Foolbox's attack from a given point instead of a random one."""

    class Started(attack):
        def get_random_start(self, x0, epsilon):
            return 0 * x0 + type(x0)(start)

    return Started


def test_fgsm_is_theirs():
    network, model, images, labels = problem()
    expected, success = theirs(foolbox.attacks.FGSM(), model, images, labels, EPSILON)
    attacked = run(fgsm, network, images, labels, epsilon=EPSILON)
    np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1.5e-7)
    np.testing.assert_array_equal(attacked.success, success)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_is_theirs_from_the_same_start(targeted, random_start):
    network, model, images, labels = problem()
    targets = (labels + 2) % networks.CLASSES if targeted else None
    ours = functools.partial(
        run, pgd, network, images, labels, epsilon=2 * EPSILON, step_size=STEP_SIZE
    )
    ours = functools.partial(ours, targets=targets, random_start=random_start)
    start = ours(steps=0).images
    attack = starting_at(foolbox.attacks.LinfPGD, start)(
        abs_stepsize=STEP_SIZE, steps=10, random_start=random_start
    )
    expected, success = theirs(attack, model, images, labels, 2 * EPSILON, targets)
    attacked = ours(steps=10)
    assert random_start == bool((np.asarray(start) != images).any())
    np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(attacked.success, success)
    assert targeted or success.any()


@pytest.mark.parametrize("random_start", [False, True])
def test_l2_pgd_is_theirs_from_the_same_start(random_start):
    network, model, images, labels = problem()
    ours = functools.partial(
        run, pgd, network, images, labels, epsilon=1.0, step_size=0.2, norm="l2"
    )
    ours = functools.partial(ours, random_start=random_start)
    attack = starting_at(foolbox.attacks.L2PGD, ours(steps=0).images)(
        abs_stepsize=0.2, steps=10, random_start=random_start
    )
    expected, success = theirs(attack, model, images, labels, 1.0)
    attacked = ours(steps=10)
    # Our ball is smaller by what rounding could add: 1e-6 of the radius.
    np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(attacked.success, success)
    assert success.any()


@pytest.mark.parametrize(("confidence", "targeted"), [(0.0, False), (2.0, True)])
def test_carlini_wagner_finds_their_norms(confidence, targeted):
    network, model, images, labels = problem(16)
    targets = (labels + 2) % networks.CLASSES if targeted else None
    options = {
        "binary_search_steps": 4,
        "steps": 50,
        "confidence": confidence,
        "initial_const": 0.1,
        "abort_early": False,
    }
    attack = foolbox.attacks.L2CarliniWagnerAttack(stepsize=0.02, **options)
    expected, _ = theirs(attack, model, images, labels, None, targets)
    # Where theirs finds nothing it returns a black image.
    success = expected.any(axis=(1, 2, 3))
    found = run(
        carlini_wagner,
        network,
        images,
        labels,
        learning_rate=0.02,
        targets=targets,
        **options,
    )
    np.testing.assert_array_equal(found.unconstrained.loss > confidence, success)
    assert success.mean() > 0.5
    norms = length(expected - images)[success]
    np.testing.assert_allclose(np.asarray(found.l2)[success], norms, rtol=0.01)
    ratio = np.median(np.asarray(found.l2)[success]) / np.median(norms)
    assert abs(ratio - 1) < 0.02


def test_carlini_wagner_ends_early_as_theirs_does_with_one_image():
    network, model, images, labels = problem()
    options = {"binary_search_steps": 3, "steps": 40, "confidence": 0.0}
    options |= {"initial_const": 1.0, "abort_early": True}
    attack = foolbox.attacks.L2CarliniWagnerAttack(stepsize=0.05, **options)
    found = run(carlini_wagner, network, images, labels, learning_rate=0.05, **options)
    for i in range(3):
        part = slice(i, i + 1)
        expected, _ = theirs(attack, model, images[part], labels[part], None)
        norm = length(expected - images[part])
        np.testing.assert_allclose(found.l2[part], norm, rtol=0.005)
    assert (found.unconstrained.queries < 3 * 40).any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_is_theirs(norm):
    network, model, images, labels = problem()
    attack = {
        "l2": foolbox.attacks.L2DeepFoolAttack,
        "linf": foolbox.attacks.LinfDeepFoolAttack,
    }[norm]()
    expected, success = theirs(attack, model, images, labels, None)
    attacked = run(deepfool, network, images, labels, norm=norm)
    np.testing.assert_array_equal(attacked.success, success)
    assert success.all()
    np.testing.assert_allclose(
        length(attacked.images - images), length(expected - images), rtol=1e-4
    )
    np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-5)
