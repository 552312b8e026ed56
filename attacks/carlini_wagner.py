"""The attack of Carlini and Wagner: the smallest perturbation that wins by a margin.

For a classifier `logits_fn(images, key) -> logits`:

    attack = jax.jit(functools.partial(carlini_wagner, logits_fn))
    found = attack(images, labels, key)
    found.unconstrained.success, found.l2       # distance to the nearest error
    1 - found.projected.success.mean()          # accuracy inside the ball
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.ascent import (
    Best,
    choose,
    finish,
    flat_gradient,
    initial_best,
    merge,
    stop_status,
    wrong_first,
)
from attacks.empty import allow_no_images
from attacks.losses import MARGIN
from attacks.oracle import Answer, Goal, make_goal, make_sampling, query
from attacks.precision import as_shown, in_working_precision
from attacks.types import Attacked, LogitsFunction, Status

# Below this value of x (1 - x) a pixel x(w) is saturated.
SATURATED = 0.01


class CarliniWagner(NamedTuple):
    """Both readings of the attack, one entry per image.

    Attributes:
        unconstrained: the attack as published: the image nearest in L2 whose margin
            exceeds the confidence, or if none was found that of the largest margin.
            Only the box [0, 1] bounds it, so success means little without the norm:
            every classifier fails under a large enough perturbation.
        projected: the same images projected onto the L-infinity ball and evaluated
            there, for comparison with attacks in that ball. Failure is weak evidence
            of robustness, since the attack minimized something else.
        l2: norm of the unconstrained perturbation, in pixel values.
        linf: its L-infinity norm, in pixel values.
    """

    unconstrained: Attacked
    projected: Attacked
    l2: Float[Array, " n"]
    linf: Float[Array, " n"]


@allow_no_images
@in_working_precision
def carlini_wagner(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    confidence: Real[ArrayLike, ""] = 20.0,
    binary_search_steps: int = 5,
    learning_rate: Real[ArrayLike, ""] = 0.005,
    steps: int = 1000,
    initial_const: Real[ArrayLike, ""] = 0.01,
    abort_early: bool = True,
    targets: Num[Array | np.ndarray, " n"] | None = None,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> CarliniWagner:
    r"""The L2 attack of Carlini and Wagner.

    .. math::
        \min_w \|x(w) - x\|_2^2 + c \max(0, \kappa - m(f(x(w)))), \qquad
        x(w) = \frac{\tanh w + 1}{2}

    with m the margin of another class (or the target) over the rest. Adam minimizes
    over w, starting at the image; c is searched per image: times 10 until the margin
    exceeds the confidence kappa, then by bisection. Of all iterates the nearest with
    that margin is returned.

    The defaults are the paper's, which names Foolbox; what it does not state
    (`initial_const`, `abort_early`) is as in the Foolbox of its time. If the search for
    c is too short to reach the confidence, the image of largest margin is returned:
    ``unconstrained.loss`` is the margin.

    Images are independent: early stopping is decided for each. The attack itself is
    deterministic.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``, differentiable.
        images, labels, key: as in `pgd`.
        epsilon: radius of the L-infinity ball of ``projected``, in pixel values; >= 0.
        confidence: kappa, a difference of logits; >= 0.
        binary_search_steps: number of values of c; >= 1. With ten or more the last is
            the smallest that has succeeded.
        learning_rate: of Adam, in units of w; > 0.
        steps: of Adam for each c; >= 1.
        initial_const: the first c; > 0.
        abort_early: whether to stop early with a c: when within a tenth of the steps
            the objective has not fallen by 0.01 %, no pixel is leaving saturation, and
            no error is near. Near 0 and 1 x(w) is flat, so a pixel takes hundreds of
            steps of w before it and the objective change. An error is near if the
            margin is negligible against the confidence, but grows fast enough to
            become positive within the steps of one c.
        targets: integers in [0, classes), the target classes; None for untargeted.
        eot_samples: keys over which gradients, and the logits that are compared with
            the confidence, are averaged. For a random classifier a lucky draw can make
            an image look adversarial: use more samples, more confidence or both.
        eot_chunk: keys per vectorized query; memory grows with it.
        evaluations: keys of the final evaluation of both results, a majority vote.
        first_index: unused, since this attack draws no random numbers; for the common
            signature of attacks.

    Returns:
        Both readings. ``loss`` is the margin. ``queries`` counts ``eot_samples`` for
        every step until the image stops, and ``evaluations``.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Carlini and Wagner 2017, "Towards evaluating the robustness of neural networks",
        sections V and VI.A.

    Example:
        >>> import attacks, jax, jax.numpy as jnp
        >>> def brightness(images, key):  # two classes: dark and light
        ...     light = 100 * (images.mean(axis=(1, 2, 3)) - 0.5)
        ...     return jnp.stack([-light, light], axis=1)
        >>> images, labels = jnp.full((1, 4, 4, 1), 0.6), jnp.array([1])
        >>> both = attacks.carlini_wagner(brightness, images, labels, jax.random.key(0))
        >>> print(f"{both.unconstrained.loss[0]:.0f}")  # just above the confidence
        20
        >>> print(both.unconstrained.success[0], both.projected.success[0])
        True False
    """
    del first_index
    inputs.require_finite(epsilon=epsilon, confidence=confidence)
    inputs.require_positive(learning_rate=learning_rate, initial_const=initial_const)
    inputs.require_at_least(1, binary_search_steps=binary_search_steps, steps=steps)
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    images, labels, _ = inputs.checked(logits_fn, images, labels, key, targets)
    goal = make_goal(None, labels, targets, default=MARGIN)
    hinge = goal._replace(
        measure=lambda *given: -jnp.maximum(confidence - goal.measure(*given), 0)
    )
    oracle = partial(query, logits_fn, hinge, sampling=sampling)

    origin = jnp.arctanh((images * 2 - 1) * 0.999999)
    mapped = _from_tanh(origin)
    optimizer = optax.adam(learning_rate)
    check_every = -(-steps // 10)
    n, dtype = len(images), images.dtype

    def minimize(
        const: Array, best: Best, queries: Array, key: PRNGKeyArray
    ) -> tuple[Best, Array, Array, Array]:
        def step(carry: _Descent) -> _Descent:
            index, w, state, best, active, past, found, queries = carry
            current = _from_tanh(w)
            answer = oracle(current, jax.random.fold_in(key, index))
            queries += jnp.where(active, eot_samples, 0)
            shift = current - mapped
            objective = jnp.sum(shift**2, axis=(1, 2, 3)) - const * answer.loss
            assert answer.gradient is not None
            flat = jnp.where(
                active & (answer.loss < 0), flat_gradient(answer.gradient), 0
            )
            if abort_early:
                due = (index % check_every == 0) & answer.finite
                falls = objective <= 0.9999 * past.objective
                margins = goal.loss(answer.logits).astype(dtype)
                now = _Checkpoint(objective, w, margins)
                falls |= _leaves_saturation(w, past.w, learning_rate * check_every)
                falls |= _nears_an_error(margins, past.margins, confidence)
                active &= ~due | falls
                past = choose(due, now, past)
            new = _candidate(answer, goal, images, current, confidence, active)
            new = new._replace(flat=flat)
            found |= new.wrong > 0
            best = merge(best, new, wrong_first)
            slope = 2 * shift - norms.per_image(const) * answer.gradient
            slope *= 2 * current * (1 - current)  # of x(w)
            update, state = optimizer.update(slope, state)
            return (
                index + 1,
                w + update,
                state,
                best,
                active,
                past,
                found,
                queries,
            )

        def unfinished(carry: _Descent) -> Array:
            index, _, _, _, active, *_ = carry
            return (index < steps) & active.any()

        infinite = jnp.full(n, jnp.inf, dtype)
        start = (
            jnp.int32(0),
            origin,
            optimizer.init(origin),
            best,
            jnp.ones(n, bool),
            _Checkpoint(infinite, origin, -infinite),
            jnp.zeros(n, bool),
            queries,
        )
        *_, best, exhausted, _, found, queries = jax.lax.while_loop(
            unfinished, step, start
        )
        return best, found, queries, exhausted

    def search(index: Array, carry: _Search) -> _Search:
        const, lower, upper, best, queries, exhausted = carry
        if binary_search_steps >= 10:
            smallest = jnp.minimum(upper, 1e10)
            const = jnp.where(index == binary_search_steps - 1, smallest, const)
        best, found, queries, more = minimize(
            const, best, queries, jax.random.fold_in(key, index)
        )
        upper = jnp.where(found, const, upper)
        lower = jnp.where(found, lower, const)
        const = jnp.where(jnp.isinf(upper), const * 10, (lower + upper) / 2)
        return const, lower, upper, best, queries, exhausted | more

    const = jnp.full(n, initial_const, dtype)
    bounds = 0 * const, jnp.full(n, jnp.inf, dtype)
    start = (
        const,
        *bounds,
        initial_best(images),
        jnp.zeros(n, jnp.int32),
        jnp.zeros(n, bool),
    )
    *_, best, queries, exhausted = jax.lax.fori_loop(
        0, binary_search_steps, search, start
    )
    otherwise = jnp.where(exhausted, Status.BUDGET.value, Status.CONVERGED.value)

    evaluation_key, projected_key = jax.random.split(
        jax.random.fold_in(key, binary_search_steps)
    )
    status = stop_status(best, otherwise)
    evaluate = partial(
        finish, logits_fn, goal, evaluations=evaluations, queries=queries, status=status
    )
    inside = norms.project(best.images, images, epsilon, "linf")
    difference = as_shown(logits_fn, best.images) - images
    return CarliniWagner(
        evaluate(best=best, key=evaluation_key),
        evaluate(best=best._replace(images=inside), key=projected_key),
        norms.size(difference, "l2"),
        norms.size(difference, "linf"),
    )


class _Checkpoint(NamedTuple):
    """An image's state at the last check for early stopping."""

    objective: Float[Array, " n"]
    w: Float[Array, "n h w c"]
    margins: Float[Array, " n"]


