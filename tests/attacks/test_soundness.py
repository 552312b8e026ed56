import dataclasses
import json
from functools import cache, partial

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import scipy.special
import scipy.stats

from attacks import bpda, norms, pgd
from attacks.soundness import (
    OF_ATTACK,
    OF_CLASSIFIER,
    check_attack,
    check_ball,
    check_batch,
    check_black_box,
    check_classifier,
    check_epsilons,
    check_finite,
    check_gradients,
    check_probabilities,
    check_random,
    check_steps,
    check_unbounded,
    sentences,
)
from attacks.types import Attacked

CLASSES, SHAPE = 5, (6, 5, 3)
WEIGHTS = np.random.default_rng(0).normal(size=(90, CLASSES)).astype(np.float32) / 9
KEY, KEY2 = jax.random.key(0), jax.random.key(1)


def linear(images, key):
    flat = images.reshape(len(images), -1) - 0.5
    return jnp.matmul(flat, WEIGHTS, precision="highest")


def some(count, seed=1):
    """Images and the classes that `linear` predicts."""
    images = np.random.default_rng(seed).random((count, *SHAPE), np.float32)
    return images, np.array(linear(images, KEY).argmax(axis=1))


def by_name(findings):
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def tripped(findings):
    return {finding.check for finding in findings if finding.tripped}


def of_classifier(logits_fn, count=16, **options):
    return by_name(check_classifier(logits_fn, *some(count), KEY, **options))


def of_gradients(logits_fn, count=16, **options):
    return by_name(check_gradients(logits_fn, *some(count), KEY, **options))


@cache
def of_linear():
    return of_classifier(linear)


def test_a_sound_evaluation_trips_nothing():
    logits_fn = networks.network()
    images, labels = networks.data(64, seed=5)
    found = check_classifier(logits_fn, images, labels, KEY, questions=2)
    found += check_attack(logits_fn, images, labels, KEY, steps=(0, 10), scales=(0, 2))
    assert tripped(found) == set()
    found = by_name(found)
    # At this epsilon hardly any image is broken, although the attack works.
    assert found["steps"].values["10 steps"] > 0.9
    assert found["unbounded"].values["accuracy"] == 0
    assert found["ascent"].values == {"share": 1.0, "images": 64.0}
    said = sentences(found.values())
    assert said.startswith("No problem was found, which is no proof.")
    assert all(name in said for name in found)


def test_a_sound_evaluation_in_l2_trips_nothing():
    options = {"norm": "l2", "epsilon": 1.0, "steps": (0, 5), "scales": ()}
    found = check_attack(linear, *some(32), KEY, black_box={}, **options)
    assert tripped(found) == set()
    assert "black box" not in by_name(found)
    assert by_name(found)["ball"].values["largest"] > 0.99


# --- Outputs


def random_logits(images, key):
    return jax.random.normal(key, (len(images), CLASSES))


def test_random_outputs_trip():
    assert of_classifier(random_logits)["random"].tripped
    found = of_linear()["random"]
    assert not found.tripped and found.values == {"share": 0, "difference": 0}


def test_share_of_random_predictions_is_that_of_a_coin():
    logits = np.random.default_rng(0).normal(size=(4, 5000, 2))
    found = check_random(logits)
    # All four agree in 2 of 16 cases.
    assert abs(found.values["share"] - 14 / 16) < 4 * np.sqrt(14 / 16 * 2 / 16 / 5000)
    assert f"{100 * found.values['share']:.3g} %" in found.sentence
    assert 'version="rand"' in found.sentence


@pytest.mark.parametrize(("size", "trips"), [(1e-2, True), (1e-6, False)])
def test_random_logits_trip_even_if_no_prediction_changes(size, trips):
    logits = np.tile([[3.0, 0.0, 4.0]], (2, 7, 1))
    logits[1, 2, 0] += 5 * size
    found = check_random(logits)
    assert found.tripped == trips
    assert found.values["share"] == 0
    np.testing.assert_allclose(found.values["difference"], size, rtol=1e-2)


def test_nan_logits_under_one_key_are_random():
    logits = np.ones((2, 3, 2))
    assert not check_random(logits).tripped
    logits[1, 0, 0] = np.nan
    assert check_random(logits).tripped
    logits[0, 0, 0] = np.nan
    assert not check_random(logits).tripped


