"""What is reported to checkify, and that it leaves no count in the program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from splic_jax import SPLICConfig, complete, purify
from splic_jax.checks import reporter

report = reporter("no value above 0")


def doubled(x):
    report(jnp.any(x > 0))
    return 2 * x


@pytest.mark.parametrize("function", [doubled, jax.jit(doubled), jax.grad(doubled)])
def test_tells_checkify_and_nobody_else(function):
    for x, expected in ((1.0, None), (-1.0, "no value above 0")):
        error, _ = checkify.checkify(function)(x)
        assert expected is None and error.get() is None or expected in error.get()
        assert np.isfinite(function(x))


@pytest.mark.parametrize("bad", [None, 0, 2])
def test_tells_of_any_of_a_batch(bad):
    x = np.ones((3, 2))
    if bad is not None:
        x[bad] = -1
    error, done = checkify.checkify(jax.jit(jax.vmap(doubled)))(x)
    assert (error.get() is None) == (bad is None)
    np.testing.assert_array_equal(done, 2 * x)


@pytest.mark.parametrize(
    "function", [complete, lambda x, mask: purify(x[..., None], KEY, SHORT)]
)
def test_a_program_is_the_same_whatever_was_traced_before(function):
    x, mask = jnp.full((8, 6), 0.5), jnp.eye(8, 6, dtype=bool)

    def program():
        jax.clear_caches()
        return jax.jit(function).lower(x, mask).as_text()

    first = program()
    for _ in range(3):
        jax.make_jaxpr(lambda x: checkify.debug_check(x, "one more"))(True)
    assert program() == first


KEY = jax.random.key(0)
SHORT = SPLICConfig(max_steps=7)
