import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks._gpu import attacking, tables
from benchmarks._gpu.context import Context
from splic_jax import METHODS, SPLICConfig
from train.threats import attackers
from train.threats.attackers import AttackSettings
from train.threats.defended import defended

# Cheap on a CPU, and a purification all the same.
QUICK = SPLICConfig(tv_weight=0.15, max_steps=7)


@pytest.fixture
def context(tmp_path):
    out, state = tmp_path / "out", tmp_path / "state"
    out.mkdir()
    state.mkdir()
    return Context(tmp_path, out, state, True, time.monotonic() + 600)


def _logits(weights, images):
    """Of a linear classifier of 4 x 4 patches: no convolution to be compiled."""
    small = images.reshape(len(images), 8, 4, 8, 4, 3).mean((2, 4))
    return small.reshape(len(images), -1) @ weights


@pytest.fixture
def network():
    weights = jax.random.normal(jax.random.key(3), (8 * 8 * 3, 10))
    return jax.tree_util.Partial(_logits, weights)


@pytest.fixture
def data(context):
    return attacking.batched(context.test_set(), 4, 6)


def whole(data):
    images = np.concatenate(data.images)[: len(data.truth)]
    return jnp.asarray(images), jnp.asarray(data.truth)


def test_batches_hold_all_images_in_order_and_fill_up_with_the_first(context, data):
    images = context.test_set()
    assert [len(part) for part in data.images] == [4, 4]
    np.testing.assert_array_equal(
        np.concatenate(data.indices), [0, 1, 2, 3, 4, 5, 0, 1]
    )
    np.testing.assert_array_equal(whole(data)[0], images.images[:6] / np.float32(255))
    assert data.name.endswith("the first 6")


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_attacks_on_a_bare_network_are_those_of_the_evaluation(network, data, name):
    attack, key = attackers.PRESETS[name], jax.random.key(5)
    found = attacking.attacked(network, data, key, attack)
    images, labels = whole(data)
    expected = attackers.attack_batch(network, images, labels, key, 0, None, attack)
    np.testing.assert_allclose(whole(found)[0], expected.images, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "derivative"),
    [
        (METHODS["guided"].config, "bpda"),
        pytest.param(QUICK, "bpda", marks=pytest.mark.slow),
        pytest.param(QUICK, "true", marks=pytest.mark.slow),
    ],
)
def test_attacks_on_a_defence_are_those_of_the_evaluation(
    network, data, config, derivative
):
    attack = AttackSettings(steps=2, eot_samples=2, derivative=derivative)
    key = jax.random.key(5)
    found = attacking.attacked(network, data, key, attack, config)
    images, labels = whole(data)
    expected = attackers.attack_batch(network, images, labels, key, 0, config, attack)
    # A slope next to nothing has one sign here and the other there.
    differs = np.abs(whole(found)[0] - expected.images) > 1e-6
    assert differs.mean() < 0.01


def test_an_attack_on_a_transform_with_a_stand_in_of_its_own_is_refused(network, data):
    config = METHODS["jpeg"].config
    with pytest.raises(ValueError, match="derivative of its own"):
        attacking.attacked(network, data, jax.random.key(0), tables.PGD, config)


def test_a_vote_takes_the_class_named_most_often_and_of_equals_the_first(data):
    data = data._replace(truth=np.array([2, 1, 2]))
    answers = [np.array(x, np.int8) for x in ([2, 1, -1], [2, 2, -1], [3, -1, -1])]
    found = attacking.votes(data, [[x] for x in answers])
    assert found["each_mask_correct"] == [2, 1, 0]
    assert found["majority"]["correct"] == 2 and found["mean_over_masks"] == 1 / 3


def test_a_plan_keeps_what_fits_and_cuts_what_does_not(network, data):
    attack = AttackSettings(steps=3, eot_samples=4)
    assert attacking.planned(network, data, attack, None, 60).attack == attack
    assert attacking.planned(network, data, attack, None, 0).attack is None
    assert attacking.planned(network, data, attack, None, -5).attack is None


@pytest.mark.slow
def test_gray_box_counts_are_those_of_a_plain_loop(monkeypatch, context, network):
    monkeypatch.setattr(tables, "_network", lambda context, name: network)
    rows = {"none": None, "jpeg": METHODS["jpeg"].config, "splic": QUICK}
    record = tables.run_gray_box(context, rows)
    (table,) = record["sets"].values()
    images = context.originals()
    pixels = jnp.asarray(images.images[:6], jnp.float32) / 255
    labels = jnp.asarray(images.labels[:6])
    for name, attack in ("fgsm", tables.FGSM), ("pgd", tables.PGD):
        made = attackers.attack_batch(
            network, pixels, labels, tables._key(0), 0, None, attack
        ).images
        for row, config in rows.items():
            several = 2 if row == "splic" else 1
            correct = []
            for number in range(several):
                asked = defended(network, config, 0)
                logits = asked(made, tables._key(1, number))
                correct.append(int((logits.argmax(1) == labels).sum()))
            assert table["rows"][row][name]["correct"] == correct[0]
            if several > 1:
                each = [one / 6 for one in correct]
                assert table["rows"][row][f"{name}_each_mask"] == each
    saved = json.loads((context.out / "gray_box.json").read_text())
    assert saved["sets"] == record["sets"] and saved["skipped"] == []


def test_a_network_that_nobody_trained_is_named(context):
    for run in tables.run_bpda, tables.run_true_gradient, tables.run_adaptive_at:
        with pytest.raises(LookupError, match="'splic.*has not been trained yet"):
            run(context)


def test_rows_are_skipped_when_the_time_is_up(monkeypatch, context, network):
    monkeypatch.setattr(tables, "_network", lambda context, name: network)
    late = dataclasses.replace(context, deadline=time.monotonic())
    rows = {"none": None, "jpeg": METHODS["jpeg"].config}
    record = tables.run_gray_box(late, rows)
    (skipped,) = record["skipped"]
    assert skipped.startswith("jpeg; ")
    (table,) = record["sets"].values()
    assert set(table["rows"]) == {"none"}


@pytest.mark.parametrize("item", tables.ITEMS)
def test_programs_are_named_apart(context, item):
    programs = tables.ITEMS[item][1](context)
    assert len({program.name for program in programs}) == len(programs)
