"""The Boundary attack against Foolbox's, on the same trained weights."""

import functools

import jax
import networks
import numpy as np
import pytest

from attacks.boundary import boundary

torch, foolbox = networks.import_or_skip("torch", "foolbox")
pytestmark = pytest.mark.slow


def test_distances_match_foolbox():
    images, labels = networks.data(16, seed=5)
    steps = 2000
    attack = functools.partial(boundary, networks.network(), steps=steps)
    found = jax.jit(attack)(images, labels, jax.random.key(0))
    torch.manual_seed(0)
    model = foolbox.PyTorchModel(networks.torch_network(), (0, 1), device="cpu")
    theirs, _, _ = foolbox.attacks.BoundaryAttack(steps=steps)(
        model,
        networks.to_torch(images),
        torch.tensor(labels, dtype=torch.long),
        epsilons=None,
    )
    moved = networks.from_torch(theirs) - images
    expected = np.linalg.norm(moved.reshape(16, -1), axis=1)
    # Two random walks from random starts: medians of 16.
    assert np.median(found.l2) == pytest.approx(np.median(expected), rel=0.12)
    assert found.unconstrained.success.all()
