import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import half_spaces, linear

from attacks.autopgd import autopgd, checkpoints, targeted_autopgd
from attacks.losses import cross_entropy, dlr, targeted_dlr

CLASSES = 5
SHAPE = (3, 4, 2)


def some_images(n, shape=SHAPE, low=0.0, high=1.0, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (n, *shape)).astype(np.float32)


def compiled(attack, logits_fn, **options):
    return jax.jit(functools.partial(attack, logits_fn, **options))


def named_by(logits_fn, images):
    return np.array(logits_fn(images, None).argmax(axis=1))


RNG = np.random.default_rng(9)
FIRST = RNG.normal(size=(np.prod(SHAPE), 16))
SECOND = RNG.normal(size=(16, CLASSES))


def two_layers(images, key):
    """A smooth nonlinear classifier."""
    hidden = jnp.sin(images.reshape(len(images), -1) @ FIRST.astype(images.dtype))
    return hidden @ SECOND.astype(images.dtype)


def loss_and_slope(image, label):
    """Cross-entropy of `two_layers` and its gradient, in float64 NumPy."""
    angle = image.ravel() @ FIRST
    z = np.sin(angle) @ SECOND
    z = z - z.max()
    probabilities = np.exp(z) / np.exp(z).sum()
    back = probabilities - np.eye(CLASSES)[label]
    gradient = FIRST @ (np.cos(angle) * (SECOND @ back))
    return -np.log(probabilities[label]), gradient.reshape(image.shape)


def into_ball(point, image, epsilon, norm):
    move = point - image
    if norm == "linf":
        move = np.clip(move, -epsilon, epsilon)
    else:
        move = move * min(1, epsilon / np.linalg.norm(move))
    return np.clip(image + move, 0, 1)


def reference(image, start, label, epsilon, norm, steps, rho, ends):
    """Algorithm 1 for one image, with lists of losses and points as in the paper."""
    points, step_size = [start], 2 * epsilon
    loss, gradient = loss_and_slope(start, label)
    losses, best = [loss], (loss, start, gradient)
    best_then, halved_then, halvings = loss, True, 0
    x, before = start, start
    for k in range(steps):
        unit = np.sign(gradient)
        if norm == "l2":
            unit = gradient / np.linalg.norm(gradient)
        z = into_ball(x + step_size * unit, image, epsilon, norm)
        new = z
        if k > 0:
            new = into_ball(
                x + 0.75 * (z - x) + 0.25 * (x - before), image, epsilon, norm
            )
        x, before = new, x
        loss, gradient = loss_and_slope(x, label)
        points.append(x)
        losses.append(loss)
        if loss > best[0]:
            best = (loss, x, gradient)
        if k + 1 in ends:
            since = k + 1 - max([0, *(end for end in ends if end < k + 1)])
            recent = losses[-since - 1 :]
            rises = sum(b > a for a, b in zip(recent, recent[1:], strict=False))
            halve = rises <= rho * since
            halve |= not halved_then and best_then >= best[0]
            best_then, halved_then = best[0], halve
            if halve:
                step_size, halvings = step_size / 2, halvings + 1
                _, x, gradient = best
    return points[int(np.argmax(losses))], max(losses), halvings


@pytest.mark.parametrize(
    ("norm", "epsilon", "steps", "ends"),
    [
        ("linf", 0.3, 100, [22, 41, 57, 70, 80, 87, 93, 99]),
        ("l2", 0.8, 37, [8, 15, 21, 26, 30, 33, 35, 37]),
    ],
)
def test_agrees_with_algorithm_1_written_out(norm, epsilon, steps, ends):
    rho = 0.6
    with jax.enable_x64(True):
        images = some_images(8).astype(np.float64)
        labels = named_by(two_layers, images)

        # Two evaluations: only the loss counts, without the clean image.
        def run(steps):
            attack = compiled(
                autopgd,
                two_layers,
                norm=norm,
                epsilon=epsilon,
                rho=rho,
                steps=steps,
                evaluations=2,
            )
            return attack(images, labels, jax.random.key(0))

        start, found = run(0).images, run(steps)
        assert found.images.dtype == np.float64
    total = 0
    for i in range(len(images)):
        expected, loss, halvings = reference(
            images[i], np.asarray(start[i]), labels[i], epsilon, norm, steps, rho, ends
        )
        np.testing.assert_allclose(found.images[i], expected, rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.loss[i], loss, rtol=1e-8)
        total += halvings
    # Some step sizes were halved, and some were not.
    assert 0 < total < len(images) * len(ends)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 16, 17, 20, 37, 50, 100, 101, 1000])
