"""Writes the tables that README.md and docs/ quote from the files in results/.

    python -m train.quote

Each stands between a pair of comments, ``<!-- name -->`` and ``<!-- end name -->``;
what lies between them is replaced. A test fails where the two differ.
"""

import functools
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from train import errors, quote_defenses, quote_findings, quote_gpu
from train.errors import UserError
from train.markdown import dataset_name, markdown_table, provenance_line

_DOCS = ("formulas", "performance", "attacks", "defenses", "findings")
ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ("README.md", *(f"docs/{page}.md" for page in _DOCS))


def accuracy_table(networks: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One row for each network and cell, with the 95 % Wilson interval."""
    rows = [["network trained on", "defence", "threat", "accuracy, %", "95 % interval"]]
    words = {"bare": "images as they are", "splic": "purified images"}
    for name, cells in networks.items():
        for cell in cells:
            low, high = cell["accuracy_interval"]
            defense = {
                "none": "none",
                "splic": "SPLIC",
                "splic_no_tv": "SPLIC without TV",
            }
            rows.append(
                [
                    words[name],
                    defense[cell["defense"]],
                    cell["threat"],
                    f"{100 * cell['accuracy']:.1f}",
                    f"{100 * low:.1f} to {100 * high:.1f}",
                ]
            )
    return markdown_table(rows, 3)


def quickstart(results: pathlib.Path) -> str:
    """The quickstart's table."""
    record = json.loads((results / "quickstart.json").read_text())
    training = record["training"]["bare"]
    return (
        f"{accuracy_table(record['networks'])}\n\n"
        f"`shapes`, {record['dataset']['count']} test images, "
        f"{training['num_train']} training images, {training['epochs']} epochs, seed "
        f"{record['seed']}; PGD-{record['attack']['steps']} at "
        f"{255 * record['attack']['epsilon']:g}/255. It took "
        f"{record['cost']['cpu_minutes']:.1f} CPU-minutes, and "
        f"{record['cost']['seconds_to_first_work']:.1f} s to begin: "
        f"{provenance_line(record)}. [results/quickstart.json](results/quickstart.json)"
    )


def cue_conflict(results: pathlib.Path) -> str:
    """Accuracy by shape where shape and texture disagree."""
    records = {
        name: json.loads((results / f"cue_conflict_{name}.json").read_text())
        for name in ("bare", "splic")
    }
    table = accuracy_table({name: record["cells"] for name, record in records.items()})
    count = records["bare"]["dataset"]["count"]
    return (
        f"{table}\n\n"
        f"`shapes`, {count} images whose texture is that of another class; networks of "
        "the quickstart. [bare](results/cue_conflict_bare.json), "
        "[splic](results/cue_conflict_splic.json)"
    )


def cifar10(results: pathlib.Path) -> str:
    """CIFAR-10: the same for a network trained bare and one on purified images."""
    names = ("bare", "splic")
    records = {
        name: json.loads((results / f"cifar10_{name}.json").read_text())
        for name in names
    }
    networks = {name: record["cells"] for name, record in records.items()}
    record = records["bare"]
    settings = record["network"]["settings"]
    gaps = {
        row["threat"]: row["psnr_difference_db"]
        for row in record["comparisons"]
        if row["other"] == "splic_no_tv"
    }
    tv = " and ".join(
        f"{gap['mean']:+.2f} dB (+- {gap['half_width']:.2f}) on {where} images"
        for where, gap in (("clean", gaps["clean"]), ("attacked", gaps["gray-box"]))
    )
    return (
        f"{accuracy_table(networks)}\n\n"
        f"{dataset_name(record)}; the first {record['dataset']['count']} test images; "
        f"`{settings['model']}` network, "
        f"{record['network']['training_set']['num_train']:,} training images, "
        f"{settings['epochs']} epochs; seed {record['seed']}. The total variation "
        f"changes the PSNR of the purified images by {tv}, paired, 95 %. "
        "[bare](results/cifar10_bare.json), [splic](results/cifar10_splic.json)"
    )


def gradients(results: pathlib.Path) -> str:
    """Accuracy and cost of the ways to the gradient of the smoothed rank."""
    record = json.loads((results / "gradients.json").read_text())
    routes = ("stable", "singular values", "singular vectors")
    rows = [
        ["", *(f"`jax.grad`, {'' if r == 'stable' else 'through '}{r}" for r in routes)]
    ]
    rows[0][1] += " form"
    for kind in dict.fromkeys(row["matrix"] for row in record["failures"]):
        cells = [kind]
        for route in routes:
            (row,) = (
                row
                for row in record["failures"]
                if (row["matrix"], row["route"]) == (kind, route)
            )
            error = row["gradient_error"]
            second = "" if row["second_derivative_finite"] else ", second NaN"
            cells.append("NaN" if error is None else f"{error:.0e}{second}")
        rows.append(cells)
    for size, batch in ((32, 16), (256, 1)):
        times = {
            row["route"]: f"{row['ratio_to_closed_form']:.2g} x"
            for row in record["timings"]
            if (row["size"], row["batch"]) == (size, batch)
        }
        name = f"time, {size} x {size}, batch {batch}"
        rows.append([name, *(times[route] for route in routes)])
    return (
        f"{markdown_table(rows, 1)}\n\n"
        "Error of the gradient in float32 at delta = sigma_1 / 2, as a share of the "
        "largest it can be (and whether the second derivative is NaN), by kind of "
        "matrix, 32 x 32; time as a multiple of the closed form (9) in the same run. "
        f"{provenance_line(record)}. [results/gradients.json](results/gradients.json)"
    )


def stopping(results: pathlib.Path) -> str:
    """What the two stopping parameters cost and bring."""
    record = json.loads((results / "stopping.json").read_text())
    heads = "tolerance, max_steps, steps taken, PSNR clean dB, noisy dB, error if flat"
    rows = [heads.split(", ")]
    for row in record["rows"]:
        rows.append(
            [
                f"{row['tolerance']:g}",
                str(row["max_steps"]),
                f"{row['noisy']['mean_steps']:.0f}",
                f"{row['clean']['psnr_db']['mean']:.2f}",
                f"{row['noisy']['psnr_db']['mean']:.2f}",
                f"{row['flat_error']:.4f}",
            ]
        )
    dataset = record["dataset"]
    return (
        f"{markdown_table(rows, 0)}\n\n"
        f"{dataset_name(record)}, the first {dataset['count']} "
        f"test images; {provenance_line(record)}. "
        "[results/stopping.json](../results/stopping.json)"
    )


def _speed(results: pathlib.Path, section: str) -> dict[str, Any]:
    return json.loads((results / "speed.json").read_text())[section]


def _from_speed(record: Mapping[str, Any]) -> str:
    source = "[results/speed.json](../results/speed.json)"
    return f"{provenance_line(record)}. {source}"


def purification_speed(results: pathlib.Path) -> str:
    """Milliseconds an image of each way to purify."""
    record = _speed(results, "purify")
    rows = [["work", "way", "images", "ms an image", "times as long as the fast one"]]
    for row in record["rows"]:
        cells = [row["work"], row["way"], f"{row['images']:,}"]
        rows.append([*cells, f"{row['ms_per_image']:,.1f}", f"{row['ratio']:.1f}"])
    return (
        f"{markdown_table(rows, 2)}\n\n"
        f"{record['devices']} devices; median of {len(record['rows'][0]['seconds'])} "
        f"runs after one that compiles. {_from_speed(record)}"
    )


def agreement(results: pathlib.Path) -> str:
    """Differences between the two solvers."""
    record = _speed(results, "agreement")
    bar, head = record["bar"], ["images", "settings", "mean difference"]
    head += [f"within {bar['near']:g}, %", "PSNR, dB", "accuracy, %", "p"]
    rows = [head]
    for row in record["rows"]:
        settings = ", ".join(f"{k}={v}" for k, v in row["settings"].items())
        psnr = row["psnr_fast_minus_exact_db"]
        rows.append(
            [
                row["images"],
                f"`{settings}`" if settings else "defaults",
                f"{row['mean_difference']:.1e}",
                f"{100 * row['share_near']:.3f}",
                f"{psnr['mean']:+.4f} +- {psnr['half_width']:.4f}",
                f"{100 * row['accuracy_fast']:.1f}, {100 * row['accuracy_exact']:.1f}",
                f"{row['accuracy_p']:.2g}",
            ]
        )
    return (
        f"{markdown_table(rows, 2)}\n\n"
        f"{dataset_name(record)}, the first {record['dataset']['count']:,} test "
        "images, the same masks for both; PSNR: fast less exact, paired, 95 %; "
        "accuracy: fast, exact, of the network trained on images as they are; p: "
        "McNemar's exact test. "
        f"{_from_speed(record)}"
    )


def training_speed(results: pathlib.Path) -> str:
    """Training steps a second."""
    record = _speed(results, "training")
    rows = [["network", "compute", "steps a second", "minutes an epoch"]]
    for row in record["training"]:
        rows.append(
            [
                row["model"],
                row["compute_dtype"],
                f"{row['steps_per_second']:.2f}",
                f"{row['epoch_seconds'] / 60:.1f}",
            ]
        )
    return f"{markdown_table(rows, 2)}\n\n{_from_speed(record)}"


def profile(results: pathlib.Path) -> str:
    """Where a step's time goes, and what fewer rounds or compaction would bring."""
    record = _speed(results, "profile")
    steps, parts = record["step"], {}
    head = ["part of a step"]
    for step in steps:
        head += [f"us, {step['side']} x {step['side']}", "GFLOP/s", "% fixed cost"]
        for row in step["rows"]:
            if row["kind"] == "product":
                continue
            flops = f"{row['gflops']:.0f}" if row["multiply_adds"] else ""
            fixed = f"{100 * row['share_of_fixed_cost']:.1f}"
            cells = [f"{row['microseconds']:,.1f}", flops, fixed]
            parts.setdefault(row["name"], []).extend(cells)
    of_step = [head, *([name, *cells] for name, cells in parts.items())]
    heads = "images, rounds, PSNR dB, less that of all dB, mean difference, time"
    of_rounds = [heads.split(", ")]
    for row in record["rounds"]:
        above = row["psnr_above_full_db"]
        of_rounds.append(
            [
                row["images"],
                str(row["rounds"]),
                f"{row['psnr_db']['mean']:.2f}",
                f"{above['mean']:+.3f} +- {above['half_width']:.3f}",
                f"{row['mean_difference']:.1e}",
                f"{row['time_ratio']:.2f}",
            ]
        )
    of_stopping = [["images", "pass", "steps of a matrix", "of its group", "ratio"]]
    for row in record["stopping"]:
        steps_taken = (row["mean_steps"], row["mean_steps_of_group"])
        cells = [row["images"], str(row["pass"]), *(f"{s:.1f}" for s in steps_taken)]
        of_stopping.append([*cells, f"{row['ratio']:.3f}"])
    sizes = " and ".join(
        f"{step['matrices']} of {step['side']} x {step['side']} (rank {step['rank']}, "
        f"{step['vectors']} vectors; a large product runs at "
        f"{step['peak_gflops']:.0f} GFLOP/s, the smallest operation takes "
        f"{step['operation_microseconds']:.3f} us)"
        for step in steps
    )
    dataset = record["dataset"]
    return (
        f"{markdown_table(of_step, 1)}\n\n"
        f"Microseconds a matrix, on one core: {sizes}. GFLOP/s and cost count the "
        "matrix products and the operations of the compiled program.\n\n"
        f"{markdown_table(of_rounds, 1)}\n\n"
        f"{markdown_table(of_stopping, 1)}\n\n"
        f"{dataset_name(record)}, the first {dataset['count']} "
        "test images, clean and with +-8/255 on every value; PSNR against the clean "
        f"image, the difference paired, 95 %. {_from_speed(record)}"
    )


def adaptive(results: pathlib.Path) -> str:
    """What attacks that know the defence leave of it, at equal budgets."""
    record = json.loads((results / "adaptive.json").read_text())
    heads = "attack through, steps, masks a step, accuracy %, by vote %"
    rows = [heads.split(", ")]
    for row in record["rows"]:
        accuracy = row["accuracy"]
        rows.append(
            [
                row["attack"],
                str(row["steps"] or "-"),
                str(row["masks_a_step"] or "-"),
                f"{100 * accuracy['mean']:.1f} +- {100 * accuracy['half_width']:.1f}",
                f"{100 * row['majority']:.1f}",
            ]
        )
    settings = record["network"]["settings"]
    return (
        f"{markdown_table(rows, 1)}\n\n"
        f"{dataset_name(record)}, the first {record['dataset']['count']} test images; "
        f"`{settings['model']}` network trained on purified images; PGD, L-infinity, "
        f"{255 * record['epsilon']:g}/255, {record['budget']} gradients an image; mean "
        f"over {record['evaluations']} new masks with its 95 % interval, and their "
        f"majority; seed {record['seed']}. {provenance_line(record)}. "
        "[results/adaptive.json](../results/adaptive.json)"
    )


def attack_speed(results: pathlib.Path) -> str:
    """Images attacked per second, and other libraries' time as a multiple of ours."""
    record = json.loads((results / "attacks.json").read_text())
    libraries = list(dict.fromkeys(row["library"] for row in record["rows"]))
    rows = [["attack", "images a second", *(f"{x}, time" for x in libraries[1:])]]
    for work in dict.fromkeys(row["work"] for row in record["rows"]):
        found = {row["library"]: row for row in record["rows"] if row["work"] == work}
        ratios = [
            f"{found[name]['ratio']:.2f} x" if name in found else ""
            for name in libraries[1:]
        ]
        ours = f"{found[libraries[0]]['images_per_second']:,.1f}"
        rows.append([work, ours, *ratios])
    return (
        f"{markdown_table(rows, 1)}\n\n"
        f"Batch of {record['dataset']['count']}; times as multiples of ours, medians "
        f"of runs that take turns, after one that compiles. {provenance_line(record)}. "
        "[results/attacks.json](../results/attacks.json)"
    )


def tests(results: pathlib.Path) -> str:
    """What the tests cost."""
    record = json.loads((results / "tests.json").read_text())
    titles = {
        "cold": "fresh clone, with the installation",
        "warm": "once more",
        "all": "once more, with `--all`",
    }
    rows = [["run", "CPU-minutes", "of which pytest", "minutes", "passed", "skipped"]]
    for name, run in record["runs"].items():
        numbers = ("cpu_minutes", "cpu_minutes_of_pytest", "wall_minutes")
        rows.append(
            [
                titles[name],
                *(f"{run[number]:.1f}" for number in numbers),
                *(str(run["cases"].get(kind, 0)) for kind in ("passed", "skipped")),
            ]
        )
    return (
        f"{markdown_table(rows, 1)}\n\n"
        f"{provenance_line(record)}. By folder: "
        "[results/tests.json](results/tests.json)"
    )


BLOCKS: dict[str, Callable[[pathlib.Path], str]] = {
    "quickstart": quickstart,
    "cue_conflict": cue_conflict,
    "cifar10": cifar10,
    "gradients": gradients,
    "tests": tests,
    "stopping": stopping,
    "purification_speed": purification_speed,
    "agreement": agreement,
    "profile": profile,
    "training_speed": training_speed,
    "adaptive": adaptive,
    "attack_speed": attack_speed,
    "gpu_in_short": quote_gpu.gpu_in_short,
    "gpu_speed": quote_gpu.gpu_speed,
    "gpu_kernel": quote_gpu.gpu_kernel,
    "gpu_compiled": quote_gpu.gpu_compiled,
    "gpu_training": quote_gpu.gpu_training,
    "gpu_table3": quote_gpu.gpu_table3,
    "gpu_white_box": quote_gpu.gpu_white_box,
    "gpu_attack_speed": quote_gpu.gpu_attack_speed,
    "method_table": quote_defenses.method_table,
    "defenses_small": quote_defenses.defenses_small,
    "defenses_sweeps": quote_defenses.defenses_sweeps,
    "defenses_votes": quote_defenses.defenses_votes,
    "finding_table3": quote_findings.finding_table3,
    "finding_formulas": quote_findings.finding_formulas,
    "finding_cost": quote_findings.finding_cost,
    **{
        f"reproduced_table{n}": functools.partial(quote_findings.reproduced_table, n)
        for n in (1, 2, 3, 4)
    },
    **{
        f"reproduced_figure{n}": functools.partial(quote_findings.reproduced_figure, n)
        for n in (6, 7, 9, 11, 12)
    },
}


def fill(text: str, results: pathlib.Path) -> str:
    """`text` with every block replaced by what `results` holds.

    Raises:
        UserError: if a block's file is missing.
    """

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        try:
            return f"<!-- {name} -->\n{BLOCKS[name](results)}\n<!-- end {name} -->"
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is quoted, but missing") from error

    names = "|".join(BLOCKS)
    pattern = rf"<!-- (?P<name>{names}) -->\n.*?<!-- end (?P=name) -->"
    return re.sub(pattern, replace, text, flags=re.DOTALL)


def main(argv: Sequence[str]) -> None:
    del argv
    for page in PAGES:
        path = ROOT / page
        path.write_text(fill(path.read_text(), ROOT / "results"))


if __name__ == "__main__":
    errors.run(main)
