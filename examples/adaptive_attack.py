"""Attacks a network behind SPLIC as someone who knows the defence does."""

import functools

import jax
from digits import images, labels, logits_fn

import attacks
from splic_jax import purify
from splic_jax.purification import COMPILER_OPTIONS

images, labels = images[:16], labels[:16]
attack_key, judge_key = jax.random.split(jax.random.key(0))


def defended(images, key):
    """The network behind the defence, with a new mask for each key."""
    return logits_fn(purify(images, key), key)


def surrogate(images, key):
    """The same, with the derivative of the identity in place of purify's (BPDA)."""
    return logits_fn(attacks.bpda(purify)(images, key), key)


# EOT: each of the 7 steps follows the mean gradient over four masks.
options = {"epsilon": 16 / 255, "step_size": 5 / 255, "eot_samples": 4}
pgd = functools.partial(attacks.pgd, surrogate, **options)
attacked = jax.jit(pgd, compiler_options=COMPILER_OPTIONS)(images, labels, attack_key)

# Judged over ten masks that the attack has not seen.
judge = functools.partial(attacks.judge, defended, evaluations=10)
judge = jax.jit(judge, compiler_options=COMPILER_OPTIONS)
for name, shown in {"clean": images, "attacked": attacked.images}.items():
    judged = judge(shown, labels, judge_key)
    mean, vote = judged.accuracy.mean(), judged.majority.mean()
    print(f"{name}: {mean:.0%} accuracy with one mask, {vote:.0%} by vote")
