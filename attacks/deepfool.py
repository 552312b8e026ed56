"""DeepFool: steps to the nearest boundary of the linearized classifier.

For a classifier `logits_fn(images, key) -> logits`:

    attack = jax.jit(functools.partial(deepfool, logits_fn))
    attacked = attack(images, labels, key)
    distances = norms.size(attacked.images - images, "l2")
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Integer, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.ascent import (
    Best,
    finish,
    flat_gradient,
    initial_best,
    merge,
    stop_status,
    wrong_first,
)
from attacks.empty import allow_no_images
from attacks.loops import canonical
from attacks.losses import likeliest_others, margin, of_class
from attacks.oracle import make_goal, make_sampling, mean_logits
from attacks.precision import in_working_precision
from attacks.types import Attacked, LogitsFunction


@allow_no_images
@in_working_precision
def deepfool(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] | None = None,
    norm: str = "l2",
    steps: int = 50,
    overshoot: Real[ArrayLike, ""] = 0.02,
    candidates: int = 10,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Attacked:
    r"""DeepFool, a fast search for a small adversarial perturbation.

    .. math::
        d_k = \frac{|z_k - z_y|}{\|\nabla (z_k - z_y)\|_q}, \qquad
        k = \arg\min d_k, \qquad
        r_{t+1} = r_t + (d_k + 10^{-4}) u_k, \qquad
        x_{t+1} = \Pi_{[0, 1]}(x + (1 + \eta) r_{t+1})

    with the gradient at the current image, q = 2 and u the unit vector along it for L2,
    q = 1 and u its sign for L-infinity. An image stops once it is misclassified. Its
    perturbation is small but not minimal: for that see `attacks.carlini_wagner`.

    A misclassified clean image is returned unchanged. If no error is found the iterate
    of largest margin is returned. The attack itself is deterministic.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``, differentiable.
        images, labels, key: as in `pgd`.
        epsilon: radius in pixel values of the ball, in the same norm, onto which the
            result is projected before its evaluation; >= 0; None for no ball.
        norm: "l2" or "linf", of the distances to boundaries.
        steps: largest number of steps; >= 0.
        overshoot: eta, relative to the perturbation; >= 0.
        candidates: number of classes considered, the label and those of highest other
            logits on the clean image; >= 2. Memory grows with it: a gradient for each
            but the label.
        eot_samples: keys over which logits and their gradients are averaged.
        eot_chunk: keys per vectorized query; memory grows with it.
        evaluations: keys of the final evaluation, decided by majority vote.
        first_index: unused, since this attack draws no random numbers; for the common
            signature of attacks.

    Returns:
        The attacked images; ``loss`` is the margin. ``queries``, in units of
        ``eot_samples``, counts 1 to choose the classes, ``candidates`` for each step (a
        forward pass and a gradient per other class) up to the one that finds an error,
        and 1 after the last step; and, once, ``evaluations``.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Moosavi-Dezfooli, Fawzi and Frossard 2016, "DeepFool: a simple and accurate
        method to fool deep neural networks", algorithm 2.

    Example:
        >>> import attacks, jax, jax.numpy as jnp
        >>> def brightness(images, key):  # two classes: dark and light
        ...     return (images.mean((1, 2, 3)) - 0.5)[:, None] * jnp.array([-1, 1])
        >>> images, labels = jnp.full((1, 4, 4, 1), 0.6), jnp.array([1])
        >>> moved, *_ = attacks.deepfool(brightness, images, labels, jax.random.key(0))
        >>> print(f"{moved[0, 0, 0, 0]:.3f}")  # distance 0.1, overshoot 2 %
        0.498
    """
    del first_index
    if epsilon is not None:
        inputs.require_finite(epsilon=epsilon)
    inputs.require_choice("norm", norm, ("l2", "linf"))
    inputs.require_finite(overshoot=overshoot)
    inputs.require_at_least(0, steps=steps)
    inputs.require_at_least(2, candidates=candidates)
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    images, labels, classes = inputs.checked(logits_fn, images, labels, key)
    rivals = min(candidates, classes) - 1
    goal = make_goal(margin, labels)
    mean = partial(mean_logits, logits_fn, sampling=sampling)

    def update(
        best: Best, current: Array, logits: Array, active: Array
    ) -> tuple[Best, Array]:
        """Updates the best images; says which are still active."""
        finite = jnp.isfinite(logits).all(axis=1)
        wrong = goal.reached(logits) & finite
        wrong_or_invalid = jnp.where(active & finite, wrong.astype(current.dtype), -1)
        not_finite = (active & ~finite).astype(jnp.int32)
        margins = goal.loss(logits).astype(current.dtype)
        new = Best(
            current, margins, wrong_or_invalid, not_finite, jnp.zeros_like(not_finite)
        )
        return merge(best, new, wrong_first), active & ~wrong

    query_key, final_key = jax.random.split(key)
    logits = mean(images, jax.random.fold_in(query_key, steps + 1))
    others = likeliest_others(logits, labels, rivals).T

    def gaps_at(images: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        logits = mean(images, key)
        own = of_class(logits, labels)[:, None]
        return jnp.take_along_axis(logits, others, axis=1) - own, logits

    def step(carry: _Carry) -> _Carry:
        index, current, total, best, active, queries = carry
        gaps, pull, logits = jax.vjp(
            partial(gaps_at, key=jax.random.fold_in(query_key, index)),
            current,
            has_aux=True,
        )
        queries += jnp.where(active, (1 + rivals) * eot_samples, 0)
        best, active = update(best, current, logits, active)
        # Row k of the identity pulls back the gradient of the k-th gap.
        rows = jnp.eye(rivals, dtype=gaps.dtype)[:, None]
        rows = jnp.broadcast_to(rows, (rivals, *gaps.shape))
        gradients = canonical(jax.vmap(pull))(rows)[0]
        move = _shortest_step(gaps.astype(current.dtype), gradients, norm)
        flat = jnp.where(active, flat_gradient(move), 0)
        best = best._replace(flat=best.flat + flat)
        total += norms.per_image(active) * move
        moved = jnp.clip(images + (1 + overshoot) * total, 0, 1)
        current = jnp.where(norms.per_image(active), moved, current)
        return index + 1, current, total, best, active, queries

    def unfinished(carry: _Carry) -> Array:
        index, _, _, _, active, _ = carry
        return (index < steps) & active.any()

    start = (
        jnp.int32(0),
        images,
        jnp.zeros_like(images),
        initial_best(images),
        jnp.ones(len(images), bool),
        jnp.full(len(images), eot_samples),
    )
    _, current, _, best, active, queries = jax.lax.while_loop(unfinished, step, start)
    logits = mean(current, jax.random.fold_in(query_key, steps))
    best, _ = update(best, current, logits, active)
    queries += jnp.where(active, eot_samples, 0)
    if epsilon is not None:
        inside = norms.project(best.images, images, epsilon, norm)
        best = best._replace(images=inside)
    status = stop_status(best, at_wrong=True)
    return finish(
        logits_fn, goal, best, final_key, evaluations, queries=queries, status=status
    )


# The index, images, total perturbations, best so far, which are active, queries.
_Carry = tuple[Array, Array, Array, Best, Array, Array]


def _shortest_step(gaps: Array, gradients: Array, norm: str) -> Array:
    """The shortest step to a boundary; gaps [n, k], gradients [k, n, h, w, c]."""
    gradients = jnp.where(jnp.isfinite(gradients), gradients, 0)
    dual = "l2" if norm == "l2" else "l1"
    steepness = jax.vmap(partial(norms.size, norm=dual))(gradients).T
    distances = jnp.abs(gaps) / (steepness + 1e-8)
    # A class with a zero gradient or a gap that is not finite is out of reach.
    reachable = (steepness > 0) & jnp.isfinite(distances)
    distances = jnp.where(reachable, distances, jnp.inf)
    nearest = distances.argmin(axis=1)
    distance = of_class(distances, nearest)
    distance = jnp.where(jnp.isfinite(distance), distance + 1e-4, 0)
    gradient = gradients[nearest, jnp.arange(len(gaps))]
    return norms.per_image(distance) * norms.direction(gradient, norm)
