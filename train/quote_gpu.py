"""The tables of what was measured on a GPU, from the files in results/gpu/."""

import json
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from train.markdown import markdown_table, provenance_line

_NETWORKS = {
    "vanilla": "images as they are",
    "splic": "purified images",
    "fast_at": "attacked images (fast adversarial training)",
    "splic_fast_at": "images attacked through SPLIC, purified",
}
_ROWS = {
    "none": "none",
    "splic_printed": "SPLIC, lambda 0.02",
    "splic_chosen": "SPLIC, lambda 0.15",
    "splic_no_tv": "SPLIC without TV (lambda 0)",
    "tv_minimisation": "TV minimisation",
    "jpeg": "JPEG, quality 75",
    "bilateral": "bilateral",
    "guided": "guided",
}


def _read(results: pathlib.Path, name: str) -> Any:
    return json.loads((results / "gpu" / f"{name}.json").read_text())


def _from(record: Mapping[str, Any], name: str, up: str = "../") -> str:
    link = f"[results/gpu/{name}.json]({up}results/gpu/{name}.json)"
    return f"{provenance_line(record)}. {link}"


def _percent(found: Mapping[str, float]) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['accuracy']:.1f} ({low:.1f} to {high:.1f})"


def _rates(record: Mapping[str, Any]) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """What was done, how, and how the slowest way to it is called."""
    speed, gradient, large = (record[key] for key in ("speed", "gradient", "large"))
    channels = {"separate": "", "concatenated": ", channels concatenated"}
    rows = []
    for name, words in channels.items():
        for way in ("fast", "tracked", "exact"):
            rows.append((f"32 x 32{words}", way, f"{way}, {name}", speed))
    for name, words in channels.items():
        for way in ("tracked", "exact"):
            rows.append((f"224 x 224{words}", way, f"{way}, {name}", large))
    for way in ("tracked", "exact"):
        rows.append(("derivative, 32 x 32", way, way, gradient))
    return rows


def gpu_speed(results: pathlib.Path) -> str:
    """Images purified a second."""
    record = _read(results, "completion")
    ways = {"fast": "fast: a kernel", "tracked": "tracked: XLA", "exact": "exact"}
    found = [
        (work, way, part[key]["images"], _per_second(part[key]))
        for work, way, key, part in _rates(record)
    ]
    exact = {work: rate for work, way, _, rate in found if way == "exact"}
    rows = [["work", "way", "images", "images a second", "times exact"]]
    for work, way, images, rate in found:
        times = rate / exact[work]
        rows.append([work, ways[way], f"{images:,}", _three(rate), f"{times:,.1f}"])
    work, peaks = _read(results, "work"), _read(results, "check")
    counts = work["counts"]
    flops = 2 * counts["multiply_adds_per_image"]
    least = peaks["float32_tflops"] * 1e12 / flops
    share = _per_second(record["speed"]["fast, separate"]) / least
    return (
        f"{markdown_table(rows, 2)}\n\n"
        "Images on the device, masks drawn, purified, clipped, lambda 0.15; medians "
        f"after one run that compiles. {_from(record, 'completion')}. An image's "
        f"matrix products take {flops / 1e6:,.0f} MFLOP in the kernel "
        "([counted](../results/gpu/work.json)); at the rate of a large product in "
        f"float32 here ({peaks['float32_tflops']:.0f} TFLOP/s, "
        "[measured](../results/gpu/check.json)) that would be "
        f"{_three(least)} images a second, of which {100 * share:.0f} % are reached."
    )


def gpu_in_short(results: pathlib.Path) -> str:
    """The same in two sentences, and training."""
    record, trained = _read(results, "completion"), _read(results, "vanilla")
    speed, large = record["speed"], record["large"]
    fast = _per_second(speed["fast, separate"])
    exact = _per_second(speed["exact, separate"])
    many, one = (_per_second(large[f"{w}, separate"]) for w in ("tracked", "exact"))
    facts = record["provenance"]
    return (
        f"On one {_card(record)} `purify` does {_three(fast)} images of 32 x 32 a "
        f"second, {fast / exact:.0f} times the exact solver there, and "
        f"{_three(many)} of 224 x 224, {many / one:.0f} times; a ResNet-18 trains on "
        f"{_three(trained['images_per_second'])} images a second (jax "
        f"{facts['versions']['jax']}, {facts['date']}, "
        "[results/gpu](results/gpu/completion.json))."
    )


