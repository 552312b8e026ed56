"""The devices that purification is spread over: on a CPU, one for each core."""

import os

import jax


def use_all_cores() -> None:
    """Makes each core of the CPU a device of its own; before JAX is first used."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    if jax.config.jax_num_cpu_devices > 0 or "host_platform_device_count" in os.getenv(
        "XLA_FLAGS", ""
    ):
        return  # someone has chosen
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError:  # JAX is in use already
        return


def spread() -> list[jax.Device] | None:
    """What to give to `splic_jax.purify` as `devices`.

    All of the CPU's, where results are the same to the bit on any number of them; None,
    the one where the images are, on an accelerator.
    """
    devices = jax.local_devices()
    return devices if jax.default_backend() == "cpu" and len(devices) > 1 else None
