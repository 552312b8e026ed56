r"""Sanity checks: signs that an attack was weak rather than the classifier robust.

    findings = check_classifier(logits_fn, images, labels, key)
    findings += check_attack(logits_fn, images, labels, key)
    print(sentences(findings))

A few dozen to a few hundred images are enough; they are queried in one batch. The two
functions run the checks below, which turn measurements into findings and can be called
on your own measurements. None can prove an evaluation sound.

Accuracies are numbers in [0, 1] over `count` images, or better arrays with one entry
per image (``~attacked.success``, or ``judge(...).accuracy``). Only differences above
2.5 standard errors count. For two accuracies p, q of n images, and for arrays a, b of
the same images, the standard errors are

.. math::
    \sqrt{(p (1 - p) + q (1 - q)) / n}, \qquad
    \frac{1}{n} \sqrt{\textstyle\sum_i (a_i - b_i)^2},

the latter as in McNemar's test, which ignores images on which both agree. At least 7
images must change, if all in one direction. So a check that compares accuracies needs 7
images; with fewer it abstains (`Finding.wants`).

References:
    Carlini et al. 2019, "On evaluating adversarial robustness", the analysis
    recommendations. Athalye, Carlini and Wagner 2018, "Obfuscated gradients give a
    false sense of security", section 3.1. AutoAttack's flags (fra31/auto-attack).
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num, PRNGKeyArray, Real

from attacks import inputs, losses, norms
from attacks.judge import Judged, judge
from attacks.keys import image_keys
from attacks.pgd import pgd
from attacks.types import Attacked, LogitsFunction, Status

# One number for all images, or one per image.
Accuracy = ArrayLike

STANDARD_ERRORS = 2.5
# With fewer images no change is significant, even if all are in one direction.
LEAST_IMAGES = math.floor(STANDARD_ERRORS**2) + 1


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: the check's name.
        tripped: whether there is reason to doubt the evaluation.
        values: the measurements, by name; shares and accuracies in [0, 1].
        sentence: the observation and, if tripped, its likely cause and what to do.
        wants: the number of images needed if there were too few; else 0.
    """

    check: str
    tripped: bool
    values: Mapping[str, float]
    sentence: str
    wants: int = 0


def sentences(findings: Iterable[Finding]) -> str:
    """A report: the checks that tripped, or that none did, and those that abstained."""
    findings = tuple(findings)
    lines = [f"{found.check}: {found.sentence}" for found in findings if found.tripped]
    if not lines:
        names = ", ".join(found.check for found in findings if not found.wants) or "-"
        lines = [f"No problem was found, which is no proof. Checked: {names}."]
    abstained = [
        f"{found.check} needs {found.wants}" for found in findings if found.wants
    ]
    if abstained:
        lines.append(f"Not checked, too few images: {', '.join(abstained)}.")
    return "\n".join(lines)


OF_CLASSIFIER = (
    *("finite", "random", "batch", "probabilities", "classes"),
    *("zero gradient", "finite gradient", "saturation", "ascent"),
)
OF_ATTACK = ("ball", "given up", "epsilons", "unbounded", "steps", "black box")


