"""Puts input transforms before a network, and attacks the network alone (gray-box)."""

import functools

import jax
from digits import accuracy, images, labels, logits_fn

import attacks
from splic_jax import METHODS, SPLICConfig, transform

key, attack_key, defense_key = jax.random.split(jax.random.key(0), 3)
pgd = jax.jit(functools.partial(attacks.pgd, logits_fn, epsilon=8 / 255))
attacked = pgd(images, labels, attack_key).images

print("accuracy, %                 clean  attacked")
row = [accuracy(logits_fn(x, key)) for x in (images, attacked)]
print(f"{'no defence':26} {row[0]:6.0f} {row[1]:9.0f}")

# The registry holds every transform with its default settings; `splic` is among them.
configs = {METHODS[name].title: METHODS[name].config for name in ("jpeg", "bilateral")}
configs["SPLIC"] = SPLICConfig()
configs["SPLIC, more variation cost"] = SPLICConfig(tv_weight=0.3)
for title, config in configs.items():
    row = [
        accuracy(logits_fn(transform(x, defense_key, config), key))
        for x in (images, attacked)
    ]
    print(f"{title:26} {row[0]:6.0f} {row[1]:9.0f}")
