"""Attacks under `jax.vmap`, and on a batch sharded over several devices."""

import pathlib
import subprocess
import sys

import jax
import networks
import numpy as np
import pytest

import attacks

ROOT = pathlib.Path(__file__).resolve().parents[2]

SHARDED = """
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import attacks

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)
weights = np.random.default_rng(0).normal(size=(48, 4)).astype(np.float32)

def linear(images, key):
    return images.reshape(len(images), -1) @ weights

images = np.random.default_rng(1).random((16, 4, 4, 3), np.float32)
labels = np.asarray(linear(images, None)).argmax(axis=1)
mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
batch = jax.device_put(images, NamedSharding(mesh, P("data")))
all_options = {
    "pgd": {},
    "autopgd": {"steps": 5},
    "targeted_autopgd": {"steps": 3},
    "square": {"queries": 60},
}
for name, options in all_options.items():
    attack = jax.jit(lambda x: getattr(attacks, name)(
        linear, x, labels, jax.random.key(0), **options))
    one, two = attack(images), attack(batch)
    np.testing.assert_allclose(one.images, two.images, atol=1e-6)
    np.testing.assert_array_equal(one.success, two.success)
    assert 0 < one.success.sum() < 16
    print(name, len(two.images.sharding.device_set))
"""


@pytest.mark.slow
def test_a_batch_on_two_devices_is_attacked_as_on_one():
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "pgd 2\nautopgd 2\ntargeted_autopgd 2\nsquare 2\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pgd", "square"])
def test_vmap_over_keys_is_one_key_after_the_other(name):
    network, (images, labels) = networks.network(), networks.data(2, seed=3)
    options = {"pgd": {"steps": 2}, "square": {"queries": 5}}[name]
    keys = jax.random.split(jax.random.key(0), 2)

    def run(key):
        return getattr(attacks, name)(network, images, labels, key, **options)

    together = jax.jit(jax.vmap(run))(keys)
    one = jax.jit(run)
    for i, key in enumerate(keys):
        alone = one(key)
        np.testing.assert_allclose(together.images[i], alone.images, atol=1e-6)
        np.testing.assert_array_equal(together.success[i], alone.success)