def check_classifier(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    norm: str = "linf",
    questions: int = 5,
    starts: int = 2,
) -> tuple[Finding, ...]:
    """Checks the logits and gradients of a classifier that is to be attacked.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        images: floats in [0, 1].
        labels: integers in [0, classes).
        key: from `jax.random.key`.
        epsilon: radius of the ball, in pixel values, in which gradients are checked.
        norm: "linf", "l2" or "l1".
        questions: keys under which each image is classified; >= 2.
        starts: random points of the ball, besides the image, to check; >= 0.

    Returns:
        The findings, of `check_finite`, `check_random`, `check_batch`,
        `check_probabilities`, `check_class_count` and `check_gradients`. Without images
        all abstain.

    Raises:
        ValueError, TypeError: as `attacks.pgd`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks.soundness import check_classifier
        >>> def brightness(images, key):  # four classes, as probabilities
        ...     light = images.mean(axis=(1, 2, 3))[:, None] - 0.5
        ...     return jax.nn.softmax(light * jnp.arange(4.0))
        >>> images, labels = jnp.full((8, 6, 6, 3), 0.6), jnp.full(8, 3)
        >>> found = check_classifier(brightness, images, labels, jax.random.key(0))
        >>> print([finding.check for finding in found if finding.tripped])
        ['probabilities']
    """
    inputs.require_at_least(2, questions=questions)
    if len(images) == 0:
        return tuple(_abstains(name, 0, 1) for name in OF_CLASSIFIER)
    images, labels, classes = inputs.checked(logits_fn, images, labels, key)
    query_key, gradient_key = jax.random.split(key)
    classify = jax.jit(logits_fn)
    keys = jax.random.split(query_key, questions)
    logits = np.stack([np.asarray(classify(images, one)) for one in keys])
    random = check_random(logits)
    return (
        check_finite(logits),
        random,
        check_batch(logits_fn, images, keys[0], random=random.tripped),
        check_probabilities(logits[0]),
        check_class_count(classes),
        *check_gradients(
            logits_fn,
            images,
            labels,
            gradient_key,
            epsilon=epsilon,
            norm=norm,
            starts=starts,
        ),
    )


def check_attack(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    attack: Callable[..., Attacked] | None = None,
    black_box: Mapping[str, Callable[..., Attacked]] | None = None,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    norm: str = "linf",
    steps: tuple[int, ...] | None = (0, 1, 5, 20),
    scales: tuple[float | int, ...] = (0, 0.5, 1, 2),
    evaluations: int = 1,
) -> tuple[Finding, ...]:
    """Checks that a white-box attack behaves as a working one does.

    Args:
        logits_fn, images, labels, key: as for the attack.
        attack: called as ``attack(logits_fn, images, labels, key, epsilon=, steps=)``
            under `jax.jit`, with a traced epsilon. It must stay in the ball of `norm`,
            with a step size that grows with epsilon. None for `attacks.pgd` with a step
            size of 2.5 epsilon / steps, as in Madry et al. 2018.
        black_box: attacks to compare it with, by name, called likewise but without
            steps. None for the best of 50 random points of the ball, {} for none.
        epsilon: radius in pixel values.
        norm: "linf", "l2" or "l1".
        steps: numbers of steps to compare, increasing; other checks use the last. None
            for an attack without such an option.
        scales: multiples of epsilon to compare, besides the whole box.
        evaluations: keys of the evaluation; more than 1 for a random classifier. The
            attacks have their own.

    Returns:
        The findings, of `check_ball`, `check_given_up`, `check_epsilons`,
        `check_unbounded`, `check_steps` and `check_black_box`. Without images all
        abstain.

    Raises:
        ValueError, TypeError: as the attack.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks.soundness import check_attack
        >>> def deaf(images, key):  # predicts class 0 for any image
        ...     return jnp.tile(jnp.array([1.0, 0.0]), (len(images), 1))
        >>> images, labels = jnp.full((8, 6, 6, 3), 0.6), jnp.zeros(8, int)
        >>> found = check_attack(deaf, images, labels, jax.random.key(0), steps=(0, 7))
        >>> print([finding.check for finding in found if finding.tripped])
        ['given up', 'epsilons', 'unbounded', 'steps']
    """
    inputs.require_choice("norm", norm, norms.NORMS)
    inputs.require_positive(epsilon=epsilon)
    if len(images) == 0:
        return tuple(_abstains(name, 0, 1) for name in OF_ATTACK)
    images, labels, classes = inputs.checked(logits_fn, images, labels, key)
    if steps is not None and (len(steps) < 2 or list(steps) != sorted(set(steps))):
        raise ValueError(f"steps must be two or more, increasing, got {steps}")
    epsilon = float(epsilon)  # type: ignore[arg-type]  # a real number
    attack = partial(_scaled_pgd, norm=norm) if attack is None else attack
    if black_box is None:
        noise = partial(pgd, norm=norm, steps=0, restarts=50, evaluations=evaluations)
        black_box = {"random noise": noise}
    attack_key, judge_key = jax.random.split(key)

    @partial(jax.jit, static_argnames=("attack", "steps"))
    def run(
        attack: Callable[..., Attacked], epsilon: Array, steps: int | None = None
    ) -> tuple[Attacked, Judged]:
        options = {} if steps is None else {"steps": steps}
        attacked = attack(
            logits_fn, images, labels, attack_key, epsilon=epsilon, **options
        )
        return attacked, judge(
            logits_fn,
            attacked.images,
            labels,
            judge_key,
            evaluations=evaluations,
            loss=losses.margin,
        )

    pixels = images[0].size
    whole_box = {"linf": 1.0, "l2": math.sqrt(pixels), "l1": float(pixels)}[norm]
    most = None if steps is None else steps[-1]
    radii = {scale * epsilon for scale in scales} | {epsilon, whole_box}
    results = {radius: run(attack, radius, most) for radius in sorted(radii)}
    accuracies = {radius: judged.accuracy for radius, (_, judged) in results.items()}
    attacked, full = results[epsilon]
    findings = [
        check_ball(attacked.images, images, epsilon, norm),
        check_given_up(attacked),
        check_epsilons(accuracies, classes),
        check_unbounded(accuracies[whole_box], classes),
    ]
    if steps is not None:
        judged = [run(attack, epsilon, count)[1] for count in steps[:-1]] + [full]
        by_steps = {
            count: each.accuracy for count, each in zip(steps, judged, strict=True)
        }
        margins = judged[0].loss, full.loss
        findings.append(check_steps(by_steps, classes, margins=margins))
    if black_box:
        others = {name: run(other, epsilon)[1] for name, other in black_box.items()}
        by_name = {name: judged.accuracy for name, judged in others.items()}
        findings.append(check_black_box({"the attack": full.accuracy}, by_name))
    return tuple(findings)


