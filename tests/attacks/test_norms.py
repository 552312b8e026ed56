import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attacks import norms

SHAPE = (2, 2, 3, 1)

CLEAN = hnp.arrays(
    np.float32,
    SHAPE,
    elements=st.one_of(
        st.sampled_from([0.0, 1.0, 0.5]),
        st.floats(0, 1, width=32, allow_subnormal=False),
        st.integers(0, 255).map(lambda level: np.float32(level) / np.float32(255)),
    ),
)
ANY = hnp.arrays(
    np.float32,
    SHAPE,
    elements=st.one_of(
        st.floats(-0.25, 1.25, width=32, allow_subnormal=False),
        st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    ),
)


def exact_size(difference, norm):
    """The norm in float64."""
    flat = np.abs(np.asarray(difference, np.float64)).reshape(len(difference), -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(flat, order, axis=1)


project = jax.jit(norms.project, static_argnames="norm")
direction_of = jax.jit(norms.direction, static_argnames="norm")
random_in_ball = jax.jit(norms.random_in_ball, static_argnames="norm")
size = jax.jit(norms.size, static_argnames="norm")


@pytest.mark.parametrize("norm", norms.NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 0.0])
def test_size_agrees_with_float64(norm, scale):
    x = scale * np.random.default_rng(0).normal(size=(3, 4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(size(x, norm), exact_size(x, norm), rtol=1e-5)


@pytest.mark.parametrize("norm", norms.NORMS)
@settings(max_examples=100, deadline=None)
@given(
    clean=CLEAN,
    images=ANY,
    epsilon=st.one_of(
        st.sampled_from([0.0, 8 / 255, 0.5, 1.0, 12.0]), st.floats(2**-20, 20, width=32)
    ),
)
def test_projected_images_lie_in_the_ball_and_the_box(norm, clean, images, epsilon):
    result = np.asarray(project(images, clean, epsilon, norm))
    assert result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 1
    radius = np.float32(epsilon)
    # In float32, with no tolerance.
    assert (np.asarray(size(result - clean, norm)) <= radius).all()
    if norm == "linf":
        assert np.abs(result - clean).max() <= radius
    else:
        assert (exact_size(np.float64(result) - clean, norm) <= radius).all()
    if epsilon == 0:
        np.testing.assert_array_equal(result, clean)


@pytest.mark.parametrize("norm", norms.NORMS)
@pytest.mark.parametrize("shape", [(3, 32, 32, 3), (2, 5, 7, 1), (1, 64, 64, 3)])
def test_large_images_too_lie_in_the_ball(norm, shape):
    rng = np.random.default_rng(0)
    clean = rng.random(shape, np.float32)
    for epsilon in (8 / 255, 0.5, 12.0):
        for spread in (0.02, 0.3, 100.0):
            images = clean + spread * rng.normal(size=shape).astype(np.float32)
            result = np.asarray(project(images, clean, epsilon, norm))
            difference = result - clean
            sums = {
                "linf": np.abs(difference).max(axis=(1, 2, 3)),
                "l2": np.sqrt((difference**2).sum(axis=(1, 2, 3), dtype=np.float32)),
                "l1": np.abs(difference).sum(axis=(1, 2, 3), dtype=np.float32),
            }
            assert (sums[norm] <= np.float32(epsilon)).all()
            assert (np.asarray(size(difference, norm)) <= epsilon).all()


@pytest.mark.parametrize("norm", norms.NORMS)
def test_inner_points_stay_and_outer_ones_reach_the_edge(norm):
    rng = np.random.default_rng(1)
    clean = 0.5 + 0.1 * rng.random((4, 6, 5, 3), np.float32)
    direction = rng.normal(size=clean.shape)
    direction /= exact_size(direction, norm)[:, None, None, None]
    inner = (clean + 0.009 * direction).astype(np.float32)
    outer = (clean + 0.011 * direction).astype(np.float32)
    np.testing.assert_allclose(project(inner, clean, 0.01, norm), inner, atol=1e-7)
    reached = exact_size(project(outer, clean, 0.01, norm) - clean, norm)
    np.testing.assert_allclose(reached, 0.01, rtol=2e-3)


def test_l2_is_the_nearest_point():
    rng = np.random.default_rng(2)
    clean = 0.5 + 0.01 * rng.random((5, 4, 3, 2))
    images = clean + 0.03 * rng.normal(size=clean.shape)
    length = exact_size(images - clean, "l2")[:, None, None, None]
    expected = clean + (images - clean) * np.minimum(1, 0.1 / length)
    with jax.enable_x64(True):
        result = norms.project(jnp.asarray(images), jnp.asarray(clean), 0.1, "l2")
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


def test_l1_is_the_nearest_point():
    # Soft thresholding, at a level found by SciPy.
    rng = np.random.default_rng(3)
    clean = 0.5 + 0.01 * rng.random((5, 4, 3, 2))
    images = clean + 0.03 * rng.normal(size=clean.shape)
    images[0] = clean[0] + (images[0] - clean[0]) / 100  # in the ball already
    expected = images.copy()
    for i, difference in enumerate(images - clean):
        shrunk = lambda level, d=difference: np.maximum(np.abs(d) - level, 0)
        if np.abs(difference).sum() > 0.2:
            excess = lambda level, shrunk=shrunk: shrunk(level).sum() - 0.2
            level = scipy.optimize.brentq(excess, 0, 1, xtol=1e-15)
            expected[i] = clean[i] + np.sign(difference) * shrunk(level)
    with jax.enable_x64(True):
        result = norms.project(jnp.asarray(images), jnp.asarray(clean), 0.2, "l1")
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)
    assert (
        np.abs(expected[0] - images[0]).max() == 0 and (expected[1:] == clean[1:]).any()
    )


@pytest.mark.parametrize("norm", norms.NORMS)
def test_a_radius_for_each_image(norm):
    rng = np.random.default_rng(4)
    clean = rng.random((3, 4, 4, 3), np.float32)
    images = clean + rng.normal(size=clean.shape).astype(np.float32)
    radii = np.float32([0.0, 0.05, 0.3])
    together = project(images, clean, radii, norm)
    for i, radius in enumerate(radii):
        alone = project(images[i : i + 1], clean[i : i + 1], radius, norm)
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", norms.NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_directions_have_length_one(norm, scale):
    gradient = scale * np.random.default_rng(5).normal(size=(3, 4, 5, 3))
    gradient = gradient.astype(np.float32)
    direction = np.asarray(direction_of(gradient, norm), np.float64)
    np.testing.assert_allclose(exact_size(direction, norm), 1, rtol=1e-5)
    if norm == "linf":
        np.testing.assert_array_equal(direction, np.sign(gradient))
    else:
        expected = gradient / exact_size(gradient, norm)[:, None, None, None]
        np.testing.assert_allclose(direction, expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("norm", norms.NORMS)
def test_nan_and_zero_gradients_have_no_direction(norm):
    gradient = np.zeros((2, 1, 2, 2), np.float32)
    gradient[1, 0, 0] = [np.nan, np.inf]
    gradient[1, 0, 1, 0] = -2
    expected = np.zeros_like(gradient)
    expected[1, 0, 1, 0] = -1
    np.testing.assert_array_equal(direction_of(gradient, norm), expected)


@pytest.mark.parametrize("norm", norms.NORMS)
def test_random_points_are_uniform(norm):
    # The share of a ball's volume within a radius r of its middle is (r / R)^d, and
    # one coordinate's distribution is known in closed form.
    count, dimension, epsilon = 4000, 6, 0.3
    clean = jnp.full((count, 1, 2, 3), 0.5)
    keys = jax.random.split(jax.random.key(0), count)
    points = random_in_ball(keys, clean, epsilon, norm) - clean
    points = np.asarray(points, np.float64).reshape(count, dimension) / epsilon
    volumes = exact_size(points, norm) ** dimension
    assert scipy.stats.kstest(volumes, "uniform").pvalue > 1e-3
    marginal = {
        "linf": scipy.stats.uniform(-1, 2),
        "l2": scipy.stats.beta((dimension + 1) / 2, (dimension + 1) / 2, -1, 2),
        "l1": None,
    }[norm]
    for coordinate in points.T:
        if norm == "l1":
            share = np.abs(coordinate)
            assert scipy.stats.kstest(share, "beta", (1, dimension)).pvalue > 1e-3
            assert abs((coordinate > 0).mean() - 0.5) < 4 * 0.5 / count**0.5
        else:
            assert scipy.stats.kstest(coordinate, marginal.cdf).pvalue > 1e-3
    correlation = np.corrcoef(points.T) - np.eye(dimension)
    assert np.abs(correlation).max() < 4.5 / count**0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_points_of_an_image_follow_from_its_key(norm):
    clean = jnp.asarray(np.random.default_rng(6).random((3, 4, 3, 2), np.float32))
    keys = jax.random.split(jax.random.key(1), 3)
    together = random_in_ball(keys, clean, 0.1, norm)
    alone = random_in_ball(keys[2:], clean[2:], 0.1, norm)
    np.testing.assert_array_equal(alone, together[2:])
    assert not np.array_equal(together[0] - clean[0], together[1] - clean[1])
    zero = random_in_ball(keys, clean, 0.0, norm)
    np.testing.assert_array_equal(zero, clean)


@pytest.mark.parametrize("norm", norms.NORMS)
def test_random_perturbations_have_the_given_norm(norm):
    clean, sizes = jnp.full((3, 4, 5, 2), 0.5), jnp.array([0.0, 0.1, 0.3])
    keys = jax.random.split(jax.random.key(0), 3)
    draw = jax.jit(norms.random_of_size, static_argnames="norm")
    found = np.asarray(draw(keys, clean, sizes, norm))
    np.testing.assert_allclose(exact_size(found, norm), sizes, atol=1e-6)
    assert abs(np.corrcoef(found[1].ravel(), found[2].ravel())[0, 1]) < 0.6
