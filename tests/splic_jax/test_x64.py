"""With 64-bit numbers allowed everything is as without: values follow the images."""

import os
import pathlib
import subprocess
import sys
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax import METHODS, SPLICConfig, sample_mask, transform
from splic_jax.masks.designs import Design
from splic_jax.transforms import fitted

DTYPES = ("uint8", "float16", "bfloat16", "float32")
SHAPE = (2, 17, 16, 3)


def results(names):
    """Of each transform and dtype, as float64."""
    rng = np.random.default_rng(0)
    images = rng.random(SHAPE).astype(np.float32)
    training = rng.integers(0, 256, (9, *SHAPE[1:]), np.uint8)
    done = {}
    for name in names:
        config = fitted(METHODS[name].config, training, jax.random.key(3))
        if isinstance(config, SPLICConfig):
            config = SPLICConfig(tv_weight=config.tv_weight, max_steps=7)
        for dtype in DTYPES:
            given = images * 255 if dtype == "uint8" else images
            given = given.astype(jnp.dtype(dtype))
            made = transform(given, jax.random.key(1), config)
            assert made.dtype == dtype
            done[f"{name}, {dtype}"] = np.asarray(made, np.float64)
    return done


@pytest.mark.parametrize("design", get_args(Design))
def test_masks_are_the_same(design):
    draw = lambda: np.asarray(sample_mask(jax.random.key(0), (9, 8, 3), design=design))
    before = draw()
    with jax.enable_x64(True):
        np.testing.assert_array_equal(draw(), before)


@pytest.mark.slow
def test_every_transform_takes_every_dtype_as_without(tmp_path):
    path = tmp_path / "of64.npz"
    folders = [pathlib.Path(__file__).parent, pathlib.Path(__file__).parents[2]]
    environment = os.environ | {
        "JAX_ENABLE_X64": "1",
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }
    command = "import sys, numpy, test_x64 as t; numpy.savez(sys.argv[1], " + (
        "**t.results(t.METHODS))"
    )
    subprocess.run([sys.executable, "-c", command, path], env=environment, check=True)
    of64 = np.load(path)
    for name, expected in results(METHODS).items():
        # Another program rounds otherwise here and there: one step of 16 bits or fewer.
        _, dtype = name.split(", ")
        atol = {"uint8": 1, "float16": 2**-11, "bfloat16": 2**-8, "float32": 1e-5}
        np.testing.assert_allclose(
            of64[name], expected, rtol=0, atol=atol[dtype], err_msg=name
        )