def check_finite(logits: Float[np.ndarray | Array, "*keys n classes"]) -> Finding:
    """Trips if a logit is NaN or infinite; `logits` under one key or several."""
    finite = np.isfinite(np.asarray(logits)).all(axis=-1)
    if finite.shape[-1] == 0:
        return _abstains("finite", 0, 1)
    share = 1 - float(finite.reshape(-1, finite.shape[-1]).all(axis=0).mean())
    return _finding(
        "finite",
        share > 0,
        {"share": share},
        f"Logits of {_percent(share)} of the images are NaN or infinite",
        "Attacks cannot compare such logits and count them as misclassified: fix the "
        "classifier, and check `not_finite` of the attacked images.",
    )


def check_random(
    logits: Float[np.ndarray | Array, "keys n classes"], *, tolerance: float = 1e-4
) -> Finding:
    """Trips if the logits depend on the key.

    Args:
        logits: of the same images under two or more keys.
        tolerance: allowed difference of logits relative to their L2 norm, for devices
            whose summation order is not deterministic.
    """
    logits = np.nan_to_num(np.asarray(logits, np.float64), posinf=0, neginf=0)
    if logits.shape[1] == 0:
        return _abstains("random", 0, 1)
    named = logits.argmax(axis=-1)
    share = float((named != named[0]).any(axis=0).mean())
    length = np.linalg.norm(logits, axis=-1).max(axis=0)
    apart = np.linalg.norm(logits - logits[0], axis=-1).max(axis=0)
    difference = float((apart / np.where(length > 0, length, 1)).max())
    return _finding(
        "random",
        share > 0 or difference > tolerance,
        {"share": share, "difference": difference},
        f"Under another key the prediction differs for {_percent(share)} of the "
        f"images, and the logits by up to {_percent(difference)}",
        "One query says little about a random classifier: use EOT (`eot_samples`), "
        'several `evaluations`, and version="rand" of AutoAttack.',
    )