def test_checkpoints_are_those_of_a_counter(steps):
    # As in the authors' program: a counter and a shrinking interval.
    interval, counter, expected = max(int(0.22 * steps), 1), 0, []
    for step in range(1, steps + 1):
        counter += 1
        if counter == interval:
            expected.append(step)
            counter = 0
            interval = max(interval - max(int(0.03 * steps), 1), int(0.06 * steps), 1)
    assert checkpoints(steps) == tuple(expected)


def test_checkpoints_are_the_shares_of_the_paper():
    shares = [0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    assert checkpoints(10000) == tuple(round(10000 * p) for p in shares[1:] if p <= 1)
    assert checkpoints(0) == ()


ATTACKS = {
    "ce": autopgd,
    "dlr": functools.partial(autopgd, loss=dlr),
    "targeted": targeted_autopgd,
}
CHOICES = [("ce", "linf"), ("dlr", "l2"), ("targeted", "linf"), ("targeted", "l2")]


@functools.cache
def on_linear_model(name, norm):
    logits_fn, weights = linear(SHAPE, CLASSES, middle=0.5)
    return compiled(ATTACKS[name], logits_fn, norm=norm), logits_fn, weights


@pytest.mark.parametrize(("name", "norm"), CHOICES[1:])
def test_breaks_a_linear_model_at_the_smallest_radius(name, norm):
    # The difference of two classes' weights is the fastest way to close the gap of
    # their logits. In the middle of the box nothing is clipped. (The cross-entropy of
    # more than two classes rises fastest between two such directions.)
    attack, logits_fn, weights = on_linear_model(name, norm)
    images = some_images(8, low=0.3, high=0.7)
    labels = named_by(logits_fn, images)
    logits, order = (images - 0.5).reshape(8, -1) @ weights, 1 if norm == "linf" else 2
    needed = half_spaces(logits, labels, weights, order).min(axis=1)
    key = jax.random.key(0)
    for factor in (0.98, 1.02):
        epsilon = factor * np.sort(needed)[3]
        found = attack(images, labels, key, epsilon=epsilon)
        np.testing.assert_array_equal(found.success, needed < epsilon)
    assert 0 < found.success.sum() < 8


@pytest.mark.parametrize(("name", "norm"), CHOICES)
def test_result_lies_in_the_ball_and_the_box(name, norm):
    attack, _, _ = on_linear_model(name, norm)
    images = np.concatenate([some_images(6), some_images(2) > 0.5]).astype(np.float32)
    labels = np.arange(8) % CLASSES
    for epsilon in (0.0, 1e-6, 8 / 255, 0.5, 30.0):
        found = attack(images, labels, jax.random.key(0), epsilon=epsilon)
        result = np.asarray(found.images)
        assert result.min() >= 0 and result.max() <= 1
        moved = (result - images).reshape(8, -1)
        order = np.inf if norm == "linf" else 2
        assert (np.linalg.norm(moved, order, axis=1) <= np.float32(epsilon)).all()
        if epsilon == 0:
            np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("name", ["ce", "targeted"])
def test_an_image_does_not_depend_on_its_batch(name):
    # In L-infinity, which has no sums over pixels that depend on the batch size.
    attack, logits_fn, _ = on_linear_model(name, "linf")
    images = some_images(8)
    labels = named_by(logits_fn, images)
    labels[3] = (labels[3] + 1) % CLASSES  # wrong from the start
    key, epsilon = jax.random.key(5), 0.02
    batch = attack(images, labels, key, epsilon=epsilon, first_index=0)
    assert 1 < batch.success.sum() < 8
    for i in range(8):
        alone = attack(
            images[i : i + 1], labels[i : i + 1], key, epsilon=epsilon, first_index=i
        )
        np.testing.assert_array_equal(alone.images[0], batch.images[i])
        assert alone.success[0] == batch.success[i]
        assert alone.queries[0] == batch.queries[i]


@pytest.mark.parametrize(("name", "norm"), CHOICES[2:])
def test_targeted_loss_is_that_of_the_best_target(name, norm):
    attack, logits_fn, _ = on_linear_model(name, norm)
    images = some_images(8)
    labels = named_by(logits_fn, images)
    found = attack(images, labels, jax.random.key(0), epsilon=0.01)
    logits = logits_fn(found.images, None)
    ratios = [
        targeted_dlr(logits, jnp.asarray(labels), jnp.full(8, t))
        for t in range(CLASSES)
    ]
    others = np.arange(CLASSES)[:, None] != labels
    expected = np.where(others, np.stack(ratios), -np.inf).max(axis=0)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4)


