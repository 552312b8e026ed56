"""A network behind a transform, as attacks and training see it."""

import hashlib
import json
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from attacks import bpda
from splic_jax import METHODS, method_of, transform
from splic_jax.transforms import TransformConfig, as_dict

# images -> logits
Network = Callable[[jax.Array], jax.Array]


def defended(
    network: Network,
    config: TransformConfig | None,
    first_index: int,
    derivative: str = "none",
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``(images, key) -> logits`` of a network behind a transform.

    Args:
        network: images to logits.
        config: settings of the transform; None for the bare network.
        first_index: of the images.
        derivative: "none" for a defence that is only queried; "bpda" and "true" as in
            `AttackSettings`.
    """
    if config is None:
        return lambda images, key: network(images)
    apply = partial(transform, config=config, first_index=first_index)
    if derivative == "bpda":
        backward = method_of(config).backward
        apply = bpda(apply, backward and partial(backward, config=config))
    return lambda images, key: network(apply(images, key))


def settings_of(config: TransformConfig | None) -> dict[str, Any] | None:
    """A defence as plain values as JSON has them, with checksums of what was fitted."""
    if config is None:
        return None
    digests = [
        hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
        for array in jax.tree.leaves(config)
    ]
    described = as_dict(config) | ({"fitted": digests} if digests else {})
    return json.loads(json.dumps(described))


def list_defenses() -> str:
    """The registry in words."""
    lines = []
    for name, method in METHODS.items():
        settings = as_dict(method.config)
        del settings["method"]
        facts = [
            f"{method.title} ({method.source}): {method.idea}.",
            f"{'Random' if method.random else 'Not random'}; "
            f"{'differentiable' if method.differentiable else 'no useful derivative'}; "
            f"break it with {method.attack}.",
            " ".join(f"{field}={value}" for field, value in settings.items()),
        ]
        lines.append(name)
        for fact in facts:
            lines.append(textwrap.indent(textwrap.fill(fact, 84), "    "))
    return "\n".join(lines)
