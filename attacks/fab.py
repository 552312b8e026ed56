"""The fast adaptive boundary attack: the closest image across the boundary."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int32, Integer, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.ascent import Best, finish, flat_gradient, stop_status
from attacks.empty import allow_no_images
from attacks.keys import fold_in_index, image_keys
from attacks.loops import canonical
from attacks.losses import is_class, likeliest_others, margin, of_class
from attacks.norms import per_image
from attacks.oracle import (
    Answer,
    Sampling,
    make_goal,
    make_sampling,
    mean_logits,
    query,
)
from attacks.precision import in_working_precision, remeasured
from attacks.remaining import Remaining, on_remaining
from attacks.types import Attacked, Images, LogitsFunction, PerImage, Status

# Dual norms.
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


@allow_no_images
@in_working_precision
def fab(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    target_classes: int | None = None,
    alpha_max: Real[ArrayLike, ""] = 0.1,
    eta: Real[ArrayLike, ""] = 1.05,
    beta: Real[ArrayLike, ""] = 0.9,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Attacked:
    r"""The fast adaptive boundary attack, as AutoAttack uses it.

    With z the logits, y the label and x the clean image, a step linearizes the
    boundary to the class whose linearized boundary is closest to the iterate,

    .. math::
        \pi_t = \{u : g_s(x_t) + \nabla g_s(x_t)^T (u - x_t) = 0\}, \quad
        g_l = z_l - z_y, \quad
        s = \arg\min_{l \ne y} \frac{|g_l(x_t)|}{\|\nabla g_l(x_t)\|_*},

    projects both the iterate and the clean image onto its part in the box, and steps
    slightly past it, between the two projections:

    .. math::
        d = P_{\pi_t}(x_t) - x_t, \quad d' = P_{\pi_t}(x) - x, \quad
        \alpha = \min(\tfrac{\|d\|}{\|d\| + \|d'\|}, \alpha_{max}), \\
        x_{t+1} = \Pi_{[0, 1]}((1 - \alpha)(x_t + \eta d) + \alpha (x + \eta d')).

    A misclassified iterate is recorded if it is the closest so far, and pulled back to
    :math:`x + \beta (x_{t+1} - x)`. There is no loss and no step size to tune.

    This is a minimal-perturbation attack. Only a perturbation within `epsilon` counts:
    else the clean image is returned, as in AutoAttack, and is no success; see
    `fab_minimal` for the closest image itself. After a run (a target and a restart)
    that ends within `epsilon`, an image is not attacked again. The result is projected
    onto the ball as computed in its dtype, which changes it by a few ulps, and then
    evaluated. A misclassified clean image is returned unchanged.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``, differentiable.
        images, labels, key: as in `pgd`.
        epsilon: the largest perturbation that counts, in pixel values; >= 0. Random
            starts have half this norm.
        norm: "linf", "l2" or "l1".
        steps: steps of each run; >= 0.
        restarts: runs for each target; the first starts at the image, the others at a
            random point.
        target_classes: T, the number of targets (FAB-T): the T other classes of highest
            logits on the clean image, each with its own runs, which linearize the
            boundary to it alone; < classes. None for the boundaries to all classes in
            every step, at one gradient each.
        alpha_max: the largest weight of the clean image's projection; in [0, 1].
        eta: extrapolation factor; 1 ends on the boundary; > 0.
        beta: factor on the perturbation of misclassified iterates; in [0, 1].
        eot_samples: keys over which logits and gradients are averaged; an image is
            misclassified if more than half of the samples are.
        eot_chunk, evaluations, first_index: as in `pgd`.

    Returns:
        The attacked images; ``loss`` is the margin. ``queries`` is ``eot_samples`` for
        the clean image; for each run of the image ``2 * steps * eot_samples`` with a
        target (a gradient, and a query of the new iterate), or
        ``(classes + 1) * steps * eot_samples`` without (the logits, a gradient for each
        other class, and the query); and ``evaluations``.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Croce and Hein 2020, "Minimally distorted adversarial examples with a fast
        adaptive boundary attack", algorithm 1, eq. (7) to (11), without the final
        search, as in AutoAttack (Croce and Hein 2020, "Reliable evaluation of
        adversarial robustness with an ensemble of diverse parameter-free attacks").

    Example:
        >>> import attacks, jax, jax.numpy as jnp
        >>> def brightness(images, key):  # two classes: dark and light
        ...     return (images.mean((1, 2, 3)) - 0.5)[:, None] * jnp.array([-1, 1])
        >>> images, labels = jnp.full((1, 8, 8, 3), 0.51), jnp.array([1])
        >>> attacked = attacks.fab(brightness, images, labels, jax.random.key(0))
        >>> print(attacked.success)
        [ True]
        >>> print(f"{jnp.abs(attacked.images - images).max():.3f}")
        0.010
        >>> found = attacks.fab_minimal(brightness, images, labels, jax.random.key(0))
        >>> print(f"{found.distances[0]:.3f}")
        0.010
    """
    options = _Options(norm, steps, restarts, target_classes, alpha_max, eta, beta)
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    found = _search(
        logits_fn, images, labels, key, epsilon, epsilon, first_index, options, sampling
    )
    clean = jnp.asarray(images)
    near = norms.project(found.images, clean, epsilon, norm)
    within = found.distances <= jnp.asarray(epsilon, clean.dtype)
    result = jnp.where(per_image(within), near, clean)
    return _judged(logits_fn, labels, result, found, key, evaluations, epsilon)


class Minimal(NamedTuple):
    """The result of a minimal-perturbation attack.

    Attributes:
        attacked: the closest misclassified images found, at any distance; the clean
            image, and no success, if none was found.
        distances: the norms of their perturbations in pixel values; 0 if the clean
            image is misclassified, infinite if no image was found.
    """

    attacked: Attacked
    distances: Float[Array, " n"]


@allow_no_images
@in_working_precision
def fab_minimal(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    target_classes: int | None = None,
    alpha_max: Real[ArrayLike, ""] = 0.1,
    eta: Real[ArrayLike, ""] = 1.05,
    beta: Real[ArrayLike, ""] = 0.9,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Minimal:
    r"""The closest misclassified image that `fab` finds, at any distance.

    .. math:: \min_{x' \in [0, 1]} \|x' - x\| \quad \text{where} \quad
        \arg\max_l z_l(x') \ne y

    Every image that is not misclassified when clean is attacked in every run, so these
    images have the same number of queries.

    Args:
        logits_fn, images, labels, key: as in `fab`.
        epsilon: random starts have half this norm, or half the smallest distance found
            so far if that is smaller; nothing else depends on it.
        norm, steps, restarts, target_classes, alpha_max, eta, beta: as in `fab`.
        eot_samples, eot_chunk, evaluations, first_index: as in `fab`.

    Returns:
        Images and distances.

    Raises:
        ValueError, TypeError: as `fab`.

    References:
        Croce and Hein 2020, "Minimally distorted adversarial examples with a fast
        adaptive boundary attack".
    """
    options = _Options(norm, steps, restarts, target_classes, alpha_max, eta, beta)
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    found = _search(
        logits_fn, images, labels, key, epsilon, None, first_index, options, sampling
    )
    attacked = _judged(logits_fn, labels, found.images, found, key, evaluations, 0)
    clean = jnp.asarray(images)
    return Minimal(
        attacked, remeasured(logits_fn, found.distances, found.images, clean, norm)
    )


def shortest_move(
    points: Images, normals: Images, amounts: PerImage, norm: str
) -> Images:
    r"""The projection of a point of the box [0, 1] onto a hyperplane, in the box.

    .. math:: \arg\min_d \|d\| \quad \text{where} \quad w^T d = a, \quad
        p + d \in [0, 1]

    If the hyperplane does not meet the box, the step goes to the vertex closest to it.

    With :math:`|d_i| = u_i` and room :math:`r_i` to the side of the box that
    :math:`w_i d_i` moves towards, the solution is :math:`u_i = \min(\lambda, r_i)` for
    L-infinity and :math:`\min(\lambda |w_i|, r_i)` for L2, the one unknown solving
    :math:`\sum_i |w_i| u_i = |a|`. The sum is a concave, piecewise linear function of
    it, so Newton's method from 0 increases to the solution, and is exact once the set
    of entries at their side of the box stays the same. For L1 the entries of largest
    :math:`|w_i|` are used first, each to its side of the box.

    Args:
        points: p, in [0, 1].
        normals: w, finite.
        amounts: a.
        norm: "linf", "l2" or "l1".

    Returns:
        d, 0 where w is.

    References:
        Croce and Hein 2020, "Minimally distorted adversarial examples with a fast
        adaptive boundary attack", eq. (3) to (5).
    """
    # Divided by its largest entry, so that squares of small numbers do not underflow.
    scale = per_image(norms.size(normals, "linf"))
    scale = jnp.where(scale > 0, scale, 1)
    slopes = jnp.abs(normals) / scale
    goals = per_image(jnp.abs(amounts)) / scale
    signs = jnp.sign(normals) * per_image(jnp.where(amounts < 0, -1, 1))
    room = jnp.where(signs > 0, 1 - points, points)
    most = slopes * room
    if norm == "l1":
        return signs * room * _steepest_first(slopes, most, goals)
    rates = slopes if norm == "l2" else jnp.ones_like(slopes)
    ends = jnp.where(slopes > 0, room / jnp.where(slopes > 0, rates, 1), jnp.inf)

    def newton(state: tuple[Array, Array]) -> tuple[Array, Array]:
        level, _ = state
        full = ends <= level
        base = jnp.where(full, most, 0).sum(axis=(1, 2, 3), keepdims=True)
        rise = jnp.where(full, 0, slopes * rates).sum(axis=(1, 2, 3), keepdims=True)
        reached = (goals - base) / jnp.where(rise > 0, rise, 1)
        # Never decreases, so that it ends despite rounding.
        return jnp.maximum(level, jnp.where(rise > 0, reached, jnp.inf)), level

    start = jnp.zeros_like(goals)
    level, _ = jax.lax.while_loop(
        lambda state: (state[0] > state[1]).any(), newton, newton((start, start))
    )
    return signs * jnp.where(ends <= level, room, level * rates)


def _steepest_first(slopes: Array, most: Array, goals: Array) -> Array:
    """The share of each entry's `most` that is used, those of largest slope first.

    Bisects the slopes, in [0, 1], for that of the last entry used, which is cheaper
    than sorting. The entries left in the interval share the rest.
    """

    def total(used: Array) -> Array:
        return jnp.where(used, most, 0).sum(axis=(1, 2, 3), keepdims=True)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        enough = total(slopes > middle) > goals
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    ends = jnp.zeros_like(goals), jnp.ones_like(goals)
    low, high = jax.lax.fori_loop(0, jnp.finfo(goals.dtype).bits + 8, halve, ends)
    used, shared = slopes > high, (slopes > low) & (slopes <= high)
    available = total(shared)
    share = (goals - total(used)) / jnp.where(available > 0, available, 1)
    return jnp.where(used, 1, jnp.where(shared, jnp.clip(share, 0, 1), 0))


class _Options(NamedTuple):
    norm: str
    steps: int
    restarts: int
    target_classes: int | None
    alpha_max: ArrayLike
    eta: ArrayLike
    beta: ArrayLike


class _Found(NamedTuple):
    """The closest misclassified images so far, and the cost.

    `answered` is where any logits were finite; `flat` is the number of steps with a
    zero gradient minus those with a nonzero one.
    """

    images: Images
    distances: PerImage
    queries: Int32[Array, " n"]
    not_finite: Int32[Array, " n"]
    answered: Bool[Array, " n"]
    flat: Int32[Array, " n"]


def _record(
    found: _Found,
    images: Images,
    distances: PerImage,
    answer: Answer,
    active: Bool[Array, " n"],
) -> tuple[_Found, Bool[Array, " n"]]:
    """Records closer misclassified images; also says which are misclassified."""
    crossed = active & answer.finite & (answer.wrong > 0.5)
    closer = crossed & (distances < found.distances)
    not_finite = found.not_finite + (active & ~answer.finite)
    return found._replace(
        images=jnp.where(per_image(closer), images, found.images),
        distances=jnp.where(closer, distances, found.distances),
        not_finite=not_finite,
        answered=found.answered | (active & answer.finite),
    ), crossed


def _search(
    logits_fn: LogitsFunction,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    key: PRNGKeyArray,
    epsilon: ArrayLike,
    stop: ArrayLike | None,
    first_index: ArrayLike,
    options: _Options,
    sampling: Sampling,
) -> _Found:
    """All runs; an image is skipped once it is found within `stop`."""
    norm, steps, restarts, target_classes, alpha_max, eta, beta = options
    inputs.require_finite(epsilon=epsilon, alpha_max=alpha_max, beta=beta)
    inputs.require_positive(eta=eta)
    inputs.require_choice("norm", norm, norms.NORMS)
    inputs.require_at_least(0, steps=steps)
    inputs.require_at_least(1, restarts=restarts)
    clean, labels, classes = inputs.checked(logits_fn, images, labels, key)
    if target_classes is not None:
        inputs.require_at_least(1, target_classes=target_classes)
        if target_classes >= classes:
            raise ValueError(
                f"target_classes must be below the {classes} classes of logits_fn, got "
                f"{target_classes}"
            )
    goal = make_goal(margin, labels)
    oracle = partial(query, logits_fn, goal, sampling=sampling, gradient=False)
    sizes = goal.batch_sizes(logits_fn, clean, key, samples=sampling.samples)
    averaged = partial(mean_logits, logits_fn, sampling=sampling)
    dtype = clean.dtype
    start_key, query_key, _ = jax.random.split(key, 3)
    keys = image_keys(start_key, first_index, clean)

    answer = oracle(clean, query_key)
    nothing = _Found(
        clean,
        jnp.full(len(clean), jnp.inf, dtype),
        jnp.full(len(clean), sampling.samples, jnp.int32),
        jnp.zeros(len(clean), jnp.int32),
        jnp.zeros(len(clean), bool),
        jnp.zeros(len(clean), jnp.int32),
    )
    here = jnp.zeros(len(clean), dtype)
    found, _ = _record(nothing, clean, here, answer, jnp.ones(len(clean), bool))
    if target_classes is not None:
        targets = likeliest_others(answer.logits, labels, target_classes)

    def active(found: _Found) -> Bool[Array, " n"]:
        least = 0 if stop is None else jnp.asarray(stop, dtype)
        return found.distances > least

    def run(index: Array, found: _Found) -> _Found:
        running = active(found)
        run_key = jax.random.fold_in(query_key, index + 1)
        radius = jnp.minimum(found.distances, jnp.asarray(epsilon, dtype)) / 2
        start = clean
        if restarts > 1:
            run_keys = fold_in_index(keys, index)
            away = norms.random_of_size(run_keys, clean, radius, norm)
            elsewhere = jnp.clip(clean + away, 0, 1)
            start = jnp.where(index % restarts > 0, elsewhere, clean)
        target: tuple[Array, ...] = ()
        if target_classes is not None:
            target = (targets[index // restarts],)

        def step(index: Array, carry: tuple[Images, _Found]) -> tuple[Images, _Found]:
            current, found = carry
            gradient_key, check_key = jax.random.split(
                jax.random.fold_in(run_key, index)
            )

            def linearize(batch: tuple[Array, ...]) -> tuple[Array, Array, Array]:
                current, labels, *target = batch
                towards, finite = _linearize(averaged, current, labels, gradient_key)
                if target:
                    return (*towards(*target), finite)
                return (*_closest_boundary(towards, labels, classes, norm), finite)

            remaining = Remaining(running, sizes)
            batch = current, labels, *target
            gap, slope, finite = on_remaining(linearize, batch, remaining)
            moved = _step(current, clean, gap, slope, norm, alpha_max, eta)
            answer = oracle(moved, check_key, remaining=remaining)
            distances = norms.size(moved - clean, norm)
            found, crossed = _record(found, moved, distances, answer, running)
            nearer = clean + (moved - clean) * jnp.asarray(beta, dtype)
            current = jnp.where(per_image(crossed), nearer, moved)
            not_finite = found.not_finite + (running & ~finite)
            flat = found.flat + jnp.where(running, flat_gradient(slope), 0)
            return current, found._replace(not_finite=not_finite, flat=flat)

        _, found = jax.lax.fori_loop(0, steps, step, (start, found))
        each = 2 if target_classes is not None else classes + 1
        spent = steps * each * sampling.samples
        return found._replace(queries=found.queries + jnp.where(running, spent, 0))

    runs = restarts * (1 if target_classes is None else target_classes)
    _, found = jax.lax.while_loop(
        lambda state: (state[0] < runs) & active(state[1]).any(),
        lambda state: (state[0] + 1, run(*state)),
        (jnp.zeros((), jnp.int32), found),
    )
    return found


def _judged(
    logits_fn: LogitsFunction,
    labels: Array | np.ndarray,
    images: Images,
    found: _Found,
    key: PRNGKeyArray,
    evaluations: int,
    stop: ArrayLike,
) -> Attacked:
    """The final evaluation; `stop` is the distance within which runs end."""
    unknown = found.distances
    done = found.distances <= jnp.asarray(stop, unknown.dtype)
    answered = jnp.where(found.answered, 0.0, -1.0).astype(unknown.dtype)
    best = Best(images, unknown, answered, found.not_finite, found.flat)
    goal, key = make_goal(margin, labels), jax.random.split(key, 3)[2]
    status = jnp.where(done, Status.SUCCEEDED.value, stop_status(best))
    return finish(
        logits_fn, goal, best, key, evaluations, queries=found.queries, status=status
    )


# classes [n] -> z_class - z_label, and its gradient
Towards = Callable[[Array], tuple[PerImage, Images]]


def _linearize(
    averaged: Callable[[Array, PRNGKeyArray], Array],
    images: Images,
    labels: Integer[Array, " n"],
    key: PRNGKeyArray,
) -> tuple[Towards, Bool[Array, " n"]]:
    """The linearization at the images, and whether the logits are finite."""
    logits, pull = jax.vjp(lambda images: averaged(images, key), images)
    finite = jnp.isfinite(logits).all(axis=1)

    def towards(classes: Array) -> tuple[PerImage, Images]:
        difference = is_class(logits, classes).astype(logits.dtype)
        difference -= is_class(logits, labels)
        (slope,) = canonical(pull)(difference)
        gap = of_class(logits, classes) - of_class(logits, labels)
        slope = jnp.where(per_image(finite) & jnp.isfinite(slope), slope, 0)
        return jnp.where(finite, gap, 0).astype(images.dtype), slope

    return towards, finite


def _closest_boundary(
    towards: Towards, labels: Integer[Array, " n"], classes: int, norm: str
) -> tuple[PerImage, Images]:
    """The closest linearized boundary, found one class at a time."""

    def distance(gap: PerImage, slope: Images) -> PerImage:
        return jnp.abs(gap) / (1e-12 + norms.size(slope, DUAL[norm]))

    def try_class(
        best: tuple[PerImage, Images], offset: Array
    ) -> tuple[tuple[PerImage, Images], None]:
        gap, slope = towards((labels + offset) % classes)
        closer = distance(gap, slope) < distance(*best)
        best_gap = jnp.where(closer, gap, best[0])
        return (best_gap, jnp.where(per_image(closer), slope, best[1])), None

    best, _ = jax.lax.scan(
        try_class, towards((labels + 1) % classes), jnp.arange(2, classes)
    )
    return best


def _step(
    current: Images,
    clean: Images,
    gap: PerImage,
    slope: Images,
    norm: str,
    alpha_max: ArrayLike,
    eta: ArrayLike,
) -> Images:
    """A step past the linearized boundary, between the two projections onto it."""
    alpha_max, eta = (jnp.asarray(x, clean.dtype) for x in (alpha_max, eta))
    between = jnp.sum(slope * (current - clean), axis=(1, 2, 3))
    both = (current, clean), (slope, slope), (-gap, between - gap)
    points, normals, amounts = (jnp.concatenate(two) for two in both)
    moves = shortest_move(points, normals, amounts, norm)
    near, far = jnp.split(moves, 2)
    lengths = jnp.split(jnp.maximum(norms.size(moves, norm), 1e-8), 2)
    alpha = per_image(jnp.minimum(lengths[0] / (lengths[0] + lengths[1]), alpha_max))
    ahead, back = current + eta * near, clean + eta * far
    return jnp.clip((1 - alpha) * ahead + alpha * back, 0, 1)