def test_called_without_jit_gives_the_same_images():
    attack, logits_fn, _ = on_linear_model("ce", "linf")
    images = some_images(8)
    labels = named_by(logits_fn, images)
    eager = autopgd(logits_fn, images, labels, jax.random.key(0), epsilon=0.02)
    found = attack(images, labels, jax.random.key(0), epsilon=0.02)
    np.testing.assert_allclose(found.images, eager.images, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.success, eager.success)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_classes_reach_the_linear_optimum(norm):
    logits_fn, weights = linear(SHAPE, CLASSES, middle=0.5)
    two = lambda images, key: logits_fn(images, key)[:, :2]
    images = some_images(6, low=0.3, high=0.7)
    labels = named_by(two, images)
    epsilon = {"linf": 0.02, "l2": 0.1}[norm]
    attack = compiled(autopgd, two, norm=norm)
    found = attack(images, labels, jax.random.key(0), epsilon=epsilon)
    slopes = (weights[:, 1 - labels] - weights[:, labels]).T
    if norm == "linf":
        best = epsilon * np.sign(slopes)
    else:
        best = epsilon * slopes / np.linalg.norm(slopes, axis=1, keepdims=True)
    expected = images + best.reshape(images.shape)
    np.testing.assert_allclose(found.images, expected, rtol=0, atol=2e-5)
    z = (expected.reshape(6, -1) - 0.5) @ weights[:, :2]
    margin = (z[:, 0] - z[:, 1]) * np.where(labels == 0, 1, -1)
    np.testing.assert_array_equal(found.success, margin < 0)
    np.testing.assert_allclose(found.loss, np.log1p(np.exp(-margin)), rtol=1e-3)


def test_restarts_skip_broken_images():
    images = some_images(16)
    labels = named_by(two_layers, images)
    labels[1] = (labels[1] + 1) % CLASSES

    def run(restarts):
        attack = compiled(autopgd, two_layers, restarts=restarts, steps=1)
        return attack(images, labels, jax.random.key(0), epsilon=0.02)

    one, five = run(1), run(5)
    np.testing.assert_array_equal(one.images[1], images[1])
    assert one.success[1] and one.queries[1] == five.queries[1] == 2
    # One for the clean image, two per restart until success, one evaluation.
    at_once, found = np.asarray(one.success), np.asarray(five.success)
    np.testing.assert_array_equal(five.queries[~found], 12)
    np.testing.assert_array_equal(np.delete(five.queries, 1)[np.delete(at_once, 1)], 4)
    assert set(np.asarray(five.queries)[found & ~at_once]) <= {6, 8, 10, 12}
    np.testing.assert_array_equal(five.images[at_once], one.images[at_once])
    assert (found >= at_once).all() and found.sum() < 16
    same = found == at_once
    assert (np.asarray(five.loss) >= np.asarray(one.loss))[same].all()
    assert (np.asarray(five.loss) > np.asarray(one.loss)).any()


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2)])
def test_starts_lie_on_the_surface_of_the_ball(norm, order):
    images = np.full((3, 9, 9, 3), 0.5, np.float32)
    two = lambda images, key: images[:, 0, 0, :2]
    attack = compiled(autopgd, two, norm=norm, steps=0, evaluations=2)
    found = attack(images, np.zeros(3, int), jax.random.key(0), epsilon=0.1)
    moved = (np.asarray(found.images, np.float64) - images).reshape(3, -1)
    lengths = np.linalg.norm(moved, order, axis=1)
    np.testing.assert_allclose(lengths, 0.1, rtol=1e-4)
    np.testing.assert_allclose(moved.mean(axis=1), 0, atol=0.02)
    assert abs(np.corrcoef(moved)[0, 1]) < 0.3