def check_batch(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    key: PRNGKeyArray,
    *,
    random: bool = False,
    alone: int = 3,
    tolerance: float = 1e-4,
    tolerance_alone: float = 0.05,
) -> Finding:
    """Trips if the logits of an image depend on the other images of its batch.

    Every image is queried again at its position and under the same key, with black and
    white images at every other position of the batch. Random draws are then the same,
    whether they depend on the key or the position. Some images are also queried alone
    and at the first position of a batch.

    Differences of logits are relative to their L2 norm, or to its median over the
    images if that is larger. On most devices the same program gives the same logits; if
    repeating a query changes them, ten times that change is allowed. A program for a
    single image may sum in another order and multiply in another precision (TF32,
    bfloat16), which a transform that rounds amplifies.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        images: floats in [0, 1]; two are needed.
        key: of all queries.
        random: whether logits depend on the key. Draws may then depend on the batch
            size as well, so no image is queried alone.
        alone: number of images to query alone; each takes two queries.
        tolerance: allowed relative difference in batches of equal size.
        tolerance_alone: the same for an image alone.
    """
    count = len(images)
    if count < 2:
        return _abstains("batch", count, 2)
    images = jnp.asarray(images)
    classify = jax.jit(logits_fn)

    def answers(images: Array) -> np.ndarray:
        logits = np.asarray(classify(images, key), np.float64)
        return np.nan_to_num(logits, posinf=0, neginf=0)

    first = answers(images)
    length = np.linalg.norm(first, axis=1)
    length = np.maximum(length, np.median(length))
    length = np.where(length > 0, length, 1)

    def apart(logits: np.ndarray, others: np.ndarray, index: Any) -> float:
        distances = np.linalg.norm(logits - others, axis=1) / length[index]
        return float(distances.max())

    noise = apart(first, answers(images), slice(None))
    fillers = (images < 0.5).astype(images.dtype)
    differences, changed = [], 0
    for parity in (0, 1):
        same = jnp.arange(count) % 2 == parity
        mixed = jnp.where(norms.per_image(same), images, fillers)
        rows = slice(parity, None, 2)
        logits = answers(mixed)[rows]
        differences.append(apart(logits, first[rows], rows))
        changed += int((logits.argmax(axis=1) != first[rows].argmax(axis=1)).sum())
    share, difference, single = changed / count, max(differences), 0.0
    for index in range(0) if random else range(min(alone, count)):
        in_batch = answers(jnp.roll(images, -index, axis=0))[:1]
        by_itself = answers(images[index : index + 1])
        single = max(single, apart(by_itself, in_batch, [index]))
    seen = (
        f"With other images in its batch an image's logits change by up to "
        f"{_percent(difference)}, and the prediction for {_percent(share)} of the "
        "images"
    )
    if not random:
        seen += f"; alone the logits differ by up to {_percent(single)}"
    return _finding(
        "batch",
        difference > max(tolerance, 10 * noise) or single > tolerance_alone,
        {"share": share, "difference": difference, "alone": single},
        seen,
        "Attacks and evaluations assume independent images, so accuracies would hold "
        "for these batches only: let batch normalization use its running averages "
        "(evaluation mode), or query one image at a time.",
    )


def check_probabilities(
    logits: Float[np.ndarray | Array, "n classes"], *, tolerance: float = 1e-5
) -> Finding:
    """Trips if each row is nonnegative and sums to 1, up to the tolerance."""
    logits = np.asarray(logits, np.float64)
    if len(logits) == 0:
        return _abstains("probabilities", 0, 1)
    away = np.maximum(np.abs(logits.sum(axis=1) - 1), -logits.min(axis=1))
    distance = float(away.max())
    return _finding(
        "probabilities",
        distance <= tolerance,
        {"distance": distance},
        f"Logits are within {distance:.2g} of probabilities: nonnegative, with sum 1",
        "Losses would apply the softmax twice, and its gradient vanishes if the "
        "classifier is confident: return the logits before the softmax.",
    )


def check_class_count(classes: int) -> Finding:
    """Trips if there are too few classes for the DLR losses of AutoAttack."""
    return _finding(
        "classes",
        classes < 4,
        {"classes": float(classes)},
        f"There are {classes} classes; the DLR loss needs 3, the targeted one 4",
        "Use the margin or the cross-entropy.",
    )


