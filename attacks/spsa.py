"""Simultaneous perturbation stochastic approximation: gradients from loss values."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int32, Integer, Key, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.ascent import Rule, ascend, finish, preference, stop_status
from attacks.empty import allow_no_images
from attacks.keys import image_keys, mappable
from attacks.losses import MARGIN, Loss
from attacks.oracle import Answer, make_goal, make_sampling, query
from attacks.precision import in_working_precision
from attacks.types import Attacked, LogitsFunction


@allow_no_images
@in_working_precision
def spsa(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    steps: int = 100,
    samples: int = 128,
    chunk: int = 16,
    delta: Real[ArrayLike, ""] = 0.01,
    learning_rate: Real[ArrayLike, ""] = 0.01,
    loss: Loss | None = None,
    targets: Num[Array | np.ndarray, " n"] | None = None,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Attacked:
    r"""Adam on gradients estimated from loss values, in the L-infinity ball.

    .. math::
        g = \frac{1}{m} \sum_{j=1}^m
            \frac{L(f(x + \delta v_j)) - L(f(x - \delta v_j))}{2 \delta}\, v_j,
        \qquad v_j \sim U(\{-1, 1\}^d), \qquad
        x \leftarrow \Pi_B(x + \mathrm{Adam}(g))

    It needs no derivative, so it works against defenses whose gradient is masked, zero
    or noise. The estimate is unbiased for a quadratic loss; the variance of an entry is
    about the sum of squares of the gradient's other entries, divided by m.

    The attack starts at the image and returns the best iterate: a misclassified one
    first, then the higher loss; the mean loss alone if `eot_samples` or `evaluations`
    above 1 imply a random classifier. The two queries of a direction share a key, so
    they differ only by the direction. Their points are not clipped and may lie up to
    delta outside [0, 1]; the iterates, and the result, lie in [0, 1] and in the ball as
    computed in the images' dtype. A direction whose loss difference is not finite
    counts as zero. The directions of an image depend on the key and its index only.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        images, labels, key: as in `pgd`.
        epsilon: radius of the ball in pixel values; >= 0.
        steps: number of steps of Adam; >= 0.
        samples: m, directions per step; >= 1.
        chunk: directions per vectorized query; memory grows with it.
        delta: step of the finite differences, in pixel values; > 0.
        learning_rate: of Adam, in pixel values; > 0.
        loss: ``(logits, labels) -> [n]``, or ``(logits, labels, targets) -> [n]`` with
            targets. None for the margin.
        targets: integers in [0, classes), the target classes; None for untargeted.
        eot_samples: keys over which each loss is averaged. Each direction has its own
            key already, so 1 is often enough for the gradient, but not for choosing the
            best iterate of a random classifier.
        eot_chunk, evaluations, first_index: as in `pgd`.

    Returns:
        The attacked images. ``queries`` is ``(steps * (2 * samples + 1) + 1) *
        eot_samples + evaluations``: two for each direction, one for each iterate, and
        the final evaluation.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Uesato et al. 2018, "Adversarial risk and the dangers of evaluating against weak
        attacks", algorithm 1 and appendix C.
        Spall 1992, "Multivariate stochastic approximation using a simultaneous
        perturbation gradient approximation".

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks.spsa import spsa
        >>> def rounded(images, key):  # dark or light, in steps, no gradient
        ...     light = jnp.round(images.sum(axis=(1, 2, 3)) * 20) / 20 - 24.1
        ...     return jnp.stack([-light, light], axis=1)
        >>> images, labels = jnp.full((1, 4, 4, 3), 0.52), jnp.array([1])
        >>> found = spsa(rounded, images, labels, jax.random.key(0), steps=20)
        >>> print(found.success)
        [ True]
    """
    inputs.require_finite(epsilon=epsilon)
    inputs.require_positive(delta=delta, learning_rate=learning_rate)
    inputs.require_at_least(0, steps=steps)
    inputs.require_at_least(1, samples=samples, chunk=chunk)
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    clean, labels, _ = inputs.checked(logits_fn, images, labels, key, targets)
    goal = make_goal(loss, labels, targets, default=MARGIN)
    value = partial(query, logits_fn, goal, sampling=sampling, gradient=False)

    def oracle(images: Array, key: PRNGKeyArray, gradient: bool = True) -> Answer:
        own_key, pair_key, draw_key = jax.random.split(key, 3)
        answer = value(images, own_key)
        if not gradient:
            return answer
        slope, not_finite = estimate(
            value,
            images,
            image_keys(draw_key, first_index, images),
            pair_key,
            samples=samples,
            chunk=chunk,
            delta=delta,
        )
        return answer._replace(gradient=slope, not_finite=not_finite + ~answer.finite)

    optimizer = optax.adam(learning_rate)

    def step(
        state: Any, images: Array, answer: Answer, index: Array
    ) -> tuple[Array, Any]:
        del index
        assert answer.gradient is not None
        updates, state = optimizer.update(-answer.gradient, state)
        return norms.project(images + updates, clean, epsilon, "linf"), state

    query_key, final_key = jax.random.split(key)
    _, best = ascend(
        oracle,
        Rule(optimizer.init, step),
        clean,
        query_key,
        steps=steps,
        prefers=preference(randomized=sampling.randomized),
    )
    queries, status = (steps * (2 * samples + 1) + 1) * eot_samples, stop_status(best)
    return finish(
        logits_fn, goal, best, final_key, evaluations, queries=queries, status=status
    )


_Sums = tuple[Array, Array]  # of the results of `estimate`


def estimate(
    value: Callable[[Array, PRNGKeyArray], Answer],
    images: Float[Array, "n h w c"],
    draw_keys: Key[Array, " n"],
    pair_key: PRNGKeyArray,
    *,
    samples: int,
    chunk: int,
    delta: ArrayLike,
) -> tuple[Float[Array, "n h w c"], Int32[Array, " n"]]:
    """Estimates the gradient of a loss from its values at `samples` pairs of points.

    Args:
        value: ``(images, key) -> answer``.
        images: the points of the gradient.
        draw_keys: of the directions, one per image.
        pair_key: of the queries, folded into one key per pair.
        samples, chunk, delta: as in `spsa`.

    Returns:
        The estimate, and the number of queries without finite logits.
    """
    delta, pair_key = jnp.asarray(delta, images.dtype), mappable(pair_key)
    shape, dtype = images.shape[1:], images.dtype

    def draw(key: PRNGKeyArray, index: Array) -> Array:
        return jax.random.rademacher(jax.random.fold_in(key, index), shape, dtype)

    def along(index: Array) -> tuple[Array, Array]:
        move = jax.vmap(draw, (0, None))(draw_keys, index)
        key = jax.random.fold_in(pair_key, index)
        above = value(images + delta * move, key)
        below = value(images - delta * move, key)
        slope = (above.loss - below.loss) / (2 * delta)
        slope = jnp.where(jnp.isfinite(slope), slope, 0)
        not_finite = (~above.finite).astype(jnp.int32) + ~below.finite
        return norms.per_image(slope) * move, not_finite

    def add(total: _Sums, indices: Array) -> tuple[_Sums, None]:
        several = jax.vmap(along)(indices)
        total = jax.tree.map(lambda t, x: t + x.sum(0, x.dtype), total, several)
        return total, None

    indices, rest = jnp.arange(samples), samples % chunk
    total = (jnp.zeros_like(images), jnp.zeros(len(images), jnp.int32))
    if rest:
        total, _ = add(total, indices[:rest])
    (summed, not_finite), _ = jax.lax.scan(
        add, total, indices[rest:].reshape(-1, chunk)
    )
    return summed / samples, not_finite
