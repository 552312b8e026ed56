"""Blocks about what things cost, and how near the fast ways are."""

from train.present.markdown import markdown
from train.present.results import Results
from train.present.sentences import dataset_name, made_by, provenance_line
from train.present.tables import speed


def gradients(results: Results) -> str:
    """Accuracy and cost of the ways to the gradient of the smoothed rank."""
    record = results.record("gradients.json")
    return (
        f"{markdown(speed.gradients(results))}\n\n"
        "Error of the gradient in float32 at delta = sigma_1 / 2, as a share of the "
        "largest it can be (and whether the second derivative is NaN), by kind of "
        "matrix, 32 x 32; time as a multiple of the closed form (9) in the same run. "
        f"{made_by(record, 'gradients.json', '')}"
    )


def stopping(results: Results) -> str:
    """What the two stopping parameters cost and bring."""
    record = results.record("stopping.json")
    return (
        f"{markdown(speed.stopping(results))}\n\n"
        f"{dataset_name(record)}, the first {record['dataset']['count']} "
        f"test images; {made_by(record, 'stopping.json')}"
    )


def gap_of_stopping(results: Results) -> str:
    """What the defaults lose on clean images against the longest run."""
    settings = results.value("stopping.json#/defaults")
    wanted = {name: settings[name] for name in ("tolerance", "max_steps")}
    row = results.find("stopping.json#/rows", **wanted)
    gap = results.value(f"{row}/clean/psnr_below_far_db/mean")
    return f"{gap:.1f} dB"


def share_near(results: Results) -> str:
    """The pixels that the fast solver must have near those of the exact one."""
    return f"{100 * results.value('speed.json#/agreement/bar/share_near'):.1f} %"


def purification(results: Results) -> str:
    """Milliseconds an image of each way to purify."""
    record = results.value("speed.json#/purify")
    return (
        f"{markdown(speed.purification(results))}\n\n"
        f"{record['devices']} devices; median of {len(record['rows'][0]['seconds'])} "
        f"runs after one that compiles. {made_by(record, 'speed.json')}"
    )


def agreement(results: Results) -> str:
    """Differences between the two solvers."""
    record = results.value("speed.json#/agreement")
    return (
        f"{markdown(speed.agreement(results))}\n\n"
        f"{dataset_name(record)}, the first {record['dataset']['count']:,} test "
        "images, the same masks for both; PSNR: fast less exact, paired, 95 %; "
        "accuracy: fast, exact, of the network trained on images as they are; p: "
        f"McNemar's exact test. {made_by(record, 'speed.json')}"
    )


def training(results: Results) -> str:
    """Training steps a second."""
    record = results.value("speed.json#/training")
    return f"{markdown(speed.training(results))}\n\n{made_by(record, 'speed.json')}"


def profile(results: Results) -> str:
    """Where a step's time goes, and what fewer rounds or compaction would bring."""
    record = results.value("speed.json#/profile")
    sizes = " and ".join(
        f"{step['matrices']} of {step['side']} x {step['side']} (rank {step['rank']}, "
        f"{step['vectors']} vectors; a large product runs at "
        f"{step['peak_gflops']:.0f} GFLOP/s, the smallest operation takes "
        f"{step['operation_microseconds']:.3f} us)"
        for step in record["step"]
    )
    return (
        f"{markdown(speed.parts_of_a_step(results))}\n\n"
        f"Microseconds a matrix, on one core: {sizes}. GFLOP/s and cost count the "
        "matrix products and the operations of the compiled program.\n\n"
        f"{markdown(speed.fewer_rounds(results))}\n\n"
        f"{markdown(speed.groups(results))}\n\n"
        f"{dataset_name(record)}, the first {record['dataset']['count']} "
        "test images, clean and with +-8/255 on every value; PSNR against the clean "
        f"image, the difference paired, 95 %. {made_by(record, 'speed.json')}"
    )


def attacks(results: Results) -> str:
    """Images attacked per second, and other libraries' time as a multiple of ours."""
    record = results.record("attacks.json")
    return (
        f"{markdown(speed.attacks(results))}\n\n"
        f"Batch of {record['dataset']['count']}; times as multiples of ours, medians "
        "of runs that take turns, after one that compiles. "
        f"{made_by(record, 'attacks.json')}"
    )


def tests(results: Results) -> str:
    """What the tests cost."""
    record = results.record("tests.json")
    return (
        f"{markdown(speed.tests(results))}\n\n"
        f"{provenance_line(record)}. By folder: "
        "[results/tests.json](results/tests.json)"
    )
