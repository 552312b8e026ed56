"""Blocks about what was measured on a GPU."""

from typing import Any

from train.present.markdown import markdown
from train.present.results import Results, three_digits
from train.present.sentences import link, made_by, note
from train.present.tables import gpu
from train.present.tables.gpu import per_second
from train.present.tables.listed import listed


def _read(results: Results, name: str) -> Any:
    return results.record(f"gpu/{name}.json")


def _made_by(results: Results, name: str) -> str:
    return made_by(_read(results, name), f"gpu/{name}.json")


def speed(results: Results) -> str:
    """Images purified a second."""
    record, peaks = _read(results, "completion"), _read(results, "check")
    least = gpu.rate_at_best(results)
    share = per_second(record["speed"]["fast, separate"]) / least
    return (
        f"{markdown(gpu.speed(results))}\n\n"
        "Images on the device, masks drawn, purified, clipped, lambda 0.15; medians "
        f"after one run that compiles. {_made_by(results, 'completion')}. An image's "
        f"matrix products take {gpu.flops_an_image(results) / 1e6:,.0f} MFLOP in the "
        "kernel ([counted](../results/gpu/work.json)); at the rate of a large product "
        f"in float32 here ({peaks['float32_tflops']:.0f} TFLOP/s, "
        "[measured](../results/gpu/check.json)) that would be "
        f"{three_digits(least)} images a second, of which {100 * share:.0f} % are "
        "reached."
    )


def in_short(results: Results) -> str:
    """The same in two sentences, and training."""
    record, trained = _read(results, "completion"), _read(results, "vanilla")
    parts, facts = (record["speed"], record["large"]), record["provenance"]
    fast, exact = (per_second(parts[0][f"{w}, separate"]) for w in ("fast", "exact"))
    many, one = (per_second(parts[1][f"{w}, separate"]) for w in ("tracked", "exact"))
    return (
        f"On one {gpu.card(record)} `purify` with separate channels does "
        f"{three_digits(fast)} images of 32 x 32 a second, {fast / exact:.0f} times "
        "the exact solver there, and "
        f"{three_digits(many)} of 224 x 224, {many / one:.0f} times; a ResNet-18 "
        f"trains on {three_digits(trained['images_per_second'])} images a second (jax "
        f"{facts['versions']['jax']}, {facts['date']}, "
        "[results/gpu](results/gpu/completion.json))."
    )


def kernel(results: Results) -> str:
    """The kernel spelled in other ways, and its distance from the exact solver."""
    agreement = dict(_read(results, "kernel")["agreement"])
    images = agreement.pop("images")
    lines = [
        f"{name}: {ways['fast']['mean']:.1e} and "
        f"{ways['fast']['percent_beyond_0.02']:.4f} % of the pixels "
        f"({ways['count']} images)"
        for name, ways in agreement.items()
    ]
    return (
        f"{markdown(listed(results, 'kernel'))}\n\n"
        "2,000 images; d: difference from the exact solver on the same GPU, on 200 of "
        f"them, 20 where three stand side by side. On {images}, mean |d| and pixels "
        f"beyond 0.02: {'; '.join(lines)}. {_made_by(results, 'kernel')}"
    )


def compiled(results: Results) -> str:
    """What XLA makes of the library for an H100, before and after optimisation."""
    record = results.record("gpu_compile.json")
    before, after = (record[x]["provenance"] for x in ("before", "after"))
    return (
        f"{markdown(gpu.compiled(results))}\n\n"
        f"Compiled without a GPU, by jax {after['versions']['jax']}; "
        f'"products" is `tracked`. Commits {before["commit"]} and {after["commit"]}. '
        f"{link('gpu_compile.json')}"
    )


def gray_box(results: Results) -> str:
    """Table 3 in front of networks of 93 % and 89 %."""
    parts = [
        f"{table.caption}:\n\n{markdown(table)}" for table in gpu.gray_box(results)
    ]
    return "\n\n".join([*parts, note(results, "gpu_gray_box")])
