"""Algorithm 1 in NumPy, float64, written from the paper and sharing no code."""

import numpy as np


def tv_gradient(x, form):
    m, n = x.shape
    g = np.zeros_like(x)
    for i in range(m):
        for j in range(n):
            neighbours = [(i + 1, j), (i, j + 1)]
            if form == "exact":
                neighbours += [(i - 1, j), (i, j - 1)]
            for p, q in neighbours:
                if 0 <= p < m and 0 <= q < n:
                    g[i, j] += x[i, j] - x[p, q]
    return g


def complete(image, mask, config):
    """Returns (matrix, steps, relative change of every step)."""
    x = image.astype(np.float64) * mask * config.pixel_scale
    anchors = x.copy()
    rank = config.rank or max(1, min(x.shape) // 4)
    if not config.rank_cut:
        rank = min(x.shape)
    delta = np.linalg.svd(x, compute_uv=False)[0]
    changes = []
    change = np.inf
    while change > config.tolerance and len(changes) < config.max_steps:
        for _ in range(config.inner_steps):
            u, s, vt = np.linalg.svd(x, full_matrices=False)
            s[rank:] = 0
            cut = u @ np.diag(s) @ vt
            gradient = u @ np.diag(s / delta**2 * np.exp(-(s**2) / 2 / delta**2)) @ vt
            scale = delta**2 if config.step_scaling == "relative" else 1.0
            tv = config.tv_weight * tv_gradient(cut, config.tv_form)
            new = cut - config.step_size * (scale * gradient + tv)
            new = (1 - mask) * new + mask * anchors
            change = np.linalg.norm(new - x) / np.linalg.norm(x)
            changes.append(change)
            x = new
        delta *= config.delta_decay
    return x / config.pixel_scale, len(changes), np.array(changes)
