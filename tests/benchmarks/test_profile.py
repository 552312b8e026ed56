"""The profile at toy size, and the parts that it is made of."""

import json
import math

import binaries
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import profile
from splic_jax.solvers import tracked as fast

SIDE = 72  # over 64, so one matrix at a time: quick to compile


def products(jaxpr) -> int:
    """Multiply-adds of all matrix products in a jaxpr, whatever it calls.

    But for those of `_mend`, which seldom runs and is not counted.
    """
    count = 0
    for equation in jaxpr.eqns:
        if equation.params.get("name") == fast._mend.__name__:
            continue
        if equation.primitive.name == "splic_small_product":
            a, b = (variable.aval.shape for variable in equation.invars)
            count += math.prod(a) * b[1]
        for value in jax.tree.leaves(list(equation.params.values())):
            value = getattr(value, "jaxpr", value)
            count += products(value) if hasattr(value, "eqns") else 0
    return count


def toy_parts():
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.uniform(size=(SIDE, SIDE)), jnp.float32)
    mask = jnp.asarray(rng.uniform(size=(SIDE, SIDE)) < 0.5)
    state = profile.state_after(matrix, mask, profile.CONFIG, 1)
    return profile.parts_of(*state, profile.CONFIG)


@pytest.mark.slow
def test_work_of_the_parts():
    parts = toy_parts()
    for part in parts:
        if part.kind in ("part", "product"):
            jaxpr = jax.make_jaxpr(part.function)(*part.arguments).jaxpr
            assert products(jaxpr) == part.multiply_adds, part.name
    steps = {part.each: part for part in parts if part.kind == "step"}
    assert set(steps) == {0, 1, 2}
    for count, step in steps.items():
        x, vectors, delta, _ = step.arguments
        images = x @ vectors
        rank = profile.CONFIG.rank_of(x.shape)
        angles = fast.angles_of(images.T @ images, rank)
        assert fast.corrections(angles.last, angles.turn, delta) == count
    # A step's loop over its full corrections is in its jaxpr once.
    first = steps[1]
    jaxpr = jax.make_jaxpr(first.function)(*first.arguments).jaxpr
    assert products(jaxpr) == first.multiply_adds


def test_operations_are_counted():
    def function(a):
        return jax.lax.fori_loop(0, 5, lambda _, a: jnp.sin(a) @ a, a @ a)

    program = profile.compile_loop(function, (jnp.ones((300, 300)),)).as_text()
    # Two products, the sine, and what counts the loop, adds and compares; copies.
    assert 5 <= profile.count_operations(program) <= 10
    assert profile.count_operations("") == 0


@pytest.mark.slow
def test_profile(tmp_path, monkeypatch):
    flags = f"--sides={SIDE} --image_side=8 --num_images=2 --num_test=2 --rounds=1 "
    flags += "--warm_rounds=1 --repeats=1 --repeats_purify=1 --out=s.json"
    # Nothing here depends on how good the code is, and compiling it takes a while.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    done = binaries.start("benchmarks.profile", *flags.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step, 2 corrections" in done.stdout
    record = json.loads((tmp_path / "s.json").read_text())["profile"]
    assert record["provenance"]["hardware"]

    (step,) = record["step"]
    assert (step["side"], step["matrices"], step["rank"]) == (SIDE, 1, 18)
    assert step["peak_gflops"] > 0 and step["operation_microseconds"] > 0
    rows = step["rows"]
    assert {row["kind"] for row in rows} == {
        "step",
        "part",
        "product",
        "decomposition",
    }
    for row in rows:
        assert 0 < row["microseconds"] < math.inf
        assert row["operations"] > 0
    whole = {row["each"]: row for row in rows if row["kind"] == "step"}
    parts = [row for row in rows if row["kind"] == "part"]
    for of in ("multiply_adds", "operations"):
        each = sum(row["each"] * row[of] for row in parts)
        assert whole[1][of] - whole[0][of] == whole[2][of] - whole[1][of] == each > 0

    assert [(r["images"], r["rounds"]) for r in record["rounds"]] == [
        ("clean", 1),
        ("noisy", 1),
    ]
    for row in record["rounds"]:
        assert row["mean_difference"] > 0  # one round is not all of them
        assert row["time_ratio"] > 0
        assert math.isfinite(row["psnr_above_full_db"]["half_width"])
    assert len(record["stopping"]) == 4
    for row in record["stopping"]:
        assert row["matrices"] == 6
        assert 7 <= row["mean_steps"] <= row["mean_steps_of_group"] <= 112
        assert row["ratio"] >= 1


def test_steps_of_groups(monkeypatch):
    monkeypatch.setattr(profile, "GROUP", 8)
    steps = np.full(20, 7)
    steps[[3, 18]] = 21, 14
    monkeypatch.setattr(profile, "steps_of_passes", lambda *_: np.stack([steps, steps]))
    clean = np.zeros((2, 8, 8, 3), np.float32)
    row = profile.profile_stopping(clean, profile.Progress(quiet=True))[0]
    assert row["mean_steps"] == (18 * 7 + 21 + 14) / 20
    assert row["mean_steps_of_group"] == (8 * 21 + 8 * 7 + 4 * 14) / 20
