"""Sparse coding: images rebuilt from few atoms of a dictionary of training patches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from splic_jax.fields import array_field, config, require_integer, require_number
from splic_jax.transforms.base import per_image

_PATCHES = 256  # of each learning step

_Triple = tuple[Array, Array, Array]


@config
class SparseCodingConfig:
    """Settings of `sparse_code`, and the dictionary once `fit_dictionary` has run.

    Attributes:
        patch_size: p, side of the patches in pixels; >= 1.
        stride: pixels from one patch to the next; in [1, patch_size].
        atoms: number of atoms in the dictionary; >= 1.
        sparsity: lambda, weight of the codes' absolute values, for pixels in [0, 1] and
            atoms of norm 1; >= 0.
        iterations: steps of FISTA for each code; >= 1.
        learning_steps: of `fit_dictionary`, with 256 patches each; >= 1.
        dictionary: ``[atoms, p * p * c]``, each row an atom of norm 1.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    patch_size: int = 8
    stride: int = 2
    atoms: int = 128
    sparsity: float = 0.1
    iterations: int = 40
    learning_steps: int = 200
    dictionary: Float[Array, "atoms size"] | None = array_field()

    def __post_init__(self) -> None:
        require_integer(
            self, "patch_size", "stride", "atoms", "iterations", "learning_steps"
        )
        require_number(self, "sparsity", "[0, inf)")
        if self.stride > self.patch_size:
            raise ValueError(
                f"stride must be at most patch_size={self.patch_size}, or pixels are "
                f"left out, got {self.stride}"
            )


def sparse_code_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: SparseCodingConfig
) -> Float[Array, "h w c"]:
    """Codes each patch by a few atoms, and averages the patches where they overlap.

    The mean of each channel of a patch is taken off before, and put back after.
    Images that no whole number of strides fits are padded with their last row and
    column. Not random. Differentiable, so attacked by its own gradient.

    In the style of the sparse transformation layer, whose codes are convolutional, over
    the whole image at once; here each patch has a code of its own.

    Raises:
        ValueError: if there is no dictionary yet, or one for other patches.

    References:
        Sun, Tsai, Liu, Yu and Su 2019, "Adversarial defense by stratified convolutional
        sparse coding"; Aharon, Elad and Bruckstein 2006, "K-SVD" (averaged patches).
    """
    del key
    channels, size = image.shape[-1], config.patch_size
    if config.dictionary is None:
        raise ValueError(
            "sparse coding needs a dictionary: call fit_dictionary(training_images, "
            "key, config) first, and use the settings that it returns"
        )
    expected = (config.atoms, size * size * channels)
    if config.dictionary.shape != expected:
        raise ValueError(
            f"the dictionary has shape {config.dictionary.shape}, but the settings and "
            f"images of {channels} channels need {expected}: fit it to such images"
        )
    padded = _padded(image, size, config.stride)

    def patches_of(image: Array) -> Array:
        return _patches(image, size, config.stride)

    patches = patches_of(padded)
    mean = patches.mean(axis=1, keepdims=True)
    centred = (patches - mean).reshape(len(patches), -1)
    dictionary = config.dictionary.astype(image.dtype)
    codes = sparse_codes(centred, dictionary, config.sparsity, config.iterations)
    rebuilt = _matmul(codes, dictionary).reshape(patches.shape) + mean
    # The transpose of cutting patches out is adding them up where they were.
    (summed,) = jax.linear_transpose(patches_of, padded)(rebuilt)
    (count,) = jax.linear_transpose(patches_of, padded)(jnp.ones_like(rebuilt))
    mixed: Array = summed / count
    return mixed[: image.shape[0], : image.shape[1]]


sparse_code = per_image(sparse_code_one)


def sparse_codes(
    patches: Float[Array | np.ndarray, "n size"],
    dictionary: Float[Array | np.ndarray, "atoms size"],
    sparsity: float,
    iterations: int,
) -> Float[Array, "n atoms"]:
    r"""Solves the lasso for each patch, by FISTA from zero.

    .. math:: \min_a \tfrac12 \|x - D^\top a\|_2^2 + \lambda \|a\|_1

    Args:
        patches: x, one in each row.
        dictionary: D, an atom in each row.
        sparsity: lambda.
        iterations: number of iterations; always all are run.

    Returns:
        Codes a, one in each row.

    References:
        Beck and Teboulle 2009, "A fast iterative shrinkage-thresholding algorithm for
        linear inverse problems", with constant step size.
    """
    patches, dictionary = jnp.asarray(patches), jnp.asarray(dictionary)
    gram = _matmul(dictionary, dictionary.T)
    target = _matmul(patches, dictionary.T)
    step = 1 / _largest_eigenvalue(gram)

    def iterate(carry: _Triple, _: None) -> tuple[_Triple, None]:
        codes, ahead, momentum = carry
        moved = ahead - step * (_matmul(ahead, gram) - target)
        new = jnp.sign(moved) * jax.nn.relu(jnp.abs(moved) - step * sparsity)
        faster = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        return (new, new + (momentum - 1) / faster * (new - codes), faster), None

    zero = jnp.zeros_like(target)
    start = (zero, zero, jnp.ones((), target.dtype))
    (codes, _, _), _ = jax.lax.scan(iterate, start, length=iterations)
    return codes