def test_targets_are_the_classes_next_in_order():
    # Only the class of fifth highest logit can win, and only its logit depends on the
    # image.
    def logits_fn(images, key):
        x = images.mean(axis=(1, 2, 3)) - 0.5
        fixed = jnp.ones_like(x)
        return jnp.stack([fixed, 0.9 * fixed, 0.8 * fixed, 0.7 * fixed, 20 * x], 1)

    images, labels = np.full((1, 9, 9, 1), 0.5, np.float32), np.array([0])

    def run(target_classes):
        attack = compiled(
            targeted_autopgd, logits_fn, target_classes=target_classes, steps=10
        )
        return attack(images, labels, jax.random.key(0), epsilon=0.1)

    # 11 for each run, 1 before and 1 after.
    three, nine = run(3), run(9)
    assert three.queries[0] == 35 and not three.success[0]
    assert nine.queries[0] == 46 and nine.success[0]


def test_targets_are_reached():
    images = some_images(8)
    labels = named_by(two_layers, images)
    targets = (labels + 2) % CLASSES
    attack = compiled(autopgd, two_layers, targets=targets)
    found = attack(images, labels, jax.random.key(0), epsilon=0.5)
    np.testing.assert_array_equal(named_by(two_layers, found.images), targets)
    assert found.success.all()


def test_random_classifier_returns_the_highest_mean_loss():
    # Misclassified in one query of three for any image, and in most of them only if
    # the first pixel is dark.
    def logits_fn(images, key):
        light = images[:, 0, 0, 0] - 0.25
        luck = jax.random.bernoulli(key, 1 / 3, (len(images),))
        return jnp.stack([jnp.where(luck, -1, 10 * light), 0 * light], axis=1)

    images, labels = np.full((2, 2, 2, 1), 0.5, np.float32), np.array([0, 0])
    options = {"eot_samples": 10, "eot_chunk": 4, "evaluations": 9}
    attack = compiled(autopgd, logits_fn, steps=20, **options)
    found = attack(images, labels, jax.random.key(0), epsilon=0.4)
    np.testing.assert_allclose(found.images[:, 0, 0, 0], 0.1, atol=1e-6)
    assert found.success.all()
    np.testing.assert_array_equal(found.queries, [21 * 10 + 9] * 2)


def test_iterates_with_nan_logits_are_counted_but_not_returned():
    # No finite logits for the last image, and in half of the ball for the others.
    def logits_fn(images, key):
        logits = two_layers(images, key)
        lost = images[:, 0, 0, 0] > images[:, 0, 0, 1]
        lost |= images[:, 1, 0, 0] > 0.9
        return jnp.where(lost[:, None], jnp.nan, logits)

    images = some_images(8, low=0.2, high=0.8)
    images[:, 0, 0, :] = 0.5
    images[-1, 1, 0, 0] = 1
    labels = named_by(two_layers, images)
    attack = compiled(autopgd, logits_fn, steps=10)
    found = attack(images, labels, jax.random.key(0), epsilon=0.01)
    assert np.isfinite(logits_fn(found.images[:-1], None)).all()
    assert np.isfinite(found.loss[:-1]).all()
    assert (found.not_finite[:-1] > 0).any()
    np.testing.assert_array_equal(found.images[-1], images[-1])
    assert found.success[-1] and found.not_finite[-1] == found.queries[-1] == 13


@pytest.mark.parametrize(
    ("shape", "name"), [((2, 7, 1), "ce"), ((1, 1, 1), "targeted")]
)
def test_one_image_of_any_shape(shape, name):
    logits_fn, _ = linear(shape, CLASSES, middle=0.5)
    images = some_images(1, shape)
    labels = named_by(logits_fn, images)
    attack = compiled(ATTACKS[name], logits_fn, steps=3)
    found = attack(images, labels, jax.random.key(0), epsilon=1.0)
    assert found.images.shape == images.shape
    broken = named_by(logits_fn, found.images) != labels
    np.testing.assert_array_equal(found.success, broken)


def test_refuses_too_few_classes_for_the_ratio():
    images, labels, key = some_images(1), np.array([0]), jax.random.key(0)
    three = lambda images, key: two_layers(images, key)[:, :3]
    with pytest.raises(ValueError, match="compares 4 logits, logits_fn has 3 classes"):
        targeted_autopgd(three, images, labels, key)
    with pytest.raises(ValueError, match="target_classes must be at least 1, got 0"):
        targeted_autopgd(two_layers, images, labels, key, target_classes=0)
    found = compiled(autopgd, three, loss=cross_entropy, steps=1)(images, labels, key)
    assert found.queries[0] in (2, 4)
