import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from attacks.sparse_rs import sparse_rs
from splic_jax import BitDepthConfig, SPLICConfig, purify, sample_mask
from splic_jax.certificate import (
    NO_LABEL,
    ablation_of,
    certify,
    clopper_pearson_lower,
    clopper_pearson_upper,
    exact_deltas,
    iid_deltas,
    predict,
    radius_of,
    share_bounds,
)
from splic_jax.transforms.random.ablation import AblationConfig, ablate, channels

KEY = jax.random.key(0)


def exact_masks(pixels, kept):
    """Every mask with its chance."""
    sets = list(itertools.combinations(range(pixels), kept))
    masks = np.array([[i in chosen for i in range(pixels)] for chosen in sets])
    return masks, np.full(len(sets), 1 / len(sets))


def iid_masks(pixels, p):
    """The same for `sample_mask`, where none is kept: one of the pixels."""
    masks = np.array(list(itertools.product([False, True], repeat=pixels)))
    count = masks.sum(axis=1)
    chances = p**count * (1 - p) ** (pixels - count)
    chances[count == 1] += chances[count == 0] / pixels
    return masks[count > 0], chances[count > 0]


@pytest.mark.parametrize("pixels, kept", [(1, 1), (7, 3), (60, 5), (1024, 45)])
def test_exact_deltas(pixels, kept):
    deltas = exact_deltas(pixels, kept)
    r = np.arange(pixels + 1)
    none = stats.hypergeom(pixels, r, kept).pmf(0)
    np.testing.assert_allclose(deltas, 1 - none, atol=1e-10)
    for i in {0, 1, pixels // 3, pixels}:
        whole = 1 - Fraction(math.comb(pixels - i, kept), math.comb(pixels, kept))
        assert deltas[i] == float(whole)


@pytest.mark.parametrize("pixels, p", [(1, 0.3), (5, 0.5), (9, 0.05), (4, 1.0)])
def test_iid_deltas(pixels, p):
    masks, chances = iid_masks(pixels, p)
    np.testing.assert_allclose(chances.sum(), 1)
    expected = [chances[masks[:, :r].any(axis=1)].sum() for r in range(pixels + 1)]
    got = iid_deltas(pixels, p)
    np.testing.assert_allclose(got, expected, atol=3e-7 * pixels)
    assert (got >= np.array(expected) - 1e-15).all()


def test_masks_are_drawn_so():
    """The chances above are those of `sample_mask`, the one it adds included."""
    keys = jax.random.split(KEY, 4000)
    for design, masks, chances in (
        ("exact", *exact_masks(4, 1)),
        ("iid", *iid_masks(4, 0.25)),
    ):
        draw = lambda key, design=design: sample_mask(
            key, (2, 2, 1), 0.25, "shared", design
        )
        drawn = np.asarray(jax.jit(jax.vmap(draw))(keys)).reshape(-1, 4)
        counts = (drawn[:, None] == masks).all(axis=2).sum(axis=0)
        assert counts.sum() == 4000
        assert stats.chisquare(counts, 4000 * chances).pvalue > 1e-4


@pytest.mark.parametrize(
    "masks, chances, deltas",
    [
        (*exact_masks(8, 1), exact_deltas(8, 1)),
        (*exact_masks(7, 2), exact_deltas(7, 2)),
        (*iid_masks(7, 0.1), iid_deltas(7, 0.1)),
    ],
    ids=["exact-1", "exact-2", "iid"],
)
def test_no_change_within_the_radius_moves_the_vote(masks, chances, deltas):
    """Every binary image, every change: the exact vote of arbitrary classifiers."""
    pixels, classes = masks.shape[1], 3
    images = np.array(list(itertools.product([0, 1], repeat=pixels)))
    seen = np.where(masks[:, None], images, 2)  # [masks, images, pixels]
    codes = seen @ 3 ** np.arange(pixels)
    distances = (images[:, None] != images).sum(axis=2)
    rng = np.random.default_rng(0)
    certified, beyond = {1: 0, 2: 0}, 0
    for bias in np.repeat([0.4, 0.8, 0.95, 0.99], 5):
        odds = [bias, (1 - bias) * 0.6, (1 - bias) * 0.4]
        table = rng.choice(classes, size=3**pixels, p=odds)
        answers = table[codes]
        shares = np.stack([chances @ (answers == c) for c in range(classes)], axis=1)
        winner = shares.argmax(axis=1)
        ordered = np.sort(shares, axis=1)
        for top_two in (False, True):
            for i, (second, first) in enumerate(ordered[:, 1:]):
                # Less by what sums of chances round.
                other = second if top_two else 1 - first
                radius = radius_of(first - 1e-9, other + 1e-9, deltas)
                near = distances[i] <= radius
                assert (winner[near] == winner[i]).all()
                for r in certified:
                    certified[r] += radius >= r
                beyond += (winner[distances[i] == radius + 1] != winner[i]).any()
    assert certified[1] > 100 and beyond > 0
    assert certified[2] > 0 or len(deltas) == 8


@pytest.mark.parametrize("pixels, kept", [(30, 1), (30, 2), (64, 3)])
def test_radius_cannot_be_greater(pixels, kept):
    """One that looks for a changed pixel is lost with one more than certified."""
    deltas = exact_deltas(pixels, kept)
    radius = radius_of(1.0, 0.0, deltas)
    assert 1 - deltas[radius] > 0.5 >= 1 - deltas[radius + 1]
    assert radius_of(1.0, 0.0, iid_deltas(pixels, 1.0)) == 0
    assert radius_of(0.5, 0.5, deltas) == -1


@pytest.mark.parametrize("trials", [1, 20, 1000])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_clopper_pearson(trials, alpha):
    for successes in {0, 1, trials // 2, trials - 1, trials}:
        exact = stats.binomtest(successes, trials).proportion_ci(1 - 2 * alpha, "exact")
        lower = clopper_pearson_lower(successes, trials, alpha)
        upper = clopper_pearson_upper(successes, trials, alpha)
        np.testing.assert_allclose([lower, upper], [exact.low, exact.high], rtol=1e-9)


def test_bounds_cover():
    """The chance of a wrong bound, summed over all outcomes, is at most alpha."""
    trials, alpha = 40, 0.05
    lower = np.array([clopper_pearson_lower(k, trials, alpha) for k in range(41)])
    upper = np.array([clopper_pearson_upper(k, trials, alpha) for k in range(41)])
    for p in np.linspace(0.01, 0.99, 99):
        chance = stats.binom(trials, p).pmf(np.arange(41))
        assert chance[lower > p].sum() <= alpha and chance[upper < p].sum() <= alpha


def test_share_bounds():
    votes = np.array([5, 90, 3])
    lower, upper = share_bounds(votes, 1, 100, 0.05)
    assert lower == clopper_pearson_lower(90, 100, 0.05) and upper == 1 - lower
    lower, upper = share_bounds(votes, 1, 100, 0.05, "top_two")
    assert lower == clopper_pearson_lower(90, 100, 0.05 / 3)
    assert upper == min(1 - lower, clopper_pearson_upper(5, 100, 0.05 / 3))
    assert share_bounds(votes, NO_LABEL, 100, 0.05) == (0.0, 1.0)


def test_predict_abstains_unless_the_leader_is_clear():
    assert predict(np.array([0, 70, 30])) == 1
    assert predict(np.array([0, 55, 45])) == NO_LABEL
    assert predict(np.array([0, 0, 0])) == NO_LABEL
    assert predict(np.array([60])) == 0
    for first in range(51, 70):
        sure = stats.binomtest(first, 100, 0.5).pvalue <= 0.05
        assert (predict(np.array([first, 100 - first])) == 0) == sure


@pytest.mark.parametrize("design", ["exact", "iid"])
def test_ablation(design):
    image = np.random.default_rng(0).uniform(0.1, 0.9, (5, 7, 3)).astype(np.float32)
    config = AblationConfig(0.3, design)
    mask = sample_mask(jax.random.fold_in(KEY, 0), image.shape, 0.3, "shared", design)
    mask = np.asarray(mask)
    got = np.asarray(ablate(image, KEY, config))
    assert got.shape[-1] == channels(config, 3) == 6
    np.testing.assert_array_equal(got[..., :3], np.where(mask, image, 0))
    np.testing.assert_array_equal(got[..., 3:], np.where(mask, 1 - image, 0))
    grey = AblationConfig(0.3, design, "grey")
    got = np.asarray(ablate(image, KEY, grey))
    np.testing.assert_array_equal(got, np.where(mask, image, np.float32(0.5)))
    assert channels(grey, 3) == 3


@pytest.mark.parametrize("shape", [(1, 6, 1), (1, 1, 3)])
def test_ablation_of_ugly_images(shape):
    bytes_ = np.random.default_rng(1).integers(0, 256, (3, *shape), np.uint8)
    got = np.asarray(ablate(bytes_, KEY, AblationConfig()))
    assert got.shape == (3, *shape[:2], 2 * shape[2]) and got.dtype == np.uint8
    kept = got.reshape(3, -1, 2 * shape[2]).any(axis=2)
    assert (kept.sum(axis=1) == 1).all()
    alone = ablate(bytes_[2], KEY, AblationConfig(), first_index=2)
    np.testing.assert_array_equal(alone, got[2])


def brighter(images):
    """Two classes, light and dark, of two-channel ablated images."""
    value, seen = images[..., 0], (images != 0).any(axis=-1)
    light = jnp.sum(value - 0.5 * seen, axis=(1, 2))
    return jnp.stack([light, -light], axis=1)


def toy_images(n):
    rng = np.random.default_rng(3)
    level = rng.uniform(0.05, 0.95, (n, 1, 1, 1))
    return np.clip(level + rng.normal(0, 0.2, (n, 4, 4, 1)), 0.01, 0.99).astype(
        np.float32
    )


def test_certify():
    images, config = toy_images(12), AblationConfig(1 / 16)
    apply, deltas = ablation_of(config, (4, 4))
    options = dict(samples_select=50, samples_estimate=400, chunk=150)
    found = certify(brighter, images, KEY, apply, deltas, **options)
    # One pixel is kept, so the label's share is that of pixels above, or below, 0.5.
    light = (images > 0.5).mean(axis=(1, 2, 3))
    share = np.where(found.label == 0, light, 1 - light)
    np.testing.assert_array_equal(found.abstained, found.radius < 0)
    assert (found.p_lower <= share).all() and (share - found.p_lower < 0.12).all()
    assert (
        found.radius[~found.abstained] <= (share[~found.abstained] - 0.5) * 16
    ).all()
    assert found.radius.max() == 7 and found.radius.min() < 2
    assert (found.label == (light < 0.5))[~found.abstained].all()
    # From its own index and content, whatever comes with it and at a time.
    options["chunk"] = 90
    alone = certify(brighter, images[5:6], KEY, apply, deltas, first_index=5, **options)
    for all_of_them, one in zip(found, alone, strict=True):
        assert all_of_them[5] == one[0]
    bytes_ = np.round(images[:2] * 255).astype(np.uint8)
    floats = bytes_ / np.float32(255)
    got = certify(brighter, bytes_, KEY, apply, deltas, **options)
    expected = certify(brighter, floats, KEY, apply, deltas, **options)
    assert (got.p_lower == expected.p_lower).all()


def test_attack_never_beats_a_certificate():
    """Sparse-RS on the exact vote, with as many pixels as were certified."""
    images, kept = toy_images(20), 2
    masks, chances = exact_masks(16, kept)
    rng = np.random.default_rng(4)
    hidden, out = rng.normal(size=(32, 16)), rng.normal(size=(16, 2))
    bias = -np.tanh(0.7 * hidden[:16].sum(axis=0) / 16) @ out

    def network(ablated):
        flat = ablated.transpose(0, 3, 1, 2).reshape(len(ablated), -1)
        return jnp.tanh(flat @ hidden) @ out + bias + brighter(ablated)

    grid = jnp.asarray(masks.reshape(-1, 1, 4, 4, 1))

    def vote(images, key):
        del key
        both = jnp.concatenate([images, 1 - images], axis=-1)
        ablated = jnp.where(grid, both, 0).reshape(-1, 4, 4, 2)
        answers = network(ablated).argmax(axis=1).reshape(len(grid), -1)
        shares = [chances @ (answers == c) for c in range(2)]
        return jnp.stack(shares, axis=1)

    apply, deltas = ablation_of(AblationConfig(kept / 16), (4, 4))
    found = certify(network, images, KEY, apply, deltas, samples_estimate=1000)
    shares = np.asarray(vote(images, KEY))
    sure = ~found.abstained
    np.testing.assert_array_equal(shares.argmax(axis=1)[sure], found.label[sure])
    labels = shares.argmax(axis=1)
    attacked = sparse_rs(vote, images, labels, KEY, pixels=2, queries=60)
    held, broken = found.radius >= 2, np.asarray(attacked.success)
    assert held.sum() >= 5 and not broken[held].any()
    assert broken[~held].any()  # it is an attack


def test_splic():
    """Its output depends on the anchors alone, so certificates are for it too."""
    config = SPLICConfig(
        keep_probability=0.2,
        max_steps=7,
        tolerance=0.0,
        mask="shared",
        mask_design="exact",
    )
    apply, deltas = ablation_of(config, (6, 6))
    np.testing.assert_array_equal(deltas, exact_deltas(36, 7))
    images = np.stack([np.ones((6, 6, 3)), np.zeros((6, 6, 3))])
    light = lambda x: jnp.stack([x.mean(axis=(1, 2, 3)), jnp.full(len(x), 0.1)], axis=1)
    options = dict(samples_select=20, samples_estimate=80, chunk=50)
    found = certify(light, images.astype(np.float32), KEY, apply, deltas, **options)
    np.testing.assert_array_equal(found.label, [0, 1])
    best = clopper_pearson_lower(80, 80, 0.05)
    np.testing.assert_array_equal(found.p_lower[1], best)
    assert found.radius[1] == radius_of(best, 1 - best, deltas) > 0
    assert apply.func is purify
    config = SPLICConfig(keep_probability=0.1, mask="shared")
    _, deltas = ablation_of(config, (6, 6))
    np.testing.assert_array_equal(deltas, iid_deltas(36, 0.1))


@pytest.mark.parametrize("design", ["iid", "exact"])
def test_a_mask_for_each_channel(design):
    """How often any channel of the first two pixels is kept, counted in masks."""
    config = SPLICConfig(keep_probability=0.1, mask="independent", mask_design=design)
    _, deltas = ablation_of(config, (4, 4))
    draw = lambda key: sample_mask(key, (4, 4, 3), 0.1, "independent", design)
    masks = jax.vmap(draw)(jax.random.split(KEY, 4000))
    for pixels in (1, 2):
        seen = masks[:, 0, :pixels].any(axis=(1, 2)).mean()
        assert abs(float(seen) - deltas[pixels]) < 4 * 0.5 / np.sqrt(4000)
    assert deltas[0] == 0 and deltas[-1] == 1


def test_answers_that_are_not_finite_count_for_no_class():
    apply, deltas = ablation_of(AblationConfig(), (4, 4))
    never = lambda images: jnp.full((len(images), 2), jnp.nan)
    found = certify(never, toy_images(1), KEY, apply, deltas, samples_estimate=10)
    assert found.label[0] == NO_LABEL and found.abstained[0] and found.radius[0] == -1


def test_refuses():
    for config in (
        BitDepthConfig(),
        SPLICConfig(mask_design="blue_noise"),
    ):
        with pytest.raises(ValueError, match="a certificate"):
            ablation_of(config, (4, 4))
    apply, deltas = ablation_of(AblationConfig(), (4, 4))
    of = lambda images, **options: certify(
        brighter, images, KEY, apply, deltas, **options
    )
    with pytest.raises(ValueError, match="alpha is not ablated"):
        of(np.zeros((1, 4, 4, 4), np.float32))
    with pytest.raises(ValueError, match="deltas must be 26"):
        of(np.zeros((1, 5, 5, 1), np.float32))
    with pytest.raises(ValueError, match="alpha must be in"):
        of(toy_images(1), alpha=1.0)
    with pytest.raises(ValueError, match="samples_select must be"):
        of(toy_images(1), samples_select=0)
    with pytest.raises(ValueError, match="keep_probability must be in"):
        AblationConfig(0.0)
