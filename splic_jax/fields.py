"""Settings as frozen dataclasses, and checks of their fields."""

import dataclasses
from collections.abc import Sequence
from typing import (
    Any,
    ClassVar,
    Protocol,
    TypeVar,
    dataclass_transform,
    runtime_checkable,
)

import jax
import numpy as np

Config = TypeVar("Config")

_ARRAY = "array"


@runtime_checkable
class Settings(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def array_field() -> Any:
    """A field that holds an array; None until it is fitted to data."""
    return dataclasses.field(default=None, metadata={_ARRAY: True})


def array_fields(config: Settings | type[Any]) -> tuple[str, ...]:
    """Names of the array fields of a settings class or instance."""
    fields = dataclasses.fields(config)
    return tuple(field.name for field in fields if _ARRAY in field.metadata)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def config(cls: type[Config]) -> type[Config]:
    """Makes a frozen dataclass whose instances can be arguments of `jax.jit`.

    A pytree whose leaves are the fields made by `array_field`. All other fields are
    static: new values are compiled again. Without array fields it is hashable.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    assert dataclasses.is_dataclass(cls)  # which type checkers do not see
    arrays = list(array_fields(cls))
    static = [f.name for f in dataclasses.fields(cls) if f.name not in arrays]
    return jax.tree_util.register_dataclass(cls, arrays, static)


def require_integer(config: Settings, *names: str, least: int = 1) -> None:
    """Raises a `ValueError` unless the fields are integers of at least `least`."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(
                f"{name} must be an integer of at least {least}, got {value!r}"
            )


def require_number(config: Settings, name: str, interval: str) -> None:
    """Raises a `ValueError` unless a field is a number in an interval.

    It must also be 0 or a normal number of float32, in which most is computed; others
    would overflow or lose digits.

    Args:
        config: the settings.
        name: of the field.
        interval: such as "[0, inf)" or "(0, 1]".
    """
    value = getattr(config, name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, got {value!r}")
    low, high = (float(limit) for limit in interval[1:-1].split(","))
    above = value > low or (interval[0] == "[" and value == low)
    below = value < high or (interval[-1] == "]" and value == high)
    if not (above and below) or value != value:
        raise ValueError(f"{name} must be in {interval}, got {value!r}")
    finfo = np.finfo(np.float32)
    if value != 0 and not float(finfo.tiny) <= abs(value) <= float(finfo.max):
        raise ValueError(
            f"{name} must be 0 or in the range of float32, {finfo.tiny:.2g} to "
            f"{finfo.max:.2g} in absolute value, got {value!r}"
        )


def require_choice(config: Settings, name: str, choices: Sequence[object]) -> None:
    """Raises a `ValueError` unless a field is one of the choices."""
    if getattr(config, name) not in choices:
        listed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be {listed}, got {getattr(config, name)!r}")
