r"""Signs that an evaluation measures a weak attack and not a strong classifier.

    findings = check_classifier(logits_fn, images, labels, key)
    findings += check_attack(logits_fn, images, labels, key)
    print(sentences(findings))

A few dozen to a few hundred images are enough, and are asked about all at once. The
two run the functions below, each of which turns measurements into one `Finding` and
takes those of an own evaluation as well. None can prove an evaluation sound.

Accuracies are numbers in [0, 1], of `count` images, or better arrays with an entry for
each image (``~attacked.success``, or ``judge(...).accuracy``). What could be chance
trips nothing: a difference counts above 2.5 standard errors, which for two accuracies
p, q of n images, and for arrays a, b of the same images, are

.. math::
    \sqrt{(p (1 - p) + q (1 - q)) / n}, \qquad
    \frac{1}{n} \sqrt{\textstyle\sum_i (a_i - b_i)^2},

the latter being McNemar's, to which what both have in common does not matter: of
answers that are right or wrong at least 7 must change, if all in one direction. So a
check that compares accuracies wants 7 images; with fewer it abstains (`Finding.wants`).

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
from attacks.ascent import image_keys
from attacks.judge import Judged, judge
from attacks.pgd import pgd
from attacks.types import Attacked, LogitsFunction, Status

# One for all images, or one for each.
Accuracy = ArrayLike

STANDARD_ERRORS = 2.5
# Below it not even answers that all change in one direction are clear of chance.
LEAST_IMAGES = math.floor(STANDARD_ERRORS**2) + 1


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: the check's name.
        tripped: whether there is reason to doubt the evaluation.
        values: the numbers behind that, by name; shares and accuracies in [0, 1].
        sentence: what was seen and, where tripped, what it may mean and what to do.
        wants: where the check abstained for want of images, how many it wants; else 0.
    """

    check: str
    tripped: bool
    values: Mapping[str, float]
    sentence: str
    wants: int = 0


def sentences(findings: Iterable[Finding]) -> str:
    """What tripped, or that nothing did, and which checks abstained; one a line."""
    findings = tuple(findings)
    lines = [f"{found.check}: {found.sentence}" for found in findings if found.tripped]
    if not lines:
        names = ", ".join(found.check for found in findings if not found.wants) or "-"
        lines = [f"Nothing to doubt was found, which is no proof. Checked: {names}."]
    abstained = [
        f"{found.check} wants {found.wants}" for found in findings if found.wants
    ]
    if abstained:
        lines.append(f"Not checked, for want of images: {', '.join(abstained)}.")
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
    """Whether attacks can make sense of a classifier: its logits and its gradients.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        images: floats in [0, 1].
        labels: integers in [0, classes).
        key: from `jax.random.key`.
        epsilon: radius of the ball, in pixel values, in which gradients are looked at.
        norm: "linf", "l2" or "l1".
        questions: keys under which each image is classified; >= 2.
        starts: random points of the ball, besides the image, at which to look; >= 0.

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
    question_key, gradient_key = jax.random.split(key)
    classify = jax.jit(logits_fn)
    keys = jax.random.split(question_key, questions)
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
    """Whether a white-box attack behaves as one that works.

    Args:
        logits_fn, images, labels, key: as for the attack.
        attack: called as ``attack(logits_fn, images, labels, key, epsilon=, steps=)``,
            compiled, the epsilon being traced. It must move in the ball of `norm`, with
            steps that grow with epsilon. None for `attacks.pgd` with a step size of
            2.5 epsilon / steps, as Madry et al. 2018 have it.
        black_box: attacks to compare it with, by name, called alike but without steps.
            None for the best of 50 random points of the ball, {} for no comparison.
        epsilon: radius in pixel values.
        norm: "linf", "l2" or "l1".
        steps: numbers of steps to compare, growing; elsewhere the last is taken. None
            for an attack without such an option.
        scales: multiples of epsilon to compare, besides the whole box.
        evaluations: keys under which answers are judged; more than 1 for a classifier
            that is random. Give the attacks theirs.

    Returns:
        The findings, of `check_ball`, `check_given_up`, `check_epsilons`,
        `check_unbounded`, `check_steps` and `check_black_box`. Without images all
        abstain.

    Raises:
        ValueError, TypeError: as the attack.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks.soundness import check_attack
        >>> def deaf(images, key):  # names class 0, whatever the image
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
        raise ValueError(f"steps must be two numbers or more that grow, got {steps}")
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
    """Trips where a logit is NaN or infinite; `logits` under one key or several."""
    finite = np.isfinite(np.asarray(logits)).all(axis=-1)
    if finite.shape[-1] == 0:
        return _abstains("finite", 0, 1)
    share = 1 - float(finite.reshape(-1, finite.shape[-1]).all(axis=0).mean())
    return _finding(
        "finite",
        share > 0,
        {"share": share},
        f"Logits of {_percent(share)} of the images are NaN or infinite",
        "Attacks cannot compare such answers and count them as wrong: repair the "
        "classifier, and look at `not_finite` of the attacked images.",
    )


