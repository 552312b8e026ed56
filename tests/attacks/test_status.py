"""Why attacks stop, and that they do not stop at a flat start."""

import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import attacks
from attacks import Status
from attacks.types import Attacked

KEY = jax.random.key(0)
IMAGES = networks.some_images(3, (4, 4, 3))
LABELS = np.array([1, 0, 0])  # the second is misclassified by `constant`
QUICK = ("pgd", "autopgd", "carlini_wagner", "deepfool", "square")
EVERY = {
    "fgsm": (attacks.fgsm, {}),
    "pgd": (attacks.pgd, {"steps": 2}),
    "mi_fgsm": (attacks.mi_fgsm, {"steps": 2}),
    "multi_targeted": (attacks.multi_targeted, {"steps": 2}),
    "autopgd": (attacks.autopgd, {"steps": 2}),
    "targeted_autopgd": (attacks.targeted_autopgd, {"steps": 2}),
    "carlini_wagner": (attacks.carlini_wagner, {"steps": 20, "binary_search_steps": 1}),
    "deepfool": (attacks.deepfool, {"steps": 2}),
    "fab": (attacks.fab, {"steps": 2}),
    "fab_minimal": (attacks.fab_minimal, {"steps": 2}),
    "square": (attacks.square, {"queries": 3}),
    "spsa": (attacks.spsa, {"steps": 2, "samples": 2}),
    "boundary": (attacks.boundary, {"steps": 2, "draws": 2}),
    "sparse_rs": (attacks.sparse_rs, {"pixels": 1, "queries": 3}),
    "autoattack": (attacks.autoattack, {"version": "rand", "stages": ()}),
}
GRADIENTS = set(EVERY) - {"square", "boundary", "sparse_rs", "autoattack"}
STOPS = {
    "autopgd",
    "targeted_autopgd",
    "deepfool",
    "fab",
    "fab_minimal",
    "square",
    "boundary",
    "sparse_rs",
}


def statuses(found):
    parts = [found] if isinstance(found, Attacked) else found
    return [part.status for part in parts if isinstance(part, Attacked)]


def constant(images, key):
    """Predicts class 1 of 4 for any image."""
    return jnp.zeros((len(images), 4), images.dtype).at[:, 1].set(1)


def silent(images, key):
    return constant(images, key) * jnp.nan


