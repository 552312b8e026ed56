"""Blocks about what things cost, and how near the fast ways are."""

from train.present.markdown import markdown
from train.present.results import Results
from train.present.sentences import made_by, note
from train.present.tables import speed
from train.present.tables.listed import listed


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
        f"{markdown(listed(results, 'purification'))}\n\n"
        f"{record['devices']} devices; median of {len(record['rows'][0]['seconds'])} "
        f"runs after one that compiles. {made_by(record, 'speed.json')}"
    )


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
        f"{markdown(listed(results, 'rounds'))}\n\n"
        f"{markdown(listed(results, 'groups'))}\n\n"
        f"{note(results, 'profile')}"
    )
