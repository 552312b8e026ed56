import colorsys
import itertools

import matplotlib.path
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from train.data import shapes
from train.data.silhouettes import SILHOUETTES
from train.data.textures import TEXTURES


def assert_equal(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


def first(images, count):
    return tuple(part[:count] for part in images)


@pytest.fixture(scope="module")
def train():
    return shapes.make("train", 2000)


def test_types_and_ranges(train):
    assert train.images.shape == (2000, 32, 32, 3) and train.images.dtype == np.uint8
    for labels in (train.shape_labels, train.texture_labels):
        assert labels.shape == (2000,) and labels.dtype == np.int32
        assert set(labels) == set(range(10))
    assert len(SILHOUETTES) == len(TEXTURES) == len(shapes.CLASS_NAMES) == 10


def test_an_image_does_not_depend_on_how_many_are_drawn(train):
    assert_equal(shapes.make("train", 10), first(train, 10))
    assert_equal(shapes.make("train", 50), first(train, 50))
    across_blocks = shapes._BLOCK + 3
    assert_equal(shapes.make("train", across_blocks), first(train, across_blocks))


def test_same_seed_same_images_and_numpy_is_left_alone(train):
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    assert_equal(shapes.make("train", 10, seed=0), first(train, 10))
    assert np.random.random() == expected


def test_seeds_splits_and_positions_give_different_images(train):
    drawn = [train.images[:250], shapes.make("test", 250).images]
    drawn.append(shapes.make("cue_conflict", 250).images)
    drawn.append(shapes.make("train", 250, seed=1).images)
    drawn.append(shapes.make("train", 250, seed=2**32 - 1).images)
    images = np.concatenate(drawn).reshape(-1, 32 * 32 * 3)
    assert len({image.tobytes() for image in images}) == len(images)


def test_the_bias_changes_only_images_whose_texture_it_changes(train):
    other = shapes.make("train", 500, texture_bias=0.3)
    same = other.texture_labels == train.texture_labels[:500]
    assert 0 < np.count_nonzero(~same) < 500
    # Within one byte, as the images of a texture are computed together.
    difference = other.images.astype(int) - train.images[:500]
    assert np.abs(difference[same]).max() <= 1
    assert (np.abs(difference[~same]).max(axis=(1, 2, 3)) > 10).all()


def test_classes_are_balanced():
    for split in shapes.SPLITS:
        assert (np.bincount(shapes.make(split, 500).shape_labels) == 50).all()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("bias", [0, 0.1, 0.5, 0.8, 1])
def test_textures_agree_in_the_share_asked_for(split, bias):
    count = 1000
    drawn = shapes.make(split, count, texture_bias=bias)
    agree = np.count_nonzero(drawn.shape_labels == drawn.texture_labels)
    # By chance this fails once in 10^12 seeds.
    low, high = scipy.stats.binom.interval(1 - 1e-12, count, bias)
    assert low <= agree <= high
    if bias in (0, 1):
        assert agree == count * bias


def test_cue_conflict_never_agrees_and_favours_no_texture():
    drawn = shapes.make("cue_conflict", 4500, texture_bias=1)
    shift = (drawn.texture_labels - drawn.shape_labels) % 10
    counts = np.bincount(shift, minlength=10)
    assert counts[0] == 0
    assert scipy.stats.chisquare(counts[1:]).pvalue > 1e-6
    pairs = set(zip(drawn.shape_labels, drawn.texture_labels, strict=True))
    assert len(pairs) == 90


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, "split must be one of train, test, cue_conflict"),
        ({"num_images": 0}, "num_images must be at least 1, not 0"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 2**32}, "seed must be in"),
        ({"texture_bias": 1.1}, "texture_bias must be in"),
        ({"texture_bias": float("nan")}, "texture_bias must be in"),
    ],
)
def test_values_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        shapes.make(**({"split": "train", "num_images": 1} | arguments))


