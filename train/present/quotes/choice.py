"""Blocks of the sweep behind the defaults."""

from collections.abc import Callable

from train.present.markdown import markdown
from train.present.quotes.absent import NO_NUMBER, Block, not_yet
from train.present.results import Results
from train.present.sentences import dataset_name, given_network, made_by
from train.present.table import Table
from train.present.tables import choice

_WHAT = "The sweep in front of {}"


def _block(table: Callable[[Results, str], Table], network: str) -> Block:
    file = choice.file_of(network)

    def block(results: Results) -> str:
        if file not in choice.measured(results):
            return not_yet(_WHAT.format(network))
        return f"{markdown(table(results, file))}\n\n{_note(results, file)}"

    return block


def _note(results: Results, file: str) -> str:
    record = results.record(file)
    held_out = record["rows"][0]["held_out"]["Clean"]["count"]
    met, adaptive = "", choice.adaptive_file_of(file)
    if results.has(adaptive):
        cell = results.value(f"{adaptive}#/cells/0")
        met = f", {cell['count']} where the attack is adaptive ({cell['attack']})"
    return (
        f"{dataset_name(record)}, the {held_out} test images after the "
        f"{record['chosen_on']} for choosing{met}; in front of "
        f"{given_network(record)}; FGSM, PGD-7 and C&W gray-box; 95 % intervals, "
        "Wilson's for accuracies; perturbation: the energy of PGD's that is left; seed "
        f"{record['seed']}. "
        f"{made_by(record, file)}"
    )


def chosen(results: Results) -> str:
    """Which candidate the criterion chooses, from every network measured."""
    files = choice.measured(results)
    if not files:
        return not_yet("The sweep that the defaults are chosen by")
    found = choice.near_the_best(results, files)
    best, count = next(iter(found)), len(choice.candidates(results, files))
    group = results.value(f"{found[best][0]}/group")
    networks = " and ".join(given_network(results.record(file)) for file in files)
    default = choice.default(results, files[0])
    is_default = "`SPLICConfig()` is this setting"
    if default != best:
        is_default = f"`SPLICConfig()` is another: {default or 'none of the sweep'}"
    return (
        f"> {results.record(files[0])['criterion']}\n\n"
        f"By this criterion, of {count} candidates **{best}** ({group}) is chosen, "
        f"from {networks}. Those within two points of the best score, the highest PSNR "
        "first:\n\n"
        f"{markdown(choice.near(results, files))}\n\n{is_default}."
    )


def picture(results: Results) -> str:
    """The picture of each sweep that has been drawn."""
    drawn = [
        f"![Clean against attacked accuracy in front of {network}: every transform a "
        f"point, SPLIC by lambda a curve](../results/{name})"
        for network in choice.NETWORKS
        if results.has(name := choice.file_of(network).replace(".json", ".png"))
    ]
    return "\n\n".join(drawn) or not_yet("The picture of the sweep")


def value(place: str, results: Results) -> str:
    """A number of the sweep: NETWORK/SETTING/COLUMN; "left" is of the perturbation."""
    network, name, column = place.split("/")
    file = choice.file_of(network)
    row = file in choice.measured(results) and choice.row_of(results, file, name)
    if not row:
        return NO_NUMBER
    if column == "left":
        return (
            f"{results.show(f'{row}/perturbation_left/mean', 'whole percent').text} %"
        )
    shown = results.show(f"{row}/held_out/{column}/accuracy", "percent")
    return f"{shown.text} %"


CHOICE: dict[str, Block] = {
    "choice_chosen": chosen,
    "choice_picture": picture,
    "finding_formulas": _block(choice.formulas, "resnet56"),
    **{
        f"choice_{name}_{network}": _block(table, network)
        for network in choice.NETWORKS
        for name, table in (
            ("lambda", choice.by_lambda),
            ("settings", choice.settings),
            ("transforms", choice.transforms),
        )
    },
}
