"""Blocks that set our numbers beside the paper's."""

from collections.abc import Mapping
from typing import Any

from train.present.markdown import markdown
from train.present.quotes.absent import not_yet
from train.present.results import PRINTED, Results
from train.present.sentences import dataset_name, given_network, link, provenance_line
from train.present.tables import paper
from train.present.tables.listed import listed

_FIGURE = "docs/purified.png"


def cited(name: str, results: Results) -> str:
    """A value of others that the pages cite; `printed.json` says whose."""
    return f"{results.show(f'{PRINTED}#/cited/{name}', 'printed').text} %"


def reproduced_table(number: int, results: Results) -> str:
    """A table of the paper as `reproduce` measured it, beside the printed values."""
    file = paper.file_of(number)
    if not paper.is_finished(results, file):
        return not_yet(f"Table {number}")
    record = results.record(file)
    apart, count = paper.outside(record["comparison"])
    verdict = "the paper prints none of these"
    if count:
        verdict = (
            f"{apart} of {count} printed values disagree, that is lie outside our "
            "interval"
        )
    return (
        f"{markdown(listed(results, 'reproduced', number=number))}\n\n"
        f"Table {number}, {record['title']}: {verdict}. {_of_what(record)}; "
        f"{provenance_line(record)}. {link(file)}"
    )


def _of_what(record: Mapping[str, Any]) -> str:
    """Images, network, scale and seed of a reproduction, in words."""
    counts = " or ".join(map(str, sorted({cell["count"] for cell in record["cells"]})))
    facts = [f"{dataset_name(record)}, {counts} test images"]
    if "given" in record:
        facts.append(f"Vanilla is {given_network(record)}")
    scale = record["scale"]
    facts += [f"scale {scale['name']}: {scale['about']}", f"seed {record['seed']}"]
    return "; ".join(facts)


def reproduced_figure(number: int, results: Results) -> str:
    """A sweep of the paper as `reproduce` measured it: a row for each of its rows."""
    file = f"reproduction/figure{number}.json"
    if not paper.is_finished(results, file):
        return not_yet(f"Figure {number}")
    record = results.record(file)
    facts = [
        f"Figure {number}, {record['title']}",
        _of_what(record),
        provenance_line(record),
    ]
    for column, db in record.get("splic_minus_srf_db", {}).items():
        mean, width = db["mean"], db["half_width"]
        facts.insert(
            1, f"PSNR of SPLIC less SRF's, {column}: {mean:+.2f} +- {width:.2f} dB"
        )
    table = markdown(paper.swept(results, file))
    return f"{table}\n\n{'; '.join(facts)}. {link(file)}"


def purified(results: Results) -> str:
    """The first figure of the README, and how often its network is right."""
    file = "reproduction/figure3.json"
    if not paper.is_finished(results, file):
        return not_yet("The first figure, of images attacked and purified,")
    record = results.record(file)
    labels = record["labels"]
    clean, attacked, purified = (
        sum(map(int.__eq__, labels, answers))
        for answers in record["predicted"].values()
    )
    return (
        f"![{len(labels)} test images, clean, attacked, and purified after the attack, "
        f"with a network's answers]({_FIGURE})\n\n"
        f"{len(labels)} test images with the answers of {given_network(record)}: "
        f"right on {clean} of them clean, {attacked} attacked and {purified} attacked "
        f"and purified. {record['attack']}; {dataset_name(record)}."
    )
