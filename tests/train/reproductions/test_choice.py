"""The sweep of settings: what is compared, and by which criterion."""

import json
from types import SimpleNamespace

import drawn
import jax
import numpy as np
import pytest

from splic_jax import SPLICConfig
from train.data.loading import Dataset
from train.reproductions import choice
from train.reproductions.scales import SCALES


def test_candidates_keep_what_makes_the_method():
    candidates = [v.config for v in choice.VARIANTS.values() if v.candidate]
    assert len(candidates) > 20
    for config in candidates:
        assert config.alternate and config.rank_cut and config.rank is None
        assert config.keep_probability == 0.5
        assert (config.step_scaling, config.tv_form) == ("relative", "exact")


def test_a_setting_is_the_same_whatever_the_defaults_are(monkeypatch):
    config = choice.VARIANTS["separate, lambda 0.02"].config
    paper = SPLICConfig.paper()
    assert (config.tv_weight, config.channels) == (paper.tv_weight, paper.channels)
    assert choice.BASE.channels == "separate" and choice.BASE.mask == "shared"


def test_every_setting_is_measured_clean_and_under_three_attacks():
    scale = SCALES["workstation"]
    cells = choice.cells_of(scale)
    for name in choice.VARIANTS:
        found = [cell.column for cell in cells if cell.row == name]
        assert found == ["Clean", "FGSM", "PGD", "CW"]
    adaptive = choice.adaptive_cells_of(scale)
    some = [name for name, variant in choice.VARIANTS.items() if variant.adaptive]
    assert [cell.row for cell in adaptive] == some
    attacks = {cell.attack for cell in adaptive}
    assert attacks == {"sweep-eot", "bpda"}
    assert scale.attacks()["bpda"].steps == scale.attacks()["sweep-eot"].steps


def test_the_score_is_by_the_strongest_attack_on_the_images_for_choosing():
    answers = {"Clean": "1110", "FGSM": "1100", "PGD": "1000", "CW": "1111"}
    # On the first two: clean 1, least attacked 1/2.
    assert choice.score(answers, slice(2)) == 0.75
    assert choice.score(answers, slice(None)) == (0.75 + 0.25) / 2


def test_the_pareto_front_has_what_nothing_beats():
    places = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (0.5, 5.0), (3.0, 1.0)]
    assert set(choice.pareto(places)) == {(1.0, 5.0), (2.0, 4.0), (3.0, 1.0)}


@pytest.fixture
def workshop():
    """What the sweep needs of one: a linear network for two classes."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, 16, 3, 2)).astype(np.float32)
    images = rng.integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1], np.int32)
    return SimpleNamespace(
        scale=SCALES["smoke"],
        whole_test=Dataset("shapes", images, labels, ("a", "b")),
        keys=lambda: tuple(jax.random.split(jax.random.key(0))),
        logits=lambda name: jax.tree_util.Partial(
            lambda images: jax.numpy.einsum("nhwc,hwck->nk", images, weights)
        ),
        fitted=lambda config: config,
    )


def test_no_transform_leaves_the_whole_perturbation(workshop):
    found = choice.perturbation_left(workshop, choice.variants_of(workshop.scale))
    assert found["none"]["perturbation_left"]["mean"] == 1
    assert found["none"]["change_of_clean"]["mean"] == 0
    weak, strong = (found[f"separate, lambda {x}"] for x in ("0.02", "0.15"))
    # Total variation takes out more of what an attack adds.
    left = strong["perturbation_left"]["mean"]
    assert 0 < left < weak["perturbation_left"]["mean"]


def test_draws_points_with_their_names_and_keeps_the_numbers(workshop, tmp_path):
    cells = [
        {
            "row": variant.name,
            "column": column,
            "correct_by_image": answers,
            "psnr_db_by_image": [20.0, 22.0, None, 24.0, 30.0, 30.0],
        }
        for variant in choice.variants_of(workshop.scale)
        for column, answers in (
            ("Clean", "110111"),
            ("FGSM", "100101"),
            ("PGD", "100100"),
            ("CW", "110110"),
        )
    ]
    record = choice.draw(workshop, cells, tmp_path / "choice")
    json.dumps(record)
    assert record["criterion"] == choice.CRITERION
    for row in record["rows"]:
        assert row["score_where_chosen"] == (0.75 + 0.5) / 2  # of the first four
        assert row["psnr_where_chosen"] == 22
        assert row["held_out"]["PGD"]["accuracy"] == 0.0
        assert row["held_out"]["Clean"]["count"] == 2
    words = drawn.words_of(tmp_path / "choice.svg")
    assert {"no defence", "0.02", "0.15", "Pareto front"} <= set(words)
