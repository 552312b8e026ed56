"""Blocks that set our numbers beside the paper's."""

from train.present.markdown import markdown
from train.present.results import PRINTED, Results
from train.present.sentences import dataset_name, link, provenance_line
from train.present.tables import paper
from train.present.tables.listed import listed


def printed_value(table: int, method: str, column: str, results: Results) -> str:
    """A value that the paper prints for CIFAR-10."""
    source = paper.printed(results, table, method, column)
    return f"{results.show(source, 'printed').text} %"


def cited(name: str, results: Results) -> str:
    """A value of others that the pages cite; `printed.json` says whose."""
    return f"{results.show(f'{PRINTED}#/cited/{name}', 'printed').text} %"


def reproduced_table(number: int, results: Results) -> str:
    """A table of the paper as `reproduce` measured it, beside the printed values."""
    file = f"reproduction/table{number}.json"
    if not paper.is_finished(results, file):
        return f"Table {number} has not been run on real images yet."
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
        f"Table {number}, {record['title']}: {verdict}. "
        f"{dataset_name(record)}; scale {record['scale']['name']}: "
        f"{record['scale']['about']}; seed {record['seed']}; "
        f"{provenance_line(record)}. {link(file)}"
    )


def reproduced_figure(number: int, results: Results) -> str:
    """A sweep of the paper as `reproduce` measured it: a row for each of its rows."""
    file = f"reproduction/figure{number}.json"
    if not paper.is_finished(results, file):
        return f"Figure {number} has not been run on real images yet."
    record = results.record(file)
    counts = sorted({cell["count"] for cell in record["cells"]})
    facts = [
        f"Figure {number}, {record['title']}",
        f"{dataset_name(record)}, {' or '.join(map(str, counts))} test images, scale "
        f"{record['scale']['name']}, seed {record['seed']}",
        provenance_line(record),
    ]
    for column, db in record.get("splic_minus_srf_db", {}).items():
        mean, width = db["mean"], db["half_width"]
        facts.insert(
            1, f"PSNR of SPLIC less SRF's, {column}: {mean:+.2f} +- {width:.2f} dB"
        )
    table = markdown(paper.swept(results, file))
    return f"{table}\n\n{'; '.join(facts)}. {link(file)}"