def check_random(
    logits: Float[np.ndarray | Array, "keys n classes"], *, tolerance: float = 1e-4
) -> Finding:
    """Trips where the answer depends on the key.

    Args:
        logits: of the same images under two keys or more.
        tolerance: by which logits may differ, relative to their length as a vector:
            what a device that adds in any order makes of the same numbers.
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
        f"Under another key the class named differs for {_percent(share)} of the "
        f"images, and the logits by up to {_percent(difference)}",
        "One answer says little about such a classifier: use EOT (`eot_samples`) and "
        'several `evaluations`, version="rand".',
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
    """Trips where the logits of an image depend on the other images of its batch.

    Every image is asked about again, in its place and under the same key, with black
    and white ones in every other place of the batch. What is random draws the same
    then, whether from the key or from the image's place. Some images are also asked
    about alone and in the first place of a batch, so that their place is the same.

    Logits that differ are compared with their length as a vector, or with its median
    over the images where that is more. What one program makes of an image does not
    differ at all on most devices; where the same question has two answers ten times
    their difference is allowed. A program for one image may add in another order and
    with other products (TF32, bfloat16), and a transform that rounds makes more of it.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        images: floats in [0, 1]; two are needed.
        key: of all questions.
        random: whether answers depend on the key. What is drawn may then depend on the
            size of the batch as well, and no image is asked about alone.
        alone: how many images are asked about alone; each takes two questions.
        tolerance: by which logits in equal batches may differ, relative to their size.
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
        f"{_percent(difference)}, and the class named for {_percent(share)} of the "
        "images"
    )
    if not random:
        seen += f"; alone the logits differ by up to {_percent(single)}"
    return _finding(
        "batch",
        difference > max(tolerance, 10 * noise) or single > tolerance_alone,
        {"share": share, "difference": difference, "alone": single},
        seen,
        "Attacks and verdicts take images to be apart, so every accuracy would be one "
        "of these batches alone: let batch normalisation use its running averages "
        "(evaluation mode), or ask about one image at a time.",
    )


def check_probabilities(
    logits: Float[np.ndarray | Array, "n classes"], *, tolerance: float = 1e-5
) -> Finding:
    """Trips where each row is at least 0 and sums to 1, up to the tolerance."""
    logits = np.asarray(logits, np.float64)
    if len(logits) == 0:
        return _abstains("probabilities", 0, 1)
    away = np.maximum(np.abs(logits.sum(axis=1) - 1), -logits.min(axis=1))
    distance = float(away.max())
    return _finding(
        "probabilities",
        distance <= tolerance,
        {"distance": distance},
        f"Logits are at most {distance:.2g} away from being at least 0 and summing to "
        "1, as probabilities do",
        "Losses would apply the softmax twice, and its slope vanishes where the "
        "classifier is sure: return what comes before the softmax.",
    )


