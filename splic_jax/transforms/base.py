"""Makes a transform of batches from a function of one image."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from splic_jax.arguments import require_key
from splic_jax.fields import Settings
from splic_jax.keys import mappable
from splic_jax.layout import batches

# ``(image [h, w, c], key, config) -> image``, floats in [0, 1].
OfOneImage = Callable[[Float[Array, "h w c"], PRNGKeyArray, Any], Array]


# ``(images, key, config, *, first_index=0, indices=None, check_finite=False)
# -> images``.
Transform = Callable[..., Array]


def per_image(one: OfOneImage) -> Transform:
    """Turns a function of one image into a transform of batches.

    Image i gets the key ``fold_in(key, first_index + i)`` (or that of ``indices[i]``)
    and is transformed by itself, so its result depends on its own key and content. On
    the CPU images run one after another and results are equal to the bit whatever the
    batch; on an accelerator many at a time, where sums may be in another order. As for
    `splic_jax.purify`, memory beyond images and result does not grow with their number.

    Args:
        one: ``(image, key, config) -> image``, of floats in [0, 1]; pure.

    Returns:
        ``transform(images, key, config, *, first_index=0, indices=None,
        check_finite=False)``. Images are ``[n, h, w, c]`` or ``[h, w, c]`` with 1 to 4
        channels, floats in [0, 1] or uint8, and come back clipped to that range, in
        their dtype. It refuses other images and keys, and with `check_finite` results
        that are not finite, as `splic_jax.purify` does.
    """

    @partial(jax.jit, static_argnames=("chunk", "least"))
    def run(
        images: Array, indices: Array, shared: tuple[Array, Any], chunk: int, least: int
    ) -> batches.WithFinite:
        key, config = shared

        def run_one(image: Array, index: Array) -> Array:
            return one(image, jax.random.fold_in(key, index), config)

        return batches.map_chunks(jax.vmap(run_one), images, indices, chunk, least)

    def transform(
        images: Array | np.ndarray,
        key: PRNGKeyArray,
        config: Settings,
        *,
        first_index: Int[ArrayLike, ""] = 0,
        indices: Int[Array | np.ndarray, " count"] | None = None,
        check_finite: bool = False,
    ) -> Array:
        batches.check(images)
        require_key(key)
        batch = images if images.ndim == 4 else images[None]
        if len(batch) == 0:  # what comes out may have other channels
            one_image = jax.ShapeDtypeStruct((1, *batch.shape[1:]), batch.dtype)
            of_one = partial(run, chunk=1, least=1)
            done, _ = jax.eval_shape(
                of_one, one_image, jnp.zeros(1, int), (mappable(key), config)
            )
            nothing: Array = jnp.zeros((0, *done.shape[1:]), done.dtype)
            return nothing
        numbers = batches.numbered(len(batch), first_index, indices)
        platform, shared = jax.default_backend(), (mappable(key), config)
        on_cpu = platform == "cpu"
        chunk = (
            1 if on_cpu else min(batches.accelerator_chunk(batch.shape[1:]), len(batch))
        )
        run_some = partial(run, chunk=chunk, least=2 if on_cpu else 1)
        if batches.can_be_split(batch, numbers, shared):
            done, finite = batches.map_pieces(
                run_some, batch, numbers, shared, chunk, platform=platform
            )
        else:
            done, finite = run_some(batch, numbers, shared)
        if check_finite:
            batches.require_finite(finite)
        transformed: Array = done if images.ndim == 4 else done[0]
        return transformed

    return transform
