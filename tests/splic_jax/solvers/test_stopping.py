"""The stopping rule, and that every solver takes it from one place."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax import SPLICConfig, complete
from splic_jax.completion import run_one
from splic_jax.solvers import stopping
from splic_jax.solvers.kernel import complete_fused
from splic_jax.solvers.stopping import PRINTED, Progress, Rule

# Slow to converge, so that the printed rule takes all of its steps.
CONFIG = SPLICConfig(max_steps=70, tv_weight=0.02)


def matrices():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(2, 16, 16)).astype(np.float32)
    masks = rng.uniform(size=images.shape) < 0.5
    return images, masks


def one_by_one(solver, rule):
    config = dataclasses.replace(CONFIG, solver=solver)
    return jax.vmap(functools.partial(run_one, config=config, rule=rule))


SOLVERS = {
    "exact": lambda rule: one_by_one("exact", rule),
    "tracked": lambda rule: one_by_one("tracked", rule),
    "kernel": lambda rule: functools.partial(
        complete_fused, config=CONFIG, rule=rule, interpret=True
    ),
}


def at_an_even_round(progress: Progress, config: SPLICConfig) -> jax.Array:
    """Another rule than the printed one."""
    return (progress.round % 2 == 1) | (progress.change > 50 * config.tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_rule_from_outside_stops_every_solver_alike(solver):
    rule = Rule(at_an_even_round, lambda delta, config: delta / 8)
    run = lambda solver, rule: jax.jit(SOLVERS[solver](rule))(*matrices())
    got, expected = run(solver, rule), run("exact", rule)
    np.testing.assert_array_equal(got.steps, expected.steps)
    assert (got.steps % 14 == 0).all() and (got.steps < 70).all()
    # Delta falls otherwise too, alike for all.
    np.testing.assert_allclose(got.matrix, expected.matrix, atol=5e-3)
    printed = run(solver, PRINTED)
    np.testing.assert_array_equal(printed.steps, 70)
    assert np.abs(got.matrix - printed.matrix).max() > 0.05


def progress(**changes):
    values = {"round": 3, "most": 10, "delta": 0.5, "change": 0.1} | changes
    return Progress(*map(jnp.asarray, values.values()))


def test_the_printed_rule():
    config = SPLICConfig(tolerance=0.1, delta_decay=0.25)
    assert not stopping.unfinished(progress(), config)  # at the tolerance it stops
    assert stopping.unfinished(progress(change=0.11), config)
    assert not stopping.unfinished(progress(change=0.11, round=10), config)
    assert stopping.every_round(progress(change=0.0), config)
    after = stopping.after_round(progress(), jnp.float32(0.3), config, PRINTED)
    assert (after.round, after.most) == (4, 10)
    np.testing.assert_allclose([after.delta, after.change], [0.125, 0.3])
    black = stopping.begin(jnp.float32(0), 5)
    assert black.delta > 0 and stopping.unfinished(black, config)
    assert stopping.decayed(black.delta, config) == black.delta


def test_the_relative_change_is_a_quotient_of_norms():
    change = stopping.relative_change(jnp.float32([4.0, 4.0]), jnp.float32([16.0, 0.0]))
    np.testing.assert_array_equal(change, [0.5, 2.0])


def test_the_rule_of_complete_is_the_printed_one():
    image, mask = (a[0] for a in matrices())
    for tolerance in (0.0, 0.05):
        config = SPLICConfig(max_steps=70, tolerance=tolerance)
        got = complete(image, mask, config, trace=True)
        every_round = np.asarray(got.trace)[6::7]
        small = np.flatnonzero(every_round <= tolerance)
        rounds = small[0] + 1 if len(small) else 10
        assert got.steps == 7 * rounds
