"""A network's variables as arrays by name, for files: `blocks/0/norm1/scale`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def to_arrays(variables: nnx.State) -> dict[str, Any]:
    """The arrays, or what stands for them, of parameters and batch statistics."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    return {_name(path): leaf for path, leaf in leaves}


def from_arrays(like: nnx.State, arrays: Mapping[str, np.ndarray]) -> nnx.State:
    """The inverse of `to_arrays`.

    Args:
        like: variables of the same structure, shapes and dtypes.
        arrays: by name.

    Raises:
        ValueError: for names that are missing or unknown, or arrays of another shape.
    """
    expected = to_arrays(like)
    require_shapes({name: x.shape for name, x in expected.items()}, arrays)
    found = [jnp.asarray(arrays[name], x.dtype) for name, x in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), found)


def require_shapes(
    expected: Mapping[str, tuple[int, ...]], arrays: Mapping[str, np.ndarray]
) -> None:
    """Refuses arrays of other names or shapes.

    Raises:
        ValueError: naming some of them.
    """
    for problem, names in (
        ("lack", expected.keys() - arrays.keys()),
        ("have unknown", arrays.keys() - expected.keys()),
    ):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise ValueError(f"the weights {problem} {some} ({len(names)} in all)")
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, not {shape}")


def _name(path: tuple[Any, ...]) -> str:
    keys = (part.key for part in path if isinstance(part, jax.tree_util.DictKey))
    return "/".join(str(key) for key in keys)
