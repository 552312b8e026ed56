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


def cue_conflict(results: Results) -> str:
    """Accuracy by shape where shape and texture disagree."""
    lists = {name: f"cue_conflict_{name}.json#/cells" for name in NETWORKS}
    count = results.value("cue_conflict_bare.json#/dataset/count")
    return (
        f"{_by_network(results, lists)}\n\n"
        f"`shapes`, {count} images whose texture is that of another class; networks of "
        "the quickstart. [bare](results/cue_conflict_bare.json), "
        "[splic](results/cue_conflict_splic.json)"
    )


def cifar10(results: Results) -> str:
    """CIFAR-10: the same for a network trained bare and one on purified images."""
    lists = {name: f"cifar10_{name}.json#/cells" for name in NETWORKS}
    record = results.record("cifar10_bare.json")
    network, gaps = record["network"], []
    for where, threat in (("clean", "clean"), ("attacked", "gray-box")):
        row = results.find("cifar10_bare.json#/comparisons", other="srf", threat=threat)
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


def cost_of_purifying(results: Results) -> str:
    """What purification costs in clean accuracy, with and without retraining."""
    count = results.value("cifar10_splic.json#/dataset/count")
    return (
        f"{markdown(accuracy.cost_of_purifying(results))}\n\nThe first {count} test "
        "images. [bare](../results/cifar10_bare.json), "
        "[splic](../results/cifar10_splic.json)"
    )


def adaptive(results: Results) -> str:
    """What attacks that know the defence leave of it, at equal budgets."""
    record = results.record("adaptive.json")
    return (
        f"{markdown(accuracy.adaptive(results))}\n\n"
        f"{dataset_name(record)}, the first {record['dataset']['count']} test images; "
        f"`{record['network']['settings']['model']}` network trained on purified "
        f"images; PGD, L-infinity, {255 * record['epsilon']:g}/255, "
        f"{record['budget']} gradients an image; mean over {record['evaluations']} new "
        f"masks with its 95 % interval, and their majority; seed {record['seed']}. "
        f"{made_by(record, 'adaptive.json')}"
    )


def network_line(results: Results) -> str:
    """The network behind all defences, on what it was measured, and the file."""
    record = results.record(defenses.FILE)
    settings, training = (record["network"][x] for x in ("settings", "training_set"))
    return (
        f"{dataset_name(record)}, the first {record['dataset']['count']} test images; "
        f"`{settings['model']}` network trained on {training['num_train']:,} images as "
        f"they are, {settings['epochs']} epochs; seed {record['seed']}; "
        f"{made_by(record, defenses.FILE)}"
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


def methods(results: Results) -> str:
    """Every method in front of one network, gray-box."""
    return (
        f"{markdown(defenses.methods(results))}\n\nBy accuracy under PGD. Gray-box: "
        "FGSM, and PGD-7 with steps of 2/255, in the L-infinity ball of 8/255 on the "
        f"network alone; 95 % Wilson intervals; PSNR in dB. {network_line(results)}"
    )


def sweeps(results: Results) -> str:
    """SPLIC with one setting changed at a time."""
    return f"{markdown(defenses.sweeps(results))}\n\n{network_line(results)}"


def votes(results: Results) -> str:
    """Random methods that draw several times for each answer."""
    return (
        f"{markdown(defenses.votes(results))}\n\nThe mean of the logits decides. "
        f"{network_line(results)}"
    )


def formulas(results: Results) -> str:
    """The formulas as derived and as printed, and SPLIC with and without TV."""
    return f"{markdown(defenses.formulas(results))}\n\n{network_line(results)}"
