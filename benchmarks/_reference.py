"""Algorithm 1 written from the paper, in NumPy and with JAX's own SVD.

It shares no code with the library: the tests compare with it, and the benchmarks time
it. Matrices may have leading batch axes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from splic_jax import SPLICConfig


def smoothed_rank_gradient(x, delta):
    """Eq. (9)."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return (u * (s / delta**2 * np.exp(-((s / delta) ** 2) / 2))[..., None, :]) @ vt


def total_variation_gradient(x, form="exact"):
    """The gradient of eq. (6), or eq. (10) as printed."""
    gradient = np.zeros_like(x)
    for axis in (-2, -1):
        difference = np.moveaxis(np.diff(x, axis=axis), axis, 0)
        of_axis = np.moveaxis(gradient, axis, 0)
        of_axis[:-1] -= difference
        if form == "exact":
            of_axis[1:] += difference
    return gradient


def cut_and_descend(x, delta, rank, step_size, relative):
    """Lines 4 to 8, and the smoothed rank's part of line 11."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    u, s, vt = u[..., :rank], s[..., :rank], vt[..., :rank, :]
    scale = step_size * delta**2 if relative else step_size
    shrunk = s - scale * s / delta**2 * np.exp(-((s / delta) ** 2) / 2)
    return (u * s[..., None, :]) @ vt, (u * shrunk[..., None, :]) @ vt


def complete(matrices, masks, config: SPLICConfig):
    """Algorithm 1, in the precision of the matrices; stops when all have converged.

    Returns:
        The matrices, the number of steps, and the relative change of every step.
    """
    anchors = np.where(masks, matrices, 0) * config.pixel_scale
    anchors = x = anchors.astype(matrices.dtype)
    rank = config.rank or max(1, min(x.shape[-2:]) // 4)
    if not config.rank_cut:
        rank = min(x.shape[-2:])
    relative = config.step_scaling == "relative"
    delta = np.linalg.svd(x, compute_uv=False)[..., :1]
    changes, change = [], np.inf
    while np.any(change > config.tolerance) and len(changes) < config.max_steps:
        for _ in range(config.inner_steps):
            cut, new = cut_and_descend(x, delta, rank, config.step_size, relative)
            tv = total_variation_gradient(cut, config.tv_form)
            new -= config.step_size * config.tv_weight * tv
            new = np.where(masks, anchors, new)
            size = np.linalg.norm(x, axis=(-2, -1))
            change = np.linalg.norm(new - x, axis=(-2, -1)) / size
            changes.append(change)
            x = new
        delta = delta * config.delta_decay
    return x / config.pixel_scale, len(changes), np.array(changes)


def purify(images, masks, config: SPLICConfig):
    """Both passes on each channel of images ``[n, h, w, c]``."""
    x, mask = (np.moveaxis(a, -1, 1) for a in (images, masks))
    for anchors_at in (mask, ~mask):
        x, _, _ = complete(x, anchors_at, config)
    return np.clip(np.moveaxis(x, 1, -1), 0, 1)


def cut_and_descend_by_svd(x, delta, rank, step_size):
    """`cut_and_descend` relative to delta^2, differentiated through JAX's SVD."""
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    shrunk = s * (1 - step_size * jnp.exp(-((s / delta) ** 2) / 2))
    return (u * s) @ vt, (u * shrunk) @ vt


def purify_by_svd(images, masks, config: SPLICConfig):
    """`purify` without an early stop, differentiated through every SVD."""
    rank = config.rank_of(images.shape[1:3])

    def one_pass(matrix, mask):
        anchors = jnp.where(mask, matrix, 0)
        first = jnp.linalg.svd(anchors, compute_uv=False)[0]

        @jax.checkpoint
        def step(x, delta):
            cut, new = cut_and_descend_by_svd(x, delta, rank, config.step_size)
            down = jnp.pad(jnp.diff(cut, axis=0), ((1, 1), (0, 0)))
            right = jnp.pad(jnp.diff(cut, axis=1), ((0, 0), (1, 1)))
            tv = -jnp.diff(down, axis=0) - jnp.diff(right, axis=1)
            new -= config.step_size * config.tv_weight * tv
            return jnp.where(mask, anchors, new), None

        decays = config.delta_decay ** jnp.arange(config.max_rounds)
        deltas = first * jnp.repeat(decays, config.inner_steps)
        return jnp.where(mask, matrix, jax.lax.scan(step, anchors, deltas)[0])

    def alternated(matrix, mask):
        return one_pass(one_pass(matrix, mask), ~mask)

    over_channels = jax.vmap(alternated, in_axes=-1, out_axes=-1)
    return jax.vmap(over_channels)(images, masks)
