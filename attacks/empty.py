"""Empty batches: an empty result of the right shape, without a query."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Arguments of attacks with one entry per image.
PER_IMAGE = ("attacked", "images", "labels", "targets", "starts")


def allow_no_images(attack: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Lets an attack take an empty batch, such as what remains once all are broken.

    Many networks, such as those that flatten their images, reject an empty batch. So
    the attack is only traced, for one image, which checks the settings and gives the
    shapes.

    Args:
        attack: has an argument `images` and returns arrays with one entry per image.
    """
    names = tuple(inspect.signature(attack).parameters)

    @functools.wraps(attack)
    def attack_or_none(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        shape: tuple[int, ...] = getattr(given.get("images"), "shape", ())
        if len(shape) != 4 or shape[0]:
            return attack(*args, **kwargs)

        def of_one(per_image: dict[str, Any]) -> Result:
            return attack(**{**given, **per_image})  # type: ignore[call-arg]

        named = {k: v for k, v in given.items() if k in PER_IMAGE and v is not None}
        result = jax.eval_shape(of_one, jax.tree.map(_one, named))
        empty: Result = jax.tree.map(_none, result)
        return empty

    return attack_or_none


def _one(array: Any) -> jax.ShapeDtypeStruct:
    """The array's shape, with one entry where it has none."""
    shape = jnp.shape(array)
    count = (1,) if shape[:1] == (0,) else shape[:1]
    dtype = jnp.asarray(array).dtype
    return jax.ShapeDtypeStruct((*count, *shape[1:]), dtype)


def _none(result: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros((0, *result.shape[1:]), result.dtype)