def check_gradients(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    norm: str = "linf",
    starts: int = 2,
) -> tuple[Finding, Finding, Finding, Finding]:
    """Trips if gradients are zero, not finite, saturated or misleading.

    Checks each image and random points of the ball around it.

    - zero gradient: the gradient of the margin is exactly 0 at some point.
    - finite gradient: the gradient of the margin contains NaN or infinity.
    - saturation: the cross-entropy is 0 in the logits' dtype, or its gradient is 0 and
      the margin's is not.
    - ascent: a step of epsilon / 8 along a nonzero gradient of the margin raises the
      margin, under the same key, no more often than a step in a random direction, which
      does so in half of the cases. Abstains if fewer than 7 images have a gradient.

    Args:
        logits_fn, images, labels, key, epsilon, norm, starts: as `check_classifier`.

    Returns:
        The four findings, in this order; without images all abstain.
    """
    inputs.require_positive(epsilon=epsilon)
    inputs.require_choice("norm", norm, norms.NORMS)
    inputs.require_at_least(0, starts=starts)
    if len(images) == 0:
        return (
            _abstains("zero gradient", 0, 1),
            _abstains("finite gradient", 0, 1),
            _abstains("saturation", 0, 1),
            _abstains("ascent", 0, LEAST_IMAGES),
        )
    images, labels, _ = inputs.checked(logits_fn, images, labels, key)

    def slope(
        loss: losses.Loss, points: Array, key: PRNGKeyArray
    ) -> tuple[Array, Array]:
        def total(points: Array) -> tuple[Array, Array]:
            value = loss(logits_fn(points, key), labels)
            return value.sum(), value

        gradient, value = jax.grad(total, has_aux=True)(points)
        return gradient, value

    @jax.jit
    def look(points: Array, key: PRNGKeyArray) -> dict[str, Array]:
        gradient, before = slope(losses.margin, points, key)
        of_entropy, entropy = slope(losses.cross_entropy, points, key)
        zero = (gradient == 0).all(axis=(1, 2, 3))
        flat = (of_entropy == 0).all(axis=(1, 2, 3))
        step = epsilon / 8 * norms.direction(gradient, norm)
        moved = jnp.clip(points + step, 0, 1)
        after = losses.margin(logits_fn(moved, key), labels)
        return {
            "zero": zero,
            "not finite": ~jnp.isfinite(gradient).all(axis=(1, 2, 3)),
            "saturated": (entropy == 0) | (flat & ~zero),
            "tried": (step != 0).any(axis=(1, 2, 3)),
            "raised": after > before,
        }

    looks = []
    for index, one in enumerate(jax.random.split(key, starts + 1)):
        points, (start_key, query_key) = images, jax.random.split(one)
        if index:
            keys = image_keys(start_key, 0, images)
            points = norms.random_in_ball(keys, images, epsilon, norm)
        looks.append(look(points, query_key))
    seen = {name: np.stack([each[name] for each in looks]) for name in looks[0]}
    zero, broken, saturated = (
        float(seen[name].any(axis=0).mean())
        for name in ("zero", "not finite", "saturated")
    )
    # The points of an image are not independent, so n is the number of images.
    tried = seen["tried"]
    count, raised = int(tried.any(axis=0).sum()), 0.0
    if count:
        raised = float(seen["raised"][tried].mean())
    by_luck = 0.5 + STANDARD_ERRORS * math.sqrt(0.25 / max(count, 1))
    ascent = {"share": raised, "images": float(count)}
    return (
        _finding(
            "zero gradient",
            zero > 0,
            {"share": zero},
            f"The gradient of the margin is exactly 0 for {_percent(zero)} of the "
            "images, at or near them",
            "Gradient attacks cannot make progress there: replace the derivative of "
            "rounding, clipping or selection (`bpda`), and run a black-box attack.",
        ),
        _finding(
            "finite gradient",
            broken > 0,
            {"share": broken},
            f"The gradient of the margin contains NaN or infinity for "
            f"{_percent(broken)} of the images",
            "Attacks treat such entries as 0: look for a root, norm, logarithm or "
            "division at 0 (JAX_DEBUG_NANS finds it).",
        ),
        _finding(
            "saturation",
            saturated > 0,
            {"share": saturated},
            f"The cross-entropy of {_percent(saturated)} of the images is exactly 0, "
            "or has a zero gradient where the margin does not",
            "Their logits are so far apart that the softmax saturates: use the margin "
            "or the DLR loss.",
        ),
        _abstains("ascent", count, LEAST_IMAGES, ascent, "with a gradient")
        if count < LEAST_IMAGES
        else _finding(
            "ascent",
            raised <= by_luck,
            ascent,
            f"A small step along the gradient raises the margin in {_percent(raised)} "
            f"of {tried.sum()} cases; a random direction would in about half",
            "The gradient does not say where the loss rises: check `bpda` derivatives, "
            "average over more keys (`eot_samples`), and run a black-box attack.",
        ),
    )


