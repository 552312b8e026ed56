"""The working precision of attacks: the images' dtype, or float32 if that is narrower.

`in_working_precision` wraps a whole attack, which then sees images, logits and settings
in one dtype.
"""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from attacks import norms
from attacks.inputs import is_traced
from attacks.types import Attacked, LogitsFunction

Attack = TypeVar("Attack", bound=Callable[..., Any])


def in_working_precision(attack: Attack) -> Attack:
    """Lets an attack take images and logits of any floating dtype.

    Images narrower than float32 are attacked in float32, so that small steps add up.
    The classifier sees them in their own dtype, each pixel rounded towards the clean
    one, so what it sees and what is returned lies in the ball. Epsilon is reduced by
    the rounding error of a difference of two pixels in that dtype. Logits narrower than
    float32 are widened before the loss is computed; logits wider than the images stay.

    JAX's settings for implicit promotion apply to the caller's classifier only.

    Args:
        attack: a function of ``(logits_fn, images, labels, key, **options)``.

    Returns:
        The attack, with `Attacked.images` in the images' dtype and other floats in the
        working dtype.
    """
    signature = inspect.signature(attack)

    @functools.wraps(attack)
    def wrapped(
        logits_fn: LogitsFunction,
        images: Any,
        labels: Any,
        key: PRNGKeyArray,
        **options: Any,
    ) -> Any:
        given = getattr(images, "dtype", None)
        if given is None or not jnp.issubdtype(given, jnp.floating):
            return attack(logits_fn, images, labels, key, **options)  # raises
        clean = None
        with _Promotion.free() as promotion:
            dtype = jax.dtypes.canonicalize_dtype(jnp.promote_types(given, jnp.float32))
            options = {name: _setting(x, dtype) for name, x in options.items()}
            if jnp.finfo(given).bits < 32:
                clean = jnp.asarray(images)
                images = clean.astype(dtype)
                default = signature.parameters.get("epsilon")
                if default is not None:
                    epsilon = options.get("epsilon", default.default)
                    options["epsilon"] = _reduced_epsilon(epsilon, given)
            classifier = _WorkingClassifier(logits_fn, promotion, clean)
            return _to_input_dtype(
                attack(classifier, images, labels, key, **options), classifier
            )

    return cast(Attack, wrapped)


def as_shown(logits_fn: LogitsFunction, images: Float[Array, "n h w c"]) -> Array:
    """The images as the classifier sees them, in the working dtype."""
    if isinstance(logits_fn, _WorkingClassifier):
        return logits_fn.shown(images).astype(images.dtype)
    return images


def remeasured(
    logits_fn: LogitsFunction,
    distances: Float[Array, " n"],
    images: Float[Array, "n h w c"],
    clean: Float[Array, "n h w c"],
    norm: str,
) -> Float[Array, " n"]:
    """Distances, the finite ones recomputed from the images the classifier sees."""
    shown = as_shown(logits_fn, images)
    if shown is images:
        return distances
    return jnp.where(
        jnp.isfinite(distances), norms.size(shown - clean, norm), distances
    )


class _Promotion:
    """JAX's settings for implicit promotion at the time it is created."""

    def __init__(self) -> None:
        config: Any = jax.config  # the annotations lack these attributes
        self.dtypes = config.jax_numpy_dtype_promotion
        self.ranks = config.jax_numpy_rank_promotion

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        with (
            jax.numpy_dtype_promotion(self.dtypes),
            jax.numpy_rank_promotion(self.ranks),
        ):
            yield

    @classmethod
    @contextlib.contextmanager
    def free(cls) -> Iterator["_Promotion"]:
        """Lifts the restrictions; yields the previous settings."""
        before = cls()
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            yield before


class _WorkingClassifier:
    """The classifier as an attack sees it: images in the working dtype, wide logits.

    Attributes:
        clean: the given images where they are narrower than float32, else None.
    """

    def __init__(
        self, logits_fn: LogitsFunction, promotion: _Promotion, clean: Array | None
    ) -> None:
        self.logits_fn, self.promotion, self.clean = logits_fn, promotion, clean

    def __call__(self, images: Array, key: PRNGKeyArray) -> Array:
        if self.clean is not None:
            images = _rounded(images, self.clean)
        with self.promotion.restored():
            logits = self.logits_fn(images, key)
        narrow = jnp.issubdtype(logits.dtype, jnp.floating)
        narrow = narrow and jnp.finfo(logits.dtype).bits < 32
        return logits.astype(jnp.float32) if narrow else logits

    def shown(self, images: Array) -> Array:
        if self.clean is None:
            return as_shown(self.logits_fn, images)
        return _rounded(images, self.clean)


def _rounded(images: Array, clean: Array) -> Array:
    """Casts to the clean images' dtype, rounding towards them; slope 1."""
    rounded = images.astype(clean.dtype)
    exact, near = jax.lax.stop_gradient((images, rounded))
    wide = near.astype(images.dtype)
    past = jnp.where(exact > clean.astype(images.dtype), wide > exact, wide < exact)
    return rounded + jnp.where(past, jnp.nextafter(near, clean) - near, 0)


def _setting(value: Any, dtype: np.dtype[Any]) -> Any:
    """A float setting: a scalar as a Python float, an array in the working dtype."""
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        return float(value)
    return jnp.asarray(value, dtype)


def _reduced_epsilon(epsilon: Any, dtype: np.dtype[Any]) -> Any:
    """Epsilon minus the rounding error of a difference of two pixels."""
    if epsilon is None or (not is_traced(epsilon) and not 0 <= epsilon < math.inf):
        return epsilon
    return epsilon * (1 - float(jnp.finfo(dtype).eps) / 2)


def _to_input_dtype(result: Any, classifier: _WorkingClassifier) -> Any:
    """The results, with images in the dtype of the given ones."""
    if classifier.clean is None or not isinstance(result, tuple):
        return result
    if isinstance(result, Attacked):
        return result._replace(images=classifier.shown(result.images))
    return type(result)(*(_to_input_dtype(part, classifier) for part in result))
