"""Presets, what goes with which threat, and what an attack goes through."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from attacks.soundness import check_batch
from splic_jax import SPLICConfig
from splic_jax.transforms import (
    METHODS,
    BitDepthConfig,
    ThermometerConfig,
    USVTConfig,
    fitted,
)
from train.data.loading import Dataset
from train.evaluation.cells import attack_batch
from train.evaluation.estimate import estimate, questions
from train.evaluation.plan import attack_words, planned
from train.threats import attackers
from train.threats.attackers import ATTACKS_OF, PRESETS, AttackSettings
from train.threats.defended import defended

WEIGHTS = jax.random.normal(jax.random.key(0), (8 * 8 * 3, 3))
KEY = jax.random.key(1)
IMAGES = jax.random.uniform(jax.random.key(2), (2, 8, 8, 3))


def _network(images):
    return images.reshape(len(images), -1) @ WEIGHTS


network = jax.tree_util.Partial(_network)
LABELS = _network(IMAGES).argmax(axis=1)


def test_presets_are_the_papers_and_strong_ones():
    for name in attackers.PAPER:
        assert PRESETS[name].epsilon == 8 / 255
    pgd = PRESETS["pgd"]
    assert (pgd.steps, pgd.step_size, pgd.restarts) == (7, 2 / 255, 1)
    assert PRESETS["cw"].steps == 1000
    assert PRESETS["eot"].eot_samples >= 20
    assert {name for names in ATTACKS_OF.values() for name in names} == set(PRESETS)


def test_words_tell_presets_apart():
    words = [attack.words() for attack in PRESETS.values()]
    words += [
        attack_words("adaptive", USVTConfig(), PRESETS[name])
        for name in ATTACKS_OF["adaptive"]
    ]
    assert len(set(words)) == len(words) - 1  # "eot" and "gradient-eot", bare
    assert words[1] == "PGD-7, L-inf 8/255, step 2/255"


@pytest.mark.parametrize(
    "threat, name, config, expected",
    [
        ("white-box", "pgd", None, True),
        ("white-box", "square", USVTConfig(), False),
        ("query", "square", USVTConfig(), True),
        ("adaptive", "eot", USVTConfig(), True),
        ("adaptive", "eot", None, False),
        ("adaptive", "eot", BitDepthConfig(), False),
        ("adaptive", "gradient-eot", USVTConfig(), True),
        ("clean", "pgd", USVTConfig(), False),
    ],
)
def test_attacks_go_where_they_make_sense(threat, name, config, expected):
    assert attackers.applies(threat, name, PRESETS[name], config) is expected


@pytest.mark.parametrize("name", ["fgsm", "pgd", "cw", "square", "spsa"])
def test_attacks_stay_in_the_ball_and_raise_the_loss(name):
    attack = dataclasses.replace(PRESETS[name], steps=3 if name != "square" else 20)
    found = attack_batch(network, IMAGES, LABELS, KEY, 0, None, attack)
    assert float(jnp.abs(found.images - IMAGES).max()) <= np.float32(8 / 255)

    def margin(images):
        logits = np.asarray(network(images))
        others = np.where(np.eye(3)[LABELS] == 1, -np.inf, logits).max(axis=1)
        return others - logits[np.arange(2), LABELS]

    assert (margin(found.images) > margin(IMAGES)).all()
    assert int(found.queries.max()) > 0


def test_the_true_derivative_is_that_of_the_defence_and_bpdas_is_not():
    config = SPLICConfig(max_steps=14, rank=4, tolerance=0.0)
    slopes = {}
    for derivative in ("bpda", "true"):
        through = defended(network, config, 0, derivative)
        slopes[derivative] = jax.jit(
            jax.grad(lambda x, f=through: f(x, KEY)[:, 0].sum())
        )(IMAGES)
    expected = jnp.broadcast_to(WEIGHTS[:, 0].reshape(8, 8, 3), IMAGES.shape)
    np.testing.assert_allclose(slopes["bpda"], expected, rtol=1e-5)
    # The targets of a completion are never looked at, so half of it is zero.
    assert 0.3 < float((slopes["true"] == 0).mean()) < 0.7


def test_bpda_takes_the_stand_in_where_there_is_one():
    config = ThermometerConfig(levels=2)
    columns = lambda images: images.sum(axis=(1, 2))
    through = defended(columns, config, 0, "bpda")
    slope = jax.grad(lambda x: through(x, KEY).sum())(IMAGES)
    assert float(jnp.abs(slope).min()) > 0


def test_the_plan_lists_the_cells_that_are_measured(capsys):
    dataset = Dataset(
        "made up",
        np.zeros((4, 8, 8, 3), np.uint8),
        np.zeros(4, np.int32),
        ("a", "b", "c"),
    )
    defenses = {"none": None, "bit_depth": BitDepthConfig()}
    arguments = (defenses, ("clean", "gray-box", "white-box"), {"pgd": PRESETS["pgd"]})
    table = estimate(network, dataset, *arguments, surrogate=False)
    cells = list(planned(*arguments, surrogate=False))
    assert [cell[0] for cell in cells] == ["none"] * 2 + ["bit_depth"] * 3
    assert len(table.rows) == len(cells) + 1


@pytest.mark.parametrize(
    "attack, count",
    [
        (AttackSettings(), 8),
        (AttackSettings(restarts=3, eot_samples=20), 480),
        (PRESETS["square"], 5001),
        (PRESETS["cw"], 5000),
    ],
)
def test_questions_are_counted_as_the_attack_asks_them(attack, count):
    assert questions(attack) == count


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_no_defence_is_taken_for_images_that_interact(name, fixed):
    """Their draws follow the key and the place, or with a fixed key the place alone."""
    training = jax.random.uniform(KEY, (64, 12, 10, 3))
    config = fitted(METHODS[name].config, training, KEY)
    # Of codes the first channels are as good as images.
    bare = lambda images: networks.network()(images[..., :3], KEY)
    logits_fn = defended(bare, config, 0, "bpda")
    asked = (lambda images, key: logits_fn(images, KEY)) if fixed else logits_fn
    images = jnp.asarray(networks.data(4, seed=5)[0])
    random = METHODS[name].random and not fixed
    found = check_batch(asked, images, KEY, random=random, alone=2)
    assert not found.tripped
    assert found.values["difference"] < 1e-6
    assert found.values["alone"] < 1e-4
