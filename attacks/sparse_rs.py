"""Sparse-RS: random search for a few pixels to change without bound."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Integer, Num, PRNGKeyArray

from attacks import inputs
from attacks.ascent import (
    Best,
    choose,
    finish,
    initial_best,
    merge,
    preference,
    stop_status,
)
from attacks.empty import allow_no_images
from attacks.keys import fold_in_index, image_keys
from attacks.losses import MARGIN, Loss
from attacks.oracle import make_goal, make_sampling, query
from attacks.precision import in_working_precision
from attacks.remaining import QUERY_DIVISORS, Remaining
from attacks.types import Attacked, LogitsFunction, Status


@allow_no_images
@in_working_precision
def sparse_rs(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    pixels: int,
    queries: int = 10_000,
    alpha_init: float = 0.3,
    loss: Loss | None = None,
    targets: Num[Array | np.ndarray, " n"] | None = None,
    restarts: int = 1,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Attacked:
    r"""An L0 attack: changes at most k pixels, to corners of the colour cube.

    .. math::
        \max_{M, \Delta} L(f(x')), \qquad
        x'_p = \Delta_p \in \{0, 1\}^c \text{ for } p \in M, \qquad
        x'_p = x_p \text{ for } p \notin M, \qquad |M| = k

    Starts at k random pixels of random corner colours. Query i exchanges
    :math:`k_i = \max(\lfloor \alpha_i k \rfloor, 1)` of them, drawn at random, for as
    many others with new random colours, and accepts if the loss is higher or the image
    is misclassified. The share :math:`\alpha_i` is `alpha_init` divided by 2, 4, 5, 6,
    8, 10, 12, 15 and 20 after query 0, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000,
    with i scaled to a budget of 10,000.

    An image stops at its first misclassification, unless `eot_samples` or `evaluations`
    above 1 imply a random classifier: then the budget is used up for the highest mean
    loss. Images whose logits are not finite are not accepted. The draws of an image
    depend only on the key and the image's index.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        images, labels, key: as in `pgd`.
        pixels: k, in [0, h * w); with 0 the images are returned unchanged.
        queries: budget of each restart, per image; >= 1.
        alpha_init: in (0, 1]; the paper has 0.3 for untargeted attacks, 0.1 for
            targeted.
        loss: ``(logits, labels) -> [n]``, or ``(logits, labels, targets) -> [n]`` with
            targets. None for the margin.
        targets: integers in [0, classes), the target classes; None for untargeted.
        restarts: runs, each for the images not yet misclassified.
        eot_samples: keys over which each loss is averaged.
        eot_chunk, evaluations, first_index: as in `pgd`.

    Returns:
        The attacked images. ``queries`` counts the queries until the image stops, times
        `eot_samples`, and ``evaluations``.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Croce et al. 2022, "Sparse-RS: a versatile framework for query-efficient sparse
        black-box adversarial attacks", algorithms 1 and 2 and appendix A.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks.sparse_rs import sparse_rs
        >>> def brightness(images, key):  # two classes: dark and light
        ...     return (images.mean((1, 2, 3)) - 0.5)[:, None] * jnp.array([-1, 1])
        >>> images, labels = jnp.full((1, 8, 8, 3), 0.51), jnp.array([1])
        >>> attacked = sparse_rs(
        ...     brightness, images, labels, jax.random.key(0), pixels=2, queries=100
        ... )
        >>> changed = (attacked.images != images).any(axis=-1).sum()
        >>> print(attacked.success, changed)
        [ True] 2
    """
    inputs.require_at_least(0, pixels=pixels)
    inputs.require_at_least(1, queries=queries, restarts=restarts)
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    inputs.require_share(alpha_init=alpha_init)
    clean, labels, _ = inputs.checked(logits_fn, images, labels, key, targets)
    n, height, width, channels = clean.shape
    if pixels and pixels >= height * width:
        raise ValueError(
            f"pixels must be below the {height * width} of an image, got {pixels}"
        )
    goal = make_goal(loss, labels, targets, default=MARGIN)
    randomized = sampling.randomized
    prefers = preference(randomized=randomized)
    exchanged = _exchanged(pixels, queries, alpha_init, height * width)
    most = int(exchanged.max(initial=0))

    def start(key: PRNGKeyArray) -> tuple[Array, Array]:
        """All pixels in random order, of which the first k are M; and M's colours."""
        order_key, colour_key = jax.random.split(key)
        order = jax.random.permutation(order_key, height * width)
        return order, _corners(colour_key, (pixels, channels), clean.dtype)

    def propose(
        key: PRNGKeyArray, order: Array, colours: Array, count: Array
    ) -> tuple[Array, Array]:
        inside_key, outside_key, colour_key = jax.random.split(key, 3)
        inside = jax.random.permutation(inside_key, pixels)[:most]
        outside = jax.random.permutation(outside_key, height * width - pixels)[:most]
        outside = outside + pixels
        moves = jnp.arange(most) < count
        leaving, coming = order[inside], order[outside]
        order = order.at[inside].set(jnp.where(moves, coming, leaving))
        order = order.at[outside].set(jnp.where(moves, leaving, coming))
        fresh = _corners(colour_key, (most, channels), clean.dtype)
        fresh = jnp.where(moves[:, None], fresh, colours[inside])
        return order, colours.at[inside].set(fresh)

    def paint(image: Array, order: Array, colours: Array) -> Array:
        flat = image.reshape(-1, channels)
        return flat.at[order[:pixels]].set(colours).reshape(image.shape)

    sizes = goal.batch_sizes(
        logits_fn, clean, key, samples=eot_samples, divisors=QUERY_DIVISORS
    )

    def is_done(best: Best) -> Array:
        return (best.wrong >= 1) & (not randomized)

    def run(
        carry: tuple[Best, Array], key: PRNGKeyArray
    ) -> tuple[tuple[Best, Array], None]:
        best, spent = carry
        start_key, step_key, query_key = jax.random.split(key, 3)
        step_keys = image_keys(step_key, first_index, clean)

        def active(run_best: Best) -> Array:
            return ~is_done(run_best) & ~is_done(best)

        def step(carry: _Carry) -> _Carry:
            index, state, run_best, spent = carry
            proposed = jax.vmap(propose, (0, 0, 0, None))(
                fold_in_index(step_keys, index), *state, jnp.asarray(exchanged)[index]
            )
            candidates = jax.vmap(paint)(clean, *proposed)
            searching = active(run_best)
            answer = query(
                logits_fn,
                goal,
                candidates,
                jax.random.fold_in(query_key, index),
                sampling=sampling,
                gradient=False,
                remaining=Remaining(searching, sizes),
            )
            not_finite = (searching & ~answer.finite).astype(jnp.int32)
            no_gradient = jnp.zeros_like(not_finite)
            new = Best(candidates, answer.loss, answer.wrong, not_finite, no_gradient)
            answered = searching & answer.finite
            better = answered & prefers(run_best, new)
            state = choose(better, proposed, state)
            run_best = merge(run_best, new, prefers, answered)
            return index + 1, state, run_best, spent + searching

        state = jax.vmap(start)(image_keys(start_key, first_index, clean))
        _, _, run_best, spent = jax.lax.while_loop(
            lambda carry: (carry[0] < queries) & active(carry[2]).any(),
            step,
            (jnp.int32(0), state, initial_best(clean), spent),
        )
        return (merge(best, run_best, prefers), spent), None

    best, spent = initial_best(clean), jnp.zeros(n, jnp.int32)
    *run_keys, final_key = jax.random.split(key, restarts + 1)
    if pixels:
        (best, spent), _ = jax.lax.scan(run, (best, spent), jnp.stack(run_keys))
    return finish(
        logits_fn,
        goal,
        best,
        final_key,
        evaluations,
        queries=spent * eot_samples,
        status=stop_status(best, at_wrong=not randomized) if pixels else Status.BUDGET,
    )


# The index, the state as in `start`, best so far, and queries.
_Carry = tuple[Array, tuple[Array, Array], Best, Array]


def _exchanged(pixels: int, queries: int, alpha_init: float, total: int) -> np.ndarray:
    """The number of pixels that each query exchanges, 0 for the first."""
    index = np.arange(queries)
    scaled = (index / queries * 10_000).astype(int)
    borders = [0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
    divisors = np.array([1, 2, 4, 5, 6, 8, 10, 12, 15, 20])
    alpha = alpha_init / divisors[np.searchsorted(borders, scaled)]
    count = np.maximum((alpha * pixels).astype(int), 1)
    count = np.minimum(count, min(pixels, total - pixels))
    return np.where(index == 0, 0, count)


def _corners(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    return jax.random.bernoulli(key, 0.5, shape).astype(dtype)
