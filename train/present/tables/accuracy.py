"""Accuracy, clean and under attack."""

from collections.abc import Mapping

from splic_jax import METHODS
from train.present.results import Results
from train.present.sentences import dataset_name
from train.present.table import Column, Table, make_table

NETWORKS = {"bare": "images as they are", "splic": "purified images"}


def defense_title(name: str) -> str:
    """What a defence is called."""
    return METHODS[name].title if name in METHODS else name


def cells(results: Results, lists: Mapping[str, str]) -> Table:
    """Cells of an evaluation, a row each.

    Args:
        results: where to look.
        lists: source of the cells by network, one of `NETWORKS` or how to call it.
    """
    network = {row: name for name, at in lists.items() for row in results.each(at)}
    columns = (
        Column(
            "network trained on",
            lambda row: NETWORKS.get(network[row], network[row]),
            words=True,
        ),
        Column(
            "defence",
            lambda row: defense_title(results.value(f"{row}/defense")),
            words=True,
        ),
        Column("threat", "/threat", words=True),
        Column("attack", "/attack", words=True),
        Column("images", "/count", "integer"),
        Column("accuracy, %", "/accuracy", "percent"),
        Column("95 % interval", "/accuracy_interval", "interval"),
        Column("PSNR, dB", "/psnr_db/mean", ":.2f"),
    )
    return make_table(results, "Accuracy", columns, network)


def cost_of_purifying(results: Results) -> Table:
    """What purification costs in clean accuracy, with and without retraining."""

    def clean(network: str, defense: str) -> str:
        found = results.find(
            f"cifar10_{network}.json#/cells", threat="clean", defense=defense
        )
        assert found is not None
        return f"{found}/accuracy"

    images = dataset_name(results.record("cifar10_bare.json"))
    return make_table(
        results,
        "Clean accuracy",
        (
            Column("images", lambda _: images, words=True),
            Column("network trained on", lambda name: NETWORKS[name], words=True),
            *(
                Column(head, lambda n, d=defense: results.show(clean(n, d), "percent"))
                for head, defense in (("bare %", "none"), ("behind SPLIC %", "splic"))
            ),
        ),
        NETWORKS,
    )
