"""Items F, G, H, K, M and N: attacks on defenses, as in the paper's tables.

Each ``run_*`` returns a record and saves it after each row; each ``programs_*`` lists
its programs, to be compiled in advance.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks._gpu import attacking, networks
from benchmarks._gpu.attacking import Data, Network
from benchmarks._gpu.context import Context, Images, Program
from benchmarks._gpu.settings import CHOSEN, PRINTED
from splic_jax import METHODS, SPLICConfig
from splic_jax.transforms import TransformConfig
from splic_jax.transforms.registry import as_dict
from train import models
from train.models import cifar_resnet
from train.threats import attackers
from train.threats.attackers import AttackSettings

Record = dict[str, Any]
Rows = Mapping[str, TransformConfig | None]

# The rows of Table 3 and plain baselines, the slow ones apart: their decompositions may
# run one after another on a GPU.
ROWS: Rows = {
    "none": None,
    "splic_printed": PRINTED,
    "splic_chosen": CHOSEN,
    "splic_no_tv": dataclasses.replace(PRINTED, tv_weight=0.0),
    "tv_minimisation": METHODS["tv_minimisation"].config,
    "jpeg": METHODS["jpeg"].config,
    "bilateral": METHODS["bilateral"].config,
    "guided": METHODS["guided"].config,
}
SLOW_ROWS: Rows = {
    name: METHODS[name].config for name in ("usvt", "soft_impute", "nuclear_norm")
}
# The trained networks, and the transform in front of each.
TARGETS: Rows = {
    "vanilla": None,
    "splic": CHOSEN,
    "me_net": METHODS["usvt"].config,
    "fast_at": None,
    "splic_fast_at": CHOSEN,
}

FGSM, PGD = attackers.PRESETS["fgsm"], attackers.PRESETS["pgd"]
PGD_50 = dataclasses.replace(PGD, steps=50)
EOT = dataclasses.replace(attackers.PRESETS["eot"], eot_samples=10)
GRADIENT = dataclasses.replace(
    attackers.PRESETS["gradient-eot"], steps=20, eot_samples=5
)

_SEED = 0
_ATTACKS, _MASKS, _VERDICT = 0, 1, 2  # purposes of keys
_MASK_KEYS = 5  # for SPLIC on the few original images
_EVALUATIONS = 9
_TOY_IMAGES = 6  # one batch, and one that has to be padded
_PUBLISHED = "resnet56_cifar10.npz"
_RESNET18 = networks.FAMILY
_RESNET56 = "resnet56 published, float32"
# Time limits of a slow row, and of the adaptive attacks.
_ROW_SECONDS = 45.0
_EOT_SECONDS = 60.0
_GRADIENT_SECONDS = 70.0
_CW_SECONDS = 40.0
# Left for later items, and for copying the results.
_RESERVE = 20.0


# Items F and N


def run_gray_box(context: Context, rows: Rows = ROWS, name: str = "gray_box") -> Record:
    """Table 3: attacks on bare networks, then a transform in front, no retraining."""
    record: Record = {
        "what": "attacks made on the bare network; then each transform in front of "
        "it, without retraining",
        "attacks": {k: attacking.settings_of(a) for k, a in _bare_attacks(context)},
        "transforms": {row: _config_of(config) for row, config in rows.items()},
        "sets": {},
        "skipped": [],
        **_common(),
    }
    for title, network, images, several in _gray_box_sets(context):
        size = attacking.batch_size(context)
        data = attacking.batched(images, size, context.size(None, _TOY_IMAGES))
        sets = {"clean": data}
        start = time.perf_counter()
        for attack_name, attack in _bare_attacks(context):
            sets[attack_name] = attacking.attacked(
                network, data, _key(_ATTACKS), attack
            )
        jax.block_until_ready([part.images for part in sets.values()])
        table: Record = {
            "network": title,
            "data": data.name,
            "count": len(data.truth),
            "attack_seconds": time.perf_counter() - start,
            "rows": {},
        }
        record["sets"][f"{title}; {data.name}"] = table
        for row, config in rows.items():
            allowed = min(_ROW_SECONDS, context.left() - _RESERVE)
            keys = context.size(_MASK_KEYS, 2) if several and _is_splic(config) else 1
            found = _row(network, sets, config, keys, allowed)
            if found is None:
                record["skipped"].append(f"{row}; {title}; {data.name}")
                context.line(f"{name}: {row} skipped, {allowed:.0f} s for it")
            else:
                table["rows"][row] = found
                context.line(f"{name}: {title}, {data.name}: {row} {_short(found)}")
            context.save(name, record)
    return record


def run_gray_box_slow(context: Context) -> Record:
    """`run_gray_box` for the slow rows."""
    return run_gray_box(context, SLOW_ROWS, "gray_box_slow")


def _published(context: Context) -> Network:
    return models.logits_function(*cifar_resnet.load(context.data / _PUBLISHED))


def programs_gray_box(context: Context, rows: Rows = ROWS) -> list[Program]:
    """Of `run_gray_box`."""
    size = attacking.batch_size(context)
    programs = attacking.programs_small(size)
    programs += _of_network(context, _RESNET18, _outline(context))
    if not context.toy:
        published = _published(context)
        programs += _of_network(context, _RESNET56, published)
    configs = [config for config in rows.values() if config is not None]
    return programs + [attacking.program_transformed(c, size) for c in configs]


def programs_gray_box_slow(context: Context) -> list[Program]:
    """Of `run_gray_box_slow`."""
    return programs_gray_box(context, SLOW_ROWS)


def _gray_box_sets(
    context: Context,
) -> Iterable[tuple[str, Network, Images, bool]]:
    """Each network with its name, its images, and whether to draw several masks."""
    if not context.toy:
        published = _published(context)
        yield _RESNET56, published, context.originals(), True
    vanilla = _network(context, "vanilla")
    title = f"vanilla, {_RESNET18}"
    yield title, vanilla, context.originals(), True
    if not context.toy:
        yield title, vanilla, context.test_set(), False


def _row(
    network: Network,
    sets: Mapping[str, Data],
    config: TransformConfig | None,
    keys: int,
    allowed: float,
) -> Record | None:
    """Accuracies by attack; None if they would take longer than allowed."""
    start = time.perf_counter()
    first = next(iter(sets.values()))
    batches = keys * sum(len(data.images) for data in sets.values())
    if config is not None:
        if allowed <= 0:
            return None
        one = first.images[0], _key(_MASKS), first.indices[0]
        jax.block_until_ready(attacking.transformed(*one, config=config))  # compiles
        middle = time.perf_counter()
        jax.block_until_ready(attacking.transformed(*one, config=config))
        taken = time.perf_counter() - middle
        if taken * batches > allowed:
            return None
    begin = time.perf_counter()
    found = {
        attack: [
            attacking.answers(network, data, _key(_MASKS, k), config)
            for k in range(keys)
        ]
        for attack, data in sets.items()
    }
    accuracies = {
        attack: [attacking.accuracy(sets[attack], one) for one in several]
        for attack, several in found.items()
    }
    row: Record = {attack: several[0] for attack, several in accuracies.items()}
    if keys > 1:
        for attack, several in accuracies.items():
            each = [one["accuracy"] for one in several]
            row[f"{attack}_each_mask"] = each
            row[f"{attack}_mean"] = float(np.mean(each))
    end = time.perf_counter()
    images = keys * sum(len(data.truth) for data in sets.values())
    return row | {
        "seconds": end - begin,
        "seconds_with_compiling": end - start,
        "images": images,
    }


# Item G


def run_bpda(context: Context) -> Record:
    """Table 2: BPDA, through the defense with the identity for its derivative."""
    network = _network(context, "splic")
    record: Record = {
        "what": "white-box BPDA on a network trained behind SPLIC",
        "network": f"splic, {_RESNET18}",
        "transform": _config_of(CHOSEN),
        "rows": {},
        **_common(),
    }
    rows = _Rows(context, "bpda", record, record["rows"])
    _white_box(rows, network, CHOSEN, {"pgd": PGD})
    _adaptive(rows, network, EOT, _EOT_SECONDS)
    return record


def programs_bpda(context: Context) -> list[Program]:
    """Of `run_bpda`."""
    size = attacking.batch_size(context)
    return [
        *attacking.programs_small(size, (1, EOT.eot_samples)),
        attacking.program_transformed(CHOSEN, size),
        *_of_network(context, _RESNET18, _outline(context)),
    ]


# Item H


def run_true_gradient(context: Context) -> Record:
    """As `run_bpda`, with the true derivative of the purification."""
    network = _network(context, "splic")
    record: Record = {
        "what": "white-box attack through the purification's own derivative, that of "
        f"{CHOSEN.max_rounds} rounds by the fast solver, on a network trained behind "
        "SPLIC; the verdict is on the purification as it runs",
        "network": f"splic, {_RESNET18}",
        "transform": _config_of(CHOSEN),
        "rows": {},
        **_common(),
    }
    rows = _Rows(context, "true_gradient", record, record["rows"])
    _adaptive(rows, network, GRADIENT, _GRADIENT_SECONDS)
    return record


def programs_true_gradient(context: Context) -> list[Program]:
    """Of `run_true_gradient`."""
    size = attacking.batch_size(context)
    network = _outline(context)
    return [
        attacking.program_true_slope(_RESNET18, network, CHOSEN, size),
        attacking.program_transformed(CHOSEN, size),
        attacking.program_named(_RESNET18, network, size),
        *attacking.programs_small(size, (1, GRADIENT.eot_samples)),
    ]


class _Rows(NamedTuple):
    """Collects the rows of a record.

    Attributes:
        context: of the item.
        name: of the item.
        record: the whole record.
        rows: the part of it that rows are added to.
    """

    context: Context
    name: str
    record: Record
    rows: Record

    def add(self, row: str, found: Record) -> None:
        self.rows[row] = found
        self.context.line(f"{self.name}: {row} {_short(found)}")
        self.context.save(self.name, self.record)

    def allowed(self, seconds: float = math.inf) -> float:
        return min(seconds, self.context.left() - _RESERVE)


def _white_box(
    rows: _Rows,
    network: Network,
    config: TransformConfig | None,
    attacks: Mapping[str, AttackSettings],
) -> None:
    """Adds rows for clean and attacked images, all of them, with one mask each."""
    data = _test_data(rows.context)

    def verdict(data: Data) -> Record:
        found = attacking.answers(network, data, _key(_VERDICT), config)
        return {"data": data.name, **attacking.accuracy(data, found)}

    for row, attack in {"clean": None, **attacks}.items():
        start = time.perf_counter()
        if attack is None:
            found = verdict(data)
        else:
            settings = {"attack": attacking.settings_of(attack)}
            allowed = rows.allowed()
            plan = attacking.planned(network, data, attack, config, allowed)
            if plan.attack != attack:
                rows.add(row, settings | {"skipped": f"{allowed:.0f} s for it"})
                continue
            made = attacking.attacked(network, data, _key(_ATTACKS), attack, config)
            found = settings | verdict(made)
        rows.add(row, found | {"seconds": time.perf_counter() - start})


def _adaptive(
    rows: _Rows, network: Network, attack: AttackSettings, seconds: float
) -> None:
    """Adds a row: an attack over masks on the first images, judged with fresh masks."""
    context = rows.context
    data = _test_data(context, context.size(1000, _TOY_IMAGES))
    if context.toy:
        attack = dataclasses.replace(attack, steps=2, eot_samples=2)
    start = time.perf_counter()
    allowed = rows.allowed(seconds)
    plan = attacking.planned(network, data, attack, CHOSEN, allowed)
    found: Record = {
        "data": data.name,
        "asked_for": attacking.settings_of(attack),
        "seconds_a_gradient": plan.seconds_a_gradient,
        "images_a_gradient": len(data.labels[0]),
    }
    if plan.attack is None:
        found["skipped"] = f"not one step in {allowed:.0f} s"
    else:
        found["attack"] = attacking.settings_of(plan.attack)
        made = attacking.attacked(network, data, _key(_ATTACKS), plan.attack, CHOSEN)
        for title, images in ("clean", data), ("attacked", made):
            masks = [
                attacking.answers(network, images, _key(_VERDICT, k), CHOSEN)
                for k in range(context.size(_EVALUATIONS, 2))
            ]
            found[title] = attacking.votes(images, masks)
    found["seconds"] = time.perf_counter() - start
    rows.add(f"{attack.derivative}_eot", found)


# Item K


def run_black_box(context: Context) -> Record:
    """Table 1: attacks made on another network, against each defense."""
    surrogate = networks.exists(context, "surrogate")
    source_name = "surrogate" if surrogate else "vanilla"
    source = _network(context, source_name)
    record: Record = {
        "what": "attacks made on a bare source network, met by targets behind their "
        "own transforms",
        "source": f"{source_name}, {_RESNET18}",
        "source_note": "a network of its own seed, which is no target"
        if surrogate
        else "no surrogate was trained: on the target vanilla this is a white-box "
        "attack",
        "sets": {},
        "targets": {},
        **_common(),
    }
    data = _test_data(context)
    sets = {"clean": data}
    for name, attack in _transferred(context):
        some = (
            _test_data(context, context.size(1000, _TOY_IMAGES))
            if name == "cw"
            else data
        )
        if name == "cw":
            if context.left() < _RESERVE + _CW_SECONDS:
                record["sets"][name] = {"skipped": f"{context.left():.0f} s left"}
                continue
            sets["clean_of_cw"] = some
        start = time.perf_counter()
        sets[name] = attacking.attacked(source, some, _key(_ATTACKS), attack)
        jax.block_until_ready(sets[name].images)
        record["sets"][name] = {
            "data": some.name,
            "attack": attacking.settings_of(attack),
            "seconds": time.perf_counter() - start,
        }
        context.line(f"black_box: {attack.words()} made")
        context.save("black_box", record)
    for target, config in {source_name: None, **TARGETS}.items():
        if not networks.exists(context, target):
            record["targets"][target] = {"skipped": "has not been trained"}
            continue
        network = _network(context, target)
        allowed = context.left() - _RESERVE
        found = _row(network, sets, config, 1, allowed)
        if found is None:
            record["targets"][target] = {"skipped": f"{allowed:.0f} s for it"}
        else:
            words = {"transform": _config_of(config), **found}
            record["targets"][target] = words
            context.line(f"black_box: {target} {_short(found)}")
        context.save("black_box", record)
    return record


def programs_black_box(context: Context) -> list[Program]:
    """Of `run_black_box`."""
    size = attacking.batch_size(context)
    network = _outline(context)
    steps = dict(_transferred(context))["cw"].steps
    configs = {config for config in TARGETS.values() if config is not None}
    return [
        attacking.program_carlini_wagner(_RESNET18, network, steps, size),
        *_of_network(context, _RESNET18, network),
        *attacking.programs_small(size),
        *(attacking.program_transformed(config, size) for config in configs),
    ]


# Item M


def run_adaptive_at(context: Context) -> Record:
    """Adaptive attacks on networks trained adversarially, behind SPLIC and bare."""
    record: Record = {
        "what": "white-box attacks on networks trained on attacked images (fast "
        "adversarial training)",
        "networks": {},
        **_common(),
    }
    if networks.exists(context, "splic_fast_at"):
        behind: Record = {"transform": _config_of(CHOSEN), "rows": {}}
        record["networks"]["splic_fast_at"] = behind
        network = _network(context, "splic_fast_at")
        rows = _Rows(context, "adaptive_at", record, behind["rows"])
        _white_box(rows, network, CHOSEN, {"pgd": PGD})
        _adaptive(rows, network, EOT, _EOT_SECONDS)
        _adaptive(rows, network, GRADIENT, _GRADIENT_SECONDS)
    if networks.exists(context, "fast_at"):
        bare: Record = {"transform": None, "rows": {}}
        record["networks"]["fast_at"] = bare
        network = _network(context, "fast_at")
        rows = _Rows(context, "adaptive_at", record, bare["rows"])
        _white_box(rows, network, None, {"pgd": PGD, "pgd-50": PGD_50})
    if not record["networks"]:
        raise _missing("splic_fast_at")
    return record


def programs_adaptive_at(context: Context) -> list[Program]:
    """Of `run_adaptive_at`."""
    programs = [*programs_bpda(context), *programs_true_gradient(context)]
    return list({program.name: program for program in programs}.values())


ITEMS: Mapping[str, tuple[Callable[[Context], Record], Callable[..., list[Program]]]]
ITEMS = {
    "gray_box": (run_gray_box, programs_gray_box),
    "bpda": (run_bpda, programs_bpda),
    "true_gradient": (run_true_gradient, programs_true_gradient),
    "black_box": (run_black_box, programs_black_box),
    "adaptive_at": (run_adaptive_at, programs_adaptive_at),
    "gray_box_slow": (run_gray_box_slow, programs_gray_box_slow),
}


def _network(context: Context, name: str) -> Network:
    if not networks.exists(context, name):
        raise _missing(name)
    return networks.logits(*networks.load(context, name))


def _missing(name: str) -> LookupError:
    return LookupError(f"network {name!r} has not been trained yet (item E)")


def _outline(context: Context) -> Network:
    """A network as `_network` returns it, with shapes in place of the weights."""
    return networks.logits(*networks.outline(networks.model_of(context)))


def _of_network(context: Context, name: str, network: Network) -> list[Program]:
    size = attacking.batch_size(context)
    return [
        attacking.program_slope(name, network, size),
        attacking.program_named(name, network, size),
    ]


def _test_data(context: Context, count: int | None = None) -> Data:
    count = count or context.size(10_000, _TOY_IMAGES)
    size = attacking.batch_size(context)
    return attacking.batched(context.test_set(), size, count)


def _bare_attacks(context: Context) -> Sequence[tuple[str, AttackSettings]]:
    return [("fgsm", FGSM), ("pgd", PGD)]


def _transferred(context: Context) -> Sequence[tuple[str, AttackSettings]]:
    steps = context.size(100, 5)
    cw = dataclasses.replace(attackers.PRESETS["cw"], steps=steps)
    return [*_bare_attacks(context), ("cw", cw)]


def _key(purpose: int, number: int | None = None) -> jax.Array:
    key = jax.random.fold_in(jax.random.key(_SEED), purpose)
    return key if number is None else jax.random.fold_in(key, number)


def _is_splic(config: TransformConfig | None) -> bool:
    return isinstance(config, SPLICConfig)


def _config_of(config: TransformConfig | None) -> Record | None:
    return None if config is None else as_dict(config)


def _common() -> Record:
    gpu = jax.default_backend() == "gpu"
    return {
        "seed": _SEED,
        "keys": "fold_in(key(seed), 0) for attacks, 1 and 2 for the masks of verdicts",
        "numbers": "ResNet-18 computes in bfloat16; ResNet-56 in float32 at default "
        f"precision{', convolutions possibly in TF32' if gpu else ''}; purification in "
        "float32",
        "solver_ran": "fast, as a kernel" if gpu else "fast",
        "intervals": "Wilson, 95 %",
    }


def _short(row: Record) -> str:
    """The accuracies in a row, for a progress line."""
    parts = [
        f"{path} {value if isinstance(value, str) else format(value, '.4f')}"
        for path, value in _flat("", row)
        if path.rpartition(" ")[2] in ("accuracy", "skipped")
    ]
    return ", ".join(parts)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(f"{path} {name}".strip(), part)
    else:
        yield path, value
