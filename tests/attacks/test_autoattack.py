import functools
import importlib

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from attacks.ascent import Rule, ascend, preference
from attacks.autoattack import Stage, autoattack, autoattack_stages
from attacks.autopgd import autopgd, targeted_autopgd
from attacks.fab import fab
from attacks.judge import judge
from attacks.losses import cross_entropy, dlr
from attacks.oracle import make_goal, query
from attacks.square import square
from attacks.types import Attacked

CLASSES = 5
SHAPE = (4, 3, 2)


def compiled(attack, logits_fn, **options):
    return jax.jit(functools.partial(attack, logits_fn, **options))


linear, WEIGHTS = networks.linear(SHAPE, CLASSES, middle=0.5)


def some_images(n, low=0.3, high=0.7, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (n, *SHAPE)).astype(np.float32)


def named_by(logits_fn, images):
    return np.array(logits_fn(images, None).argmax(axis=1))


def smallest_radii(images, labels, order):
    """The smallest radius that breaks `linear` at each image, inside the box."""
    logits = (images - 0.5).reshape(len(images), -1) @ WEIGHTS
    return networks.half_spaces(logits, labels, WEIGHTS, order).min(axis=1)


def brief_stages(version, norm):
    """The version's stages on a small budget, only two for "standard"."""
    few = {"standard": ("apgd-ce", "apgd-t"), "plus": ("fab", "square")}[version]
    cut = {"fab": {"steps": 10, "restarts": 1}, "square": {"queries": 20}}
    return tuple(
        Stage(name, functools.partial(attack, **cut.get(name, {"steps": 25})))
        for name, attack in autoattack_stages(version, norm)
        if name in few
    )


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (
            "standard",
            [
                ("apgd-ce", autopgd, {"loss": cross_entropy}),
                ("apgd-t", targeted_autopgd, {"target_classes": 9}),
                ("fab-t", None, {}),
                ("square", square, {"queries": 5000, "resc_schedule": False}),
            ],
        ),
        (
            "plus",
            [
                ("apgd-ce", autopgd, {"loss": cross_entropy, "restarts": 5}),
                ("apgd-dlr", autopgd, {"loss": dlr, "restarts": 5}),
                ("fab", fab, {"restarts": 5}),
                ("square", square, {"queries": 5000, "resc_schedule": False}),
                ("apgd-t", targeted_autopgd, {"target_classes": 9}),
                ("fab-t", None, {}),
            ],
        ),
        (
            "rand",
            [
                ("apgd-ce", autopgd, {"loss": cross_entropy, "eot_samples": 20}),
                ("apgd-dlr", autopgd, {"loss": dlr, "eot_samples": 20}),
            ],
        ),
    ],
)
def test_stages_are_those_of_the_authors(version, expected):
    stages = autoattack_stages(version, "l2")
    assert [stage.name for stage in stages] == [name for name, _, _ in expected]
    for stage, (_, function, options) in zip(stages, expected, strict=True):
        given = dict(stage.attack.keywords)
        assert given.pop("norm") == "l2" and given.pop("eot_chunk", 1) == 1
        assert given == options
        assert function is None or stage.attack.func is function


def test_fab_t_tries_at_most_nine_targets(monkeypatch):
    seen, zeros = [], jnp.zeros(1, jnp.int32)

    def recorded(logits_fn, images, labels, key, **options):
        seen.append(options)
        return Attacked(jnp.asarray(images), zeros > 0, zeros * 1.0, zeros, zeros)

    # By name, since `attacks.autoattack` is also the function.
    module = importlib.import_module("attacks.autoattack")
    monkeypatch.setattr(module, "fab", recorded)
    attack = dict(autoattack_stages())["fab-t"]
    images, labels = some_images(1), np.array([0])
    many = lambda images, key: jnp.zeros((len(images), 30))
    for logits_fn in (linear, many):
        attack(logits_fn, images, labels, jax.random.key(0), epsilon=0.1)
    assert [options["target_classes"] for options in seen] == [CLASSES - 1, 9]


@functools.cache
def briefly(version, norm):
    stages = brief_stages(version, norm)
    return compiled(autoattack, linear, version=version, norm=norm, stages=stages)