def check_class_count(classes: int) -> Finding:
    """Trips where there are too few classes for the DLR losses of AutoAttack."""
    return _finding(
        "classes",
        classes < 4,
        {"classes": float(classes)},
        f"There are {classes} classes; the DLR loss compares 3, the targeted one 4",
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
    """Trips where gradients are zero, not finite, saturated or of no use.

    Looks at each image and at random points of the ball around it.

    - zero gradient: the margin's is exactly 0 for an image at any point.
    - finite gradient: it holds a NaN or an infinity.
    - saturation: the cross-entropy is 0 in the logits' dtype, or its gradient is where
      the margin's is not.
    - ascent: a step of epsilon / 8 along the margin's gradient, where it is not 0,
      raises the margin, under the same key, no more often than a step in a random
      direction does, which is in half of the cases. It abstains where fewer than 7
      images have a gradient.

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
        points, (start_key, question_key) = images, jax.random.split(one)
        if index:
            keys = image_keys(start_key, 0, images)
            points = norms.random_in_ball(keys, images, epsilon, norm)
        looks.append(look(points, question_key))
    seen = {name: np.stack([each[name] for each in looks]) for name in looks[0]}
    zero, broken, saturated = (
        float(seen[name].any(axis=0).mean())
        for name in ("zero", "not finite", "saturated")
    )
    # The points of one image are not independent, so only images count as many.
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
            "images, at them or near them",
            "There gradient attacks do not move, and measure nothing: give what "
            "rounds, cuts or selects a stand-in derivative (`bpda`), and run a "
            "black-box attack.",
        ),
        _finding(
            "finite gradient",
            broken > 0,
            {"share": broken},
            f"The gradient of the margin holds a NaN or an infinity for "
            f"{_percent(broken)} of the images",
            "Attacks take such entries as 0: look for a root, a norm, a logarithm or a "
            "division at 0 (JAX_DEBUG_NANS finds it).",
        ),
        _finding(
            "saturation",
            saturated > 0,
            {"share": saturated},
            f"The cross-entropy of {_percent(saturated)} of the images is exactly 0, "
            "or has no gradient where the margin has one",
            "Their logits are so far apart that the softmax rounds: attack the margin "
            "or the DLR loss.",
        ),
        _abstains("ascent", count, LEAST_IMAGES, ascent, "with a gradient")
        if count < LEAST_IMAGES
        else _finding(
            "ascent",
            raised <= by_luck,
            ascent,
            f"A small step along the gradient raises the margin in {_percent(raised)} "
            f"of {tried.sum()} cases; in a random direction it would in about half",
            "The gradient does not say where the loss rises: check stand-in "
            "derivatives, average over more keys (`eot_samples`), and run a black-box "
            "attack.",
        ),
    )


def check_ball(
    attacked: Float[Array | np.ndarray, "n h w c"],
    images: Float[Array | np.ndarray, "n h w c"],
    epsilon: Real[ArrayLike, ""],
    norm: str = "linf",
) -> Finding:
    """Trips where an attacked image leaves the ball or [0, 1].

    The norm of the difference may exceed epsilon by what rounding to the images' dtype
    can add: its machine epsilon, times the entries for L1 and their root for L2. The
    attacks of this package do not use it up; those of others may.

    Args:
        attacked: images.
        images: the clean ones.
        epsilon: radius in pixel values.
        norm: "linf", "l2" or "l1".
    """
    inputs.require_choice("norm", norm, norms.NORMS)
    inputs.require_same_shape("attacked", attacked, "images", images)
    if len(images) == 0:
        return _abstains("ball", 0, 1)
    attacked, images = jnp.asarray(attacked), jnp.asarray(images)
    sizes = np.asarray(norms.size(attacked - images, norm), np.float64)
    # Written so that NaN is outside.
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
        "They are no answer to the question asked: project the images "
        "(`attacks.norms.project`) and judge them again.",
    )


def check_steps(
    accuracies: Mapping[int, Accuracy],
    classes: int,
    count: int | None = None,
    *,
    margins: tuple[Float[Array, " n"], Float[Array, " n"]] | None = None,
) -> Finding:
    """Trips where more steps raise the accuracy, or never lower it.

    Args:
        accuracies: by number of steps, two at least. The fewest should be 0, the random
            start alone: one step may be all that a linear classifier needs.
        classes: number of classes; no fall is asked for below chance.
        count: number of images, where accuracies are not given for each.
        margins: of each image (`losses.margin`) after the fewest steps and after the
            most. Where they rise no fall is asked for either: there may be nothing in
            the ball that fools a robust classifier, and the attack may work all the
            same.
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
        rises="More steps should not help the classifier: they may be too large, or "
        "the gradient may mislead. Try smaller ones, restarts, `keep_best`, and more "
        "`eot_samples` if the classifier is random.",
        stays="The gradient may say nothing, or there may be nothing to be found in so "
        "small a ball: look at the gradients, repeat with a larger epsilon, and run a "
        "black-box attack.",
    )