# Outlines as polygons, written down apart from the distances under test.
def polygon(name):
    def around(radius, sides):
        angle = np.pi / 2 + 2 * np.pi * np.arange(sides) / sides
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    def ellipse_part(center, radius, start, end):
        angle = np.linspace(start, end, 2000)
        return np.stack([center + radius * np.cos(angle), radius * np.sin(angle)], 1)

    if name == "triangle":
        return around(1, 3)
    if name == "square":
        return [(0.7, 0.7), (-0.7, 0.7), (-0.7, -0.7), (0.7, -0.7)]
    if name == "star":
        points = around(1, 10)
        points[1::2] *= 0.45
        return points
    if name == "cross":
        corner = np.array([(0.29, 0.92), (0.29, 0.29), (0.92, 0.29)])
        turn = np.array([[0, -1], [1, 0]])
        quarters = [corner @ np.linalg.matrix_power(turn, k) for k in range(4)]
        return np.concatenate(quarters)
    if name == "arrow":
        right = [(0, 0.95), (0.87, 0.08), (0.24, 0.08), (0.24, -0.95)]
        return right + [(-x, y) for x, y in reversed(right)]
    if name == "disk":
        return ellipse_part(0, 0.85, 0, 2 * np.pi)
    if name == "leaf":
        half = np.arccos(0.62 / 1.16)
        right = ellipse_part(-0.62, 1.16, -half, half)
        return np.concatenate([right, -right])
    if name == "crescent":
        # Where the circles of radius 0.95 around 0 and 0.72 around 0.45 meet.
        x = (0.95**2 - 0.72**2 + 0.45**2) / 0.9
        outer = np.arccos(x / 0.95)
        inner = np.arccos((x - 0.45) / 0.72)
        far = ellipse_part(0, 0.95, outer, 2 * np.pi - outer)
        near = ellipse_part(0.45, 0.72, 2 * np.pi - inner, inner)
        return np.concatenate([far, near])
    return None


@pytest.mark.parametrize(
    "name", [name for name in SILHOUETTES if polygon(name) is not None]
)
def test_silhouettes_against_polygons(name):
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 151), np.linspace(-1.2, 1.2, 151))
    distance = SILHOUETTES[name](x[None], y[None])[0]
    outline = matplotlib.path.Path(polygon(name), closed=False)
    inside = outline.contains_points(np.stack([x.ravel(), y.ravel()], axis=1))
    clear = np.abs(distance) > 1e-3
    np.testing.assert_array_equal((distance < 0)[clear], inside.reshape(x.shape)[clear])


def test_ring_and_heart():
    radius = np.array([[[0, 0.43, 0.45, 0.91, 0.93, 1.2]]])
    ring = SILHOUETTES["ring"](radius, np.zeros_like(radius))
    np.testing.assert_array_equal(
        ring < 0, [[[False, False, True, True, False, False]]]
    )
    inside = [(0, 0), (0.42, 0.3), (-0.42, 0.3), (0, -0.75), (0.3, 0.75), (0, 0.5)]
    outside = [(0, 0.7), (0, -0.92), (0.95, 0.35), (-0.6, -0.4), (0.6, -0.4)]
    for points, expected in ((inside, True), (outside, False)):
        x, y = np.array(points).T
        found = SILHOUETTES["heart"](x[None, None], y[None, None]) < 0
        assert (found == expected).all()


@pytest.mark.parametrize("name", SILHOUETTES)
def test_silhouettes_are_distances_and_fill_the_unit_disk(name):
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 1, 200, 200))
    x, y = points
    distance = SILHOUETTES[name](x, y)
    # No distance changes faster than the point moves, and most as fast.
    turn = np.random.default_rng(1).uniform(0, 2 * np.pi, x.shape)
    step = 1e-4 * np.array([np.cos(turn), np.sin(turn)])
    change = np.abs(SILHOUETTES[name](x + step[0], y + step[1]) - distance)
    assert change.max() <= 1e-4 * (1 + 1e-9)
    # The mean of |cos| over all directions.
    assert change.mean() == pytest.approx(1e-4 * 2 / np.pi, rel=0.02)
    reach = np.hypot(x, y)[distance < 0].max()
    assert 0.84 < reach <= 1.01