def test_breaks_a_linear_model_at_the_smallest_radius():
    images = some_images(8)
    labels = named_by(linear, images)
    labels[2] = (labels[2] + 1) % CLASSES
    needed = smallest_radii(images, labels, 1)
    key, epsilon = jax.random.key(0), 1.02 * np.sort(needed)[4]
    found = briefly("standard", "linf")(images, labels, key, epsilon=epsilon)
    np.testing.assert_array_equal(found.success, needed < epsilon)
    wrong = named_by(linear, found.images) != labels
    np.testing.assert_array_equal(found.success, wrong)
    # Misclassified when clean: one query of it and one of the final evaluation.
    np.testing.assert_array_equal(found.images[2], images[2])
    queries = np.asarray(found.queries)
    assert queries[2] == 2
    # Each stage queries the clean image, 26 times in each run, and for its own final
    # evaluation; 1 more query compares its result.
    np.testing.assert_array_equal(queries[~wrong], 2 + 29 + (3 + 4 * 26))
    assert set(queries[wrong]) <= {2, 31, *range(60, 139, 26)}
    assert 31 in queries


@pytest.mark.parametrize(("version", "norm"), [("standard", "linf"), ("plus", "l2")])
def test_result_lies_in_the_ball_and_the_box(version, norm):
    images = np.concatenate([some_images(6, 0, 1), some_images(2) > 0.5])
    images, labels = images.astype(np.float32), np.arange(8) % CLASSES
    for epsilon in (0.0, 8 / 255, 0.5, 30.0):
        found = briefly(version, norm)(
            images, labels, jax.random.key(0), epsilon=epsilon
        )
        result = np.asarray(found.images)
        assert result.min() >= 0 and result.max() <= 1
        moved = (result - images).reshape(8, -1)
        lengths = np.linalg.norm(moved, np.inf if norm == "linf" else 2, axis=1)
        assert (lengths <= np.float32(epsilon)).all()
        if epsilon == 0:
            np.testing.assert_array_equal(result, images)
        wrong = named_by(linear, result) != labels
        np.testing.assert_array_equal(found.success, wrong)
        assert (found.success >= (named_by(linear, images) != labels)).all()


def test_an_image_does_not_depend_on_its_batch():
    images = some_images(8)
    labels = named_by(linear, images)
    labels[1] = (labels[1] + 1) % CLASSES
    attack = briefly("standard", "linf")
    key, epsilon = jax.random.key(3), np.median(smallest_radii(images, labels, 1))
    batch = attack(images, labels, key, epsilon=epsilon, first_index=0)
    assert 1 < batch.success.sum() < 8
    for i in range(8):
        alone = attack(
            images[i : i + 1], labels[i : i + 1], key, epsilon=epsilon, first_index=i
        )
        for name in ("images", "success", "queries", "not_finite"):
            one, of_all = getattr(alone, name)[0], getattr(batch, name)[i]
            np.testing.assert_array_equal(one, of_all)


def marked(name, amount, calls):
    """A stage that adds to all pixels, and records its calls."""

    def attack(logits_fn, images, labels, key, *, epsilon, first_index):
        jax.debug.callback(lambda: calls.append(name))
        nothing = jnp.zeros(len(images), jnp.int32)
        return Attacked(images + amount, nothing > 0, nothing * 1.0, nothing, nothing)

    return Stage(name, attack)


def brightness(images, key):
    light = images.mean(axis=(1, 2, 3)) - 0.5
    return jnp.stack([-light, light, 0 * light - 9, 0 * light - 9], axis=1)


def run_marked(images, labels, *amounts, logits_fn=brightness, epsilon=0.25, **options):
    calls = []
    stages = tuple(marked(i, amount, calls) for i, amount in enumerate(amounts))
    options = {"epsilon": epsilon, "stages": stages, **options}
    attack = compiled(autoattack, logits_fn, **options)
    found = jax.block_until_ready(attack(images, labels, jax.random.key(0)))
    jax.effects_barrier()
    return found, calls


def grey(*levels):
    return np.ones((1, 2, 2, 1), np.float32) * np.reshape(levels, (-1, 1, 1, 1)).astype(
        np.float32
    )


def test_a_later_stage_skips_a_broken_image():
    images, labels = grey(0.625, 0.75), np.array([1, 1])
    found, calls = run_marked(images, labels, -0.1875, -0.234375, 0.125)
    # The first stage breaks the first image; no stage breaks the other, for which the
    # second is best.
    np.testing.assert_array_equal(found.images, images - grey(0.1875, 0.234375))
    assert calls == [0, 1, 2]
    np.testing.assert_array_equal(found.queries, [3, 5])


def test_no_stage_runs_when_no_image_is_left():
    images, labels = grey(0.625, 0.375), np.array([1, 1])
    found, calls = run_marked(images, labels, -0.0625, -0.1875, -0.25)
    assert calls == [0, 1] and found.success.all()
    np.testing.assert_array_equal(found.images, grey(0.4375, 0.375))
    _, calls = run_marked(images[1:], labels[1:], -0.125)
    assert calls == []


