"""Blocks about accuracy, clean and under attack."""

from train.present.markdown import markdown
from train.present.results import Results
from train.present.sentences import dataset_name, link, made_by, provenance_line
from train.present.tables import accuracy, defenses
from train.present.tables.accuracy import NETWORKS


def _by_network(results: Results, lists: dict[str, str]) -> str:
    table = accuracy.cells(results, lists)
    return markdown(table.without("attack", "images", "PSNR, dB"))


def quickstart(results: Results) -> str:
    """The quickstart's table."""
    record = results.record("quickstart.json")
    training, cost = record["training"]["bare"], record["cost"]
    lists = {name: f"quickstart.json#/networks/{name}" for name in NETWORKS}
    return (
        f"{_by_network(results, lists)}\n\n"
        f"`shapes`, {record['dataset']['count']} test images, "
        f"{training['num_train']} training images, {training['epochs']} epochs, seed "
        f"{record['seed']}; PGD-{record['attack']['steps']} at "
        f"{255 * record['attack']['epsilon']:g}/255. It took "
        f"{cost['cpu_minutes']:.1f} CPU-minutes, and "
        f"{cost['seconds_to_first_work']:.1f} s to begin: "
        f"{made_by(record, 'quickstart.json', '')}"
    )


def cifar10(results: Results) -> str:
    """CIFAR-10: the same for a network trained bare and one on purified images."""
    lists = {name: f"cifar10_{name}.json#/cells" for name in NETWORKS}
    record = results.record("cifar10_bare.json")
    network, gaps = record["network"], []
    for where, threat in (("clean", "clean"), ("attacked", "gray-box")):
        row = results.find(
            "cifar10_bare.json#/comparisons", other="splic_no_tv", threat=threat
        )
        gap = results.value(f"{row}/psnr_difference_db")
        gaps.append(
            f"{gap['mean']:+.2f} dB (+- {gap['half_width']:.2f}) on {where} images"
        )
    return (
        f"{_by_network(results, lists)}\n\n"
        f"{dataset_name(record)}; the first {record['dataset']['count']} test images; "
        f"`{network['settings']['model']}` network, "
        f"{network['training_set']['num_train']:,} training images, "
        f"{network['settings']['epochs']} epochs; seed {record['seed']}. The total "
        f"variation changes the PSNR of the purified images by {' and '.join(gaps)}, "
        "paired, 95 %. "
        "[bare](results/cifar10_bare.json), [splic](results/cifar10_splic.json)"
    )


def method_table(results: Results) -> str:
    """One row a method, from the registry, with the measured cost."""
    splic = results.find(f"{defenses.FILE}#/costs", defense="splic")
    return (
        f"{markdown(defenses.registry(results))}\n\nCost: time of an image as a "
        f"multiple of SPLIC's ({1000 * results.value(f'{splic}/seconds'):.1f} ms) in "
        f"one run, {provenance_line(results.record(defenses.FILE))}. "
        f"{link(defenses.FILE)}"
    )