def gpu_kernel(results: pathlib.Path) -> str:
    """The kernel spelled in other ways, and its distance from the exact solver."""
    record = _read(results, "kernel")
    rows = [["images in a matrix", "warps", "products", "images a second", "mean |d|"]]
    rows[0].append("beyond 0.02, %")
    for row in record["variants"]:
        rows.append(
            [
                str(row["images_side_by_side"]),
                str(row["warps"]),
                row["products"],
                _three(_per_second(row)),
                f"{row['to_exact']['mean']:.1e}",
                f"{row['to_exact']['percent_beyond_0.02']:.4f}",
            ]
        )
    agreement = record["agreement"]
    lines = []
    for name, ways in agreement.items():
        if name == "images":
            continue
        kernel = ways["fast"]
        lines.append(
            f"{name}: {kernel['mean']:.1e} and {kernel['percent_beyond_0.02']:.4f} % "
            f"of the pixels ({ways['count']} images)"
        )
    return (
        f"{markdown_table(rows, 3)}\n\n"
        f"2,000 images; d: difference from the exact solver on the same GPU, on 200 of "
        f"them, 20 where three stand side by side. On {agreement['images']}, mean |d| "
        f"and pixels beyond 0.02: {'; '.join(lines)}. {_from(record, 'kernel')}"
    )


def gpu_compiled(results: pathlib.Path) -> str:
    """What XLA makes of the library for an H100, before and after it was looked at."""
    record = json.loads((results / "gpu_compile.json").read_text())

    def of(section: str) -> dict[str, Mapping[str, Any]]:
        programs = record[section]["programs"]
        return {p["program"]: p for p in programs if p["item"] == "library"}

    def loops(program: Mapping[str, Any]) -> int:
        return sum(loop["times"] == "data dependent" for loop in program["loops"])

    before, after = of("before"), of("after")
    rows = [["program", "fusions", "loops that depend on data", "temporaries, MiB"]]
    for name in before.keys() & after.keys():
        pair = before[name], after[name]
        rows.append(
            [
                name,
                " to ".join(f"{p['fusions']:,}" for p in pair),
                " to ".join(f"{loops(p)}" for p in pair),
                " to ".join(f"{p['temporaries_mib']:,.0f}" for p in pair),
            ]
        )
    rows[1:] = sorted(rows[1:])
    return (
        f"{markdown_table(rows, 1)}\n\n"
        "Compiled without a GPU, by jax "
        f'{record["after"]["provenance"]["versions"]["jax"]}; "products" is '
        "`tracked`. Commits "
        f"{record['before']['provenance']['commit']} and "
        f"{record['after']['provenance']['commit']}. "
        "[results/gpu_compile.json](../results/gpu_compile.json)"
    )


def gpu_training(results: pathlib.Path) -> str:
    """Training images a second, and accuracy."""
    rows = [["ResNet-18 trained on", "epochs", "s an epoch", "images a second"]]
    rows[0] += ["clean, JPEG export, %", "clean, 600 originals, %"]
    for name, words in _NETWORKS.items():
        record = _read(results, name)
        kind = "prepared" if name.startswith("splic") else "bare"
        epoch = statistics.median(record["epoch_seconds"][1:])
        rows.append(
            [
                words,
                str(record["epochs"]),
                f"{epoch + statistics.median(record['preparation_seconds']):.2f}",
                _three(record["images_per_second"]),
                *(_percent(found[kind]) for found in record["test"].values()),
            ]
        )
    record = _read(results, "vanilla")
    return (
        f"{markdown_table(rows, 1)}\n\n"
        "bfloat16, batches of 512, one-cycle, an epoch in one program; purified "
        "afresh each epoch where purified (its seconds are in the epoch's), tests "
        "behind SPLIC there; 50,000 images of the JPEG export, seed 0. "
        f"{_from(record, 'vanilla')} and beside it"
    )


