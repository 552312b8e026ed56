import dataclasses

import numpy as np
import pytest

from splic_jax import SPLICConfig


def test_constants_are_the_papers():
    paper, config = SPLICConfig.paper(), SPLICConfig()
    assert (paper.tv_weight, paper.rank) == (0.02, 8)
    assert (paper.channels, paper.mask) == ("separate", "shared")
    # All else is as by default.
    changed = {n: getattr(config, n) for n in ("tv_weight", "rank", "channels", "mask")}
    assert dataclasses.replace(paper, **changed) == config
    assert config.delta_decay == 0.45
    assert config.step_size == 0.5
    assert config.inner_steps == 7
    assert config.keep_probability == 0.5
    assert config.rank_of((32, 32)) == 8  # section 3.7
    assert config.rank_of((3, 40)) == 1


def test_is_hashable_and_comparable():
    assert hash(SPLICConfig()) == hash(SPLICConfig())
    assert SPLICConfig(rank=3) != SPLICConfig()


def test_printed_preset():
    config = SPLICConfig.printed()
    assert config.step_scaling == config.tv_form == "printed"
    assert config.pixel_scale == 255
    assert (config.tv_weight, config.channels) == (0.02, "separate")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 0),
        ("rank", 2.5),
        ("tv_weight", -0.1),
        ("tv_weight", float("nan")),
        ("tv_weight", float("inf")),
        ("tv_weight", "0.02"),
        ("delta_decay", 1.0),
        ("delta_decay", 0.0),
        ("step_size", 0.0),
        ("inner_steps", 0),
        ("inner_steps", True),
        ("tolerance", -1e-9),
        ("max_steps", 0),
        ("keep_probability", 0.0),
        ("keep_probability", 1.01),
        ("alternate", "yes"),
        ("step_scaling", "absolute"),
        ("tv_form", "approximate"),
        ("rank_cut", None),
        ("tv_scales", 0),
        ("pixel_scale", 0.0),
        ("pixel_scale", 1e38),
        ("step_size", 1e300),
        ("step_size", 2.1),
        ("tolerance", 1e-60),
        ("tv_weight", 10**400),
        ("tv_weight", 0.51),
        ("channels", "both"),
        ("mask", "same"),
    ],
)
def test_refuses_senseless_values_by_name(field, value):
    config = object.__new__(SPLICConfig)  # past the type checker of the tests
    for name, default in dataclasses.asdict(SPLICConfig()).items():
        object.__setattr__(config, name, value if name == field else default)
    with pytest.raises(ValueError, match=f"^{field} must be "):
        config.__post_init__()


def test_refuses_a_rank_above_the_smaller_side():
    with pytest.raises(ValueError, match="rank=9 exceeds .* 8 x 12 .* at most 8"):
        SPLICConfig(rank=9).rank_of((8, 12))


def test_max_rounds_reach_max_steps():
    assert SPLICConfig(inner_steps=7, max_steps=14).max_rounds == 2
    assert SPLICConfig(inner_steps=7, max_steps=15).max_rounds == 3


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 0.5),
        ({"step_size": 0.25}, 1.0),
        ({"tv_scales": 2}, 0.5),
        ({"tv_scales": 4}, 1 / 3),
        ({"tv_form": "printed"}, 1.0),
        ({"step_scaling": "printed", "step_size": 4.0}, 1 / 16),
    ],
)
def test_total_variation_steps_up_to_the_stable_one(settings, most):
    config = SPLICConfig(**settings, tv_weight=most)
    with pytest.raises(ValueError, match=r"^tv_weight must be at most .* step_size="):
        dataclasses.replace(config, tv_weight=1.01 * most)


def differences(side):
    return np.diff(np.eye(side), axis=0)


def averages(side):
    rows = np.zeros((-(-side // 2), side))
    for i in range(side):
        rows[i // 2, i] += 0.5
    rows[-1, -1] += 0.5 * (side % 2)
    return rows


def laplacian(height, width, scales, square):
    """The matrix that the gradient of the total variation is, of pixels in a row."""
    of_one = np.kron(square(height), np.eye(width)) + np.kron(
        np.eye(height), square(width)
    )
    if scales == 1:
        return of_one
    coarse = laplacian(-(-height // 2), -(-width // 2), scales - 1, square)
    halve = np.kron(averages(height), averages(width))
    return of_one + halve.T @ coarse @ halve


@pytest.mark.parametrize("form", ["exact", "printed"])
def test_curvature_bounds_the_gradient_of_every_shape(form):
    if form == "exact":
        square = lambda side: differences(side).T @ differences(side)
    else:  # eq. (10): forward differences, 0 at the edge
        square = lambda side: -np.pad(differences(side), ((0, 1), (0, 0)))
    for height, width in ((9, 9), (8, 12), (1, 16), (13, 5), (12, 12)):
        for scales in range(1, 5):
            of_shape = np.linalg.norm(laplacian(height, width, scales, square), 2)
            config = SPLICConfig(tv_form=form, tv_scales=scales)
            assert of_shape <= config.tv_curvature
            # By no more than the shapes are small, and the levels' bounds loose.
            most = SPLICConfig(tv_form=form).tv_curvature
            assert height == 1 or of_shape > 0.94 * most
