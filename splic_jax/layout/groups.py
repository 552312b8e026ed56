"""Small matrices completed together on a CPU, whatever the batch they come in."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

Done = TypeVar("Done")

# Matrices in a group, whose operations take no longer to start than to run.
GROUP = 4


def map_groups(run: Callable[..., Done], *arrays: Any) -> Done:
    """Maps a function of one matrix over many, `GROUP` of them at a time.

    Args:
        run: ``(*arrays of one matrix) -> arrays``.
        arrays: trees whose arrays have the matrices along their first axis. The last
            group is filled up with copies of the last one.

    Returns:
        What `run` returns, with that axis in front.
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
    """`run`, a function of one matrix, such that `GROUP` are always done together.

    However many there are: so each one's result is the same whatever the batch.
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