def normalized(images, key):
    """Batch normalization in training mode."""
    flat = images.reshape(len(images), -1)
    flat = (flat - flat.mean(axis=0)) / jnp.sqrt(flat.var(axis=0) + 1e-3)
    return flat @ WEIGHTS


def test_images_that_interact_trip():
    found = of_classifier(normalized, questions=2, starts=0)
    assert tripped(found.values()) == {"batch"}
    assert found["batch"].values["difference"] > 0.1
    assert found["batch"].values["alone"] > 0.5
    assert "running averages" in found["batch"].sentence
    # The same network with its running averages.
    images, _ = some(16)
    mean, deviation = images.mean(axis=0), images.std(axis=0)
    still = lambda images, key: linear((images - mean) / deviation + 0.5, key)
    assert not check_batch(still, images, KEY).tripped
    random = lambda images, key: normalized(images, key) + random_logits(images, key)
    assert of_classifier(random, questions=2, starts=0)["batch"].tripped
    by_count = lambda images, key: linear(images, key) * len(images)
    found = check_batch(by_count, images, KEY)
    assert found.tripped and found.values["difference"] == 0


def one_image_at_a_time(noise):
    """Adds noise to each image, drawn from its own key: `noise(key, index)`."""

    def logits_fn(images, key):
        keys = jax.vmap(noise, (None, 0))(key, jnp.arange(len(images)))
        drawn = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)
        return linear(images + drawn, key)

    return logits_fn


@pytest.mark.parametrize(
    "logits_fn",
    [
        # As in this project's transforms: from the key and the image's index.
        one_image_at_a_time(jax.random.fold_in),
        one_image_at_a_time(lambda key, index: jax.random.fold_in(KEY, index)),
        one_image_at_a_time(lambda key, index: key),
        random_logits,
        # From the position in the batch, and differently for another batch size.
        lambda x, key: linear(x, key) + jax.random.permutation(key, len(x))[:, None],
    ],
)
def test_random_images_of_a_batch_do_not_interact(logits_fn):
    images, _ = some(9)
    is_random = check_random(np.stack([logits_fn(images, k) for k in (KEY, KEY2)]))
    found = check_batch(logits_fn, images, KEY, random=is_random.tripped)
    assert not found.tripped
    assert found.values["difference"] == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_rounding_is_no_interaction(dtype):
    images, _ = some(9)
    coarse = lambda x, key: (
        (x - 0.5).reshape(len(x), -1).astype(dtype) @ (WEIGHTS.astype(dtype))
    )
    assert not check_batch(coarse, images, KEY).tripped
    # As on a device with another, low-precision program for a single image.
    rounds = lambda x, key: linear(x, key) * (1 + 1e-2 * (len(x) == 1))
    assert not check_batch(rounds, images, KEY).tripped


def test_images_do_not_interact_in_a_convolutional_network():
    images, _ = networks.data(9, seed=5)
    found = check_batch(networks.network(), images, KEY)
    assert not found.tripped
    assert found.values["difference"] == 0 and found.values["alone"] < 1e-5


def test_probabilities_trip():
    found = of_classifier(lambda images, key: jax.nn.softmax(linear(images, key)))
    assert found["probabilities"].tripped
    assert "before the softmax" in found["probabilities"].sentence
    assert not of_linear()["probabilities"].tripped


@pytest.mark.parametrize(
    "logits",
    [
        scipy.special.log_softmax(WEIGHTS, axis=1),
        np.abs(WEIGHTS),
        np.array([[0.5, 0.5, 0.0], [0.5, 0.6, -0.1]]),
        np.array([[0.5, 0.5, 0.0], [np.nan, 0.5, 0.5]]),
    ],
)
def test_other_logits_are_no_probabilities(logits):
    assert not check_probabilities(logits).tripped