def test_results_outside_the_ball_do_not_count():
    images, labels = grey(0.625), np.array([1])
    found, _ = run_marked(images, labels, -0.25, epsilon=0.2)
    np.testing.assert_array_equal(found.images, images)
    assert not found.success[0]


def test_iterates_with_nan_logits_are_not_returned():
    def logits_fn(images, key):
        dark = images.mean(axis=(1, 2, 3), keepdims=True)[:, :, 0, 0] < 0.4
        return jnp.where(dark, jnp.nan, brightness(images, key))

    found, _ = run_marked(grey(0.625), np.array([1]), -0.25, -0.1, logits_fn=logits_fn)
    np.testing.assert_array_equal(found.images, grey(0.625) - np.float32(0.1))
    assert found.not_finite[0] == 1 and not found.success[0]


CHANCE = 0.1


def sometimes_anything(images, key):
    """`linear`, but one prediction in ten is a random class."""
    chance, draw = jax.random.split(key)
    lucky = jax.random.bernoulli(chance, CHANCE, (len(images), 1))
    drawn = jax.random.randint(draw, (len(images),), 0, CLASSES)
    anything = 3 * jax.nn.one_hot(drawn, CLASSES)
    return jnp.where(lucky, anything, 30 * linear(images, key))


def test_one_random_error_is_no_success_of_rand():
    # Half of the images can be broken inside the ball. The others are misclassified
    # with probability 8 % anywhere in the ball.
    images = some_images(32)
    labels = named_by(linear, images)
    needed = smallest_radii(images, labels, 1)
    epsilon = np.median(needed)
    # Far enough from the boundary that the ball decides.
    clear = np.abs(needed / epsilon - 1) > 0.1
    images, labels, robust = images[clear], labels[clear], (needed > epsilon)[clear]
    n, key = len(images), jax.random.key(0)
    assert 10 < robust.sum() < n - 10

    # As in the authors' program, broken at the first misclassification of the search,
    # here a hundred queries of the clean image.
    still = Rule(lambda images: (), lambda state, images, answer, index: (images, ()))
    goal = make_goal(cross_entropy, jnp.asarray(labels))
    oracle = functools.partial(query, sometimes_anything, goal)
    options = {"steps": 100, "prefers": preference(randomized=False)}
    search = compiled(ascend, oracle, rule=still, **options)
    _, one_shot = search(start=images, key=key)
    assert (one_shot.wrong == 0).mean() < 0.05

    stages = tuple(
        Stage(name, functools.partial(attack, steps=10))
        for name, attack in autoattack_stages("rand", eot_chunk=20)
    )
    attack = compiled(autoattack, sometimes_anything, version="rand", stages=stages)
    found = attack(images, labels, key, epsilon=epsilon)
    np.testing.assert_array_equal(found.success, ~robust)
    # 20 for the clean image, the final evaluation, and each stage, plus its own query.
    np.testing.assert_array_equal(found.queries, 2 * 20 + 2 * (11 * 20 + 1 + 20))

    judged = compiled(judge, sometimes_anything, evaluations=200)(
        found.images, labels, key
    )
    right = CHANCE / CLASSES + (1 - CHANCE) * robust
    np.testing.assert_allclose(judged.accuracy, right, atol=0.1)
    assert abs(judged.accuracy.mean() - right.mean()) < 0.01
    np.testing.assert_array_equal(judged.majority, robust)


def test_rand_returns_the_highest_mean_loss_under_the_same_keys():
    # The middle stage is best only on average: the logits depend on the key more than
    # on the image.
    def logits_fn(images, key):
        return brightness(images, key) + 3 * jax.random.normal(key, (4,))

    images, labels = grey(0.75, 0.625, 0.25), np.array([1, 1, 1])
    found, calls = run_marked(
        images,
        labels,
        -0.0625,
        -0.25,
        0.125,
        version="rand",
        evaluations=50,
        logits_fn=logits_fn,
    )
    # All stages run on all images; the last is misclassified from the start.
    np.testing.assert_array_equal(found.images, images - 0.25)
    assert calls == [0, 1, 2]
    np.testing.assert_array_equal(found.queries, [250] * 3)


@pytest.mark.parametrize(("version", "classes"), [("standard", 3), ("rand", 2)])
def test_refuses_too_few_classes(version, classes):
    few = lambda images, key: linear(images, key)[:, :classes]
    message = f"needs {classes + 1} classes, logits_fn has {classes}"
    with pytest.raises(ValueError, match=message):
        autoattack(
            few, some_images(1), np.array([0]), jax.random.key(0), version=version
        )
