"""Image quilting against a quilt sewn in NumPy, whose cuts try every path."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transform_contract

from splic_jax.transforms.coding.quilting import (
    QuiltingConfig,
    fit_bank,
    minimum_cut,
    nearest,
    quilt,
    quilt_one,
)


def best_path(error):
    """Of all paths down that move at most one column at a time."""
    rows, columns = error.shape
    paths = [
        path
        for path in itertools.product(range(columns), repeat=rows)
        if all(abs(a - b) <= 1 for a, b in itertools.pairwise(path))
    ]
    return min(paths, key=lambda path: sum(error[range(rows), path]))


def sewn(image, bank, overlap):
    """Raster order, the nearest patch, the best cut; float64."""
    height, width, _ = image.shape
    size = bank.shape[1]
    step = size - overlap
    tops, lefts = (range(0, max(n - overlap, 1), step) for n in (height, width))
    full = (tops[-1] + size, lefts[-1] + size)
    padding = ((0, full[0] - height), (0, full[1] - width), (0, 0))
    image, bank = np.pad(image, padding, "edge").astype(float), bank.astype(float)
    canvas = np.zeros_like(image)
    for top in tops:
        for left in lefts:
            place = (slice(top, top + size), slice(left, left + size))
            distance = ((bank - image[place]) ** 2).sum((1, 2, 3))
            patch, old = bank[distance.argmin()], canvas[place].copy()
            error = ((patch - old) ** 2).sum(-1)
            taken = np.zeros((size, size), bool)
            if left > 0:
                for row, cut in enumerate(best_path(error[:, :overlap])):
                    taken[row, :cut] = True
            if top > 0:
                for column, cut in enumerate(best_path(error[:overlap].T)):
                    taken[:cut, column] = True
            canvas[place] = np.where(taken[..., None], old, patch)
    return canvas[:height, :width]


def random_bank(count, size, channels, seed=3):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(count, size, size, channels)).astype(np.float32)


@pytest.mark.parametrize("shape", [(5, 2), (4, 4), (5, 1)], ids=str)
def test_minimum_cut_is_the_best_of_all_paths(shape):
    errors = np.random.default_rng(0).uniform(size=(20, *shape))
    cuts = jax.jit(jax.vmap(minimum_cut))(errors.astype(np.float32))
    assert [tuple(map(int, cut)) for cut in cuts] == [best_path(e) for e in errors]


def test_nearest():
    patches, bank = (
        jnp.asarray(random_bank(n, 3, 3, n).reshape(n, -1)) for n in (12, 50)
    )
    distance = (np.asarray(patches[:, None] - bank, float) ** 2).sum(-1)
    ranked = distance.argsort(-1)
    search = jax.jit(nearest, static_argnums=2)
    one = search(patches, bank, 1, transform_contract.KEY)
    np.testing.assert_array_equal(one, ranked[:, 0])
    keys = jax.random.split(transform_contract.KEY, 60)
    drawn = jax.jit(jax.vmap(lambda key: search(patches, bank, 3, key)))(keys)
    for i in range(len(patches)):
        assert set(np.asarray(drawn[:, i])) == set(ranked[i, :3])


@pytest.mark.parametrize("size, overlap", [(5, 2), (4, 3)])
def test_quilt_is_sewn(size, overlap):
    image = transform_contract.photograph((12, 10, 3))
    bank = random_bank(40, size, 3)
    config = QuiltingConfig(size, overlap, neighbours=1, bank=jnp.asarray(bank))
    ours = quilt(image, transform_contract.KEY, config)
    np.testing.assert_allclose(ours, sewn(image, bank, overlap), rtol=0, atol=1e-6)


def test_real_size_and_every_pixel_is_one_of_the_bank():
    training = np.stack(
        [transform_contract.photograph((32, 32, 3), seed) for seed in range(4)]
    )
    config = fit_bank(training, transform_contract.KEY, QuiltingConfig(bank_size=300))
    image = transform_contract.photograph((32, 32, 3), 9)
    quilted = np.asarray(quilt(image, transform_contract.KEY, config))
    colours = {tuple(pixel) for pixel in training.reshape(-1, 3)}
    assert all(tuple(pixel) in colours for pixel in quilted.reshape(-1, 3))
    other = np.asarray(quilt(image, jax.random.key(1), config))
    assert (other != quilted).any()


def test_an_image_of_its_own_patches_comes_back():
    image = transform_contract.photograph((11, 14, 3))
    windows = np.lib.stride_tricks.sliding_window_view(image, (5, 5), (0, 1))
    bank = np.moveaxis(windows, 2, -1).reshape(-1, 5, 5, 3)
    config = QuiltingConfig(neighbours=1, bank=jnp.asarray(bank))
    np.testing.assert_array_equal(quilt(image, transform_contract.KEY, config), image)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_bank_holds_patches_of_the_images(dtype):
    images = np.arange(3 * 7 * 6 * 2).reshape(3, 7, 6, 2).astype(dtype)
    if dtype == np.float32:
        images /= 255
    config = fit_bank(
        images, transform_contract.KEY, QuiltingConfig(patch_size=5, bank_size=200)
    )
    bank = np.asarray(config.bank)
    assert bank.shape == (200, 5, 5, 1) and bank.dtype == np.float32
    values = images[..., :1] / (255 if dtype == np.uint8 else 1)  # Without alpha.
    windows = np.lib.stride_tricks.sliding_window_view(values, (5, 5), (1, 2))
    windows = np.moveaxis(windows, 3, -1).reshape(-1, 5, 5, 1)
    first = windows[:, 0, 0, 0]
    index = np.abs(first - bank[:, :1, 0, 0]).argmin(-1)
    np.testing.assert_allclose(bank, windows[index], rtol=0, atol=1e-6)
    assert set(index) == set(range(len(first)))


def test_contract():
    bank = jnp.asarray(random_bank(30, 3, 3))
    config = QuiltingConfig(3, 1, neighbours=3, bank=bank)
    transform_contract.check(quilt, quilt_one, config, flat=None, thin=False)
    config = QuiltingConfig(3, 1, bank=jnp.asarray(random_bank(30, 3, 1)))
    thin = np.arange(6, dtype=np.uint8).reshape(1, 6, 1)
    assert quilt(thin, transform_contract.KEY, config).dtype == np.uint8


def test_a_bank_is_asked_for():
    image = transform_contract.photograph((5, 5, 3))
    with pytest.raises(ValueError, match="bank is empty: draw one by fit_bank"):
        quilt(image, transform_contract.KEY, QuiltingConfig())
    gray = QuiltingConfig(bank=jnp.asarray(random_bank(4, 5, 1)))
    with pytest.raises(ValueError, match=r"bank must hold patches \(5, 5, 3\)"):
        quilt(image, transform_contract.KEY, gray)
    with pytest.raises(ValueError, match="training_images must be .* 5 x 5"):
        fit_bank(image[None, :4], transform_contract.KEY, QuiltingConfig())


@pytest.mark.parametrize(
    "name, value", [("patch_size", 1), ("overlap", 5), ("neighbours", 0)]
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        QuiltingConfig(**{name: value})
