"""Auto-PGD: gradient ascent with an adaptive step size for each image.

For a classifier `logits_fn(images, key) -> logits`:

    attack = jax.jit(functools.partial(autopgd, logits_fn))     # compile once
    attacked = attack(images, labels, key, epsilon=8 / 255)
    accuracy = 1 - attacked.success.mean()
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int32, Integer, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.ascent import (
    Best,
    Rule,
    ascend,
    finish,
    initial_best,
    merge,
    preference,
    stop_status,
    update_best,
)
from attacks.empty import allow_no_images
from attacks.keys import image_keys
from attacks.losses import Loss, cross_entropy, likeliest_others, targeted_dlr
from attacks.norms import per_image
from attacks.oracle import Answer, Goal, Sampling, make_goal, make_sampling, query
from attacks.precision import in_working_precision
from attacks.remaining import Remaining
from attacks.types import Attacked, LogitsFunction

NORMS = ("linf", "l2")

# Weight of the gradient step against the momentum: the paper's alpha.
STEP_WEIGHT = 0.75


@allow_no_images
@in_working_precision
def autopgd(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    norm: str = "linf",
    loss: Loss | None = None,
    targets: Num[Array | np.ndarray, " n"] | None = None,
    steps: int = 100,
    restarts: int = 1,
    rho: Real[ArrayLike, ""] = 0.75,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Attacked:
    r"""Auto-PGD: momentum, and a step size that is halved when the loss stalls.

    .. math::
        z = \Pi_B(x_t + \eta\, d(\nabla_x L(f(x_t), y))), \qquad
        x_{t+1} = \Pi_B(x_t + \alpha (z - x_t) + (1 - \alpha)(x_t - x_{t-1}))

    with alpha 0.75 (1 in the first step), d the sign for L-infinity and g / ||g|| for
    L2, and B the ball of radius epsilon in [0, 1]. The step size eta starts at
    2 epsilon. At the steps in `checkpoints` it is halved for an image, which resumes
    at its iterate of highest loss, if since the previous checkpoint

    - the loss rose in at most a share ``rho`` of the steps, or
    - the highest loss has not risen, and eta was not halved at that checkpoint.

    For a deterministic classifier the misclassified iterate of highest loss is
    returned, or the iterate of highest loss if none is misclassified. A misclassified
    clean image is returned unchanged, and an image that one restart breaks is skipped
    by the next. If `eot_samples` or `evaluations` above 1 imply a random classifier,
    one misclassification is no proof: every restart attacks every image, and the
    iterate of highest mean loss is returned.

    Two details differ from the authors' program. At its first checkpoint it compares
    the loss after one step with a placeholder of 0; here, as in the paper, with the
    loss at the start. And for a random classifier it tracks the loss of the last
    sample; here the mean. For ball, box, keys, constancy and `jax.jit` see
    `attacks.pgd`.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``, differentiable.
        images, labels, key: as in `pgd`.
        epsilon: radius of the ball in pixel values, images being in [0, 1]; >= 0.
        norm: "linf" or "l2".
        loss: ``(logits, labels) -> [n]``, or ``(logits, labels, targets) -> [n]`` with
            targets; None for the cross-entropy. The paper's other loss is
            `attacks.losses.dlr`.
        targets: integers in [0, classes), the target classes; None for untargeted.
        steps: number of gradient steps; >= 0.
        restarts: runs from independent random starts on the ball's surface.
        rho: the share of steps with a rising loss above which the step size is kept.
        eot_samples: keys over which each gradient is averaged.
        eot_chunk, evaluations, first_index: as in `pgd`.

    Returns:
        The attacked images. ``queries`` is ``(steps + 1) * eot_samples`` for each
        restart that attacked the image, ``evaluations``, and for a deterministic
        classifier 1 for the clean image.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an
        ensemble of diverse parameter-free attacks", section 3, algorithm 1.

    Example:
        >>> import attacks, jax, jax.numpy as jnp
        >>> def brightness(images, key):  # two classes: dark and light
        ...     return (images.mean((1, 2, 3)) - 0.5)[:, None] * jnp.array([-1, 1])
        >>> images, labels = jnp.full((1, 8, 8, 3), 0.51), jnp.array([1])
        >>> attacks.autopgd(brightness, images, labels, jax.random.key(0)).success
        Array([ True], dtype=bool)
    """
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    settings = _Settings(epsilon, norm, steps, rho, sampling, first_index)
    _check(settings)
    inputs.require_at_least(1, restarts=restarts)
    images, labels, _ = inputs.checked(logits_fn, images, labels, key, targets)
    goal = make_goal(loss, labels, targets)
    clean = None
    if not sampling.randomized:
        clean = query(logits_fn, goal, images, _clean_key(key), gradient=False)
    return _best_of(
        logits_fn,
        images,
        key,
        settings,
        runs=restarts,
        goal_of=lambda run: goal,
        judged=goal,
        clean=clean,
    )


@allow_no_images
@in_working_precision
def targeted_autopgd(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    norm: str = "linf",
    target_classes: int = 9,
    steps: int = 100,
    rho: Real[ArrayLike, ""] = 0.75,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Attacked:
    r"""APGD-T: Auto-PGD towards one target after another, untargeted in its goal.

    Each run of `autopgd` maximises the targeted difference of logits ratio

    .. math:: -\frac{z_y - z_t}{z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2}

    for one target t, in the order of the clean logits, highest first. Any
    misclassification is a success. With fewer than ``target_classes`` wrong classes,
    all are targets.

    Args:
        logits_fn, images, labels, key, epsilon, norm, steps, rho: as in `autopgd`.
        eot_samples, eot_chunk, evaluations, first_index: as in `autopgd`.
        target_classes: the largest number of targets; >= 1.

    Returns:
        The attacked images, chosen among the runs as in `autopgd`. ``loss`` is the
        largest over the targets; ``queries`` is ``(steps + 1) * eot_samples`` for each
        run that attacked the image, ``eot_samples`` for the clean image, and
        ``evaluations``.

    Raises:
        ValueError, TypeError: as `autopgd`; on fewer than four classes.

    References:
        Croce and Hein 2020, section 4 and eq. (7).

    Example:
        >>> import attacks, jax, jax.numpy as jnp
        >>> def level(images, key):  # four classes: levels of grey
        ...     grey = images.mean(axis=(1, 2, 3))[:, None]
        ...     return -((grey - jnp.array([0.2, 0.4, 0.6, 0.8])) ** 2)
        >>> images, labels = jnp.full((1, 8, 8, 3), 0.52), jnp.array([2])
        >>> found = attacks.targeted_autopgd(level, images, labels, jax.random.key(0))
        >>> print(found.success, found.queries)  # in the first run
        [ True] [103]
    """
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    settings = _Settings(epsilon, norm, steps, rho, sampling, first_index)
    _check(settings)
    inputs.require_at_least(1, target_classes=target_classes)
    images, labels, count = inputs.checked(logits_fn, images, labels, key)
    runs = min(target_classes, count - 1)
    away = make_goal(cross_entropy, labels)
    clean = query(
        logits_fn,
        away,
        images,
        _clean_key(key),
        sampling=sampling,
        gradient=False,
    )
    targets = likeliest_others(clean.logits, labels, runs)

    def towards(run: Array) -> Goal:
        return away._replace(measure=targeted_dlr, given=(labels, targets[run]))

    def of_best_target(logits: Array, labels: Array, targets: Array) -> Array:
        return jax.vmap(targeted_dlr, (None, None, 1))(logits, labels, targets).max(0)

    best = away._replace(measure=of_best_target, given=(labels, targets.T))

    return _best_of(
        logits_fn,
        images,
        key,
        settings,
        runs=runs,
        goal_of=towards,
        judged=best,
        clean=clean._replace(loss=best.loss(clean.logits).astype(images.dtype)),
    )


def checkpoints(steps: int) -> tuple[int, ...]:
    r"""The step counts at which the step size may be halved.

    The first is at 22 % of the steps; each interval is 3 % shorter than the one before,
    but at least 6 %. Each share is rounded down to a whole number of steps, at least 1.

    Args:
        steps: number of steps of the whole attack.

    Returns:
        The checkpoints, increasing and at most ``steps``.

    References:
        Croce and Hein 2020, section 3.2; rounded as in the authors' program.

    Example:
        >>> from attacks.autopgd import checkpoints
        >>> checkpoints(100)
        (22, 41, 57, 70, 80, 87, 93, 99)
    """
    interval, less, least = (max(int(p * steps), 1) for p in (0.22, 0.03, 0.06))
    found, at = [], interval
    while at <= steps:
        found.append(at)
        interval = max(interval - less, least)
        at += interval
    return tuple(found)


class _Settings(NamedTuple):
    epsilon: ArrayLike
    norm: str
    steps: int
    rho: ArrayLike
    sampling: Sampling
    first_index: ArrayLike


class _State(NamedTuple):
    """The state of `_rule`, per image.

    Attributes:
        previous: the previous iterate.
        best, best_gradient, best_loss: the iterate of highest loss.
        last_loss: loss of the previous iterate.
        rises: how often the loss rose since the last checkpoint.
        step_size: in pixel values.
        best_loss_then: highest loss at the last checkpoint.
        halved: whether the step size was halved there.
    """

    previous: Float[Array, "n h w c"]
    best: Float[Array, "n h w c"]
    best_gradient: Float[Array, "n h w c"]
    best_loss: Float[Array, " n"]
    last_loss: Float[Array, " n"]
    rises: Int32[Array, " n"]
    step_size: Float[Array, " n"]
    best_loss_then: Float[Array, " n"]
    halved: Bool[Array, " n"]


def _check(settings: _Settings) -> None:
    inputs.require_finite(epsilon=settings.epsilon, rho=settings.rho)
    inputs.require_choice("norm", settings.norm, NORMS)
    inputs.require_at_least(0, steps=settings.steps)


def _clean_key(key: PRNGKeyArray) -> PRNGKeyArray:
    return jax.random.fold_in(key, 0)


_Carry = tuple[Best, Array]  # best so far, queries


def _best_of(
    logits_fn: LogitsFunction,
    images: Array,
    key: PRNGKeyArray,
    settings: _Settings,
    *,
    runs: int,
    goal_of: Callable[[Array], Goal],
    judged: Goal,
    clean: Answer | None,
) -> Attacked:
    """The best of several runs, each with its own goal and start; see `autopgd`."""
    epsilon, norm, steps = settings.epsilon, settings.norm, settings.steps
    sampling, randomized = settings.sampling, settings.sampling.randomized
    prefers = preference(randomized=randomized)
    rule = _rule(images, epsilon, norm, steps, settings.rho)
    best, queries = initial_best(images), jnp.zeros(len(images), jnp.int32)
    sizes: tuple[int, ...] = (len(images),)
    if runs > 1 and not randomized:
        sizes = goal_of(jnp.int32(0)).batch_sizes(logits_fn, images, key)
    if clean is not None:
        queries += sampling.samples
        best = update_best(best, images, clean, prefers)

    def run(carry: _Carry, index: Array) -> tuple[_Carry, None]:
        best, queries = carry
        left = jnp.ones_like(best.wrong, bool)
        if not randomized:
            left = best.wrong < 1

        def search() -> _Carry:
            start_key, query_key = jax.random.split(jax.random.fold_in(key, 1 + index))
            keys = image_keys(start_key, settings.first_index, images)
            moved = images + norms.random_of_size(keys, images, epsilon, norm)
            start = norms.project(moved, images, epsilon, norm)
            oracle = partial(
                query,
                logits_fn,
                goal_of(index),
                sampling=sampling,
                remaining=Remaining(left, sizes),
            )
            _, found = ascend(
                oracle, rule, start, query_key, steps=steps, prefers=prefers
            )
            found = found._replace(
                not_finite=jnp.where(left, found.not_finite, 0),
                flat=jnp.where(left, found.flat, 0),
            )
            spent = jnp.where(left, (steps + 1) * sampling.samples, 0)
            better = merge(best, found, prefers, left & (found.wrong >= 0))
            return better, queries + spent

        return jax.lax.cond(left.any(), search, lambda: carry), None

    (best, queries), _ = jax.lax.scan(run, (best, queries), jnp.arange(runs))
    return finish(
        logits_fn,
        judged,
        best,
        jax.random.fold_in(key, 1 + runs),
        sampling.evaluations,
        queries=queries,
        status=stop_status(best, at_wrong=not randomized),
    )


def _rule(
    clean: Array, epsilon: ArrayLike, norm: str, steps: int, rho: ArrayLike
) -> Rule:
    # At each checkpoint the number of steps since the last one, elsewhere 0.
    since = np.zeros(steps + 1, np.int32)
    ends = checkpoints(steps)
    since[list(ends)] = np.diff(ends, prepend=0)

    def init(images: Array) -> _State:
        n, dtype = len(images), images.dtype
        least = jnp.full(n, -jnp.inf, dtype)
        return _State(
            previous=images,
            best=images,
            best_gradient=jnp.zeros_like(images),
            best_loss=least,
            last_loss=-least,
            rises=jnp.zeros(n, jnp.int32),
            step_size=jnp.full(n, 2 * jnp.asarray(epsilon, dtype)),
            best_loss_then=least,
            halved=jnp.ones(n, bool),
        )

    def step(
        state: _State, images: Array, answer: Answer, index: Array
    ) -> tuple[Array, _State]:
        assert answer.gradient is not None
        better = answer.finite & (answer.loss > state.best_loss)
        best = jnp.where(per_image(better), images, state.best)
        best_gradient = jnp.where(
            per_image(better), answer.gradient, state.best_gradient
        )
        best_loss = jnp.where(better, answer.loss, state.best_loss)
        rises = state.rises + (answer.loss > state.last_loss)

        interval = jnp.asarray(since)[index]
        stalled = ~state.halved & (state.best_loss_then >= best_loss)
        checked = interval > 0
        halve = checked & ((rises <= rho * interval) | stalled)
        step_size = jnp.where(halve, state.step_size / 2, state.step_size)
        point = jnp.where(per_image(halve), best, images)
        gradient = jnp.where(per_image(halve), best_gradient, answer.gradient)

        move = per_image(step_size) * norms.direction(gradient, norm)
        stepped = norms.project(point + move, clean, epsilon, norm)
        weight = jnp.where(index > 0, STEP_WEIGHT, 1).astype(clean.dtype)
        inertia = (1 - weight) * (point - state.previous)
        moved = point + weight * (stepped - point) + inertia
        return norms.project(moved, clean, epsilon, norm), _State(
            previous=point,
            best=best,
            best_gradient=best_gradient,
            best_loss=best_loss,
            last_loss=answer.loss,
            rises=jnp.where(checked, 0, rises),
            step_size=step_size,
            best_loss_then=jnp.where(checked, best_loss, state.best_loss_then),
            halved=jnp.where(checked, halve, state.halved),
        )

    return Rule(init, step)
