import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.transforms.coding.sparse_coding import (
    SparseCodingConfig,
    fit_dictionary,
    sparse_code,
    sparse_codes,
)

KEY = jax.random.key(0)
SMALL = SparseCodingConfig(
    patch_size=4, atoms=12, sparsity=0.05, iterations=30, learning_steps=20
)


def pictures(n, h=12, w=14, c=3, seed=0):
    """Bars of random direction, frequency, phase and colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    angle, phase = rng.uniform(0, np.pi, (2, n, 1, 1))
    speed = rng.uniform(0.4, 1.2, (n, 1, 1))
    waves = np.sin(speed * (np.cos(angle) * x + np.sin(angle) * y) + 2 * phase)
    colours = rng.uniform(-0.4, 0.4, (n, 1, 1, c))
    return (0.5 + waves[..., None] * colours).astype(np.float32)


@functools.cache
def fitted_of(atoms):
    """Fitted to bytes as floats."""
    images = np.round(pictures(20) * 255).astype(np.float32) / 255
    return fit_dictionary(images, KEY, dataclasses.replace(SMALL, atoms=atoms))


@pytest.fixture
def fitted():
    return fitted_of(SMALL.atoms)


def random_dictionary(atoms, size, seed=0):
    atoms = np.random.default_rng(seed).normal(size=(atoms, size))
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("atoms", [5, 30])
def test_codes_solve_the_lasso(atoms):
    """The conditions of optimality: the residual's products with the atoms."""
    dictionary = random_dictionary(atoms, 12)
    patches = np.random.default_rng(1).normal(0, 0.5, (7, 12))
    sparsity = 0.2
    codes = np.asarray(sparse_codes(patches, dictionary, sparsity, 5000))
    products = (patches - codes @ dictionary) @ dictionary.T
    used = codes != 0
    assert 0 < used.sum() < codes.size
    assert np.abs(products).max() <= sparsity + 1e-8
    np.testing.assert_allclose(
        products[used], sparsity * np.sign(codes[used]), atol=1e-8
    )


@pytest.mark.usefixtures("x64")
def test_few_iterations_come_near():
    """Within the bound of Beck and Teboulle, theorem 4.4."""
    dictionary = random_dictionary(30, 12)
    patches = np.random.default_rng(2).normal(0, 0.5, (1, 12))

    def cost(codes):
        rest = patches - np.asarray(codes) @ dictionary
        return (rest**2).sum() / 2 + 0.1 * np.abs(codes).sum()

    best = np.asarray(sparse_codes(patches, dictionary, 0.1, 5000))
    curvature = np.linalg.eigvalsh(dictionary @ dictionary.T)[-1] * 1.001
    for iterations in (1, 5, 40):
        gap = cost(sparse_codes(patches, dictionary, 0.1, iterations)) - cost(best)
        assert -1e-12 < gap <= 2 * curvature * (best**2).sum() / (iterations + 1) ** 2


@pytest.mark.parametrize("shape", [(12, 14, 3), (1, 9, 3)])
def test_is_the_mean_of_coded_patches(fitted, shape):
    image = np.random.default_rng(3).uniform(size=shape).astype(np.float32)
    dictionary = np.asarray(fitted.dictionary)
    size, stride = SMALL.patch_size, SMALL.stride
    missing = [max(size - s, 0) if s <= size else (size - s) % stride for s in shape]
    wide = np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
    codes_of = jax.jit(
        lambda x, d: sparse_codes(x, d, SMALL.sparsity, SMALL.iterations)
    )
    summed, count = np.zeros(wide.shape), np.zeros(wide.shape)
    for y in range(0, wide.shape[0] - size + 1, stride):
        for x in range(0, wide.shape[1] - size + 1, stride):
            patch = wide[y : y + size, x : x + size]
            mean = patch.mean(axis=(0, 1))
            flat = (patch - mean).reshape(1, -1)
            code = codes_of(flat, dictionary)
            rebuilt = (np.asarray(code) @ dictionary).reshape(patch.shape) + mean
            summed[y : y + size, x : x + size] += rebuilt
            count[y : y + size, x : x + size] += 1
    assert count.min() >= 1
    expected = np.clip(summed / count, 0, 1)[: shape[0], : shape[1]]
    np.testing.assert_allclose(sparse_code(image, KEY, fitted), expected, atol=2e-6)


