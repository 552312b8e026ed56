import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from toys import LOGITS, brightness

from splic_jax import SPLICConfig
from splic_jax.transforms import BilateralConfig
from train.data.loading import Dataset
from train.evaluation import cells as evaluation
from train.evaluation.cells import Cell
from train.evaluation.statistics import compare, mean_interval, wilson_interval
from train.threats.attackers import AttackSettings
from train.utils.errors import UserError

QUICK = SPLICConfig(max_steps=7, tolerance=0.0)
ATTACK = AttackSettings(steps=2)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    means = rng.uniform(0.44, 0.56, 70)
    images = rng.normal(means[:, None, None, None], 0.05, (70, 6, 6, 1))
    images = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
    labels = (images.mean(axis=(1, 2, 3)) > 127.5).astype(np.int32)
    labels[:5] = 1 - labels[:5]  # the network gets five wrong
    return Dataset("toy", images, labels, ("dark", "light"))


@pytest.mark.parametrize(("correct", "count"), [(0, 10), (10, 10), (37, 100), (1, 1)])
def test_wilson_interval_is_the_formula(correct, count):
    z, p = stats.norm.ppf(0.975), correct / count
    middle = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    half /= 1 + z**2 / count
    low, high = wilson_interval(correct, count)
    assert low == pytest.approx(max(0, middle - half), abs=1e-12)
    assert high == pytest.approx(min(1, middle + half), abs=1e-12)


def test_mean_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=30)
    got = mean_interval(values)
    low, high = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert got["mean"] - got["half_width"] == pytest.approx(low)
    assert got["mean"] + got["half_width"] == pytest.approx(high)
    assert mean_interval(np.ones(1))["half_width"] == math.inf


def test_clean_and_attacked_accuracy_of_the_bare_network(dataset):
    run = lambda threat: evaluation.measure(
        LOGITS, dataset, threat, "none", None, attack=AttackSettings(), seed=0
    )
    clean, attacked = run("clean"), run("white-box")
    assert clean.correct == (False,) * 5 + (True,) * 65
    assert set(clean.psnr) == {math.inf}
    # Linear in the mean: PGD moves it by all of 8/255, to where it stays.
    margin = np.abs(dataset.images.mean(axis=(1, 2, 3)) / 255 - 0.5)
    survives = (margin > 8 / 255) & np.asarray(clean.correct)
    assert 5 < survives.sum() < 60
    assert attacked.correct == tuple(survives.tolist())
    assert min(attacked.psnr) > 10 * math.log10((255 / 8) ** 2) - 0.01
    assert (clean.attack, attacked.attack) == (
        "none",
        "PGD-7, L-inf 8/255, step 2/255",
    )


@pytest.mark.parametrize("threat", ["clean", "black-box", "gray-box", "white-box"])
def test_cells_do_not_depend_on_how_many_images_there_are(dataset, threat):
    few = Dataset("toy", dataset.images[:9], dataset.labels[:9], dataset.class_names)
    run = lambda data: evaluation.measure(
        LOGITS,
        data,
        threat,
        "splic",
        QUICK,
        attack=ATTACK,
        seed=3,
        surrogate=jax.tree_util.Partial(lambda images: -brightness(images)),
    )
    long, short = run(dataset), run(few)
    assert len(long.correct) == 70
    assert long.correct[:9] == short.correct
    np.testing.assert_allclose(long.psnr[:9], short.psnr, rtol=1e-5)
    assert long == run(dataset)


@pytest.mark.parametrize("threat", ["clean", "white-box"])
def test_reading_later_changes_nothing(dataset, threat, monkeypatch):
    counts = []
    run = lambda: evaluation.measure(
        LOGITS,
        dataset,
        threat,
        "none",
        None,
        attack=ATTACK,
        seed=3,
        advance=counts.append,
    )
    at_once = run()
    for ahead in (1, 5):
        monkeypatch.setattr(evaluation, "batches_ahead", lambda ahead=ahead: ahead)
        assert run() == at_once
    assert sum(counts) == 3 * 70


def test_white_box_attacks_through_the_defence(dataset):
    """A network that the bare attack cannot touch, but the one through SPLIC can."""
    clean = jnp.asarray(dataset.images[:8], jnp.float32) / 255
    labels = jnp.asarray(dataset.labels[:8])
    key = jax.random.key(0)

    def images(config, attack):
        found = evaluation.attack_batch(LOGITS, clean, labels, key, 0, config, attack)
        return found.images

    bare, through = images(None, ATTACK), images(QUICK, ATTACK)
    for attacked in (bare, through):
        assert (jnp.abs(attacked - clean) <= np.float32(8 / 255)).all()
        assert ((attacked >= 0) & (attacked <= 1)).all()
    start = images(QUICK, AttackSettings(steps=0))
    # The gradient of the mean has one sign, so every pixel took both steps.
    moved = jnp.abs(through - start)
    assert (moved > 0).mean() > 0.7
    direction = jnp.where(labels == 1, -1, 1)[:, None, None, None]
    assert (jnp.sign(through - start) * direction >= 0).all()


