"""The parts of the benchmark of defences; the run itself takes many minutes."""

import dataclasses

import numpy as np
import pytest

from benchmarks import defenses
from splic_jax import METHODS, SPLICConfig
from train.data import loading


def test_sweeps_change_one_setting_of_splic():
    default = dataclasses.asdict(SPLICConfig())
    names = []
    for field, value, config in defenses.variants():
        changed = {k for k, v in dataclasses.asdict(config).items() if v != default[k]}
        assert changed, (field, value)
        if field != "formulas":
            assert changed == {field}
        names.append(f"{field}={value}")
    assert len(set(names)) == len(names)
    assert {"tv_weight", "rank", "keep_probability"} <= set(defenses.SWEEPS)


def test_methods_that_return_no_images_are_left_out():
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), np.uint8)
    dataset = loading.Dataset("toy", images, np.zeros(40, np.int32), ("a",))
    configs = defenses.methods_for(dataset, dataset, seed=0)
    assert set(METHODS) - set(configs) == {"thermometer", "ablation"}
    assert configs["quilting"].bank is not None


@pytest.mark.slow
def test_costs_are_ratios_to_splic():
    images = np.full((2, 8, 8, 3), 100, np.uint8)
    configs = {name: METHODS[name].config for name in ("splic", "bit_depth")}
    rows = {row["defense"]: row for row in defenses.costs(configs, images)}
    assert rows["splic"]["ratio_to_splic"] == 1
    row = rows["bit_depth"]
    assert row["seconds"] > 0
    assert row["ratio_to_splic"] == row["seconds"] / rows["splic"]["seconds"]
