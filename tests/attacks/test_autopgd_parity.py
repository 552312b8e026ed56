"""Auto-PGD and AutoAttack against those of torchattacks, on the same weights."""

import functools

import jax
import networks
import numpy as np
import pytest

from attacks.autoattack import Stage, autoattack, autoattack_stages
from attacks.autopgd import autopgd, targeted_autopgd
from attacks.losses import cross_entropy, dlr

torch, torchattacks = networks.import_or_skip("torch", "torchattacks")
pytestmark = pytest.mark.slow

IMAGES, LABELS = networks.data(128, seed=5)

# Radii at which about half of the images are robust.
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


@pytest.mark.parametrize(
    ("norm", "name", "loss"), [("linf", "ce", cross_entropy), ("l2", "dlr", dlr)]
)
def test_robust_count_matches_torchattacks(norm, name, loss):
    theirs = robust_by_torch(torchattacks.APGD, norm, loss=name)
    ours = robust_by_jax(functools.partial(autopgd, loss=loss), norm)
    assert 40 < theirs < 88
    assert abs(ours - theirs) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_targeted_robust_count_matches_torchattacks(norm):
    theirs = robust_by_torch(torchattacks.APGDT, norm, n_classes=networks.CLASSES)
    ours = robust_by_jax(targeted_autopgd, norm)
    assert 40 < theirs < 88
    assert abs(ours - theirs) <= 1


def test_autoattack_robust_count_matches_torchattacks():
    # Put together here: the one in torchattacks makes but 10 steps of each attack. Both
    # make 1,000 of Square's 5,000 queries, which would take longer than all the rest.
    images, labels, epsilon = IMAGES[:24], LABELS[:24], RADII["linf"]
    model = networks.torch_network()
    steps = {"norm": "Linf", "eps": epsilon, "steps": 100}
    targets = {"n_classes": networks.CLASSES}
    standard = [
        torchattacks.APGD(model, loss="ce", **steps),
        torchattacks.APGDT(model, **targets, **steps),
        torchattacks.FAB(model, multi_targeted=True, **targets, **steps),
        torchattacks.Square(
            model, norm="Linf", eps=epsilon, n_queries=1000, resc_schedule=False
        ),
    ]
    attack = torchattacks.MultiAttack(standard)
    found = attack(networks.to_torch(images), torch.tensor(labels).long())
    theirs = int((model(found).argmax(dim=1).numpy() == labels).sum())
    *stages, (name, attack) = autoattack_stages("standard")
    stages = (*stages, Stage(name, functools.partial(attack, queries=1000)))
    attack = functools.partial(autoattack, networks.network(), stages=stages)
    attack = jax.jit(attack)
    ours = attack(images, labels, jax.random.key(0), epsilon=epsilon)
    assert 4 < theirs < 20
    assert abs(int((~ours.success).sum()) - theirs) <= 1
