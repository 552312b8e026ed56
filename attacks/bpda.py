"""Backward Pass Differentiable Approximation: a substitute gradient for a defense.

The white-box attack on a defended classifier:

    defended = lambda images, key: model(bpda(defense)(images, key))
    attacked = pgd(defended, images, labels, key)
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from attacks.inputs import require_images, require_key
from attacks.types import Transform


def bpda(
    transform: Transform,
    backward: Callable[[Float[Array, "n h w c"]], Float[Array, "n h w c"]]
    | None = None,
) -> Transform:
    r"""Replaces the derivative of a transform, but not its value.

    .. math::
        t'(x, key) = t(x, key), \qquad
        \frac{\partial t'}{\partial x} = \frac{\partial b}{\partial x}

    The value is the transform's own, bit for bit. The derivative is that of
    ``backward``, by default the identity, in forward and reverse mode and at every
    order; the transform itself is never differentiated and need not be
    differentiable. It must not close over values that are being differentiated,
    such as parameters in training.

    Args:
        transform: ``(images, key) -> images``.
        backward: differentiable ``images -> images`` that approximates the transform
            and returns its shape and dtype; None for the identity.

    Returns:
        ``(images, key) -> images``, called as the transform is; it raises as
        `attacks.inputs.require_images` and `require_key` do.

    Raises:
        ValueError: on differentiation, if ``transform`` and ``backward`` return
            different shapes or dtypes.

    References:
        Athalye, Carlini and Wagner 2018, "Obfuscated gradients give a false sense of
        security", section 4.1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks import bpda
        >>> def posterize(images, key):
        ...     return jnp.round(images * 4) / 4
        >>> images, key = jnp.full((1, 1, 1, 1), 0.3), jax.random.key(0)
        >>> total = lambda transform: lambda images: transform(images, key).sum()
        >>> print(jax.grad(total(posterize))(images).item())
        0.0
        >>> print(jax.grad(total(bpda(posterize)))(images).item())
        1.0
    """

    @jax.custom_jvp
    def replaced(
        images: Float[Array | np.ndarray, "n h w c"], key: PRNGKeyArray
    ) -> Array:
        return transform(images, key)  # type: ignore[arg-type]  # NumPy arrays too

    @replaced.defjvp
    def derivative(
        primals: tuple[Array | np.ndarray, PRNGKeyArray],
        tangents: tuple[Array | np.ndarray, Any],
    ) -> tuple[Array, Any]:
        images, key = primals
        tangent, _ = tangents
        # Through `replaced`, so that second derivatives do not see the transform.
        value = replaced(images, key)
        if backward is None:
            approximation, slope = images, tangent
        else:
            approximation, slope = jax.jvp(backward, (images,), (tangent,))
        made = (value.shape, value.dtype.name)
        expected = (approximation.shape, approximation.dtype.name)
        if made != expected:
            raise ValueError(
                f"the transform returned {made}, but `backward` (by default the "
                f"identity) returned {expected}; pass a `backward` with the shape and "
                "dtype of the transform"
            )
        return value, slope

    def checked(
        images: Float[Array | np.ndarray, "n h w c"], key: PRNGKeyArray
    ) -> Array:
        require_images(images)
        require_key(key)
        done: Array = replaced(images, key)
        return done

    return checked