def fit_dictionary(
    training_images: ArrayLike, key: PRNGKeyArray, config: SparseCodingConfig
) -> SparseCodingConfig:
    """Learns a dictionary from random patches of training images.

    Online dictionary learning: each step codes some patches by the dictionary so far,
    adds their statistics to those of older steps, which count less, and improves the
    atoms one by one. The first atoms are patches.

    Args:
        training_images: ``[n, h, w, c]``, floats in [0, 1] or uint8, 1 or 3 channels;
            n >= 1.
        key: of the patches that are drawn.
        config: the settings; a dictionary in them is replaced.

    Returns:
        The settings with the dictionary.

    Raises:
        ValueError: if there are no images.

    References:
        Mairal, Bach, Ponce and Sapiro 2009, "Online dictionary learning for sparse
        coding", algorithms 1 and 2 and section 3.4.
    """
    images = jnp.asarray(training_images)
    if images.ndim != 4 or not images.size:
        raise ValueError(f"training_images must be [n, h, w, c], got {images.shape}")
    return dataclasses.replace(config, dictionary=_fit(images, key, config))


@jax.jit
def _fit(images: Array, key: PRNGKeyArray, config: SparseCodingConfig) -> Array:
    size = config.patch_size
    shape = [max(side, size) for side in images.shape[1:3]]

    def one_patch(where: Array) -> Array:
        index, row, column = where
        image = _padded(images[index], size, 1).astype(jnp.float32)
        if images.dtype == jnp.uint8:
            image = image / 255
        patch = jax.lax.dynamic_slice(
            image, (row, column, 0), (size, size, image.shape[-1])
        )
        return (patch - patch.mean(axis=(0, 1))).reshape(-1)

    def draw(key: PRNGKeyArray, count: int) -> Array:
        below = jnp.array([len(images), *(side - size + 1 for side in shape)])
        share = jax.random.uniform(key, (count * 3,), jnp.float32).reshape(count, 3)
        where = jnp.minimum((share * below).astype(jnp.int32), below - 1)
        return jax.vmap(one_patch)(where)

    def learn(carry: _Triple, step: tuple[Array, Array]) -> tuple[_Triple, None]:
        dictionary, weights, targets = carry
        number, step_key = step
        patches = draw(step_key, _PATCHES)
        codes = sparse_codes(patches, dictionary, config.sparsity, config.iterations)
        kept = number / (number + 1)  # forgets the first dictionaries' codes
        weights = kept * weights + _matmul(codes.T, codes) / _PATCHES
        targets = kept * targets + _matmul(codes.T, patches) / _PATCHES

        def improve(j: Array, dictionary: Array) -> Array:
            change = targets[j] - _matmul(weights[j], dictionary)
            used = weights[j, j] > 1e-8
            moved = dictionary[j] + change / jnp.where(used, weights[j, j], 1)
            moved = _unit(moved, dictionary[j])
            return dictionary.at[j].set(jnp.where(used, moved, dictionary[j]))

        dictionary = jax.lax.fori_loop(0, config.atoms, improve, dictionary)
        return (dictionary, weights, targets), None

    noise_key, start_key, learn_key = jax.random.split(key, 3)
    start = draw(start_key, config.atoms)
    # Flat patches say nothing about an atom.
    noise = jax.random.normal(noise_key, (start.size,), jnp.float32).reshape(
        start.shape
    )
    start = _unit(start, _unit(noise, jnp.ones_like(noise) / start.shape[1] ** 0.5))
    zeros = jnp.zeros((config.atoms, config.atoms), start.dtype), jnp.zeros_like(start)
    numbers = jnp.arange(config.learning_steps, dtype=jnp.float32)
    steps = numbers, jax.random.split(learn_key, config.learning_steps)
    (dictionary, _, _), _ = jax.lax.scan(learn, (start, *zeros), steps)
    return dictionary


def _matmul(a: Array, b: Array) -> Array:
    # Accelerators round float32 products to fewer bits unless told not to.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _unit(atoms: Float[Array, "*n size"], otherwise: Array) -> Array:
    """Rows scaled to norm 1; those that are nearly 0 are replaced."""
    norm = jnp.linalg.norm(atoms, axis=-1, keepdims=True)
    return jnp.where(norm > 1e-4, atoms / jnp.maximum(norm, 1e-4), otherwise)


def _padded(image: Array, size: int, stride: int) -> Array:
    """The image padded with its edges until patches cover it."""
    missing = [
        max(size - side, 0) if side <= size else (size - side) % stride
        for side in image.shape[:2]
    ]
    return jnp.pad(image, [(0, m) for m in missing] + [(0, 0)], mode="edge")


def _patches(image: Array, size: int, stride: int) -> Float[Array, "n pixels c"]:
    """All patches of an image, of pixels by channels."""
    height, width, channels = image.shape
    cut = [
        image[y : height - size + y + 1 : stride, x : width - size + x + 1 : stride]
        for y in range(size)
        for x in range(size)
    ]
    return jnp.stack(cut, axis=2).reshape(-1, size * size, channels)


def _largest_eigenvalue(gram: Float[Array, "a a"]) -> Float[Array, ""]:
    r"""An upper bound, at most :math:`a^{1/64}` times too large.

    .. math:: \lambda_{\max}(G) \le \|G^{32}\|_F^{1/32}
    """
    bound = jnp.ones((), gram.dtype)
    power = gram
    for doubling in range(6):
        norm = jnp.maximum(jnp.linalg.norm(power), 1e-30)
        bound = bound * norm ** (1 / 2**doubling)
        power = power / norm
        power = _matmul(power, power)
    return bound