def test_logits_that_are_not_finite_trip():
    def broken(images, key):
        logits = linear(images, key)
        return logits.at[:3, 0].set(jnp.nan).at[2:4, 1].set(jnp.inf)

    found = of_classifier(broken, count=16)["finite"]
    assert found.tripped and found.values == {"share": 4 / 16}
    assert "25 %" in found.sentence
    logits = np.zeros((2, 4, 3))
    assert not check_finite(logits).tripped
    logits[1, 3, 0] = -np.inf
    assert check_finite(logits).values == {"share": 1 / 4}


@pytest.mark.parametrize(("classes", "trips"), [(3, True), (4, False)])
def test_too_few_classes_for_the_dlr_loss_trip(classes, trips):
    images, _ = some(8)
    few = lambda images, key: linear(images, key)[:, :classes]
    labels = np.zeros(8, np.int32)
    found = check_classifier(few, images, labels, KEY, questions=2, starts=0)
    assert by_name(found)["classes"].tripped == trips


# --- Gradients


def test_gradients_of_a_sound_classifier_trip_nothing():
    found = of_linear()
    assert tripped(found.values()) == set()
    assert found["ascent"].values == {"share": 1.0, "images": 16.0}


def round_images(images, key):
    return jnp.round(images * 15) / 15


def test_zero_gradient_trips():
    quantised = lambda images, key: linear(round_images(images, key), key)
    found = of_gradients(quantised)
    assert tripped(found.values()) == {"zero gradient"}
    assert found["zero gradient"].values == {"share": 1.0}
    assert found["ascent"].values["images"] == 0
    defended = lambda images, key: linear(bpda(round_images)(images, key), key)
    assert tripped(of_gradients(defended).values()) == set()


def test_one_image_without_a_gradient_trips():
    def one_flat(images, key):
        return linear(images.at[3].set(jax.lax.stop_gradient(images[3])), key)

    found = of_gradients(one_flat, count=20)
    assert tripped(found.values()) == {"zero gradient"}
    assert found["zero gradient"].values == {"share": 1 / 20}


def test_gradient_that_is_not_finite_trips():
    def distance(images, key):
        return linear(images, key) + jnp.sqrt(0 * images[:, 0, 0, :1])

    found = of_gradients(distance)
    assert "finite gradient" in tripped(found.values())
    assert found["finite gradient"].values == {"share": 1.0}


def test_saturated_cross_entropy_trips():
    images, labels = some(16)
    labels[:6] = (labels[:6] + 1) % CLASSES
    found = by_name(
        check_gradients(
            lambda images, key: 1e4 * linear(images, key), images, labels, KEY, starts=0
        )
    )
    assert tripped(found.values()) == {"saturation"}
    # In float64: margins so large that float32's softmax rounds to 1.
    logits = 1e4 * (images.reshape(16, -1).astype(np.float64) - 0.5) @ WEIGHTS
    loss = -scipy.special.log_softmax(logits, axis=1)[np.arange(16), labels]
    assert found["saturation"].values == {"share": np.mean(loss < 2**-25)} != {}
    assert 0.3 < found["saturation"].values["share"] < 1


# A smooth gradient, opposite to the true one.
wrong_way = bpda(lambda images, key: images, backward=lambda images: -images)


def test_gradient_that_points_the_wrong_way_trips():
    found = of_gradients(lambda images, key: linear(wrong_way(images, key), key))
    assert tripped(found.values()) == {"ascent"}
    assert found["ascent"].values == {"share": 0.0, "images": 16.0}


def test_shattered_gradient_trips():
    def shattered(images, key):
        ripple = 1e-4 * jnp.sin(1e6 * images)
        return linear(images + ripple, key)

    found = of_gradients(shattered, count=100)
    assert tripped(found.values()) == {"ascent"}
    assert 0.3 < found["ascent"].values["share"] < 0.7


def test_randomness_alone_does_not_make_a_gradient_useless():
    found = of_gradients(lambda x, key: linear(x, key) + random_logits(x, key))
    assert found["ascent"].values["share"] == 1


# --- Attacks


def test_an_attack_along_a_wrong_gradient_trips():
    defended = lambda images, key: linear(wrong_way(images, key), key)
    images, labels = some(48)
    options = {"epsilon": 0.1, "steps": (0, 10), "scales": (0.5,)}
    found = by_name(check_attack(defended, images, labels, KEY, **options))
    assert tripped(found.values()) == {"steps", "epsilons", "unbounded", "black box"}
    assert found["unbounded"].values == {"accuracy": 1.0, "chance": 1 / CLASSES}
    white, noise = found["black box"].values.values()
    assert white == 1 and noise < 0.9
    assert sentences(found.values()).count("\n") == 3