@pytest.mark.parametrize(
    "compiled", [True, pytest.param(False, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in EVERY
    ],
)
def test_every_attack_says_why_it_stopped(name, compiled):
    attack, options = EVERY[name]
    for network in constant, silent:
        run = functools.partial(attack, network, **options)
        found = (jax.jit(run) if compiled else run)(IMAGES, LABELS, KEY)
        for status in statuses(found):
            assert status.dtype == jnp.int32 and status.shape == (3,)
            right, wrong = Status(int(status[0])), Status(int(status[1]))
            if network is silent:
                expected = Status.NOT_FINITE
            elif name in GRADIENTS:
                expected = Status.NO_GRADIENT
            elif name == "boundary":
                expected = Status.NO_START
            else:
                expected = Status.BUDGET
            assert right == expected
            if network is constant and name in STOPS:
                assert wrong == Status.SUCCEEDED


def some(*quick):
    """Names of attacks; all but the quick ones are slow tests."""
    names = ("pgd", "autopgd", "deepfool", "fab", "carlini_wagner", "spsa")
    slow = pytest.mark.slow
    return [pytest.param(x, marks=() if x in quick else slow) for x in names]


@pytest.mark.parametrize("name", some("autopgd"))
def test_a_search_with_a_gradient_spends_its_budget(name):
    network, _ = networks.linear((4, 4, 3), 4, middle=0.5, in_order=True)
    labels = network(IMAGES, None).argmax(axis=1)
    attack, options = EVERY[name]
    # The first two have no ball.
    limits = {"carlini_wagner": {"abort_early": False}, "deepfool": {"steps": 0}}
    options = options | limits.get(name, {"epsilon": 1e-6})
    found = attack(network, IMAGES, labels, KEY, **options)
    assert (statuses(found)[0] == Status.BUDGET).all()


@pytest.mark.parametrize("name", some("deepfool"))
def test_does_not_depend_on_the_batch(name):
    flat_or_not = jnp.array([0.0, 1.0, 1.0])

    def network(images, key):
        slope = jnp.where(images.mean(axis=(1, 2, 3)) > 0.5, 1.0, 0.0)[:, None]
        light = images.sum(axis=(1, 2, 3))[:, None] * slope
        return jnp.concatenate([-light, light + 1, light * 0 - 50, light * 0 - 60], 1)

    images = jnp.array([0.2, 0.7, 0.8])[:, None, None, None] * jnp.ones((1, 4, 4, 3))
    attack, options = EVERY[name]
    run = jax.jit(functools.partial(attack, network, **options))
    together = statuses(run(images, jnp.ones(3, int), KEY))[0]
    assert ((together == Status.NO_GRADIENT) == (flat_or_not == 0)).all()
    for i in range(3):
        alone = run(images[i : i + 1], jnp.ones(1, int), KEY, first_index=i)
        assert statuses(alone)[0][0] == together[i]


def test_stages_and_transfer_pass_on_the_status():
    stages = (attacks.Stage("pgd", lambda *a, first_index, **k: attacks.pgd(*a, **k)),)
    found = attacks.autoattack(constant, IMAGES, LABELS, KEY, stages=stages)
    reasons = [Status.NO_GRADIENT, Status.SUCCEEDED, Status.SUCCEEDED]
    assert (found.status == jnp.array(reasons)).all()
    sent = attacks.transfer(constant, silent, attacks.fgsm, IMAGES, LABELS, KEY)
    assert (sent.status == Status.NO_GRADIENT).all()


@functools.cache
def digits():
    """A small network, and correctly classified digits of zeros and ones."""
    data = load_digits()
    images = jnp.asarray(data.images >= 8, jnp.float32)[..., None]
    labels = jnp.asarray(data.target, jnp.int32)
    first, second = jax.random.split(KEY)
    weights = (
        jax.random.normal(first, (64, 32)) * 0.15,
        jax.random.normal(second, (32, 10)) * 0.2,
    )

    def network(weights, images):
        hidden = jax.nn.relu(images.reshape(len(images), -1) @ weights[0])
        return hidden @ weights[1]

    def loss(weights):
        logits = network(weights, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer = optax.adam(0.01)

    @jax.jit
    def train(weights):
        def step(_, carry):
            weights, state = carry
            update, state = optimizer.update(jax.grad(loss)(weights), state)
            return optax.apply_updates(weights, update), state

        return jax.lax.fori_loop(0, 150, step, (weights, optimizer.init(weights)))[0]

    weights = train(weights)
    logits = network(weights, images)
    right = np.flatnonzero(np.asarray(logits.argmax(axis=1) == labels))[:12]
    return lambda images, key: network(weights, images), images[right], labels[right]


# With logits of 1/10,000 the confidence dominates the objective.
@pytest.mark.parametrize(
    "scale, options", [(1, {}), (1e-4, {"learning_rate": 0.05, "steps": 200})]
)
def test_carlini_wagner_breaks_images_of_zeros_and_ones(scale, options):
    network, images, labels = digits()
    options = {"binary_search_steps": 9 if options else 5} | options

    def scaled(images, key):
        return scale * network(images, key)

    def run(abort_early):
        attack = functools.partial(attacks.carlini_wagner, scaled, **options)
        return jax.jit(functools.partial(attack, abort_early=abort_early))(
            images, labels, KEY
        )

    early, patient = run(True), run(False)
    assert patient.unconstrained.success.all()
    assert early.unconstrained.success.all()
    # Equally near, where the search for the constant was as good.
    if scale == 1:
        assert (early.l2 < 1.01 * patient.l2).all()
    assert (early.unconstrained.queries <= patient.unconstrained.queries).all()


def test_carlini_wagner_still_stops_without_progress():
    network, images, labels = digits()
    found = attacks.carlini_wagner(
        lambda images, key: jnp.round(network(images, key)),
        images[:2],
        labels[:2],
        KEY,
        binary_search_steps=2,
    )
    assert (found.unconstrained.queries == 2 * 101 + 1).all()
    assert (found.unconstrained.status == Status.NO_GRADIENT).all()


def test_images_that_were_given_up_on_are_reported():
    attack, options = EVERY["pgd"]
    found = attack(constant, IMAGES, LABELS, KEY, **options)
    finding = attacks.soundness.check_given_up(found)
    assert finding.tripped
    assert (
        finding.values["share"] == finding.values["no_gradient"] == pytest.approx(1 / 3)
    )
    assert "33.3 %" in finding.sentence
    spent = found._replace(status=jnp.full(3, Status.BUDGET, jnp.int32))
    assert not attacks.soundness.check_given_up(spent).tripped
    nothing = jax.tree.map(lambda x: x[:0], found)
    assert not attacks.soundness.check_given_up(nothing).tripped
