"""MultiTargeted: projected gradient ascent towards each of the likeliest classes."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Integer, Num, PRNGKeyArray, Real

from attacks import inputs
from attacks.ascent import Best, finish, initial_best, preference, update_best
from attacks.empty import allow_no_images
from attacks.losses import Loss, likeliest_others, margin, targeted_difference
from attacks.oracle import make_goal, make_sampling, query
from attacks.pgd import StepSize, pgd
from attacks.precision import in_working_precision
from attacks.types import Attacked, LogitsFunction, Status


@allow_no_images
@in_working_precision
def multi_targeted(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    step_size: StepSize = 2 / 255,
    steps: int = 20,
    target_classes: int = 9,
    restarts: int = 1,
    loss: Loss = targeted_difference,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
    **options: Any,
) -> Attacked:
    r"""PGD towards one target after another; returns the best result.

    .. math::
        x'_t \approx \arg\max_{x' \in B} L_t(f(x'), y), \quad
        L_t = z_t - z_y, \qquad
        x' = \arg\max_{x'_t} \max_{i \ne y} f(x'_t)_i - f(x'_t)_y

    If the classifier is locally linear, each of these problems has one optimum, but the
    margin, their maximum, can have one per class. Each run is `pgd` with `keep_best`,
    and a misclassified image is the best result, then the higher margin; the mean
    margin alone if `eot_samples` or `evaluations` above 1 imply a random classifier.
    The paper uses Adam; the steps here are those of `pgd`.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``, differentiable.
        images, labels, key, epsilon, step_size, steps: as in `pgd`.
        target_classes: the largest number of targets: the other classes of highest
            logits on the clean image (averaged over `eot_samples` keys).
        restarts: runs towards each target, from independent random starts.
        loss: ``(logits, labels, targets) -> [n]``.
        eot_samples: keys over which each gradient, and each margin, is averaged.
        eot_chunk, evaluations, first_index: as in `pgd`.
        options: other options of `pgd`, except ``targets``.

    Returns:
        The attacked images; ``loss`` is the margin. With T targets and R restarts
        ``queries`` is ``eot_samples`` to choose the targets, those of T * R runs of
        `pgd` with ``eot_samples`` each to compare their results, and ``evaluations``.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Gowal et al. 2019, "An alternative surrogate loss for PGD-based adversarial
        testing", section 4.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks.multi_targeted import multi_targeted
        >>> def colours(images, key):  # the channel of the highest mean
        ...     return images.mean(axis=(1, 2))
        >>> images = jnp.full((1, 8, 8, 3), 0.5).at[..., 0].set(0.55)
        >>> attacked = multi_targeted(
        ...     colours, images, jnp.array([0]), jax.random.key(0)
        ... )
        >>> print(attacked.success, attacked.queries)
        [ True] [48]
    """
    inputs.require_at_least(1, target_classes=target_classes, restarts=restarts)
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    images, labels, classes = inputs.checked(logits_fn, images, labels, key)
    goal = make_goal(margin, labels)
    prefers = preference(randomized=sampling.randomized)
    value = partial(query, logits_fn, goal, sampling=sampling, gradient=False)
    target_key, final_key, run_key = jax.random.split(key, 3)
    clean = value(images, target_key)
    count = min(target_classes, classes - 1)
    targets = likeliest_others(clean.logits, labels, count)
    targets = jnp.repeat(targets, restarts, axis=0)

    def run(
        carry: _Carry, target_and_index: tuple[Array, Array]
    ) -> tuple[_Carry, None]:
        best, queries, status = carry
        targets, index = target_and_index
        pgd_key, value_key = jax.random.split(jax.random.fold_in(run_key, index))
        # A loss and no `targets`: any misclassification is a success of the run.
        found = pgd(
            logits_fn,
            images,
            labels,
            pgd_key,
            epsilon=epsilon,
            step_size=step_size,
            steps=steps,
            loss=lambda logits, labels: loss(logits, labels, targets),
            eot_samples=eot_samples,
            eot_chunk=eot_chunk,
            first_index=first_index,
            **{"keep_best": True, **options},
        )
        best = update_best(best, found.images, value(found.images, value_key), prefers)
        best = best._replace(not_finite=best.not_finite + found.not_finite)
        queries += found.queries + eot_samples
        return (best, queries, jnp.minimum(status, found.status)), None

    nothing = initial_best(images)
    nothing = nothing._replace(not_finite=(~clean.finite).astype(jnp.int32))
    runs = len(targets)
    worst = jnp.full(len(images), Status.NOT_FINITE, jnp.int32)
    spent = jnp.full(len(images), eot_samples, jnp.int32)
    carry, each = (nothing, spent, worst), (targets, jnp.arange(runs))
    (best, queries, status), _ = jax.lax.scan(run, carry, each)
    return finish(
        logits_fn, goal, best, final_key, evaluations, queries=queries, status=status
    )


_Carry = tuple[Best, Array, Array]  # best so far, queries, status