def test_black_box_attacks_the_surrogate(dataset):
    run = lambda surrogate: evaluation.measure(
        LOGITS,
        dataset,
        "black-box",
        "none",
        None,
        attack=AttackSettings(),
        seed=0,
        surrogate=surrogate,
    )
    white = evaluation.measure(
        LOGITS, dataset, "white-box", "none", None, attack=AttackSettings(), seed=0
    )
    assert run(LOGITS).correct == white.correct
    # A surrogate that answers the other way round makes every image safer.
    backwards = jax.tree_util.Partial(lambda images: -brightness(images))
    assert sum(run(backwards).correct) > sum(white.correct) + 20


def test_classify_shows_what_the_network_saw(dataset):
    images = jnp.asarray(dataset.images[:3], jnp.float32) / 255
    _, bare = evaluation.classify_batch(LOGITS, images, jax.random.key(0), 0, None)
    assert (bare == images).all()
    _, seen = evaluation.classify_batch(LOGITS, images, jax.random.key(0), 0, QUICK)
    assert (seen != images).any()


@pytest.mark.parametrize("votes", [1, 2])
def test_an_image_that_is_not_finite_is_named(dataset, votes):
    with pytest.raises(UserError, match="^image 0 is not finite behind the defense b"):
        evaluation.measure(
            LOGITS,
            dataset,
            "clean",
            "b",
            BilateralConfig(colour_std=1e-30),  # its square is 0 in float32
            attack=ATTACK,
            seed=0,
            votes=votes,
        )


def test_images_that_the_attack_gave_up_on_are_counted(dataset):
    flat = jax.tree_util.Partial(lambda images: jnp.round(LOGITS(images)))
    found = evaluation.measure(
        flat, dataset, "white-box", "none", None, attack=ATTACK, seed=0
    )
    assert found.given_up == {"no_gradient": sum(found.correct)}
    summary = found.summary()
    assert summary["given_up"] == {"no_gradient": sum(found.correct)}
    assert f"gave up on {sum(found.correct)} (no gradient)" in evaluation.describe(
        summary
    )
    found = evaluation.measure(
        LOGITS, dataset, "white-box", "none", None, attack=ATTACK, seed=0
    )
    assert found.given_up == {}


def cell(defense, threat, correct, psnr):
    return Cell(threat, "some", None, defense, tuple(correct), tuple(psnr)).summary()


def test_summary_counts():
    summary = cell("splic", "clean", [True, False, True], [20.0, math.inf, 22.0])
    assert summary["correct"] == 2
    assert summary["count"] == 3
    assert summary["accuracy"] == pytest.approx(2 / 3)
    assert summary["psnr_db"]["mean"] == 21
    assert summary["psnr_db_by_image"] == [20.0, None, 22.0]
    assert summary["correct_by_image"] == "101"
    assert cell("none", "clean", [True], [math.inf])["psnr_db"] is None


def test_compare_pairs_the_images():
    ours = [True] * 30 + [False] * 10
    other = [True] * 10 + [False] * 25 + [True] * 5
    cells = [
        cell("splic", "gray-box", ours, np.linspace(20, 24, 40)),
        cell("splic_no_tv", "gray-box", other, np.linspace(18, 22, 40)),
        cell("none", "white-box", [False] * 40, [30.0] * 40),
    ]
    (row,) = compare(cells, "splic", "splic_no_tv")
    # 20 gained, 5 lost: McNemar's exact p-value, summed by hand.
    tail = sum(math.comb(25, k) for k in range(6)) / 2**25
    assert row["p_value"] == pytest.approx(2 * tail)
    assert row["psnr_difference_db"]["mean"] == pytest.approx(2)
    assert row["psnr_difference_db"]["half_width"] == pytest.approx(0, abs=0.01)
    (row,) = compare(cells, "splic", "none")
    assert row["threat"] == "gray-box"
    assert row["other_accuracy"] == 0
    assert row["intervals_apart"]


def test_evaluate_measures_what_is_missing_and_stores_as_it_goes(dataset, monkeypatch):
    measured, stored = [], []

    def measure(logits_fn, data, threat, defense, config, **_):
        measured.append((defense, threat))
        return Cell(threat, "some", None, defense, (True, False), (20.0, 21.0))

    monkeypatch.setattr(evaluation, "measure", measure)
    done = {("none", "clean", "none"): cell("none", "clean", [True], [20.0])}
    cells = evaluation.evaluate(
        LOGITS,
        dataset,
        {"none": None, "splic": QUICK},
        done=done,
        store=lambda cells: stored.append(len(cells)),
    )
    assert measured == [
        ("none", "white-box"),
        ("splic", "clean"),
        ("splic", "gray-box"),
        ("splic", "white-box"),
    ]
    assert cells[0] is done["none", "clean", "none"]
    assert stored == [2, 3, 4, 5]  # nothing to store for what was there
