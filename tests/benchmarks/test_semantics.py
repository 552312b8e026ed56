"""Attacks that stop at their first success, on a network whose least epsilon is known.

Its two classes are apart by ``slope * mean(signs * (x - 0.5))``, so an image is turned
over by a change of ``distance = |mean(signs * (x - 0.5))|`` in every pixel, and by no
change of a smaller root mean square.
"""

import json

import binaries
import given_networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import semantics

SHAPE, EPSILON = (4, 4, 3), 8 / 255
SIGNS = np.random.default_rng(0).choice([-1.0, 1.0], SHAPE).astype(np.float32)
# Turned over by a step of 0.001, by one of its 20th parts, by others, by none; wrong.
DISTANCES = np.array([0.0103, 0.00033, 0.0245, 0.031, 0.05, 0.02], np.float32)
LABELS = jnp.array([0, 1, 0, 1, 0, 1])
WRONG = np.array([0, 0, 0, 0, 0, 1], bool)
BROKEN = DISTANCES < EPSILON


def network(images):
    side = 100 * (SIGNS * (images - 0.5)).mean(axis=(1, 2, 3))
    return jnp.stack([-side, side], axis=1)


def images():
    """Images of these distances, with noise that changes none of them."""
    noise = np.random.default_rng(1).normal(0, 0.1, (len(LABELS), *SHAPE))
    noise -= SIGNS * (SIGNS * noise).mean(axis=(1, 2, 3), keepdims=True)
    towards = np.where(WRONG, -1, 1) * (2 * np.asarray(LABELS) - 1) * DISTANCES
    return (0.5 + noise + towards[:, None, None, None] * SIGNS).astype(np.float32)


def root_mean_square(found):
    return np.sqrt(np.square(np.asarray(found) - images()).mean(axis=(1, 2, 3)))


def turned(found):
    return np.asarray(network(found).argmax(axis=-1)) != LABELS


def test_the_least_step_of_the_gradients_sign_is_found():
    found = semantics.least_fgsm(network, images(), LABELS)
    # By hand: the next of 31 sizes, or of 20 below it where it is one of the first 20.
    coarse = np.ceil(DISTANCES * 1000) / 1000
    expected = np.ceil(DISTANCES / coarse * 20) / 20 * coarse
    expected = np.where(coarse > 0.020, coarse, expected)
    expected = np.where(WRONG, 0, np.where(BROKEN, expected, EPSILON))
    np.testing.assert_allclose(root_mean_square(found), expected, atol=1e-6)
    assert (turned(found) == (BROKEN | WRONG)).all()


@pytest.fixture(scope="module")
def stopping():
    def run(**options):
        attack = lambda x: semantics.stopping_pgd(
            network, x, LABELS, jax.random.key(2), 0, **options
        )
        return np.asarray(jax.jit(attack)(images()))

    return run


def test_halving_finds_the_least_epsilon(stopping):
    halvings = 6
    found = stopping(halvings=halvings, steps=8)  # which cross the ball
    size = root_mean_square(found)
    assert (turned(found) == (BROKEN | WRONG)).all()
    assert (size[WRONG] == 0).all()
    searched = BROKEN & ~WRONG
    assert (size >= DISTANCES - 1e-6)[searched].all()
    assert (size <= DISTANCES + EPSILON / 2**halvings + 1e-6)[searched].all()
    once = root_mean_square(stopping(steps=8))
    assert (once[searched] >= size[searched]).all()
    np.testing.assert_allclose(size[~BROKEN], once[~BROKEN])


def test_an_image_stays_at_its_first_success(stopping):
    runs = [stopping(steps=steps) for steps in range(1, 9)]
    first = [
        next((i for i, run in enumerate(runs) if turned(run)[image]), None)
        for image in range(len(LABELS))
    ]
    assert first[4] is None and first[5] == 0
    assert len(set(first)) > 2
    for image, step in enumerate(first):
        later = runs[step:] if step is not None else []
        for before, after in zip(later, later[1:], strict=False):
            np.testing.assert_array_equal(before[image], after[image])
    moved = [np.abs(a[4] - b[4]).max() for a, b in zip(runs, runs[1:], strict=False)]
    assert min(moved[:3]) > 0.001
    for run in runs:
        assert np.abs(run - images()).max() <= EPSILON + 1e-7


@pytest.mark.slow
def test_semantics(tmp_path):
    given_networks.write_cifar(tmp_path, "test_batch", 8)
    flags = ["--dataset=cifar10", "--data_dir=.", "--images_note=grey", "--out=s.json"]
    flags += [f"--network={given_networks.__file__}:logits"]
    flags += ["--skip=5", "--num_images=3", "--halvings=2"]
    done = binaries.run("benchmarks.semantics", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "s.json").read_text())
    assert record["dataset"]["images"] == "grey"
    assert record["dataset"]["count"] == 3
    assert [row["transform"] for row in record["rows"]] == list(semantics.TRANSFORMS)
    for row in record["rows"]:
        assert {"clean", *record["attacks"]} < set(row)
        assert row["fgsm"]["count"] == 3
    done = binaries.run(
        "benchmarks.semantics", *flags, "--skip=6", "--out=o", cwd=tmp_path
    )
    assert done.returncode == 1 and "are more than the 8 test images" in done.stderr
