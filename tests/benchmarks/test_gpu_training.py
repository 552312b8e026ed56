"""Training for the GPU benchmark, at toy size."""

import dataclasses
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from benchmarks._gpu import networks, settings, training
from benchmarks._gpu.context import Context
from splic_jax import METHODS, transform
from train import models


@pytest.fixture
def context(tmp_path: pathlib.Path) -> Context:
    out, state = tmp_path / "out", tmp_path / "state"
    out.mkdir()
    state.mkdir()
    return Context(tmp_path, out, state, True, time.monotonic() + 600)


def _images(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_crops_and_flips_are_those_of_numpy() -> None:
    images = _images(5)
    chosen = np.array([4, 0, 3, 3, 1, 2], np.int32)
    corners = np.array([[0, 0], [8, 8], [4, 4], [3, 7], [8, 0], [1, 5]], np.int32)
    mirrored = np.array([True, False, True, False, True, False])
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    expected = []
    for index, (row, column), mirror in zip(chosen, corners, mirrored, strict=True):
        crop = padded[index, row : row + 32, column : column + 32]
        expected.append(crop[:, ::-1] if mirror else crop)
    made = jax.jit(training.crop_and_flip)(images, chosen, corners, mirrored)
    np.testing.assert_array_equal(np.round(made * 255), np.stack(expected))


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    schedule = training.Schedule(jnp.float32(100), jnp.float32(0.4))
    rates = [training.learning_rate(jnp.int32(step), schedule) for step in range(100)]
    assert max(rates) == pytest.approx(0.4 * 24.5 / 25, rel=0.03)
    assert int(np.argmax(rates)) in (24, 25)
    assert 0 < rates[0] < 0.01 and 0 < rates[-1] < 0.01


@pytest.mark.parametrize(
    ("done", "taken", "left", "epochs"),
    [
        (0, [], 100.0, 15),
        (0, [], -1.0, 0),
        (1, [10.0], 1000.0, 15),
        (1, [10.0], 35.0, 4),
        (2, [30.0, 10.0], 95.0, 11),
        (4, [9.0, 10.0, 10.0, 10.0], 1000.0, 12),  # as planned before
        (4, [9.0, 10.0, 10.0, 10.0], 25.0, 6),
        (4, [9.0, 10.0, 10.0, 10.0], -5.0, 4),
    ],
)
def test_as_many_epochs_as_fit(
    done: int, taken: list[float], left: float, epochs: int
) -> None:
    assert training.planned(done, 12, 15, taken, left) == epochs


@pytest.mark.slow
def test_an_epoch_begins_with_the_loss_of_its_first_batch() -> None:
    recipe = training.Recipe("small", 4, smoothing=0.1)
    images, labels = _images(9), np.arange(9, dtype=np.int32)
    key, schedule = jax.random.key(3), training.Schedule(jnp.float32(2), jnp.float32(0))
    state = training.initial_state("small", 0)
    before = jax.device_get(state)
    state, (losses, accuracies) = training.run_epoch(
        state, images, labels, key, schedule, recipe=recipe
    )
    assert losses.shape == accuracies.shape == (2,)
    assert int(state.step) == 2
    jax.tree.map(np.testing.assert_array_equal, state.parameters, before.parameters)

    order_key, steps_key = jax.random.split(key)
    first = jax.random.permutation(order_key, 9)[:4]
    augment_key = jax.random.split(jax.random.split(steps_key, 2)[0], 4)[0]
    inputs = training.augmented(jnp.asarray(images), first, augment_key)
    model = models.create("small", 10, 0)
    models.prepare_training(model, "bfloat16")
    forward = nnx.jit(lambda model, inputs: model(inputs, train=True))
    logits = forward(model, inputs)
    wanted = 0.9 * np.eye(10)[labels[first]] + 0.01
    expected = -(wanted * np.asarray(jax.nn.log_softmax(logits))).sum(-1).mean()
    assert losses[0] == pytest.approx(expected, rel=0.02)


def test_weights_decay_and_keep_their_momentum() -> None:
    weights = {"w": jnp.float32(2.0)}
    state = training._WEIGHTS.init(weights)
    update, state = training._WEIGHTS.update({"w": jnp.float32(1.0)}, state, weights)
    decayed = 1 + 5e-4 * 2
    assert float(update["w"]) == pytest.approx(decayed * 1.9)  # Nesterov
    same = optax.tree_utils.tree_get(state, "trace")
    assert float(same["w"]) == pytest.approx(decayed)


@pytest.mark.slow
def test_usvt_is_that_of_the_library() -> None:
    # Low frequencies under noise, as the singular values of images are.
    images = (_images(3) // 4 + np.linspace(0, 190, 32)[:, None]).astype(np.uint8)
    key, indices = jax.random.key(1), np.arange(3, dtype=np.int32)
    kept = np.full(3, 0.5, np.float32)
    made = training.usvt_piece(images, indices, key, kept)
    expected = transform(images, key, METHODS["usvt"].config)
    assert np.abs(np.asarray(made, int) - np.asarray(expected, int)).max() <= 1


def test_a_network_comes_back_as_it_was(context: Context) -> None:
    _, variables = models.split(models.create("small", 10, 1))
    assert not networks.exists(context, "a")
    networks.save(context, "a", variables)
    assert networks.exists(context, "a")
    graphdef, loaded = networks.load(context, "a")
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    function = networks.logits(graphdef, loaded)
    again = networks.logits(*networks.load(context, "a"))
    # So that what is compiled for one serves the other.
    assert jax.tree.structure(function) == jax.tree.structure(again)

    paths = networks.export_bf16(context, "a")
    assert [path.name for path in paths] == ["a_bf16_1.npz"]
    _, small = networks.read_bf16(context.out, "a")
    for exact, rounded in zip(
        jax.tree.leaves(variables), jax.tree.leaves(small), strict=True
    ):
        np.testing.assert_allclose(rounded, exact, rtol=2**-8)


def test_large_weights_go_to_several_files(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_LARGEST_FILE", 100_000)
    _, variables = models.split(models.create("small", 10, 1))
    networks.save(context, "a", variables)
    paths = networks.export_bf16(context, "a")
    assert len(paths) > 1
    assert max(path.stat().st_size for path in paths) < 130_000
    _, small = networks.read_bf16(context.out, "a")
    assert jax.tree.structure(small) == jax.tree.structure(variables)


def test_without_the_kernel_the_fast_solver_purifies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*inputs, **options):
        raise NotImplementedError("no kernel")

    monkeypatch.setattr(training, "purify_piece", fails)
    config, failure = training._with_working_kernel(3, settings.CHOSEN)
    assert config == dataclasses.replace(settings.CHOSEN, solver="tracked")
    assert failure == "NotImplementedError('no kernel')"
    training._with_working_kernel.cache_clear()


@pytest.mark.slow
def test_an_item(context: Context) -> None:
    for program in training.programs_splic_fast_at(context):
        program.function.lower(*program.arguments, **program.options)
    record = training.run_splic_fast_at(context)
    assert json.loads(json.dumps(record))["epochs"] == 2
    assert record["finished"] and not record["found"]
    (found,) = record["test"].values()
    assert found["bare"]["count"] == found["prepared"]["count"] == 64
    assert networks.exists(context, "splic_fast_at")
    assert training.run_splic_fast_at(context)["found"]


def test_purified_sets_are_filled_up_and_cut() -> None:
    images = np.arange(7, dtype=np.uint8)[:, None]
    seen = []

    def run(piece: np.ndarray, indices: np.ndarray) -> jax.Array:
        seen.append((len(piece), indices.tolist()))
        return jnp.asarray(piece)

    pieces = training._pieces(images, 3, run)
    assert seen == [(3, [0, 1, 2]), (3, [3, 4, 5]), (3, [6, 7, 8])]
    np.testing.assert_array_equal(training._whole(pieces, 7), images)
