"""Tests of train/recipes: each loss against its formula in NumPy and float64."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import special

from splic_jax import BitDepthConfig
from train import models, recipes
from train.recipes import RECIPES, Batch, Frozen, Outputs
from train.recipes.alp import LogitPairing
from train.recipes.ensemble import Ensemble
from train.recipes.fast import Fast
from train.recipes.pgd import PGD
from train.recipes.scattering import Scattering
from train.recipes.trades import Trades
from train.recipes.vanilla import Vanilla
from train.training import step

RNG = np.random.default_rng(0)
SHAPE, CLASSES = (4, 4, 3), 5
KERNEL = RNG.normal(size=(48, CLASSES))
IMAGES = RNG.uniform(size=(12, *SHAPE)).astype(np.float32)
ATTACKED = np.clip(IMAGES + RNG.normal(0, 0.05, IMAGES.shape), 0, 1).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, 12)
KEY = jax.random.key(0)


def logits_of(images: np.ndarray) -> np.ndarray:
    """A network of one layer, in float64."""
    return np.asarray(images, np.float64).reshape(len(images), -1) @ KERNEL


def network(images: jax.Array, key: jax.Array) -> jax.Array:
    """The same in JAX."""
    del key
    return images.reshape(len(images), -1) @ jnp.asarray(KERNEL, jnp.float32)


def forward(images: jax.Array, key: jax.Array) -> Outputs:
    return Outputs(network(images, key), images.reshape(len(images), -1))


def loss_of(recipe: recipes.Recipe) -> tuple[float, np.ndarray]:
    batch = Batch(*map(jnp.asarray, (IMAGES, ATTACKED, LABELS)))
    loss, logits = recipe.loss(forward, batch, KEY)
    return float(loss), np.asarray(logits)


def cross_entropy(logits: np.ndarray, labels: np.ndarray = LABELS) -> float:
    return -special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


CLEAN_LOSS, ATTACKED_LOSS = (
    cross_entropy(logits_of(images)) for images in (IMAGES, ATTACKED)
)
DIVERGENCE = (
    special.rel_entr(
        special.softmax(logits_of(IMAGES), axis=1),
        special.softmax(logits_of(ATTACKED), axis=1),
    )
    .sum(axis=1)
    .mean()
)
DISTANCE = np.mean((logits_of(IMAGES) - logits_of(ATTACKED)) ** 2)
SMOOTHED = np.full((12, CLASSES), 0.3 / 4)
SMOOTHED[np.arange(12), LABELS] = 0.7
SOFT_LOSS = -np.mean(
    np.sum(SMOOTHED * special.log_softmax(logits_of(ATTACKED), axis=1), axis=1)
)


@pytest.mark.parametrize(
    "recipe, expected, answers",
    [
        (Vanilla(), CLEAN_LOSS, IMAGES),
        (PGD(), ATTACKED_LOSS, ATTACKED),
        (Fast(), ATTACKED_LOSS, ATTACKED),
        (Trades(beta=3.0), CLEAN_LOSS + 3 * DIVERGENCE, IMAGES),
        (
            LogitPairing(pairing=0.25),
            (CLEAN_LOSS + ATTACKED_LOSS) / 2 + DISTANCE / 4,
            ATTACKED,
        ),
        (Ensemble(), (CLEAN_LOSS + ATTACKED_LOSS) / 2, ATTACKED),
        (Scattering(smoothing=0.3), SOFT_LOSS, ATTACKED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_loss_is_the_formula(recipe, expected: float, answers: np.ndarray) -> None:
    loss, logits = loss_of(recipe)
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(logits, logits_of(answers), rtol=1e-3, atol=1e-4)


def test_trades_is_sloped_through_both_predictions() -> None:
    # The clean logits z and the others w are free here.
    z, w = RNG.normal(size=(2, 12, CLASSES)).astype(np.float32)

    def loss(z, w):
        outputs = iter([z, w])
        return Trades().loss(
            lambda images, key: Outputs(next(outputs), images),
            Batch(z, w, LABELS),
            KEY,
        )[0]

    p, q = special.softmax(z, axis=1), special.softmax(w, axis=1)
    difference = np.log(p / q)
    divergence = (p * difference).sum(axis=1, keepdims=True)
    by_w = 6 * (q - p) / 12
    by_z = (p - np.eye(CLASSES)[LABELS] + 6 * p * (difference - divergence)) / 12
    slopes = jax.grad(loss, argnums=(0, 1))(z, w)
    np.testing.assert_allclose(slopes[0], by_z, atol=1e-5)
    np.testing.assert_allclose(slopes[1], by_w, atol=1e-5)


def crafted_by(recipe: recipes.Recipe) -> jax.Array:
    craft = jax.jit(lambda *batch: recipe.craft(Frozen(network), *batch))
    return craft(IMAGES, LABELS, KEY)


@pytest.mark.parametrize("name", ["fast", "pgd", "scattering"])
def test_a_ball_of_no_radius_leaves_the_images(name: str) -> None:
    recipe = dataclasses.replace(RECIPES[name], epsilon=0.0)
    np.testing.assert_array_equal(crafted_by(recipe), IMAGES)


# The others attack as "pgd" does.
@pytest.mark.parametrize(
    "name", ["none", "fast", "pgd", "trades", "ensemble", "scattering"]
)
def test_crafted_images_are_in_the_ball(name: str) -> None:
    recipe = RECIPES[name]
    crafted = crafted_by(recipe)
    assert crafted.shape == IMAGES.shape and crafted.dtype == jnp.float32
    assert crafted.min() >= 0 and crafted.max() <= 1
    if name == "none":
        np.testing.assert_array_equal(crafted, IMAGES)
        return
    moved = np.abs(np.asarray(crafted) - IMAGES).max()
    assert 0.9 * recipe.epsilon < moved <= recipe.epsilon
    if name not in ("ensemble", "scattering", "trades"):
        assert cross_entropy(logits_of(crafted)) > CLEAN_LOSS + 0.1


def test_trades_attack_makes_the_divergence_large() -> None:
    crafted = crafted_by(Trades())
    clean, attacked = (
        special.softmax(logits_of(images), axis=1) for images in (IMAGES, crafted)
    )
    noise = 8 / 255 * np.sign(RNG.normal(size=(50, *IMAGES.shape)))
    random = special.softmax([logits_of(IMAGES + one) for one in noise], axis=2)
    reached = special.rel_entr(clean, attacked).sum(axis=1)
    # For a network of one layer the corner that PGD finds beats every random one.
    assert (reached > special.rel_entr(clean, random).sum(axis=2).max(axis=0)).all()


def test_ensemble_attacks_every_network_in_turn() -> None:
    static = [
        lambda images, key, sign=sign: sign * network(images, key) for sign in (-1, 2)
    ]

    @jax.jit
    def craft(key):
        frozen = Frozen(network, tuple(static))
        return Ensemble().craft(frozen, jnp.asarray(IMAGES), LABELS, key)

    def fgsm(scale):
        # Away from the class that the network names, not from the label.
        logits = scale * logits_of(IMAGES)
        named = np.eye(CLASSES)[logits.argmax(axis=1)]
        slope = scale * (special.softmax(logits, axis=1) - named) @ KERNEL.T
        moved = IMAGES + 8 / 255 * np.sign(slope).reshape(IMAGES.shape)
        return np.clip(moved, 0, 1)

    expected = [fgsm(scale) for scale in (-1, 2, 1)]
    drawn = np.zeros(3, int)
    for seed in range(60):
        crafted = craft(jax.random.key(seed))
        matches = [np.allclose(crafted, each, atol=1e-5) for each in expected]
        assert any(matches)
        drawn += matches
    assert drawn.sum() == 60 and drawn.min() > 8


@pytest.mark.parametrize("name", RECIPES)
def test_records_are_read_back(name: str) -> None:
    recipe = RECIPES[name]
    if name == "ensemble":
        recipe = dataclasses.replace(recipe, networks=("a", "b"))
    record = json.loads(json.dumps(recipes.as_dict(recipe)))
    assert record["recipe"] == name == recipes.name_of(recipe)
    assert recipes.from_dict(record) == recipe


@pytest.mark.parametrize(
    "name, field, value",
    [
        ("pgd", "epsilon", -0.1),
        ("pgd", "steps", 0),
        ("pgd", "step_size", 0),
        ("fast", "epsilon", 8),
        ("fast", "step_ratio", float("nan")),
        ("trades", "beta", -1),
        ("alp", "pairing", "much"),
        ("tla", "margin", -1),
        ("tla-rn", "negatives", "nearest"),
        ("tla-sa", "anchor", "both"),
        ("scattering", "smoothing", 2),
        ("scattering", "iterations", 0.5),
    ],
)
def test_values_without_sense_are_named(name: str, field: str, value) -> None:
    with pytest.raises(ValueError, match=f"^{field} must"):
        dataclasses.replace(RECIPES[name], **{field: value})


def test_other_things_are_no_recipes() -> None:
    with pytest.raises(ValueError, match="^adversarial must be"):
        recipes.name_of("pgd")
    with pytest.raises(ValueError, match="^recipe must be one of none, fast"):
        recipes.from_dict({"recipe": "luck"})


def batch_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark and bright images."""
    labels = (np.arange(count) % 2).astype(np.int32)
    images = RNG.integers(0, 100, (count, 8, 8, 3)) + 120 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def tiny_model() -> tuple[nnx.GraphDef, nnx.State]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.STAGES, "small", ((4, 1),))
        return models.split(models.create("small", 2, 0))


# Runs with "none", "fast" and "ensemble" are in tests/train/test_train.py.
@pytest.mark.parametrize(
    "name, config",
    [
        ("pgd", BitDepthConfig(bits=2)),
        ("trades", None),
        ("alp", None),
        ("tla", None),
        ("scattering", None),
    ],
)
def test_steps_lower_the_loss(name: str, config, tiny_model) -> None:
    graphdef, variables = tiny_model[0], jax.tree.map(jnp.copy, tiny_model[1])
    parameters, statistics = nnx.split_state(variables, nnx.Param, ...)
    optimizer = optax.sgd(0.05)
    state = step.TrainState(
        jnp.int32(0), parameters, statistics, optimizer.init(parameters)
    )
    recipe = RECIPES[name]
    if name == "scattering":  # of two classes, half and half says nothing
        recipe = dataclasses.replace(recipe, smoothing=0.2)
    train_step = step.make_train_step(
        graphdef,
        optimizer,
        True,
        recipe=recipe,
        config=config,
    )
    images, labels = batch_of(16)
    losses = []
    for _ in range(15):
        state, metrics = train_step(state, images, labels, KEY)
        losses.append(float(metrics.loss))
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert int(state.step) == 15
