"""Groups of a fixed size, in which a CPU completes small matrices together."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

Done = TypeVar("Done")

# Matrices in a group: enough that an operation does not take longer to start than run.
GROUP = 4


def map_groups(run: Callable[..., Done], *arrays: Any) -> Done:
    """Maps a function of one matrix over many, `GROUP` of them at a time.

    Args:
        run: ``(*arrays of one matrix) -> arrays``.
        arrays: trees of arrays with the matrices along the first axis. The last group
            is padded with copies of the last matrix.

    Returns:
        The results of `run`, stacked along the first axis.
    """
    count = len(jax.tree.leaves(arrays)[0])

    def grouped(a: jax.Array) -> jax.Array:
        filling = ((0, -count % GROUP), *((0, 0),) * (a.ndim - 1))
        return jnp.pad(a, filling, mode="edge").reshape(-1, GROUP, *a.shape[1:])

    groups = jax.tree.map(grouped, arrays)
    done = jax.lax.map(lambda group: jax.vmap(run)(*group), groups)
    done = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], done)
    return cast(Done, done)


def in_groups(run: Callable[..., Done]) -> Callable[..., Done]:
    """`run`, a function of one matrix, with batches of exactly `GROUP` matrices.

    So the result of a matrix does not depend on the size of its batch under `jax.vmap`.
    """

    @jax.custom_batching.custom_vmap
    def run_batch(*arrays: Any) -> Done:
        return map_groups(run, *arrays)

    @run_batch.def_vmap
    def _(size: int, batched: Any, *arrays: Any) -> tuple[Any, Any]:
        def whole(a: jax.Array, is_batched: bool) -> jax.Array:
            every = a if is_batched else jnp.broadcast_to(a, (size, *a.shape))
            return every.reshape(-1, *every.shape[2:])

        done = run_batch(*jax.tree.map(whole, arrays, tuple(batched)))
        done = jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), done)
        return done, jax.tree.map(lambda _: True, done)

    def run_one(*arrays: Any) -> Done:
        done = run_batch(*jax.tree.map(lambda a: a[None], arrays))
        return cast(Done, jax.tree.map(lambda a: a[0], done))

    return run_one