def leaves_the_ball(logits_fn, images, labels, key, *, epsilon):
    """A working attack in a ball of twice the radius."""
    return pgd(logits_fn, images, labels, key, epsilon=2 * epsilon)


def test_an_attack_that_leaves_the_ball_trips():
    images, labels = some(8)
    options = {"epsilon": 0.05, "steps": None, "scales": ()}
    attacks = {"attack": leaves_the_ball, "black_box": {"pgd": pgd}}
    found = by_name(check_attack(linear, images, labels, KEY, **attacks, **options))
    assert "steps" not in found
    assert found["ball"].tripped
    assert found["ball"].values["out of ball"] == 1
    assert found["ball"].values["largest"] > 0.05
    assert set(found["black box"].values) == {"white-box", "pgd"}


def test_attack_is_called_with_its_steps_and_its_epsilon():
    seen = []

    def attack(logits_fn, images, labels, key, *, epsilon, steps):
        jax.debug.callback(lambda radius: seen.append((float(radius), steps)), epsilon)
        n = len(images)
        none = jnp.zeros(n, jnp.int32)
        return Attacked(images, none > 0, jnp.zeros(n), none, none)

    options = {"epsilon": 0.25, "steps": (0, 3), "scales": (0, 2)}
    black_box = {"nothing": partial(attack, steps=-1)}
    found = check_attack(
        linear, *some(32), KEY, attack=attack, black_box=black_box, **options
    )
    jax.effects_barrier()
    expected = [(0.25, -1), (0.25, 0), (0.0, 3), (0.25, 3), (0.5, 3), (1.0, 3)]
    assert sorted(seen, key=lambda call: call[::-1]) == expected
    assert tripped(found) == {"steps", "epsilons", "unbounded"}


@pytest.mark.parametrize("norm", norms.NORMS)
def test_ball_trips_beyond_rounding_only(norm):
    images = np.random.default_rng(2).uniform(0.3, 0.7, (4, *SHAPE)).astype(np.float32)
    epsilon = {"linf": 0.1, "l2": 0.5, "l1": 4.0}[norm]
    direction = np.random.default_rng(3).normal(size=images.shape)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    length = np.linalg.norm(direction.reshape(4, -1), order, axis=1)
    step = epsilon * direction / length[:, None, None, None]
    for factor, trips in ((1, False), (1 + 1e-3, True)):
        attacked = (images + factor * step).astype(np.float32)
        found = check_ball(attacked, images, epsilon, norm)
        assert found.tripped == trips
        assert found.values["out of ball"] == trips
        np.testing.assert_allclose(found.values["largest"], factor * epsilon, rtol=1e-5)


@pytest.mark.parametrize("pixel", [-0.01, 1.01, np.nan])
def test_pixels_outside_the_box_trip(pixel):
    images = np.full((4, 2, 3, 1), 0.99, np.float32)
    attacked = images.copy()
    assert not check_ball(attacked, images, 1.0).tripped
    attacked[1, 0, 2, 0] = pixel
    found = check_ball(attacked, images, 1.0)
    assert found.tripped
    assert found.values["out of box"] == 1 / 4


# --- Accuracies measured elsewhere


@pytest.mark.parametrize("check", [check_steps, check_epsilons])
def test_accuracies_that_rise_or_stay_trip(check):
    check = partial(check, classes=10, count=1000)
    name = "step" if check.func is check_steps else "epsilon"
    falls = check({0: 0.9, 1: 0.5, 2: 0.4})
    assert not falls.tripped
    assert list(falls.values.values()) == [0.9, 0.5, 0.4]
    rises = check({2: 0.6, 0: 0.9, 1: 0.5})
    assert rises.tripped and "Accuracy rises from 50 %" in rises.sentence
    assert name in rises.sentence
    assert not check({0: 0.9, 1: 0.5, 2: 0.53}).tripped
    stays = check({0: 0.9, 1: 0.9})
    assert stays.tripped and "does not clearly fall, from 90 %" in stays.sentence
    assert not check({0: 0.09, 1: 0.1}).tripped


