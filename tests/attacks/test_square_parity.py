"""The Square attack against torchattacks' port of AutoAttack's.

Results of a short random search vary, so means over seeds are compared.
There all images share their squares, which never cover the last row or column, a sixth
of these small images. Ours must be at least as strong as the original, and equal to a
version of it that includes them.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from attacks.square import square, two_peaks

torch, torchattacks = networks.import_or_skip("torch", "torchattacks")
pytestmark = pytest.mark.slow

QUERIES, SEEDS = 200, 5


class Original(torchattacks.Square):
    extra = 0

    def random_int(self, low=0, high=1, shape=(1,)):
        return super().random_int(low, high + self.extra, list(shape))


class Inclusive(Original):
    extra = 1


# The original's grid of tiles fits a height of 10 but not of 12.
def cut(images):
    return images[:, 1:-1]


@functools.cache
def network():
    whole, padding = networks.network(), ((0, 0), (1, 1), (0, 0), (0, 0))
    return lambda x, key: whole(jnp.pad(x, padding, constant_values=0.5), key)


@functools.cache
def torch_network():
    padding = torch.nn.ConstantPad2d((0, 0, 1, 1), 0.5)
    return torch.nn.Sequential(padding, networks.torch_network()).eval()


def original_robust(cls, seed, norm, epsilon, p_init):
    images, labels = networks.data(128, seed=7)
    model, tensors = torch_network(), networks.to_torch(cut(images))
    options = {"n_queries": QUERIES, "p_init": p_init, "seed": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = cls(model, norm=norm, eps=epsilon, **options)
    result = attack(tensors, torch.tensor(labels).long())
    return (model(result).argmax(dim=1).numpy() == labels).sum()


# Radii at which about half of the images are fooled; a first square that fits.
@pytest.mark.parametrize(
    ("norm", "theirs", "epsilon", "p_init"),
    [("linf", "Linf", 0.095, 0.8), ("l2", "L2", 2.1, 0.6)],
)
def test_robust_accuracy_over_seeds(norm, theirs, epsilon, p_init):
    images, labels = networks.data(128, seed=7)
    options = {"epsilon": epsilon, "norm": norm, "p_init": p_init}
    attack = functools.partial(square, network(), queries=QUERIES, **options)
    attack = jax.jit(attack)
    ours = np.array(
        [
            (~attack(cut(images), labels, jax.random.key(seed)).success).sum()
            for seed in range(SEEDS)
        ]
    )
    settings = (theirs, epsilon, p_init)
    equal, plain = (
        np.array([original_robust(cls, seed, *settings) for seed in range(seeds)])
        for cls, seeds in ((Inclusive, SEEDS), (Original, 2))
    )
    print(norm, "ours", ours, "original", equal, "without the last place", plain)
    assert 32 < equal.mean() < 96
    # One example and three standard errors of the difference of the means.
    spread = np.sqrt((ours.var(ddof=1) + equal.var(ddof=1)) / SEEDS)
    assert spread < 4
    assert abs(ours.mean() - equal.mean()) < 1 + 3 * spread
    assert ours.mean() < plain.mean() + 1


@pytest.mark.parametrize("side", [2, 3, 5, 9, 29])
def test_same_window(side):
    torch.manual_seed(0)
    original = torchattacks.Square(torch_network())
    windows = [original.eta(side).numpy() for _ in range(20)]
    ours = two_peaks(side)
    turned = 0
    for window in windows:
        same, other = (np.allclose(window, x, atol=1e-6) for x in (ours, ours.T))
        assert same or other
        turned += other and not same
    assert 0 < turned < 20
