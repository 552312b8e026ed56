"""Transfer attacks: images crafted on one classifier, evaluated on another."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int32, Integer, Num, PRNGKeyArray

from attacks import inputs
from attacks.ascent import finish, initial_best
from attacks.empty import allow_no_images
from attacks.oracle import make_goal
from attacks.precision import in_working_precision
from attacks.types import Attacked, LogitsFunction


@allow_no_images
def transfer(
    source_fn: LogitsFunction,
    target_fn: LogitsFunction,
    attack: Callable[..., Attacked],
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    evaluations: int = 1,
    **options: Any,
) -> Attacked:
    r"""Attacks a classifier without access to it, with images crafted on a surrogate.

    .. math:: x' = \mathrm{attack}(f_{source}, x, y), \qquad
        \arg\max_i f_{target}(x')_i \ne y

    Args:
        source_fn: the surrogate, ``(images, key) -> logits``.
        target_fn: the attacked classifier, with the same classes.
        attack: a function of this package, or a `functools.partial` of one.
        images, labels, key: as in `pgd`.
        evaluations: keys of the final evaluation on the target, a majority vote; for
            those of the attack itself use a `functools.partial`.
        options: of the attack. With ``targets``, predicting them is success.

    Returns:
        The images as the attack returned them. ``success``, ``loss`` (the
        cross-entropy, in nats), ``queries`` and ``not_finite`` are from the final
        evaluation, the only queries of the target. Queries of the source are not
        counted; ``status`` is that of the attack on it.

    Raises:
        ValueError, TypeError: as `pgd` and as the attack.

    References:
        Papernot, McDaniel and Goodfellow 2016, "Transferability in machine learning:
        from phenomena to black-box attacks using adversarial samples".

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks import fgsm
        >>> from attacks.transfer import transfer
        >>> def brightness(images, key):  # two classes: dark and light
        ...     return (images.mean((1, 2, 3)) - 0.5)[:, None] * jnp.array([-1, 1])
        >>> def top_row(images, key):  # without a gradient
        ...     return jnp.round(brightness(images[:, :1], key) * 255)
        >>> images, labels = jnp.full((1, 8, 8, 3), 0.51), jnp.array([1])
        >>> attacked = transfer(
        ...     brightness, top_row, fgsm, images, labels, jax.random.key(0)
        ... )
        >>> print(attacked.success, attacked.queries)
        [ True] [1]
    """
    inputs.require_at_least(1, evaluations=evaluations)
    targets = options.get("targets")
    images, labels, _ = inputs.checked(target_fn, images, labels, key, targets)
    craft_key, evaluation_key = jax.random.split(key)
    crafted = attack(source_fn, images, labels, craft_key, **options)
    return _judged(
        target_fn,
        crafted.images,
        labels,
        evaluation_key,
        targets=targets,
        evaluations=evaluations,
        status=crafted.status,
    )


@in_working_precision
def _judged(
    logits_fn: LogitsFunction,
    images: Float[Array, "n h w c"],
    labels: Integer[Array, " n"],
    key: PRNGKeyArray,
    *,
    targets: Num[Array | np.ndarray, " n"] | None,
    evaluations: int,
    status: Int32[Array, " n"],
) -> Attacked:
    goal, best = make_goal(None, labels, targets), initial_best(images)
    return finish(logits_fn, goal, best, key, evaluations, queries=0, status=status)
