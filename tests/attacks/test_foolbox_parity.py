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
EPSILON = 8 / 255


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


@functools.cache
def in_float64():
    """The same problem, without sign flips of the gradient by rounding."""
    _, _, images, labels = problem(16)
    weights = jax.tree.map(lambda w: w.astype(np.float64), networks.trained())
    network = lambda images, key: networks.logits(weights, images)
    model = foolbox.JAXModel(jax.jit(lambda x: network(x, None)), bounds=(0, 1))
    return network, model, images.astype(np.float64), labels


def test_fgsm_matches_foolbox():
    problem()  # trained in float32
    with jax.enable_x64(True):
        network, model, images, labels = in_float64()
        expected, success = theirs(
            foolbox.attacks.FGSM(), model, images, labels, EPSILON
        )
        attacked = run(fgsm, network, images, labels, epsilon=EPSILON)
        np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(attacked.success, success)


def test_fgsm_matches_foolbox_in_float32_except_near_zero_gradients():
    network, model, images, labels = problem()
    expected, success = theirs(foolbox.attacks.FGSM(), model, images, labels, EPSILON)
    attacked = run(fgsm, network, images, labels, epsilon=EPSILON)
    apart = np.abs(attacked.images - expected) > 1.5e-7
    assert apart.mean() < 2e-3  # how many depends on the compiler's roundings
    np.testing.assert_array_equal(attacked.success, success)


@pytest.mark.parametrize(
    ("norm", "random_start", "targeted"),
    [
        ("linf", False, False),
        ("linf", True, True),
        pytest.param("l2", True, False, marks=pytest.mark.slow),
    ],
)
def test_pgd_matches_foolbox_from_the_same_start(norm, random_start, targeted):
    problem()
    kind, epsilon, size = {
        "linf": (foolbox.attacks.LinfPGD, 16 / 255, 2 / 255),
        "l2": (foolbox.attacks.L2PGD, 1.0, 0.2),
    }[norm]
    with jax.enable_x64(True):
        network, model, images, labels = in_float64()
        targets = (labels + 2) % networks.CLASSES if targeted else None
        ours = functools.partial(
            run, pgd, network, images, labels, epsilon=epsilon, step_size=size
        )
        ours = functools.partial(
            ours, norm=norm, targets=targets, random_start=random_start
        )
        start = ours(steps=0).images
        assert random_start == bool((np.asarray(start) != images).any())
        attack = starting_at(kind, start)(
            abs_stepsize=size, steps=10, random_start=random_start
        )
        expected, success = theirs(attack, model, images, labels, epsilon, targets)
        attacked = ours(steps=10)
        np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(attacked.success, success)
        assert targeted or success.any()


@pytest.mark.parametrize(
    ("confidence", "targeted"),
    [pytest.param(0.0, False, marks=pytest.mark.slow), (2.0, True)],
)
def test_carlini_wagner_norms_match_foolbox(confidence, targeted):
    network, model, images, labels = problem(16)
    targets = (labels + 2) % networks.CLASSES if targeted else None
    options = {
        "binary_search_steps": 3,
        "steps": 25,
        "confidence": confidence,
        "initial_const": 0.1,
        "abort_early": False,
    }
    attack = foolbox.attacks.L2CarliniWagnerAttack(stepsize=0.02, **options)
    expected, _ = theirs(attack, model, images, labels, None, targets)
    # Foolbox returns a black image if it finds nothing.
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


@pytest.mark.slow
def test_carlini_wagner_stops_early_as_foolbox_does_with_one_image():
    network, model, images, labels = problem()
    options = {"binary_search_steps": 3, "steps": 30, "confidence": 0.0}
    options |= {"initial_const": 1.0, "abort_early": True}
    attack = foolbox.attacks.L2CarliniWagnerAttack(stepsize=0.05, **options)
    found = run(carlini_wagner, network, images, labels, learning_rate=0.05, **options)
    for i in range(2):
        part = slice(i, i + 1)
        expected, _ = theirs(attack, model, images[part], labels[part], None)
        norm = length(expected - images[part])
        np.testing.assert_allclose(found.l2[part], norm, rtol=0.005)
    assert (found.unconstrained.queries < 3 * 30).any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_matches_foolbox(norm):
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
