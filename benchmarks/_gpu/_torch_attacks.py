"""PyTorch's part of `benchmarks._gpu.attack_speed`, in its own process.

So neither a conflict of CUDA libraries nor a lack of memory stops the other parts.
Prints one JSON object per line. Reads its time limit in seconds from standard input
before it uses the GPU, so that it can be started early.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks._gpu import _race
from benchmarks._gpu._race import CONFIDENCE, EPSILON, LEARNING_RATE, STEP_SIZE, Work

EAGER, TUNED = "PyTorch, eager", "PyTorch, eager, channels last, tuned"


def pgd(
    network: Callable[[Any], Any], images: Any, labels: Any, *, steps: int
) -> tuple[Any, Any]:
    """PGD from the images themselves: the attacked ones, and where they are wrong."""
    import torch
    from torch.nn import functional as F

    lower, upper = (images - EPSILON).clamp(min=0), (images + EPSILON).clamp(max=1)
    x = images.clone()
    for _ in range(steps):
        x.requires_grad_(True)
        loss = F.cross_entropy(network(x), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, x)
        x = (x.detach() + STEP_SIZE * slope.sign()).clamp(lower, upper)
    with torch.no_grad():
        return x, network(x).argmax(1) != labels


def carlini_wagner(
    network: Callable[[Any], Any],
    images: Any,
    labels: Any,
    *,
    steps: int,
    constants: int,
    first_constant: float,
) -> tuple[Any, Any]:
    """C&W as in `attacks.carlini_wagner`, without early stopping."""
    import torch

    n = len(images)
    origin = torch.atanh((images * 2 - 1) * 0.999999)
    mapped = (torch.tanh(origin) + 1) / 2
    own = torch.nn.functional.one_hot(labels, 10).bool()
    const = torch.full((n,), first_constant, device=images.device)
    lower, upper = torch.zeros_like(const), torch.full_like(const, torch.inf)
    best, best_worth = images, torch.full_like(const, -torch.inf)
    best_wrong = torch.full_like(const, -1)
    for _ in range(constants):
        w = origin.clone().requires_grad_(True)
        adam = torch.optim.Adam([w], lr=LEARNING_RATE)
        found = torch.zeros_like(const, dtype=torch.bool)
        for _ in range(steps):
            adam.zero_grad()
            current = (torch.tanh(w) + 1) / 2
            logits = network(current)
            other = logits.masked_fill(own, -torch.inf).amax(1)
            margin = other - logits[torch.arange(n, device=labels.device), labels]
            hinge = (CONFIDENCE - margin).clamp(min=0)
            objective = ((current - mapped) ** 2).sum((1, 2, 3)) + const * hinge
            objective.sum().backward()
            adam.step()
            with torch.no_grad():
                won = margin > CONFIDENCE
                found |= won
                size = torch.linalg.vector_norm(current - images, dim=(1, 2, 3))
                worth, wrong = torch.where(won, -size, margin), won.float()
                better = (wrong > best_wrong) | (
                    (wrong == best_wrong) & (worth > best_worth)
                )
                best = torch.where(better[:, None, None, None], current, best)
                best_worth = torch.where(better, worth, best_worth)
                best_wrong = torch.where(better, wrong, best_wrong)
        upper = torch.where(found, const, upper)
        lower = torch.where(found, lower, const)
        const = torch.where(upper.isinf(), const * 10, (lower + upper) / 2)
    with torch.no_grad():
        return best, network(best).argmax(1) != labels


def attack(
    network: Callable[[Any], Any], images: Any, labels: Any, work: Work
) -> tuple[Any, Any]:
    """Runs the work: the attacked images, and where they are wrong."""
    if work.kind == "pgd":
        return pgd(network, images, labels, steps=work.steps)
    return carlini_wagner(
        network,
        images,
        labels,
        steps=work.steps,
        constants=work.constants,
        first_constant=work.first_constant,
    )


def entries(
    twin: Any,
    library: str,
    sizes: Sequence[int],
    works: Sequence[Work],
    device: str,
) -> Iterator[_race.Entry]:
    """The entries to time for a network on a device, in the layout of `library`."""
    import torch

    layout = torch.channels_last if library == TUNED else torch.contiguous_format

    def entry(work: Work, x: Any, labels: Any) -> _race.Entry:
        def run(work: Work) -> None:
            # The algorithms that autotuning finds are kept for each layout.
            torch.backends.cudnn.benchmark = library == TUNED
            attack(twin, x, labels, work)
            if device == "cuda":
                torch.cuda.synchronize()

        warm, whole = partial(run, work.beginning), partial(run, work)
        return _race.Entry(library, work, len(x), warm, whole)

    for size in sizes:
        images = torch.tensor(_race.drawn_images(size)).permute(0, 3, 1, 2)
        x = images.to(device).contiguous(memory_format=layout)
        with torch.no_grad():
            labels = twin(x).argmax(1)
        for work in works:
            yield entry(work, x, labels)


def _say(line: Mapping[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main(argv: Sequence[str]) -> None:
    wanted = json.loads(argv[1])
    device = wanted["device"]
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return _say({"missing": "PyTorch sees no GPU"})
    from benchmarks._twins import torch_twin
    from train import models

    model = models.create(wanted["network"], 10, seed=0)
    works = [Work(*work) for work in wanted["works"]]
    line = sys.stdin.readline()
    if not line:
        return None
    deadline = time.monotonic() + float(line)
    left = lambda: deadline - time.monotonic()  # noqa: E731
    twins = {
        library: torch_twin(model, device, channels_last=library == TUNED)
        for library in (EAGER, TUNED)
    }
    few = torch.tensor(_race.drawn_images(wanted["sizes"][0])[:8]).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = twins[EAGER](few.to(device)).cpu().tolist()
    settings = {
        "version": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "cudnn": torch.backends.cudnn.version(),
        "convolutions_allow_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        TUNED: "channels_last, and cudnn.benchmark",
    }
    _say({"settings": settings, "logits": logits})
    runs = [
        entry
        for library, twin in twins.items()
        for entry in entries(twin, library, wanted["sizes"], works, device)
    ]
    _race.race(runs, left, lambda row: _say({"row": row}))


if __name__ == "__main__":
    main(sys.argv)
