"""The Boundary attack: a random walk along the boundary, given predictions only.

For a classifier `logits_fn(images, key) -> logits`:

    attack = jax.jit(functools.partial(boundary, logits_fn, steps=5000))
    found = attack(images, labels, key)
    found.l2                                    # distance to the nearest error
    1 - found.projected.success.mean()          # accuracy inside the ball
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int32, Integer, Key, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.ascent import finish, initial_best
from attacks.empty import allow_no_images
from attacks.keys import fold_in_index, image_keys
from attacks.losses import MARGIN
from attacks.norms import per_image
from attacks.oracle import make_goal, make_sampling, query
from attacks.precision import as_shown, in_working_precision, remeasured
from attacks.types import Attacked, Images, LogitsFunction, PerImage, Status

# Number of queries in each success rate.
SPHERE_ANSWERS, STEP_ANSWERS = 100, 30


class Boundary(NamedTuple):
    """Both readings of the attack, one entry per image.

    Attributes:
        unconstrained: the attack as published: the misclassified image found that is
            nearest in L2, or the clean image if none was found. Only the box [0, 1]
            bounds it, so success means little without the norm.
        projected: the same images projected onto the ball, and evaluated there.
        l2: norm of the unconstrained perturbation, in pixel values; infinite if no
            misclassified image was found.
        linf: its L-infinity norm, likewise.
    """

    unconstrained: Attacked
    projected: Attacked
    l2: PerImage
    linf: PerImage


class _Walk(NamedTuple):
    """State of the walks; in `*_seen` 1 is misclassified, 0 is not, NaN is no query."""

    current: Images
    distance: PerImage
    sphere_size: PerImage
    source_size: PerImage
    sphere_seen: Float[Array, "n answers"]
    step_seen: Float[Array, "n answers"]
    done: Bool[Array, " n"]
    queries: Int32[Array, " n"]
    not_finite: Int32[Array, " n"]


@allow_no_images
@in_working_precision
def boundary(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    norm: str = "linf",
    steps: int = 25_000,
    spherical_step: Real[ArrayLike, ""] = 0.01,
    source_step: Real[ArrayLike, ""] = 0.01,
    convergence: Real[ArrayLike, ""] = 1e-7,
    step_adaptation: Real[ArrayLike, ""] = 1.5,
    adapt_every: int = 10,
    starts: Num[Array | np.ndarray, "n h w c"] | None = None,
    draws: int = 1000,
    blends: int = 50,
    targets: Num[Array | np.ndarray, " n"] | None = None,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Boundary:
    r"""The Boundary attack: from a misclassified image to the clean one.

    A step moves in a random direction on the sphere around the clean image x, and from
    there towards x,

    .. math::
        s = x + \frac{d + \delta \|d\| u}{\sqrt{1 + \delta^2}}, \qquad
        x' = s + (\epsilon_s \|d\| + \|x - s\| - \|d\|) \frac{x - s}{\|x - s\|},
        \qquad d = x_t - x, \quad u \perp d, \quad \|u\| = 1,

    both clipped to [0, 1], and is accepted if x' is misclassified and nearer. Only the
    predicted class is used. Every `adapt_every` steps s is queried too. If more than
    half of the last 100 s were misclassified, the boundary is flat at this scale, and
    both step sizes, :math:`\delta` and :math:`\epsilon_s`, grow by the factor
    `step_adaptation`; below a fifth they shrink. Of the last 30 x' at these steps, more
    than a quarter misclassified makes :math:`\epsilon_s` grow, less than a tenth
    shrink. An image has converged when :math:`\epsilon_s` falls below `convergence`.

    The start is the first misclassified one of uniform random images, blended with the
    clean image as far as it stays misclassified. All draws of an image depend on the
    key and its index, so its result does not depend on its batch. A misclassified clean
    image is returned, at distance 0.

    This is a minimal-perturbation attack: `epsilon` applies to ``projected`` only.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``; one-hot rows suffice.
        images, labels, key: as in `pgd`.
        epsilon: radius of the ball of ``projected``, in pixel values; >= 0.
        norm: of that ball: "linf", "l2" or "l1"; the attack minimizes L2.
        steps: largest number of steps; >= 0.
        spherical_step: the initial delta, relative to the distance; > 0.
        source_step: the initial epsilon_s, relative to the distance; > 0.
        convergence: the smallest epsilon_s; >= 0.
        step_adaptation: factor of both step sizes; > 0.
        adapt_every: steps between two adaptations of the step sizes; >= 1.
        starts: images to try before random ones, floats in [0, 1], such as images of
            another class or of the target class; None for none.
        draws: the largest number of random images to find a start; >= 0.
        blends: the number of blends of start and clean image to try; >= 1.
        targets: integers in [0, classes), the target classes; None for untargeted.
        eot_samples: keys per query; misclassified if more than half of them are.
        eot_chunk: keys per vectorized query; memory grows with it.
        evaluations: keys of the final evaluation of both results, a majority vote.
        first_index: index of the first image in the data set, if attacked in batches.

    Returns:
        Both readings. ``loss`` is the margin, which the attack itself does not use.
        ``queries`` counts ``eot_samples`` for the clean image and for each draw, blend,
        step and query on the sphere until the image is done; and ``evaluations``.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Brendel, Rauber and Bethge 2018, "Decision-based adversarial attacks: reliable
        attacks against black-box machine learning models", algorithm 1; step sizes and
        rates as in Foolbox 3, where images share their draws.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks.boundary import boundary
        >>> def answer(images, key):  # only the class
        ...     light = images.mean(axis=(1, 2, 3)) > 0.5
        ...     return jnp.stack([~light, light], axis=1).astype(float)
        >>> images, labels = jnp.full((1, 4, 4, 1), 0.6), jnp.array([1])
        >>> found = boundary(
        ...     answer, images, labels, jax.random.key(0), steps=500, spherical_step=0.1
        ... )
        >>> print(f"{found.l2[0]:.1f}")  # minimum: 0.1 in each of 16 pixels, 0.4
        0.4
    """
    inputs.require_finite(epsilon=epsilon, convergence=convergence)
    inputs.require_positive(
        spherical_step=spherical_step,
        source_step=source_step,
        step_adaptation=step_adaptation,
    )
    inputs.require_choice("norm", norm, norms.NORMS)
    inputs.require_at_least(0, steps=steps, draws=draws)
    inputs.require_at_least(1, adapt_every=adapt_every, blends=blends)
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    if starts is not None:
        inputs.require_images(starts, "starts")
        starts, *_ = inputs.checked(logits_fn, starts, labels, key)
    clean, labels, _ = inputs.checked(logits_fn, images, labels, key, targets)
    goal = make_goal(None, labels, targets, default=MARGIN)
    value = partial(query, logits_fn, goal, sampling=sampling, gradient=False)
    draw_key, walk_key, query_key, *evaluation_keys = jax.random.split(key, 5)
    walk_keys = image_keys(walk_key, first_index, clean)

    def wrong(images: Array, number: ArrayLike) -> tuple[Array, Array]:
        """Whether images are misclassified, and whether logits are not finite."""
        answer = value(images, jax.random.fold_in(query_key, number))
        return answer.finite & (answer.wrong > 0.5), ~answer.finite

    start, found, queries, not_finite = _start(
        wrong,
        clean,
        image_keys(draw_key, first_index, clean),
        starts=starts,
        draws=draws,
        blends=blends,
    )
    before = draws + blends + 2  # each query has its own number
    propose = jax.vmap(_propose)

    def step(carry: tuple[Array, _Walk]) -> tuple[Array, _Walk]:
        index, walk = carry
        near, sphere = propose(
            fold_in_index(walk_keys, index),
            clean,
            walk.current,
            walk.distance,
            walk.sphere_size,
            walk.source_size,
        )
        is_wrong, invalid = wrong(near, before + 2 * index)
        distance = norms.size(near - clean, "l2")
        better = is_wrong & (distance < walk.distance) & ~walk.done
        walk = walk._replace(
            current=jnp.where(per_image(better), near, walk.current),
            distance=jnp.where(better, distance, walk.distance),
            queries=walk.queries + ~walk.done,
            not_finite=walk.not_finite + (invalid & ~walk.done),
        )

        def adapt(walk: _Walk) -> _Walk:
            on_sphere, invalid = wrong(sphere, before + 2 * index + 1)
            adapted = _adapt(
                walk, on_sphere, is_wrong, index // adapt_every - 1, step_adaptation
            )
            return adapted._replace(
                done=walk.done | (adapted.source_size < convergence),
                queries=walk.queries + ~walk.done,
                not_finite=walk.not_finite + (invalid & ~walk.done),
            )

        walk = jax.lax.cond(index % adapt_every == 0, adapt, lambda walk: walk, walk)
        return index + 1, walk

    n, dtype = len(clean), clean.dtype
    distance = norms.size(start - clean, "l2")
    walk = _Walk(
        start,
        distance,
        jnp.full(n, spherical_step, dtype),
        jnp.full(n, source_step, dtype),
        jnp.full((n, SPHERE_ANSWERS), jnp.nan, dtype),
        jnp.full((n, STEP_ANSWERS), jnp.nan, dtype),
        ~found | (distance == 0),
        queries,
        not_finite,
    )
    _, walk = jax.lax.while_loop(
        lambda carry: (carry[0] <= steps) & ~carry[1].done.all(),
        step,
        (jnp.int32(1), walk),
    )
    status = jnp.where(walk.done, Status.CONVERGED.value, Status.BUDGET.value)
    status = jnp.where(walk.distance == 0, Status.SUCCEEDED.value, status)
    status = jnp.where(found, status, Status.NO_START.value)
    status = jnp.where(walk.not_finite == walk.queries, Status.NOT_FINITE.value, status)
    status = status.astype(jnp.int32)  # also where 64-bit types are on
    queries = walk.queries * eot_samples
    evaluate = partial(
        finish, logits_fn, goal, evaluations=evaluations, queries=queries, status=status
    )
    inside = norms.project(walk.current, clean, epsilon, norm)
    best = initial_best(walk.current)._replace(not_finite=walk.not_finite)
    shown = as_shown(logits_fn, walk.current)
    return Boundary(
        evaluate(best=best, key=evaluation_keys[0]),
        evaluate(best=best._replace(images=inside), key=evaluation_keys[1]),
        remeasured(
            logits_fn,
            jnp.where(found, walk.distance, jnp.inf),
            walk.current,
            clean,
            "l2",
        ),
        jnp.where(found, norms.size(shown - clean, "linf"), jnp.inf),
    )


# The index, images or shares, which are found or open, queries, those not finite.
_Draws = tuple[Array, Array, Array, Array, Array]


def _start(
    wrong: Callable[[Array, ArrayLike], tuple[Array, Array]],
    clean: Images,
    keys: Key[Array, " n"],
    *,
    starts: Images | None,
    draws: int,
    blends: int,
) -> tuple[Images, Bool[Array, " n"], Int32[Array, " n"], Int32[Array, " n"]]:
    """Misclassified starts; which were found; queries, and how many not finite."""
    shape, dtype = clean.shape[1:], clean.dtype
    given = starts is not None

    def draw(carry: _Draws) -> _Draws:
        index, start, found, queries, not_finite = carry
        drawn = jax.vmap(
            lambda key: jax.random.uniform(jax.random.fold_in(key, index), shape, dtype)
        )(keys)
        if starts is not None:
            drawn = jnp.where(index == 1, starts, drawn)
        is_wrong, invalid = wrong(drawn, index)
        taken = is_wrong & ~found
        start = jnp.where(per_image(taken), drawn, start)
        queries, not_finite = queries + ~found, not_finite + (invalid & ~found)
        return index + 1, start, found | taken, queries, not_finite

    already, invalid = wrong(clean, 0)
    queries, not_finite = jnp.ones(len(clean), jnp.int32), invalid.astype(jnp.int32)
    _, start, found, queries, not_finite = jax.lax.while_loop(
        lambda carry: (carry[0] <= draws + given) & ~carry[2].all(),
        draw,
        (jnp.int32(1), clean, already, queries, not_finite),
    )

    def blended(share: Array) -> Array:
        share = per_image(share)
        return jnp.clip((1 - share) * clean + share * start, 0, 1)

    def blend(carry: _Draws) -> _Draws:
        index, share, open_, queries, not_finite = carry
        tried = jnp.full(len(clean), index / blends, dtype)
        is_wrong, invalid = wrong(blended(tried), draws + 1 + index)
        share = jnp.where(is_wrong & open_, tried, share)
        queries, not_finite = queries + open_, not_finite + (invalid & open_)
        return index + 1, share, open_ & ~is_wrong, queries, not_finite

    _, share, _, queries, not_finite = jax.lax.while_loop(
        lambda carry: (carry[0] < blends) & carry[2].any(),
        blend,
        (
            jnp.int32(1),
            jnp.ones(len(clean), dtype),
            found & ~already,
            queries,
            not_finite,
        ),
    )
    start = jnp.where(per_image(share < 1), blended(share), start)
    return start, found, queries, not_finite


def _propose(
    key: PRNGKeyArray,
    clean: Float[Array, "h w c"],
    current: Float[Array, "h w c"],
    distance: Float[Array, ""],
    sphere_size: Float[Array, ""],
    source_size: Float[Array, ""],
) -> tuple[Float[Array, "h w c"], Float[Array, "h w c"]]:
    """One proposal for one image: x', and s on the sphere."""
    away = current - clean
    unit = _ratio(away, distance)
    random = jax.random.normal(key, clean.shape, clean.dtype)
    # A low-precision product, the default on accelerators, would not be tangential.
    along = jnp.vdot(unit, random, precision=jax.lax.Precision.HIGHEST)
    random = random - along * unit
    random = _ratio(random, jnp.linalg.norm(random.ravel())) * sphere_size * distance
    sphere = clean + (away + random) / jnp.sqrt(1 + sphere_size**2)
    sphere = jnp.clip(sphere, 0, 1)
    back = clean - sphere
    now = jnp.linalg.norm(back.ravel())
    # Clipping to [0, 1] has moved it off the sphere.
    length = jnp.maximum(source_size * distance + now - distance, 0)
    return jnp.clip(sphere + length * _ratio(back, now), 0, 1), sphere


