"""What the paper's figures show, as functions of images: quality, spectra, sweeps.

Images are float32 ``[n, h, w, c]`` in [0, 1] without alpha.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from sklearn.manifold import TSNE

from splic_jax import SPLICConfig, complete, sample_mask, transform
from splic_jax.keys import mappable
from splic_jax.layout.channels import to_matrices
from splic_jax.transforms import TransformConfig, replace
from train.utils.quality import Quality, quality


@jax.jit
def singular_values(
    images: Float[Array, "n h w c"],
) -> Float[Array, "n c k"]:
    """Singular values of each channel, from the largest; k = min(h, w)."""
    return jnp.linalg.svd(jnp.moveaxis(images, -1, 1), compute_uv=False)


@jax.jit
def energy_by_rank(
    perturbation: Float[Array, "n h w c"], images: Float[Array, "n h w c"]
) -> Float[Array, "n k"]:
    r"""Where a perturbation's energy sits among an image's singular directions.

    .. math::
        e_r = \frac{\sum_c \|U_r^T D_c V_r\|_F^2}{\sum_c \|D_c\|_F^2}

    with U_r and V_r the first r singular vectors of channel c of the image: the share
    that survives a projection onto the image's own leading directions. It grows from
    e_1 to e_k (1 for square images). NaN without a perturbation.

    Args:
        perturbation: D, the attacked image less the clean one.
        images: the clean images.

    Returns:
        e_1 to e_k of each image, k = min(h, w).
    """
    left, _, right = jnp.linalg.svd(jnp.moveaxis(images, -1, 1), full_matrices=False)
    moved = jnp.moveaxis(perturbation, -1, 1)
    pairs = jnp.einsum("nchi,nchw,ncjw->ncij", left, moved, right) ** 2
    inside = jnp.cumsum(jnp.cumsum(pairs, axis=-1), axis=-2)
    inside = jnp.diagonal(inside, axis1=-2, axis2=-1).sum(axis=1)
    return inside / (moved**2).sum(axis=(1, 2, 3))[:, None]


class Swept(NamedTuple):
    """One value of a sweep.

    Attributes:
        value: of the field.
        images: transformed with it.
        quality: of these, against the reference.
    """

    value: Any
    images: Float[Array, "n h w c"]
    quality: Quality


def sweep(
    images: Float[Array, "n h w c"],
    reference: Float[Array, "n h w c"],
    key: PRNGKeyArray,
    config: TransformConfig,
    field: str,
    values: Sequence[Any],
) -> Iterator[Swept]:
    """Transforms images with several values of one setting (figures 5, 6, 9, 11).

    Args:
        images: clean or attacked.
        reference: what the quality is measured against.
        key: of the masks: the same for every value.
        config: the other settings, of any method.
        field: the setting, such as "rank", "tv_weight" or "keep_probability".
        values: its values.

    Yields:
        One `Swept` for each value, as it is done.

    Raises:
        ValueError: for a field or a value that the method does not take.
    """
    for value in values:
        settings = replace(config, {field: value})
        made = transform(images, key, settings, check_finite=True)
        yield Swept(value, made, quality(made, reference))


def convergence(
    images: Float[Array, "n h w c"],
    key: PRNGKeyArray,
    config: SPLICConfig = SPLICConfig(),
) -> Float[Array, "n matrices steps"]:
    """The relative change of every step of pass 1 (figure 4).

    The masks are those that `purify` draws.

    Args:
        images: the images.
        key: as `purify` takes it.
        config: the settings.

    Returns:
        ``||X_{t+1} - X_t||_F / ||X_t||_F`` for each matrix of an image, a channel or
        all of them side by side; NaN after the last step.
    """
    shape = images.shape[1:]

    blocks = 1 if config.channels == "separate" else shape[-1]

    def trace(image, index):
        image_key = jax.random.fold_in(mappable(key), index)
        kept = config.keep_probability, config.mask, config.mask_design
        mask = sample_mask(image_key, shape, *kept)

        def of_matrix(matrix, mask):
            return complete(matrix, mask, config, trace=True, blocks=blocks).trace

        matrices = (to_matrices(x, config.channels) for x in (image, mask))
        return jax.vmap(of_matrix)(*matrices)

    return jax.jit(jax.vmap(trace))(images, jnp.arange(len(images)))


def tsne(
    features: Float[np.ndarray, "n width"], seed: int = 0, perplexity: float = 30.0
) -> Float[np.ndarray, "n 2"]:
    """Features in the plane by t-SNE (figure 10; van der Maaten and Hinton 2008).

    Scikit-learn's, started from the principal components.

    Args:
        features: one row an image.
        seed: of what is random in it.
        perplexity: about the number of neighbours; below n.
    """
    embedding = TSNE(random_state=seed, perplexity=perplexity, init="pca")
    return embedding.fit_transform(np.asarray(features))
