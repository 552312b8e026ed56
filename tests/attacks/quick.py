"""A `jax.jit` for the tests, whose attacks compile for longer than they run."""

import functools

import jax


@functools.cache
def options():
    """XLA's older code generator takes half the time, where there still is one."""
    older = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x + 1, compiler_options=older)(0)
    except jax.errors.JaxRuntimeError as error:
        assert "No such compile option" in str(error)
        return {}
    return older


def jit(function, **settings):
    """As `jax.jit`; what it returns is not to be transformed further."""
    return jax.jit(function, compiler_options=options(), **settings)