def check_ball(
    attacked: Float[Array | np.ndarray, "n h w c"],
    images: Float[Array | np.ndarray, "n h w c"],
    epsilon: Real[ArrayLike, ""],
    norm: str = "linf",
) -> Finding:
    """Trips if an attacked image is outside the ball or [0, 1].

    The norm of the difference may exceed epsilon by the rounding error of the images'
    dtype: its machine epsilon, times the number of entries for L1 or its root for L2.
    The attacks of this package do not need this tolerance; others may.

    Args:
        attacked: the attacked images.
        images: the clean images.
        epsilon: radius in pixel values.
        norm: "linf", "l2" or "l1".
    """
    inputs.require_choice("norm", norm, norms.NORMS)
    inputs.require_same_shape("attacked", attacked, "images", images)
    if len(images) == 0:
        return _abstains("ball", 0, 1)
    attacked, images = jnp.asarray(attacked), jnp.asarray(images)
    sizes = np.asarray(norms.size(attacked - images, norm), np.float64)
    # Negated, so that NaN is outside.
    radius = epsilon + norms.rounding(attacked, norm)
    out_of_ball = float((~(sizes <= radius)).mean())
    in_box = np.asarray((attacked >= 0) & (attacked <= 1)).all(axis=(1, 2, 3))
    out_of_box = float((~in_box).mean())
    largest = float(sizes.max())
    return _finding(
        "ball",
        out_of_ball > 0 or out_of_box > 0,
        {"out of ball": out_of_ball, "out of box": out_of_box, "largest": largest},
        f"{_percent(out_of_ball)} of the attacked images are outside the ball of "
        f"radius {epsilon:.4g} (the largest norm is {largest:.4g}), "
        f"{_percent(out_of_box)} have pixels outside [0, 1]",
        "They are outside the threat model: project the images "
        "(`attacks.norms.project`) and evaluate them again.",
    )


def check_steps(
    accuracies: Mapping[int, Accuracy],
    classes: int,
    count: int | None = None,
    *,
    margins: tuple[Float[Array, " n"], Float[Array, " n"]] | None = None,
) -> Finding:
    """Trips if more steps raise the accuracy, or never lower it.

    Args:
        accuracies: by number of steps, at least two. The fewest should be 0, the random
            start alone: one step may be enough for a linear classifier.
        classes: number of classes; at chance level no fall is expected.
        count: number of images, if accuracies are not per image.
        margins: per image (`losses.margin`), after the fewest and after the most steps.
            If they rise no fall is expected either: the attack may work although the
            ball contains no adversarial image.
    """
    rise, noise = 0.0, 0.0
    if margins is not None:
        rise, noise = _fall(margins[1], margins[0], None)
    return _check_series(
        "steps",
        lambda steps: f"{steps} step" + "s" * (steps != 1),
        accuracies,
        classes,
        count,
        must_fall=rise <= noise,
        rises="More steps should not help the classifier: the step size may be too "
        "large, or the gradient misleading. Try a smaller one, restarts, `keep_best`, "
        "and more `eot_samples` if the classifier is random.",
        stays="The gradient may be uninformative, or so small a ball may contain no "
        "adversarial image: look at the gradients, repeat with a larger epsilon, and "
        "run a black-box attack.",
    )


