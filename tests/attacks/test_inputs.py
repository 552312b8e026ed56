"""Arguments that every attack refuses."""

import functools

import jax
import jax.numpy as jnp
import pytest
from networks import linear, some_images

import attacks

IMAGES, LABELS = some_images(3, (4, 4, 3)), jnp.array([0, 1, 0])
ATTACKS = {
    name: getattr(attacks, name)
    for name in (
        "fgsm",
        "pgd",
        "mi_fgsm",
        "multi_targeted",
        "autopgd",
        "targeted_autopgd",
        "carlini_wagner",
        "deepfool",
        "fab",
        "fab_minimal",
        "square",
        "spsa",
        "boundary",
        "autoattack",
    )
} | {"sparse_rs": functools.partial(attacks.sparse_rs, pixels=1)}

REFUSED = {
    "autopgd": [
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0, got -0.1"),
        ({"norm": "l1"}, "norm must be 'linf' or 'l2', got 'l1'"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"eot_samples": 0}, "eot_samples must be at least 1, got 0"),
        ({"evaluations": 0}, "evaluations must be at least 1, got 0"),
        ({"rho": float("nan")}, "rho must be finite"),
    ],
    "autoattack": [
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0, got -0.1"),
        ({"norm": "l1"}, "norm must be 'linf' or 'l2', got 'l1'"),
        ({"version": "fast"}, "must be 'standard' or 'plus' or 'rand', got 'fast'"),
        ({"evaluations": 0, "version": "rand"}, "evaluations must be at least 1"),
        ({"evaluations": 3}, "evaluations is 3, but version 'standard' is for"),
    ],
    "boundary": [
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0, got -0.1"),
        ({"norm": "l0"}, "norm must be 'linf' or 'l2' or 'l1', got 'l0'"),
        ({"spherical_step": 0.0}, "spherical_step must be finite and above 0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"blends": 0}, "blends must be at least 1, got 0"),
    ],
    "carlini_wagner": [
        ({"epsilon": -1.0}, "epsilon must be finite and at least 0, got -1.0"),
        ({"confidence": -1.0}, "confidence must be finite and at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and above 0"),
        ({"initial_const": 0.0}, "initial_const must be finite and above 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"binary_search_steps": 0}, "binary_search_steps must be at least 1"),
        ({"eot_samples": 0}, "eot_samples must be at least 1"),
        ({"evaluations": 0}, "evaluations must be at least 1"),
        ({"targets": jnp.array([0, 9, 0])}, r"targets\[1\] is 9"),
    ],
    "deepfool": [
        ({"epsilon": -1.0}, "epsilon must be finite and at least 0, got -1.0"),
        ({"norm": "l1"}, "norm must be 'l2' or 'linf', got 'l1'"),
        ({"overshoot": -0.1}, "overshoot must be finite and at least 0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"candidates": 1}, "candidates must be at least 2, got 1"),
        ({"eot_samples": 0}, "eot_samples must be at least 1"),
    ],
    "fab": [
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0, got -0.1"),
        ({"norm": "l0"}, "norm must be 'linf' or 'l2' or 'l1', got 'l0'"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"target_classes": 0}, "target_classes must be at least 1, got 0"),
        ({"target_classes": 4}, "target_classes must be below the 4 classes .*, got 4"),
        ({"alpha_max": -1.0}, "alpha_max must be finite and at least 0"),
        ({"eta": 0.0}, "eta must be finite and above 0"),
        ({"beta": float("nan")}, "beta must be finite"),
        ({"evaluations": 0}, "evaluations must be at least 1"),
    ],
    "multi_targeted": [
        ({"target_classes": 0}, "target_classes must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"epsilon": -1.0}, "epsilon must be finite and at least 0, got -1.0"),
        ({"norm": "l0"}, "norm must be 'linf' or 'l2' or 'l1', got 'l0'"),
    ],
    "pgd": [
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0, got -0.1"),
        ({"epsilon": float("nan")}, "epsilon must be finite"),
        ({"step_size": 0.0}, "step_size must be finite and above 0, got 0.0"),
        ({"step_size": float("inf")}, "step_size must be finite"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"norm": "l0"}, "norm must be 'linf' or 'l2' or 'l1', got 'l0'"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"eot_samples": 0}, "eot_samples must be at least 1"),
        ({"eot_chunk": 0}, "eot_chunk must be at least 1"),
        ({"evaluations": 0}, "evaluations must be at least 1"),
        ({"targets": jnp.array([7, 0, 1])}, r"targets\[0\] is 7, .* 0 to 3"),
    ],
    "sparse_rs": [
        ({"pixels": -1}, "pixels must be at least 0, got -1"),
        ({"pixels": 16}, "pixels must be below the 16 of an image, got 16"),
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"alpha_init": 0.0}, "alpha_init must be above 0 and at most 1, got 0.0"),
        ({"alpha_init": 1.5}, "alpha_init must be above 0 and at most 1, got 1.5"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
    ],
    "spsa": [
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0, got -0.1"),
        ({"delta": 0.0}, "delta must be finite and above 0, got 0.0"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and above 0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
    ],
    "square": [
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0, got -0.1"),
        ({"norm": "l1"}, "norm must be 'linf' or 'l2', got 'l1'"),
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"p_init": 0.0}, "p_init must be above 0 and at most 1, got 0.0"),
        ({"p_init": 1.5}, "p_init must be above 0 and at most 1, got 1.5"),
        ({"eot_samples": 0}, "eot_samples must be at least 1, got 0"),
        ({"evaluations": 0}, "evaluations must be at least 1, got 0"),
    ],
}


def light(images, key):
    """One logit per image, positive if it is light."""
    return images.mean(axis=(1, 2, 3))[:, None] - 0.5


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_one_logit_is_refused_with_a_fix(name, compiled):
    attack = functools.partial(ATTACKS[name], light)
    attack = jax.jit(attack) if compiled else attack
    with pytest.raises(ValueError, match="returned 1 logits .*concatenate"):
        attack(IMAGES, jnp.zeros(3, int), jax.random.key(0))


def test_the_suggested_fix_works():
    def both(images, key):
        z = light(images, key)
        return jnp.concatenate([-z, z], axis=1)

    labels = both(IMAGES, None).argmax(axis=1)
    found = attacks.pgd(both, IMAGES, labels, jax.random.key(0), epsilon=0.4)
    assert (found.success == (both(found.images, None).argmax(axis=1) != labels)).all()
    assert found.success.any()


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [(name, *case) for name, cases in REFUSED.items() for case in cases],
)
def test_invalid_settings_are_refused(name, setting, message):
    network, _ = linear((4, 4, 3), 4)
    attack = functools.partial(ATTACKS[name], network, **setting)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(attack, IMAGES, LABELS, jax.random.key(0))
