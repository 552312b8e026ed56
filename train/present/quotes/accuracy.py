"""Blocks about accuracy, clean and under attack."""

from train.present.markdown import markdown
from train.present.quotes.absent import not_yet
from train.present.results import Results
from train.present.sentences import link, made_by, provenance_line
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


def method_table(results: Results) -> str:
    """One row a method, from the registry, with the measured cost."""
    table = defenses.registry(results)
    if not results.has(defenses.FILE):
        return f"{markdown(table.without('cost'))}\n\n{not_yet('What each costs')}"
    splic = results.find(f"{defenses.FILE}#/costs", defense="splic")
    return (
        f"{markdown(table)}\n\nCost: time of an image as a "
        f"multiple of SPLIC's ({1000 * results.value(f'{splic}/seconds'):.1f} ms) in "
        f"one run, {provenance_line(results.record(defenses.FILE))}. "
        f"{link(defenses.FILE)}"
    )