def test_no_fall_is_expected_where_the_margin_rises():
    accuracies = {0: np.ones(20), 20: np.ones(20)}
    start, slopes = np.random.default_rng(0).normal(size=(2, 20))
    for end, trips in (
        (start, True),
        (start + slopes, True),
        (start + np.abs(slopes), False),
        (start - np.abs(slopes), True),
    ):
        found = check_steps(accuracies, 10, margins=(jnp.array(start), jnp.array(end)))
        assert found.tripped == trips


@pytest.mark.parametrize("changed", range(1, 21))
def test_paired_accuracies_agree_with_the_sign_test(changed):
    before, after = np.ones(500, bool), np.ones(500, bool)
    after[:changed] = False
    p = scipy.stats.binomtest(changed, changed, alternative="greater").pvalue
    assert check_black_box({"pgd": before}, {"square": after}).tripped == (p < 0.01)
    assert check_steps({1: after, 2: before}, 10).tripped
    assert not check_black_box({"pgd": after}, {"square": before}).tripped


def test_false_positives_are_as_rare_as_stated():
    rng = np.random.default_rng(0)
    draws, count = 3000, 400
    expected = scipy.stats.norm.sf(2.5)
    first, second = rng.binomial(count, 0.6, (2, draws)) / count
    trips = [
        check_black_box({"white": p}, {"black": q}, count).tripped
        for p, q in zip(first.tolist(), second.tolist(), strict=True)
    ]
    guesses = (rng.binomial(count, 1 / 10, draws) / count).tolist()
    lucky = [check_unbounded(accuracy, 10, count).tripped for accuracy in guesses]
    # A classifier that flips a tenth of its predictions at random.
    answers = rng.random((draws, 2, 100)) < 0.9
    flips = [check_black_box({"white": a}, {"black": b}).tripped for a, b in answers]
    for rate in map(np.mean, (trips, lucky, flips)):
        assert expected / 3 < rate < 3 * expected


def test_unbounded_attack_must_reach_chance():
    assert check_unbounded(0.3, 10, 1000).tripped
    assert not check_unbounded(0.0, 10, 1000).tripped
    assert not check_unbounded(0.11, 10, 1000).tripped
    # Four images cannot tell 30 % from 10 %.
    assert not check_unbounded(0.3, 10, 4).tripped
    assert check_unbounded(np.ones(8), 2).tripped


def test_black_box_is_compared_with_the_worst_case_of_each_image():
    one, other = np.ones((2, 100))
    one[:50], other[50:] = 0, 0
    black = {"noise": np.ones(100), "square": np.arange(100) >= 80}
    assert not check_black_box({"one": one, "other": other}, black).tripped
    found = check_black_box({"one": one}, black)
    assert found.tripped
    assert found.values == {"white-box": 0.5, "noise": 1.0, "square": 0.2}
    assert "20 % under square" in found.sentence
    as_means = {"one": 0.5, "other": 0.5}
    assert check_black_box(as_means, {"square": 0.2}, 100).tripped


# --- Too few images


def of_network(count):
    images, labels = networks.data(8, seed=5)
    inputs = networks.network(), images[:count], labels[:count], KEY
    found = check_classifier(*inputs, questions=2, starts=0)
    return found + check_attack(*inputs, steps=(0, 2), scales=(0,))


@pytest.mark.parametrize("count", [0, 6, pytest.param(7, marks=pytest.mark.slow)])
def test_with_too_few_images_a_check_abstains(count):
    found = of_network(count)
    assert tripped(found) <= {"steps", "epsilons"} if count == 7 else not tripped(found)
    wants = {finding.check: finding.wants for finding in found if finding.wants}
    compare = {"ascent", "epsilons", "unbounded", "steps", "black box"}
    names = [finding.check for finding in found]
    assert names == [*OF_CLASSIFIER, *OF_ATTACK]
    few = dict.fromkeys(compare, 7)
    assert wants == {0: dict.fromkeys(names, 1), 6: few, 7: {}}[count]
    said = sentences(found)
    assert ("ascent needs" in said) == (count < 7)
    for finding in found:
        assert not (finding.tripped and finding.wants)
        assert (f"there are {count}." in finding.sentence) == bool(finding.wants)