def test_atoms_are_of_norm_one_and_better_than_random_ones(fitted):
    atoms = np.asarray(fitted.dictionary)
    assert atoms.shape == (12, 4 * 4 * 3)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, atol=1e-5)
    images = pictures(5, seed=9)
    random = dataclasses.replace(
        SMALL, dictionary=jnp.asarray(random_dictionary(*atoms.shape), jnp.float32)
    )
    error = lambda config: np.square(sparse_code(images, KEY, config) - images).mean()
    assert error(fitted) < 0.5 * error(random)


def test_error_falls_with_atoms():
    images = pictures(5, seed=9)
    errors = []
    for atoms in (12, 32):
        config = dataclasses.replace(fitted_of(atoms), sparsity=0.02)
        errors.append(np.square(sparse_code(images, KEY, config) - images).mean())
    assert errors[0] > 1.5 * errors[1]


def test_noise_is_taken_off():
    images = pictures(5, seed=9)
    noise = np.random.default_rng(4).normal(0, 0.03, images.shape)
    noisy = np.clip(images + noise, 0, 1).astype(np.float32)
    fine = dataclasses.replace(fitted_of(32), sparsity=0.08)
    error = np.square(sparse_code(noisy, KEY, fine) - images).mean()
    clean = np.square(sparse_code(images, KEY, fine) - images).mean()
    assert error - clean < 0.5 * np.square(noisy - images).mean()


def test_alone_is_as_in_a_batch(fitted):
    images = pictures(5)
    together = np.asarray(sparse_code(images, KEY, fitted))
    np.testing.assert_array_equal(sparse_code(images[3], KEY, fitted), together[3])


@pytest.mark.parametrize("value", [0, 90, 255])
def test_flat_images_stay(fitted, value):
    flat = np.full((5, 7, 3), value, np.uint8)
    np.testing.assert_array_equal(sparse_code(flat, KEY, fitted), flat)


def test_flat_training_images_give_a_finite_dictionary():
    config = fit_dictionary(np.zeros((20, 12, 14, 3), np.uint8), KEY, SMALL)
    np.testing.assert_allclose(np.linalg.norm(config.dictionary, axis=1), 1, atol=1e-5)


def test_fit_takes_bytes_as_floats(fitted):
    images = np.round(pictures(20) * 255).astype(np.uint8)
    got = fit_dictionary(images, KEY, SMALL).dictionary
    np.testing.assert_allclose(got, fitted.dictionary, atol=1e-4)


def test_one_channel_and_images_smaller_than_a_patch():
    config = dataclasses.replace(SMALL, atoms=2, learning_steps=1)
    images = np.random.default_rng(6).uniform(size=(2, 3, 5, 1)).astype(np.float32)
    config = fit_dictionary(images, KEY, config)
    got = np.asarray(sparse_code(images, KEY, config))
    assert got.shape == images.shape and np.isfinite(got).all()
    assert got.min() >= 0 and got.max() <= 1


def test_gradient_is_that_of_differences(fitted):
    image = pictures(1)[0]
    direction = np.random.default_rng(5).normal(size=image.shape).astype(np.float32)
    total = lambda x: (sparse_code(x, KEY, fitted) * direction).sum()
    slope = (jax.grad(total)(image) * direction).sum()
    step = 1e-3
    difference = (total(image + step * direction) - total(image - step * direction)) / (
        2 * step
    )
    np.testing.assert_allclose(slope, difference, rtol=0.02)


def test_refuses(fitted):
    with pytest.raises(ValueError, match="call fit_dictionary"):
        sparse_code(pictures(1), KEY, SMALL)
    with pytest.raises(ValueError, match="images of 1 channels need"):
        sparse_code(pictures(1, c=1), KEY, fitted)
    with pytest.raises(ValueError, match="training_images must be"):
        fit_dictionary(np.zeros((0, 4, 4, 3)), KEY, SMALL)
    with pytest.raises(ValueError, match="stride must be at most patch_size=4"):
        SparseCodingConfig(patch_size=4, stride=5)
    with pytest.raises(ValueError, match="sparsity must be in"):
        SparseCodingConfig(sparsity=-1.0)