# The index, w, the optimizer's state, best so far, which are active, their last check,
# which were found, and queries.
_Descent = tuple[Array, Array, Any, Best, Array, _Checkpoint, Array, Array]
# The constant and its bounds, best so far, queries, and which images used all steps for
# some constant.
_Search = tuple[Array, Array, Array, Best, Array, Array]


def _from_tanh(w: Array) -> Array:
    return (jnp.tanh(w) + 1) / 2


def _leaves_saturation(
    w: Array, before: Array, furthest: ArrayLike
) -> Bool[Array, " n"]:
    """Whether a pixel of an image is leaving saturation.

    Args:
        w: of all images.
        before: w at the last check.
        furthest: the largest change of w by Adam since.
    """
    saturated = _from_tanh(w) * _from_tanh(-w) < SATURATED
    inward = jnp.abs(before) - jnp.abs(w)
    # A change of w by d scales the slope by exp(2 d): a pixel that moves by 0.05 in a
    # tenth of the steps leaves saturation within all of them.
    leaves = inward > jnp.minimum(0.05, 0.1 * furthest)
    return (saturated & leaves).any(axis=(1, 2, 3))


def _nears_an_error(
    margins: Array, before: Array, confidence: ArrayLike
) -> Bool[Array, " n"]:
    """Whether a margin too small to show in the objective will soon be positive.

    Too small: below 0.1 % of confidence minus margin, ten times what is progress.
    """
    unseen = (margins <= 0) & (-margins < 0.001 * (confidence - margins))
    return unseen & (-margins < 10 * (margins - before))


def _candidate(
    answer: Answer,
    goal: Goal,
    clean: Array,
    images: Array,
    confidence: ArrayLike,
    active: Array,
) -> Best:
    """Candidates: the nearest is best if confident, else that of largest margin."""
    margins = goal.loss(answer.logits).astype(clean.dtype)
    confident = margins > confidence
    worth = jnp.where(confident, -norms.size(images - clean, "l2"), margins)
    valid = active & answer.finite
    wrong = jnp.where(valid, confident.astype(clean.dtype), -1)
    not_finite = (active & ~answer.finite).astype(jnp.int32)
    return Best(images, worth, wrong, not_finite, jnp.zeros_like(not_finite))
