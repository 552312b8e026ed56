"""Convolutions that stay fast inside a compiled loop on a CPU.

XLA's CPU compiler converts a convolution to the layout of its fast implementation only
outside of loops (https://github.com/jax-ml/jax/issues/12868). The gradient of a network
in the usual layout (NHWC, HWIO) does not have that layout, and is tens of times slower
in a loop. `canonical` makes the layout explicit.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.extend import core
from jaxtyping import Array

Function = TypeVar("Function", bound=Callable[..., Any])


def canonical(function: Function) -> Function:
    """Rewrites a function's convolutions to XLA's fast layout on a CPU.

    On other devices the function is returned unchanged. Convolutions in loops and
    branches of the function are not rewritten. Apply it after differentiation: custom
    derivatives in the function, such as `jax.custom_vjp`, are lost.

    Args:
        function: takes and returns pytrees of arrays.

    Returns:
        A function with the same arguments, and the same results up to rounding.
    """
    if jax.default_backend() != "cpu":
        return function

    def rewritten(*arguments: Any) -> Any:
        program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        if not _convolves(program.jaxpr):
            return function(*arguments)
        leaves = jax.tree.leaves(arguments)
        results = _evaluate(program.jaxpr, program.consts, leaves)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return cast(Function, rewritten)


def _convolves(program: Any) -> bool:
    """Whether there is a convolution outside loops and branches."""
    for equation in program.eqns:
        inner = called(equation)
        if equation.primitive.name == "conv_general_dilated":
            return True
        if inner is not None and _convolves(inner.jaxpr):
            return True
    return False


def called(equation: Any) -> Any:
    """The program that an equation calls, or None if it is not a plain call."""
    if equation.primitive.name in ("jit", "pjit", "closed_call"):
        return equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return None


def _evaluate(program: Any, constants: list[Any], arguments: list[Any]) -> list[Any]:
    """`jax.core.eval_jaxpr`, with the convolutions rewritten."""
    variables = [*program.constvars, *program.invars]
    values = dict(zip(variables, [*constants, *arguments], strict=True))

    def read(variable: Any) -> Any:
        is_literal = isinstance(variable, core.Literal)
        return variable.val if is_literal else values[variable]

    for equation in program.eqns:
        inputs = [read(variable) for variable in equation.invars]
        inner = called(equation)
        with equation.ctx.manager:
            if equation.primitive.name == "conv_general_dilated":
                results = [_convolve(*inputs, **equation.params)]
            elif inner is not None and _convolves(inner.jaxpr):
                results = _evaluate(inner.jaxpr, inner.consts, inputs)
            else:
                options = equation.primitive.get_bind_params(equation.params)
                results = equation.primitive.bind(*inputs, **options)
                if not equation.primitive.multiple_results:
                    results = [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in program.outvars]


def _convolve(
    images: Array | np.ndarray,
    kernel: Array | np.ndarray,
    *,
    dimension_numbers: Any,
    **options: Any,
) -> Array:
    """The convolution in NHWC and HWIO, with transposes before and after."""
    batch, channel, *space = dimension_numbers.lhs_spec
    outputs, inputs, *window = dimension_numbers.rhs_spec
    count = len(space)
    middle = tuple(range(1, count + 1))
    # JAX accepts NumPy arrays here, though its annotations do not.
    result = jax.lax.conv_general_dilated(
        images.transpose(batch, *space, channel),  # type: ignore[arg-type]
        kernel.transpose(*window, inputs, outputs),  # type: ignore[arg-type]
        dimension_numbers=jax.lax.ConvDimensionNumbers(
            (0, count + 1, *middle),
            (count + 1, count, *range(count)),
            (0, count + 1, *middle),
        ),
        **options,
    )
    place = dimension_numbers.out_spec
    order = [0] * len(place)
    for axis, source in zip(place, (0, count + 1, *middle), strict=True):
        order[axis] = source
    return result.transpose(order)
