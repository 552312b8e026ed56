"""Every attack on images and logits of every floating dtype, with and without x64.

Also under JAX's strictest settings: the classifier here needs no implicit promotion.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks
from attacks import norms

KEY, EPSILON = jax.random.key(0), 0.05
DTYPES = {
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
    "float32": jnp.float32,
    "float64": jnp.float64,
}
WEIGHTS = np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32)
PIXELS = np.random.default_rng(1).random((3, 4, 4, 3))


def linear(images, key, *, dtype, asked=None):
    """Five classes; records the dtypes of its queries."""
    if asked is not None:
        asked.add(images.dtype)
    flat = (images - jnp.asarray(0.5, images.dtype)).reshape(len(images), -1)
    return (flat @ jnp.asarray(WEIGHTS, images.dtype)).astype(dtype)


def short(version):
    """AutoAttack's stages with two steps each."""
    found = []
    for stage in attacks.autoattack_stages(version):
        options = {"queries": 3} if stage.name == "square" else {"steps": 2}
        if version == "rand":
            options["eot_samples"] = 2
        attack = functools.partial(stage.attack, **options)
        found.append(stage._replace(attack=attack))
    return tuple(found)


ATTACKS = {
    "fgsm": (attacks.fgsm, {}),
    "pgd": (attacks.pgd, {"steps": 2, "eot_samples": 2, "restarts": 2}),
    "pgd, l2": (attacks.pgd, {"steps": 2, "norm": "l2"}),
    "pgd, l1": (attacks.pgd, {"steps": 2, "norm": "l1"}),
    "mi_fgsm": (attacks.mi_fgsm, {"steps": 2}),
    "multi_targeted": (attacks.multi_targeted, {"steps": 2}),
    "autopgd": (attacks.autopgd, {"steps": 3}),
    "targeted_autopgd": (attacks.targeted_autopgd, {"steps": 2, "norm": "l2"}),
    "carlini_wagner": (attacks.carlini_wagner, {"steps": 5, "binary_search_steps": 2}),
    "deepfool": (attacks.deepfool, {"steps": 2, "norm": "linf"}),
    "fab": (attacks.fab, {"steps": 2}),
    "fab_minimal": (
        attacks.fab_minimal,
        {"steps": 2, "norm": "l2", "target_classes": 2, "restarts": 2},
    ),
    "square": (attacks.square, {"queries": 5}),
    "square, l2": (attacks.square, {"queries": 5, "norm": "l2"}),
    "spsa": (attacks.spsa, {"steps": 2, "samples": 3, "chunk": 2}),
    "boundary": (attacks.boundary, {"steps": 12, "draws": 5, "blends": 3}),
    "sparse_rs": (attacks.sparse_rs, {"queries": 4, "pixels": 2}),
    "autoattack": (attacks.autoattack, {"stages": short("standard")}),
    "autoattack, rand": (
        attacks.autoattack,
        {"version": "rand", "evaluations": 2, "stages": short("rand")},
    ),
}
# The rest of the table takes minutes and tests the same conversions.
QUICK = {("bfloat16", False), ("float32", True)}
QUICK_ATTACKS = {"pgd", "autopgd", "carlini_wagner", "deepfool", "fab"}


def table():
    cases = itertools.product(ATTACKS, DTYPES, [False, True])
    for name, images, wide in cases:
        if images == "float64" and not wide:
            continue
        quick = name in QUICK_ATTACKS and (images, wide) in QUICK
        marks = () if quick else pytest.mark.slow
        yield pytest.param(name, images, wide, marks=marks)


@pytest.mark.parametrize("name, images, wide", list(table()))
def test_every_attack_on_every_dtype(name, images, wide, request):
    quick = request.node.get_closest_marker("slow") is None
    for logits in ("float64" if wide else "float16",) if quick else DTYPES:
        if wide or logits != "float64":
            attacked_as(name, images, logits, wide)


def attacked_as(name, images, logits, wide):
    attack, options = ATTACKS[name]
    if name != "sparse_rs":
        options = options | {"epsilon": EPSILON}
    with (
        jax.enable_x64(wide),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        clean = jnp.asarray(PIXELS, DTYPES[images])
        labels = np.array(linear(clean, None, dtype=jnp.float32).argmax(axis=1))
        labels[2] = (labels[2] + 1) % 5
        asked = set()
        network = functools.partial(linear, dtype=DTYPES[logits], asked=asked)
        found = jax.jit(functools.partial(attack, network, **options))(
            clean, jnp.asarray(labels), KEY
        )
        named = linear(found_images(found), None, dtype=DTYPES[logits]).argmax(axis=1)
    working = jnp.promote_types(clean.dtype, jnp.float32)
    assert asked == {clean.dtype}
    for attacked in readings(found):
        assert attacked.images.dtype == clean.dtype
        assert attacked.loss.dtype == working
        pixels = np.asarray(attacked.images, np.float64)
        assert ((pixels >= 0) & (pixels <= 1)).all()
        assert attacked.success[2]
    if "rand" not in name:
        expected = np.asarray(named) != labels
        assert (np.asarray(readings(found)[0].success) == expected).all()
    if bounded(name):
        # The difference as computed in the images' dtype, with no tolerance.
        moved = np.asarray(readings(found)[-1].images - clean, np.float64)
        norm = options.get("norm", "linf")
        order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
        sizes = np.linalg.norm(moved.reshape(3, -1), order, axis=1)
        # In the attack, an epsilon that is a Python float has the working dtype.
        assert (sizes <= float(np.asarray(EPSILON, working))).all()


def bounded(name):
    return name not in ("deepfool", "fab_minimal", "sparse_rs")


def readings(found):
    parts = [found] if isinstance(found, attacks.Attacked) else found
    return [part for part in parts if isinstance(part, attacks.Attacked)]


def found_images(found):
    return readings(found)[0].images


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_small_steps_add_up_in_narrow_dtypes(dtype):
    # Each step is a quarter of the distance between two values of bfloat16 near 1.
    clean = jnp.full((1, 4, 4, 3), 0.9, dtype)
    network = functools.partial(linear, dtype=dtype)
    labels = network(clean, None).argmax(axis=1)
    options = {"epsilon": 0.05, "step_size": 0.001, "random_start": False}
    found = attacks.pgd(network, clean, labels, KEY, steps=40, **options)
    moved = jnp.abs(found.images - clean).astype(jnp.float32)
    assert moved.max() > 0.03


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_distances_are_those_of_the_images_returned(dtype):
    clean = jnp.asarray(PIXELS, dtype)
    network = functools.partial(linear, dtype=jnp.float32)
    labels = network(clean, None).argmax(axis=1)
    found = attacks.fab_minimal(network, clean, labels, KEY, norm="l2", steps=5)
    wide = [x.astype(jnp.float32) for x in (found.attacked.images, clean)]
    sizes = norms.size(wide[0] - wide[1], "l2")
    assert found.attacked.success.any()
    reached = np.isfinite(found.distances)
    np.testing.assert_allclose(found.distances[reached], sizes[reached], rtol=1e-6)
