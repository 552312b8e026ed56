"""Attacks a network with and without its gradient."""

import functools

import jax
from digits import accuracy, images, labels, logits_fn

import attacks

key = jax.random.key(0)
print(f"clean: {accuracy(logits_fn(images, key)):.0f} % accuracy")

chosen = {
    "FGSM": functools.partial(attacks.fgsm, epsilon=8 / 255),
    "PGD-20": functools.partial(attacks.pgd, epsilon=8 / 255, steps=20),
    "Square, 200 queries": functools.partial(attacks.square, queries=200),
}
for name, attack in chosen.items():
    # Compiled once for a network and a shape; call it again for the next batch.
    attacked = jax.jit(functools.partial(attack, logits_fn))(images, labels, key)
    change = float(abs(attacked.images - images).max())
    print(
        f"{name}: {100 * (1 - float(attacked.success.mean())):.0f} % accuracy, "
        f"{float(attacked.queries.mean()):.0f} queries an image, "
        f"no pixel changed by more than {255 * change:.2f}/255"
    )

# Can the number be believed? Each finding is a sentence about the evaluation.
findings = attacks.check_classifier(logits_fn, images, labels, key)
print(attacks.sentences(findings) or "check_classifier found nothing wrong")
