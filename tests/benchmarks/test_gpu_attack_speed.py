"""Item C of the GPU benchmark: that equal work is compared, and a rehearsal."""

import functools
import importlib.util
import json
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks._gpu import _race, _torch_attacks, attack_speed
from benchmarks._gpu._race import EPSILON, STEP_SIZE, Entry, Work
from benchmarks._gpu.context import Context
from train import models

IMAGES = _race.drawn_images(6)
WEIGHTS = np.random.default_rng(1).normal(size=(32 * 32 * 3, 10)).astype(np.float32)
PGD, CW = Work("pgd", 5), Work("cw", 8, 4)


def answers(weights, images):
    return (images.reshape(len(images), -1) - 0.5) @ weights


# PGD's is to be unsure: how a saturated softmax rounds is each library's own.
SCALE = {"pgd": 0.05, "cw": 1.0}
NETWORKS = {
    kind: jax.tree_util.Partial(answers, scale * WEIGHTS)
    for kind, scale in SCALE.items()
}
LABELS = np.asarray(answers(WEIGHTS, IMAGES)).argmax(axis=1).astype(np.int32)


@functools.cache
def ours(work):
    arguments = (NETWORKS[work.kind], IMAGES, LABELS, jax.random.key(0))
    if work.kind == "pgd":
        return attack_speed.compiled_pgd(*arguments, steps=work.steps)
    return attack_speed.compiled_cw(*arguments, **cw_options(work)).unconstrained


def cw_options(work):
    return {
        "steps": work.steps,
        "constants": work.constants,
        "first_constant": work.first_constant,
    }


def check(work, images, wrong):
    expected = ours(work)
    assert np.abs(np.asarray(expected.images) - IMAGES).max() > 0.01
    np.testing.assert_allclose(images, expected.images, atol=2e-5)
    np.testing.assert_array_equal(wrong, expected.success)


def test_the_search_for_constants_is_put_to_the_test():
    margins = np.asarray(ours(CW).loss)
    assert (margins > 20).any()
    three = CW._replace(constants=3)
    assert not np.allclose(ours(three).images, ours(CW).images)


def test_the_loop_of_pgd_does_the_same():
    slope = functools.partial(attack_speed.pgd_slope, NETWORKS["pgd"])
    verdict = functools.partial(attack_speed.logits, NETWORKS["pgd"])
    check(PGD, *attack_speed.loop_pgd(slope, IMAGES, LABELS, verdict, steps=PGD.steps))


def test_the_loop_of_cw_does_the_same():
    slope = functools.partial(attack_speed.cw_slope, NETWORKS["cw"])
    verdict = functools.partial(attack_speed.logits, NETWORKS["cw"])
    check(CW, *attack_speed.loop_cw(slope, IMAGES, LABELS, verdict, **cw_options(CW)))