def test_an_image_is_not_compared_with_itself():
    assert check_batch(linear, some(1)[0], KEY).wants == 2
    assert not check_batch(linear, some(2)[0], KEY).wants
    assert check_batch(normalized, some(2)[0], KEY).tripped


def test_a_wrong_gradient_of_seven_images_trips():
    def found(count):
        images, labels = some(count)
        wrong = lambda images, key: linear(wrong_way(images, key), key)
        return by_name(check_gradients(wrong, images, labels, KEY, starts=0))["ascent"]

    assert found(7).tripped
    assert not found(6).tripped and found(6).wants == 7
    assert found(6).values == {"share": 0.0, "images": 6.0}


def test_accuracies_of_few_images_trip_nothing():
    one, none = {"pgd": 1.0}, {"square": 0.0}
    for count in (1, 6):
        assert check_black_box(one, none, count).wants == 7
        assert check_unbounded(1.0, 10, count).wants == 7
        assert check_steps({0: 0.0, 1: 1.0}, 10, count).wants == 7
        assert check_epsilons({0: np.ones(count), 1: np.ones(count)}, 10).wants == 7
    assert check_black_box(one, none, 7).tripped
    assert check_unbounded(1.0, 10, 7).tripped
    assert check_steps({0: 0.0, 1: 1.0}, 10, 7).tripped
    assert check_epsilons({0: np.ones(7), 1: np.ones(7)}, 10).tripped
    # Five of nine are broken: not significant, but no reason to doubt.
    after = np.arange(9) < 4
    assert not check_epsilons({0: np.ones(9), 1: after}, 10).tripped


# --- What is returned


def test_findings_are_plain_data():
    findings = [
        *of_linear().values(),
        check_finite(jnp.full((3, 2), jnp.nan)),
        check_random(jnp.eye(4).reshape(2, 2, 4)),
        check_ball(np.ones((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)), 0.5),
        check_steps({0: 0.9, 5: jnp.asarray(0.4)}, 10, 100),
        check_unbounded(np.float32(0.5), 10, 100),
        check_black_box({"pgd": np.ones(9)}, {"square": np.zeros(9)}),
    ]
    for finding in findings:
        as_json = dataclasses.asdict(finding)
        assert json.loads(json.dumps(as_json)) == as_json
        assert type(finding.tripped) is bool
        assert finding.sentence.endswith(".")


def test_sentences_name_only_the_tripped_checks():
    good, bad = check_unbounded(0.0, 10, 99), check_unbounded(0.9, 10, 99)
    assert sentences([good, bad]) == f"unbounded: {bad.sentence}"
    assert "look at the gradients" in bad.sentence
    assert "look at the gradients" not in good.sentence


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: of_classifier(linear, questions=1), "questions must be at least 2"),
        (
            lambda: of_classifier(linear, epsilon=0),
            "epsilon must be finite and above 0",
        ),
        (
            lambda: of_gradients(linear, norm="l3"),
            "norm must be 'linf' or 'l2' or 'l1'",
        ),
        (lambda: of_gradients(linear, starts=-1), "starts must be at least 0, got -1"),
        (
            lambda: check_attack(linear, *some(1), KEY, epsilon=0),
            "epsilon must be finite and above 0",
        ),
        (
            lambda: check_attack(linear, some(1)[0], np.array([5]), KEY),
            r"labels\[0\] is 5",
        ),
        (
            lambda: check_attack(linear, *some(1), KEY, steps=(5, 5)),
            r"steps must be two or more, increasing, got \(5, 5\)",
        ),
        (lambda: check_steps({1: 0.5}, 10, 9), "steps: needs two or more"),
        (lambda: check_steps({0: 0.9, 1: 0.5}, 10), "need a count"),
        (lambda: check_unbounded(0.5, 10), "need a count"),
        (lambda: check_black_box({}, {"square": 0.5}, 9), "at least one attack"),
    ],
)
def test_refuses_invalid_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