def _ratio(numerator: Array, denominator: Array) -> Array:
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def _adapt(
    walk: _Walk,
    sphere_wrong: Bool[Array, " n"],
    step_wrong: Bool[Array, " n"],
    count: Int32[Array, ""],
    factor: ArrayLike,
) -> _Walk:
    """Records two queries, and adapts the step sizes to the success rates."""
    sphere_seen, grow, shrink = _rate(walk.sphere_seen, sphere_wrong, count, 0.2, 0.5)
    scale = jnp.where(grow, factor, jnp.where(shrink, 1 / factor, 1))
    sphere_size, source_size = walk.sphere_size * scale, walk.source_size * scale
    step_seen, grow, shrink = _rate(walk.step_seen, step_wrong, count, 0.1, 0.25)
    scale = jnp.where(grow, factor, jnp.where(shrink, 1 / factor, 1))
    return walk._replace(
        sphere_size=sphere_size.astype(walk.distance.dtype),
        source_size=(source_size * scale).astype(walk.distance.dtype),
        sphere_seen=sphere_seen,
        step_seen=step_seen,
    )


def _rate(
    seen: Float[Array, "n answers"],
    wrong: Bool[Array, " n"],
    count: Int32[Array, ""],
    low: float,
    high: float,
) -> tuple[Float[Array, "n answers"], Bool[Array, " n"], Bool[Array, " n"]]:
    """Records a query; says where the success rate is too high or too low.

    NaN, for queries not made yet, makes the rate NaN and so neither. Where it is
    either, the record is cleared.
    """
    seen = seen.at[:, count % seen.shape[1]].set(wrong.astype(seen.dtype))
    rate = seen.mean(axis=1)
    grow, shrink = rate > high, rate < low
    return jnp.where((grow | shrink)[:, None], jnp.nan, seen), grow, shrink