@pytest.mark.slow
@pytest.mark.parametrize("work", [PGD, CW], ids=["pgd", "cw"])
def test_pytorch_does_the_same(work):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    weights = torch.tensor(SCALE[work.kind] * WEIGHTS)
    found, wrong = _torch_attacks.attack(
        lambda x: answers(weights, x.permute(0, 2, 3, 1)),
        torch.tensor(IMAGES).permute(0, 3, 1, 2),
        torch.tensor(LABELS).long(),
        work,
    )
    check(work, found.permute(0, 2, 3, 1).numpy(), wrong.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("work", [PGD, CW], ids=["pgd", "cw"])
def test_foolbox_does_the_same(work, monkeypatch):
    import_foolbox()
    inputs = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    monkeypatch.setattr(attack_speed, "_network", lambda name: NETWORKS[work.kind])
    monkeypatch.setattr(attack_speed, "_inputs", lambda name, size: inputs)
    attack_speed._foolbox_model.cache_clear()
    try:
        found, _ = attack_speed._foolboxed("linear", work, len(IMAGES))
    finally:
        attack_speed._foolbox_model.cache_clear()
    expected = ours(work)
    # Foolbox's C&W returns nothing where the confidence was not reached.
    reached = np.asarray(expected.loss) > (20 if work.kind == "cw" else -np.inf)
    assert reached.any()
    np.testing.assert_allclose(found[reached], expected.images[reached], atol=2e-5)


def import_foolbox():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports from old places of SciPy
        pytest.importorskip("foolbox", reason="Foolbox is not installed")


def test_what_does_not_fit_is_not_begun_and_what_fails_stops_nobody():
    clock = iter(range(100, 0, -3))
    ran = []

    def entry(library, work, run):
        return Entry(library, work, 8, lambda: ran.append((library, work)), run)

    slow = lambda: time.sleep(0.02)
    long = Work("pgd", 10**6)
    rows = []
    entries = [
        entry("slow", long, slow),
        entry("slow", PGD, slow),
        entry("broken", PGD, lambda: 1 / 0),
    ]
    _race.race(entries, lambda: next(clock), rows.append)
    assert ("slow", long) not in ran
    first, broken, last = _race.with_ratios(rows, "slow")
    assert first["ratio"] == 1 and min(first["seconds"]) >= 0.02
    assert broken["error"].startswith("ZeroDivisionError")
    assert float(last["skipped"].split()[0]) > 1000


def context(folder, toy=True):
    return Context(folder, folder, folder, toy, time.monotonic() + 300)


def test_programs_have_the_shapes_of_the_real_run(tmp_path):
    programs = attack_speed.programs(context(tmp_path, toy=False))
    assert {p.arguments[1].shape[0] for p in programs} == {64, 1000}
    assert len(programs) == len({p.name for p in programs}) == 13
    network = programs[0].arguments[0]
    weights = sum(leaf.size for leaf in jax.tree.leaves(network))
    assert weights > 11_173_962  # and the statistics
    for program in programs[:1] + programs[-3:]:
        program.function.eval_shape(*program.arguments, **program.options)


@pytest.mark.slow
def test_a_rehearsal(tmp_path):
    import_foolbox()
    toy = context(tmp_path)
    attack_speed.warm_up(toy)
    record = attack_speed.run(toy)
    rows = {(row["work"], row["library"]): row for row in record["rows"]}
    for work in ("PGD-3", "C&W, 1 x 3", "C&W, 2 x 3"):
        assert rows[work, attack_speed.OURS]["ratio"] == 1
        for library in (attack_speed.LOOP, attack_speed.FOOLBOX):
            assert rows[work, library]["images_per_second"] > 0, rows[work, library]
            assert rows[work, library]["ratio"] > 0
    for library in (attack_speed.LOOP, attack_speed.FOOLBOX):
        assert record["agreement"][library] > 0.99
    assert "PyTorch" in record["missing"] or "torch" in record
    saved = json.loads((tmp_path / "attack_speed.json").read_text())
    assert saved["rows"] == json.loads(json.dumps(record["rows"]))
    assert saved["provenance"]["versions"]["jax"]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="no PyTorch")
def test_pytorch_in_its_own_process(tmp_path):
    toy = context(tmp_path)
    record, rows = {"missing": {}}, []
    child = attack_speed._start_torch(toy, "cpu")
    attack_speed._finish_torch(toy, child, 60, record, rows.append)
    assert not record["missing"]
    assert {row["library"] for row in rows} == {
        _torch_attacks.EAGER,
        _torch_attacks.TUNED,
    }
    assert all(row["images_per_second"] > 0 for row in rows) and len(rows) == 6
    assert record["torch"]["logits"]["largest_difference"] < 1e-3


def test_what_pytorch_cannot_do_is_said(tmp_path, monkeypatch):
    record = {"missing": {}}
    toy = context(tmp_path)
    monkeypatch.setattr(attack_speed.sys, "executable", "false")
    child = attack_speed._start_torch(toy)
    if child is None:
        pytest.skip("PyTorch is not installed")
    attack_speed._finish_torch(toy, child, 10, record, lambda row: None)
    assert "PyTorch, the rest" in record["missing"]


def test_settings_are_those_of_the_papers():
    assert (EPSILON, STEP_SIZE) == (8 / 255, 2 / 255)
    assert [work.name for work in _race.FULL] == [
        "PGD-7",
        "PGD-50",
        "C&W, 1 x 50",
        "C&W, 5 x 50",
    ]
    assert "resnet18" in models.NAMES