def check_epsilons(
    accuracies: Mapping[Any, Accuracy], classes: int, count: int | None = None
) -> Finding:
    """Trips if a larger epsilon raises the accuracy, or never lowers it.

    Args:
        accuracies: by epsilon, at least two. The largest should allow large changes.
        classes, count: as in `check_steps`.
    """
    return _check_series(
        "epsilons",
        "epsilon {:.4g}".format,
        accuracies,
        classes,
        count,
        rises="The larger ball contains the smaller one, so the attack misses "
        "adversarial images: let its step size grow with epsilon, give it more steps, "
        "and look at the gradients.",
        stays="Any classifier that uses its input can be fooled in a large ball: look "
        "at the gradients, and check that the attack is given the classifier that is "
        "evaluated.",
    )


def _check_series(
    check: str,
    named: Callable[[Any], str],
    accuracies: Mapping[Any, Accuracy],
    classes: int,
    count: int | None,
    *,
    must_fall: bool = True,
    rises: str,
    stays: str,
) -> Finding:
    ordered = sorted(accuracies)
    if len(ordered) < 2:
        raise ValueError(f"{check}: needs two or more to compare, got {ordered}")
    images = _count(*accuracies.values(), count=count)
    if images < LEAST_IMAGES:
        return _abstains(check, images, LEAST_IMAGES)
    means = {x: _mean(accuracies[x]) for x in ordered}
    values = {named(x): mean for x, mean in means.items()}

    def finding(
        tripped: bool, verb: str, first: Any, last: Any, advice: str
    ) -> Finding:
        ends = [f"{_percent(means[x])} at {named(x)}" for x in (first, last)]
        seen = f"Accuracy {verb} from {ends[0]} to {ends[1]}"
        return _finding(check, tripped, values, seen, advice)

    for index, later in enumerate(ordered[1:], start=1):
        least = min(ordered[:index], key=means.__getitem__)
        rise, noise = _fall(accuracies[later], accuracies[least], count)
        if rise > noise:
            return finding(True, "rises", least, later, rises)
    first, last = ordered[0], ordered[-1]
    fall, noise = _fall(accuracies[first], accuracies[last], count)
    at_chance = means[last] <= _chance(accuracies[last], classes, count)
    # For few images halving is not significant, but it is a fall nevertheless.
    halved = 2 * means[last] <= means[first]
    if fall > noise or halved or at_chance or not must_fall:
        return finding(False, "goes", first, last, "")
    return finding(True, "does not clearly fall,", first, last, stays)


def check_unbounded(
    accuracy: Accuracy, classes: int, count: int | None = None
) -> Finding:
    """Trips if accuracy is above chance under an attack without bounds.

    Args:
        accuracy: under an attack that may change each pixel to any value of [0, 1].
        classes: number of classes; chance is 1 / classes.
        count: number of images, if the accuracy is not per image.
    """
    images = _count(accuracy, count=count)
    if images < LEAST_IMAGES:
        return _abstains("unbounded", images, LEAST_IMAGES)
    mean, chance = _mean(accuracy), 1 / classes
    return _finding(
        "unbounded",
        mean > _chance(accuracy, classes, count),
        {"accuracy": mean, "chance": chance},
        f"Accuracy is {_percent(mean)} under an attack without bounds; chance is "
        f"{_percent(chance)}",
        "Such an attack could make every image the same grey, so the classifier is not "
        "robust, the attack fails: look at the gradients, the step size and the number "
        "of steps.",
    )


def check_given_up(attacked: Attacked) -> Finding:
    """Trips if an attack gave up on images: failed before its budget was spent.

    Args:
        attacked: the result; for attacks with two readings ``found.unconstrained``.
    """
    status, failed = np.asarray(attacked.status), ~np.asarray(attacked.success)
    reasons = [reason for reason in Status if reason > Status.BUDGET]
    shares = {
        reason.name.lower(): float((failed & (status == reason)).sum())
        / max(len(failed), 1)
        for reason in reasons
    }
    share = sum(shares.values())
    named = ", ".join(f"{name} {_percent(x)}" for name, x in shares.items() if x)
    return _finding(
        "given up",
        share > 0,
        {"share": share, **shares},
        f"The attack gave up on {_percent(share)} of the images"
        + (f" ({named})" if named else ""),
        "Its failure there is no evidence of robustness: see `attacks.Status`, and try "
        "another attack, loss or start.",
    )


