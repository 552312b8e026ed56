"""The attack of Carlini and Wagner: the least perturbation by which a margin is won.

In short, for a classifier `logits_fn(images, key) -> logits`:

    attack = jax.jit(functools.partial(carlini_wagner, logits_fn))
    found = attack(images, labels, key)
    found.unconstrained.success, found.l2       # how far the nearest error is
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
from attacks.oracle import Answer, Goal, make_goal, query
from attacks.precision import as_shown, in_working_precision
from attacks.types import Attacked, LogitsFunction, Status

# A pixel x(w) hardly changes with w where x (1 - x) is below this.
SATURATED = 0.01


class CarliniWagner(NamedTuple):
    """Both readings of the attack, one entry per image.

    Attributes:
        unconstrained: the attack as published: the image nearest in L2 over which the
            classifier errs by more than the confidence; where none was found, the one
            that came closest to it. Bounded by nothing but the box [0, 1], so a success
            says little without its norm: given room, every classifier errs.
        projected: the same images moved to the nearest point of the L-infinity ball,
            and judged there. This is what can be compared with attacks in that ball.
            A failure here is weak evidence of robustness: the attack looked for
            something else, and what it found was cut.
        l2: norm of the unconstrained perturbation, in pixel values.
        linf: the largest pixel of the same.
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

    with m the margin by which another class (or the target) leads. Adam minimises over
    w, starting at the image; c is searched for each image: times 10 until the margin
    exceeds the confidence kappa, then by bisection. Of all images met on the way the
    nearest one with that margin is returned.

    The defaults are the paper's, which names Foolbox; what it does not state
    (`initial_const`, `abort_early`) is as in the Foolbox of its time. Where the search
    for c is shorter than it takes to reach the confidence, less of a margin comes back:
    ``unconstrained.loss`` is the margin.

    Every image is searched alone: an image whose objective stalls is done, whatever the
    others do. Nothing here is random but the classifier.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``, differentiable.
        images: floats in [0, 1].
        labels: integers in [0, classes), the true classes.
        key: a key of `jax.random.key`.
        epsilon: radius of the L-infinity ball of ``projected``, in pixel values; >= 0.
        confidence: kappa, a difference of logits; >= 0.
        binary_search_steps: values of c that are tried; >= 1. With ten or more the last
            is the smallest that has worked.
        learning_rate: Adam's, in units of w; > 0.
        steps: of Adam for each c; >= 1.
        initial_const: the first c; > 0.
        abort_early: whether an image is done with a c when its objective has not
            fallen by 0.01 % within a tenth of the steps, no pixel is on its way out of
            the ends of [0, 1], and no error is near. At the ends x(w) is flat: a pixel
            of 0 or 1 needs hundreds of steps of w until it changes, and the objective
            with it. An error is near where the margin, nothing beside the confidence,
            grows fast enough to be won in as many steps as there are for a c.
        targets: integers in [0, classes), the target classes; None for untargeted.
        eot_samples: keys over which gradients are averaged, and the logits that are
            compared with the confidence. Of a random classifier the images with lucky
            answers look near: spend samples, confidence or both.
        eot_chunk: keys per vectorized query; memory grows with it.
        evaluations: keys of the final evaluation of both results, a majority vote.
        first_index: unused, since this attack draws no random numbers; for the common
            signature of attacks.

    Returns:
        Both readings. ``loss`` is the margin. ``queries`` counts ``eot_samples`` for
        every step before an image was done, and the verdict's ``evaluations``.

    Raises:
        ValueError, TypeError: as `attacks.pgd`.

    References:
        Carlini and Wagner 2017, "Towards evaluating the robustness of neural networks",
        sections V and VI.A.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks import carlini_wagner
        >>> def brightness(images, key):  # two classes: dark and light
        ...     light = 100 * (images.mean(axis=(1, 2, 3)) - 0.5)
        ...     return jnp.stack([-light, light], axis=1)
        >>> images, labels = jnp.full((1, 4, 4, 1), 0.6), jnp.array([1])
        >>> found = carlini_wagner(brightness, images, labels, jax.random.key(0))
        >>> print(f"{found.unconstrained.loss[0]:.0f}")  # just over the confidence
        20
        >>> print(found.unconstrained.success[0], found.projected.success[0])
        True False
    """
    del first_index
    inputs.require_finite(epsilon=epsilon, confidence=confidence)
    inputs.require_positive(learning_rate=learning_rate, initial_const=initial_const)
    inputs.require_at_least(
        1,
        binary_search_steps=binary_search_steps,
        steps=steps,
        eot_samples=eot_samples,
        eot_chunk=eot_chunk,
        evaluations=evaluations,
    )
    images, labels, _ = inputs.checked(logits_fn, images, labels, key, targets)
    goal = make_goal(None, labels, targets, default=MARGIN)
    hinge = goal._replace(
        measure=lambda *given: -jnp.maximum(confidence - goal.measure(*given), 0)
    )
    oracle = partial(query, logits_fn, hinge, samples=eot_samples, chunk=eot_chunk)

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
                falls |= _leaves_saturation(
                    w, past.w, learning_rate * check_every
                )
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
    evaluate = partial(
        finish,
        logits_fn,
        goal,
        evaluations=evaluations,
        queries=queries,
        status=stop_status(best, otherwise),
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
    """Where an image was when it was last looked at for progress."""

    objective: Float[Array, " n"]
    w: Float[Array, "n h w c"]
    margins: Float[Array, " n"]


# The index, w, the optimizer's state, what is kept, which go on, where they were, which
# were found, and queries.
_Descent = tuple[Array, Array, Any, Best, Array, _Checkpoint, Array, Array]
# The constant and its bounds, what is kept, queries, and for which images all the steps
# of a constant were taken.
_Search = tuple[Array, Array, Array, Best, Array, Array]


def _from_tanh(w: Array) -> Array:
    return (jnp.tanh(w) + 1) / 2


def _leaves_saturation(
    w: Array, before: Array, furthest: ArrayLike
) -> Bool[Array, " n"]:
    """Whether a pixel of an image is on its way out of the ends of the box.

    Args:
        w: of all images.
        before: the same when it was last looked at.
        furthest: how far Adam can have moved it since.
    """
    saturated = _from_tanh(w) * _from_tanh(-w) < SATURATED
    inward = jnp.abs(before) - jnp.abs(w)
    # The slope grows by exp(2 d) where w moves by d: a pixel that moves by 0.05 in a
    # tenth of the steps is at full speed within all of them.
    leaves = inward > jnp.minimum(0.05, 0.1 * furthest)
    return (saturated & leaves).any(axis=(1, 2, 3))


def _nears_an_error(
    margins: Array, before: Array, confidence: ArrayLike
) -> Bool[Array, " n"]:
    """Whether a margin is won soon that is too small for the objective to show it.

    The objective would have to fall by 0.01 % ten times, of the confidence and the
    margin together.
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
    """Images to be kept: of the confident ones the nearest, else the largest margin."""
    margins = goal.loss(answer.logits).astype(clean.dtype)
    confident = margins > confidence
    worth = jnp.where(confident, -norms.size(images - clean, "l2"), margins)
    counts = active & answer.finite
    wrong = jnp.where(counts, confident.astype(clean.dtype), -1)
    not_finite = (active & ~answer.finite).astype(jnp.int32)
    return Best(images, worth, wrong, not_finite, jnp.zeros_like(not_finite))