def test_silhouettes_differ():
    x, y = np.meshgrid(np.linspace(-1.1, 1.1, 61), np.linspace(-1.1, 1.1, 61))
    inside = {name: f(x[None], y[None]) < 0 for name, f in SILHOUETTES.items()}
    for one, other in itertools.combinations(inside.values(), 2):
        assert (one & other).sum() / (one | other).sum() < 0.85


def test_textures_are_bounded_and_differ():
    generator = np.random.default_rng(0)
    s, t = (grid[None] for grid in np.meshgrid(*[np.linspace(-4, 4, 96)] * 2))
    fine, coarse = generator.standard_normal((2, 1, 96, 96))
    values = {name: f(s, t, fine, coarse).ravel() for name, f in TEXTURES.items()}
    for name, value in values.items():
        assert np.abs(value).max() <= 1, name
        assert value.std() > 0.4, name
        assert abs(value.mean()) < 0.5, name
    for one, other in itertools.combinations(values.values(), 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.75


@pytest.mark.parametrize(
    ("name", "peak"),
    [("stripes", (0, 1)), ("checks", (0.5, 0.5)), ("dots", (0, 1)), ("mesh", (0, 1))],
)
def test_textures_have_the_period_they_say(name, peak):
    s, t = np.meshgrid(np.arange(128) / 16, np.arange(128) / 16)
    noise = np.zeros((1, 128, 128))
    value = TEXTURES[name](s[None], t[None], noise, noise)[0]
    spectrum = np.abs(np.fft.rfft2(value - value.mean()))
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    found = {
        abs(np.fft.fftfreq(128, 1 / 16)[row]),
        np.fft.rfftfreq(128, 1 / 16)[column],
    }
    assert found == set(peak)


def test_enlarged_noise_is_bilinear_interpolation():
    noise = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    expected = scipy.ndimage.zoom(
        noise, (1, 1, 4, 4), order=1, mode="nearest", grid_mode=True
    )
    np.testing.assert_allclose(shapes._enlarge(noise), expected, atol=1e-12)


def test_a_tint_has_the_hue_drawn_and_keeps_the_luma():
    lightness = np.random.default_rng(0).random((5, 4, 4))
    hues = np.array([0, 0.7, 2, 3.5, 5.9])[:, None, None]
    draws = iter([hues, np.full((5, 1, 1), 0.2)])
    tinted = shapes._tint(lightness, lambda low, high: next(draws))
    luma = tinted @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(luma, lightness, atol=1e-12)
    for hue, image in zip(hues.ravel(), tinted, strict=True):
        pure = np.array(colorsys.hsv_to_rgb(hue / 6, 1, 1))
        difference = image - image.min(axis=-1, keepdims=True)
        np.testing.assert_allclose(difference, np.broadcast_to(0.2 * pure, image.shape))


def test_the_silhouette_is_drawn_where_its_coverage_says():
    # A big upright square in the middle of a large pixel grid, against its area.
    x, y = np.meshgrid(np.arange(32) - 15.5, 15.5 - np.arange(32))
    labels = np.array([list(SILHOUETTES).index("square")])
    radius = np.array([[[12.3]]])
    coverage = shapes._coverage(
        labels, x[None], y[None], radius, lambda low, high: np.zeros((1, 1, 1))
    )
    assert coverage.sum() == pytest.approx((2 * 0.7 * 12.3) ** 2, rel=0.01)
    np.testing.assert_allclose(coverage, coverage[:, ::-1, ::-1], atol=1e-12)


def test_brightness_does_not_tell_the_class_and_every_image_has_contrast(train):
    means = [train.images[train.shape_labels == k].mean() for k in range(10)]
    assert np.ptp(means) < 20
    assert train.images.reshape(2000, -1).std(axis=1).min() > 8