def check_black_box(
    white: Mapping[str, Accuracy],
    black: Mapping[str, Accuracy],
    count: int | None = None,
) -> Finding:
    """Trips if a black-box attack is stronger than all white-box attacks.

    Args:
        white: accuracies under white-box attacks, by name. If all are per image, the
            worst case per image is compared.
        black: accuracies under black-box attacks, transfer and random noise.
        count: number of images, if accuracies are not per image.
    """
    if not white or not black:
        raise ValueError("white and black must each have at least one attack")
    images = _count(*white.values(), *black.values(), count=count)
    if images < LEAST_IMAGES:
        return _abstains("black box", images, LEAST_IMAGES)
    worst = min(white.values(), key=_mean)
    if all(np.ndim(accuracy) for accuracy in white.values()):
        worst = np.min([np.asarray(each, float) for each in white.values()], axis=0)
    best = min(black, key=lambda name: _mean(black[name]))
    fall, noise = _fall(worst, black[best], count)
    return _finding(
        "black box",
        fall > noise,
        {"white-box": _mean(worst)} | {name: _mean(black[name]) for name in black},
        f"Accuracy is {_percent(_mean(worst))} under the white-box attacks and "
        f"{_percent(_mean(black[best]))} under {best}, a black-box attack",
        "White-box attacks should be stronger, so the gradients are masked: report the "
        "lower number, run the black-box attack for longer, and look at the gradients.",
    )


def _scaled_pgd(
    logits_fn: LogitsFunction,
    images: Array,
    labels: Array,
    key: PRNGKeyArray,
    *,
    epsilon: Array,
    steps: int,
    norm: str,
) -> Attacked:
    """PGD with a step size of 2.5 epsilon / steps."""
    size = jnp.where(epsilon > 0, 2.5 * epsilon / max(steps, 1), 1)
    attack = partial(pgd, epsilon=epsilon, step_size=size, steps=steps, norm=norm)
    return attack(logits_fn, images, labels, key)


def _finding(
    check: str, tripped: bool, values: Mapping[str, float], seen: str, advice: str
) -> Finding:
    return Finding(
        check, tripped, values, f"{seen}. {advice}" if tripped else f"{seen}."
    )


def _abstains(
    check: str,
    count: int,
    wants: int,
    values: Mapping[str, float] | None = None,
    which: str = "",
) -> Finding:
    """The finding of a check that has too few images."""
    images = " ".join(["image" + "s" * (wants != 1), which]).strip()
    sentence = f"This check needs {wants} {images}; there are {count}."
    return Finding(check, False, values or {"images": float(count)}, sentence, wants)


def _mean(accuracy: Accuracy) -> float:
    return float(np.mean(np.asarray(accuracy, np.float64)))


def _fall(first: Accuracy, second: Accuracy, count: int | None) -> tuple[float, float]:
    """The fall of accuracy, and the largest fall that may be chance."""
    if np.ndim(first) and np.ndim(second):
        inputs.require_same_shape(
            "an accuracy of each image", first, "the other", second
        )
        difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
        error = np.sqrt(np.sum(difference**2)) / len(difference)
    else:
        p, q = _mean(first), _mean(second)
        n = _count(first, second, count=count)
        error = math.sqrt((p * (1 - p) + q * (1 - q)) / n)
    return _mean(first) - _mean(second), STANDARD_ERRORS * float(error)


def _chance(accuracy: Accuracy, classes: int, count: int | None) -> float:
    """The highest accuracy that may be chance."""
    p = 1 / classes
    return p + STANDARD_ERRORS * math.sqrt(p * (1 - p) / _count(accuracy, count=count))


def _count(*accuracies: Accuracy, count: int | None) -> int:
    for accuracy in accuracies:
        shape: tuple[int, ...] = np.shape(accuracy)
        if shape:
            return shape[0]
    if count is None:
        raise ValueError("accuracies that are not per image need a count")
    return count


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
