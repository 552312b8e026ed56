"""The guided filter against window by window least squares, and against OpenCV."""

import jax.numpy as jnp
import numpy as np
import pytest
import transform_contract

from splic_jax.transforms.filters.guided import GuidedConfig, filter_guided, filter_one


def by_windows(image, config):
    """A ridge regression a window in float64, each pixel the mean of its windows' fits.

    The regression of a window minimises the sum over its pixels of
    ``(a^T x + b - y)^2 + epsilon |a|^2`` (He et al., eq. (4)).
    """
    height, width, channels = image.shape
    r = config.radius
    image = image.astype(np.float64)
    result, count = np.zeros_like(image), np.zeros((height, width, 1))
    groups = [[c] for c in range(channels)]
    if config.guide == "colour":
        groups = [list(range(channels))]
    for i, j in np.ndindex(height, width):
        window = (slice(max(i - r, 0), i + r + 1), slice(max(j - r, 0), j + r + 1))
        pixels = image[window].reshape(-1, channels)
        count[window] += 1
        for group in groups:
            x = np.c_[pixels[:, group], np.ones(len(pixels))]
            penalty = len(pixels) * config.epsilon * np.eye(len(group) + 1)
            penalty[-1, -1] = 0
            fit = np.linalg.solve(x.T @ x + penalty, x.T @ pixels[:, group])
            result[window][..., group] += (x @ fit).reshape(
                *result[window].shape[:2], len(group)
            )
    return result / count


@pytest.mark.parametrize("guide", ["channel", "colour"])
@pytest.mark.parametrize("shape", [(32, 32, 3), (5, 7, 3), (1, 6, 1)], ids=str)
def test_is_a_regression_in_each_window(shape, guide):
    image = transform_contract.photograph(shape)
    config = GuidedConfig(epsilon=0.003, guide=guide)
    filtered = filter_guided(image, transform_contract.KEY, config)
    np.testing.assert_allclose(filtered, by_windows(image, config), rtol=0, atol=1e-5)
    assert np.abs(filtered - image).max() > 0.01


@pytest.mark.parametrize("guide", ["channel", "colour"])
def test_is_what_opencv_computes_inside(guide):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV, of requirements-peers.txt")
    image = transform_contract.photograph((24, 20, 3))
    if guide == "colour":
        theirs = cv2.ximgproc.guidedFilter(image, image, 3, 0.01)
    else:
        channels = [np.ascontiguousarray(image[..., c]) for c in range(3)]
        theirs = np.stack(
            [cv2.ximgproc.guidedFilter(c, c, 3, 0.01) for c in channels], -1
        )
    ours = filter_guided(image, transform_contract.KEY, GuidedConfig(3, 0.01, guide))
    # Its windows go on beyond the border, ours end there: equal from 2 r inwards.
    inside = (slice(6, -6), slice(6, -6))
    np.testing.assert_allclose(ours[inside], theirs[inside], rtol=0, atol=1e-5)


def test_small_windows_of_a_gray_image_are_well_conditioned():
    # A covariance of rank 1, and little to regularise it.
    image = np.repeat(transform_contract.photograph((9, 8, 1)), 3, -1)
    config = GuidedConfig(1, 1e-6, "colour")
    filtered = filter_guided(image, transform_contract.KEY, config)
    np.testing.assert_allclose(filtered, image, rtol=0, atol=2e-3)


@pytest.mark.parametrize("guide", ["channel", "colour"])
def test_contract(guide):
    eager = guide == "channel"
    config = GuidedConfig(guide=guide)
    transform_contract.check(filter_guided, filter_one, config, eager=eager)


@pytest.mark.parametrize("guide, channels", [("channel", 3), ("colour", 2)])
def test_derivative(x64, guide, channels):
    image = jnp.asarray(transform_contract.photograph((4, 5, channels)), float)
    config = GuidedConfig(1, guide=guide)
    transform_contract.check_derivative(
        filter_one, image, transform_contract.KEY, config
    )


@pytest.mark.parametrize("name, value", [("radius", 0), ("epsilon", 0.0)])
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        GuidedConfig(**{name: value})