def gpu_table3(results: pathlib.Path) -> str:
    """Table 3 in front of networks of 93 % and 89 %."""
    record = _read(results, "gray_box")
    head = ["in front", *(f"{n} %" for n in ("clean", "FGSM", "PGD-7"))]
    parts = []
    for found in record["sets"].values():
        rows = [head]
        for name, row in found["rows"].items():
            rows.append(
                [_ROWS[name], *(_percent(row[a]) for a in ("clean", "fgsm", "pgd"))]
            )
        parts.append(
            f"{found['network']}, on {found['data']}:\n\n{markdown_table(rows, 1)}"
        )
    return (
        "\n\n".join(parts) + "\n\nAttacks on the bare network at 8/255, one mask, no "
        "retraining; Wilson intervals, 95 %. The paper prints 40.9 and 43.6 for SPLIC. "
        f"{_from(record, 'gray_box')}"
    )


def gpu_white_box(results: pathlib.Path) -> str:
    """What is left of networks trained behind SPLIC, by how the attacker derives."""
    bpda, true = _read(results, "bpda"), _read(results, "true_gradient")
    adaptive = _read(results, "adaptive_at")["networks"]["splic_fast_at"]["rows"]
    rows = [["network trained on", "attack", "images", "one mask, %", "vote of 9, %"]]
    for name, found in (
        ("splic", {**bpda["rows"], **true["rows"]}),
        ("splic_fast_at", adaptive),
    ):
        for attack, row in found.items():
            if attack.endswith("eot"):
                one, vote = (row["attacked"][kind] for kind in ("one_mask", "majority"))
                kind = "own derivative" if attack.startswith("true") else "BPDA"
                words = f"{kind}, {row['attack']['words']}"
            else:
                one, vote = row, None
                words = f"BPDA, {row['attack']['words']}" if "attack" in row else "none"
            rows.append(
                [
                    _NETWORKS[name],
                    words,
                    f"{one['count']:,}",
                    _percent(one),
                    _percent(vote) if vote else "",
                ]
            )
    return (
        f"{markdown_table(rows, 2)}\n\n"
        "ResNet-18, bfloat16, 15 epochs on the JPEG export, SPLIC at lambda 0.15 "
        "before it, CIFAR-10 test images of the JPEG export; Wilson intervals, 95 %. "
        f"{_from(bpda, 'bpda')}, [true_gradient](../results/gpu/true_gradient.json), "
        "[adaptive_at](../results/gpu/adaptive_at.json)"
    )


def gpu_attack_speed(results: pathlib.Path) -> str:
    """Attacks compiled whole, beside loops and other libraries."""
    record = _read(results, "attack_speed")
    libraries: dict[str, None] = {}
    table: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for row in record["rows"]:
        if "ratio" in row:
            libraries.setdefault(row["library"])
            table.setdefault((row["work"], row["images"]), {})[row["library"]] = row
    ours, *others = libraries
    rows = [["attack", "images", "ours, images a second", *others]]
    for (work, images), found in table.items():
        ratios = (f"{found[o]['ratio']:.2f} x" if o in found else "" for o in others)
        rate = _three(found[ours]["images_per_second"])
        rows.append([work, f"{images:,}", rate, *ratios])
    return (
        f"{markdown_table(rows, 1)}\n\n"
        "ResNet-18 of random weights, float32 with convolutions in TF32; times as "
        "multiples of ours, after a first run. "
        f"{_from(record, 'attack_speed')}, which also names what there was no time for"
    )


def _per_second(row: Mapping[str, Any]) -> float:
    rate: float = row["images"] / statistics.median(row["seconds"])
    return rate


def _three(rate: float) -> str:
    """To three figures, with commas."""
    return f"{float(f'{rate:.3g}'):,.10g}"


def _card(record: Mapping[str, Any]) -> str:
    hardware: str = record["provenance"]["hardware"]
    return hardware.partition(" x ")[2].partition(" (")[0]
