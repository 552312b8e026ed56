"""Auto-PGD against the PyTorch version in torchattacks, on the same weights."""

import functools

import jax
import networks
import numpy as np
import pytest

from attacks.autopgd import autopgd, targeted_autopgd
from attacks.losses import cross_entropy, dlr

REASON = "PyTorch or torchattacks is not installed: pip install torch torchattacks"
torch = pytest.importorskip("torch", reason=REASON)
torchattacks = pytest.importorskip("torchattacks", reason=REASON)

# Threads that wait for one another cost more here than they do.
torch.set_num_threads(1)

IMAGES, LABELS = networks.data(128, seed=5)

# Where about half of the images withstand.
RADII = {"linf": 16 / 255, "l2": 0.9}
NAMES = {"linf": "Linf", "l2": "L2"}


def robust_by_torch(make, norm, **options):
    attack = make(
        networks.torch_network(),
        norm=NAMES[norm],
        eps=RADII[norm],
        steps=100,
        **options,
    )
    found = attack(networks.to_torch(IMAGES), torch.tensor(LABELS).long())
    return correct(networks.from_torch(found))


def correct(images):
    answers = networks.torch_network()(networks.to_torch(images)).argmax(dim=1)
    return int((answers.numpy() == LABELS).sum())


def robust_by_jax(attack, norm):
    attack = functools.partial(attack, networks.network(), norm=norm)
    key = jax.random.key(0)
    found = jax.jit(attack)(IMAGES, LABELS, key, epsilon=RADII[norm])
    count = int((~np.asarray(found.success)).sum())
    assert correct(found.images) == count
    return count


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("name", "loss"), [("ce", cross_entropy), ("dlr", dlr)])
def test_as_many_withstand_as_of_torch(norm, name, loss):
    theirs = robust_by_torch(torchattacks.APGD, norm, loss=name)
    ours = robust_by_jax(functools.partial(autopgd, loss=loss), norm)
    print("PARITY", norm, theirs, ours)
    assert 40 < theirs < 88
    assert abs(ours - theirs) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_as_many_withstand_the_targeted_as_of_torch(norm):
    theirs = robust_by_torch(torchattacks.APGDT, norm, n_classes=networks.CLASSES)
    ours = robust_by_jax(targeted_autopgd, norm)
    print("PARITY", norm, theirs, ours)
    assert 40 < theirs < 88
    assert abs(ours - theirs) <= 1
