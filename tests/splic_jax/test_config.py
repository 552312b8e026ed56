import dataclasses

import pytest

from splic_jax import SPLICConfig


def test_defaults_are_the_papers():
    config = SPLICConfig()
    assert config.tv_weight == 0.02
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