def check_epsilons(
    accuracies: Mapping[Any, Accuracy], classes: int, count: int | None = None
) -> Finding:
    """Trips where a larger epsilon raises the accuracy, or never lowers it.

    Args:
        accuracies: by epsilon, two at least. The largest should leave little room.
        classes, count: as in `check_steps`.
    """
    return _check_series(
        "epsilons",
        "epsilon {:.4g}".format,
        accuracies,
        classes,
        count,
        rises="What can be found in a ball is in the larger one as well, so the attack "
        "misses it: let its steps grow with epsilon, give it more of them, and look at "
        "the gradients.",
        stays="Any classifier that looks at its input can be fooled in a large ball: "
        "look at the gradients, and whether the attack is given the classifier that "
        "is judged.",
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
        raise ValueError(f"{check}: two or more are compared, got {ordered}")
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
    # Of a few images not even that is clear of chance, and it is a fall all the same.
    halved = 2 * means[last] <= means[first]
    if fall > noise or halved or at_chance or not must_fall:
        return finding(False, "goes", first, last, "")
    return finding(True, "does not clearly fall,", first, last, stays)


def check_unbounded(
    accuracy: Accuracy, classes: int, count: int | None = None
) -> Finding:
    """Trips where more than a guess is right after an attack without bounds.

    Args:
        accuracy: under an attack that may change each pixel to any value of [0, 1].
        classes: number of classes; a guess is right for one image in so many.
        count: number of images, where the accuracy is not given for each.
    """
    images = _count(accuracy, count=count)
    if images < LEAST_IMAGES:
        return _abstains("unbounded", images, LEAST_IMAGES)
    mean, chance = _mean(accuracy), 1 / classes
    return _finding(
        "unbounded",
        mean > _chance(accuracy, classes, count),
        {"accuracy": mean, "chance": chance},
        f"Accuracy is {_percent(mean)} under an attack without bounds, "
        f"{_percent(chance)} being chance",
        "Such an attack could make every image the same grey, so it is not the "
        "classifier that withstands but the attack that fails: look at the gradients, "
        "and at the size and the number of steps.",
    )


def check_given_up(attacked: Attacked) -> Finding:
    """Trips where an attack gave up on images: it failed, and not for want of budget.

    Args:
        attacked: the result; of attacks with two readings ``found.unconstrained``.
    """
    status, failed = np.asarray(attacked.status), ~np.asarray(attacked.success)
    reasons = [reason for reason in Status if reason > Status.BUDGET]
    divisors = {
        reason.name.lower(): float((failed & (status == reason)).sum())
        / max(len(failed), 1)
        for reason in reasons
    }
    share = sum(divisors.values())
    named = ", ".join(f"{name} {_percent(x)}" for name, x in divisors.items() if x)
    return _finding(
        "given up",
        share > 0,
        {"share": share, **divisors},
        f"The attack gave up on {_percent(share)} of the images"
        + (f" ({named})" if named else ""),
        "That it did not break them says nothing of the classifier: see "
        "`attacks.Status`, and try another attack, loss or start.",
    )


def check_black_box(
    white: Mapping[str, Accuracy],
    black: Mapping[str, Accuracy],
    count: int | None = None,
) -> Finding:
    """Trips where an attack without gradients beats all that have them.

    Args:
        white: accuracies under attacks with gradients, by name. Where all are given for
            each image the worst case of each is compared.
        black: accuracies under black-box attacks, transfer and random noise.
        count: number of images, where accuracies are not given for each.
    """
    if not white or not black:
        raise ValueError("white and black must each name an attack or more")
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
        f"Accuracy is {_percent(_mean(worst))} under the attacks with gradients and "
        f"{_percent(_mean(black[best]))} under {best}, which has none",
        "Who knows more should not do worse, so the gradients are masked: report the "
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
    """PGD whose steps together can cross the ball, whatever their number."""
    size = jnp.where(epsilon > 0, 2.5 * epsilon / max(steps, 1), 1)
    return pgd(
        logits_fn,
        images,
        labels,
        key,
        epsilon=epsilon,
        step_size=size,
        steps=steps,
        norm=norm,
    )


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
    """The finding of a check that had too few images to tell anything from chance."""
    images = " ".join(["image" + "s" * (wants != 1), which]).strip()
    sentence = f"It takes {wants} {images} to tell, and there are {count}."
    return Finding(check, False, values or {"images": float(count)}, sentence, wants)


def _mean(accuracy: Accuracy) -> float:
    return float(np.mean(np.asarray(accuracy, np.float64)))


def _fall(first: Accuracy, second: Accuracy, count: int | None) -> tuple[float, float]:
    """How far accuracy fell, and how far it may have by chance."""
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
    """The accuracy that guesses reach, with luck."""
    p = 1 / classes
    return p + STANDARD_ERRORS * math.sqrt(p * (1 - p) / _count(accuracy, count=count))


def _count(*accuracies: Accuracy, count: int | None) -> int:
    for accuracy in accuracies:
        shape: tuple[int, ...] = np.shape(accuracy)
        if shape:
            return shape[0]
    if count is None:
        raise ValueError("accuracies that are not given for each image need a count")
    return count


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
