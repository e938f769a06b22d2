"""How one option is declared and checked.

Each reader is ``read(name, value)``: it returns the value in its one form, or raises HagoError.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any

from . import arguments
from .deadline import parse_budget
from .errors import DeviceError, MissingExtraError, SearchError

if TYPE_CHECKING:
    from .measure.metrics import Metric

SAMPLERS = ("tpe", "nsga2", "gp", "random", "grid")
JOINT_RULES = ("worst", "mean")

Read = Callable[[str, Any], Any]


class Default(float):
    """A default bound. It gives way to a bound that the user sets."""


def option(
    default: Any, help: str, read: Read | None = None, *, flag: str | None = "", shell: Any = None, **argument: Any
) -> Any:
    """A field of options. ``read(name, value)`` checks a value and returns it in canonical form.

    ``flag`` is its flag on the command line (by default the field's name; None: no flag), ``shell`` its default there
    if that differs, and ``argument`` holds further keywords for argparse.
    """
    known = {"read": read, "flag": flag, "help": help, "shell": default if shell is None else shell}
    return field(default=default, metadata={**known, "argument": argument})


class OptionValues:
    """Checks every field on construction. Raises HagoError."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]  # all that derive from it are dataclasses
            if item.metadata["read"] is not None:
                object.__setattr__(self, item.name, item.metadata["read"](item.name, getattr(self, item.name)))


def read_limit(name: str, value: Any) -> int | None:
    """A number of at least 1, or None."""
    return arguments.optional_whole(name, value, 1)


def read_budget(name: str, value: Any) -> float | None:
    """Seconds of a time such as ``10m``, or None."""
    return parse_budget(value)


def read_seed(name: str, value: Any) -> int:
    """A whole number of at least 0."""
    return arguments.whole(name, value, 0)


def read_name(name: str, value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise SearchError(f"{name} must be a name, got {value!r}")
    return value


def check_sampler(sampler: Any) -> None:
    """One of `SAMPLERS`, or a function: seed -> Optuna sampler. Raises SearchError, MissingExtraError."""
    if callable(sampler):
        return
    if sampler not in SAMPLERS:
        raise SearchError(f"there is no sampler {sampler!r}", hint=f"samplers: {', '.join(SAMPLERS)}")
    if sampler == "gp" and importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", "torch", "the sampler 'gp' (Gaussian processes)")


def read_sampler(name: str, value: Any) -> Any:
    """What `check_sampler` allows."""
    check_sampler(value)
    return value


def check_rule(name: str, value: Any) -> str:
    """The rule by which a joint search combines the ratios of its devices. Raises SearchError for any other."""
    if value not in JOINT_RULES:
        raise SearchError(f"a joint search judges by {' or '.join(JOINT_RULES)}, not {value!r}")
    return str(value)


def read_path(name: str, value: Any) -> str | None:
    """A path as text, or None."""
    return None if value is None else arguments.path(name, value)


def read_devices(name: str, value: Any) -> tuple[str, ...]:
    """Names of devices; none of None."""
    return arguments.names(name, (value,) if isinstance(value, str) else () if value is None else value, DeviceError)


def read_metric(name: str, value: Any) -> Metric:
    """The metric of this name, or made of this function."""
    from .measure.metrics import get_metric

    return get_metric(value)


def read_knob_values(name: str, value: Any) -> Mapping[str, tuple[str, ...]]:
    """The values that a search may use for each knob, from a mapping or from lines such as ``correction=none,bias``."""
    from .knobs import read_knobs

    if isinstance(value, Sequence) and not isinstance(value, str):
        value = dict(_pair(name, text, "=", "--knob correction=none,bias") for text in arguments.names(name, value))
    return read_knobs(value)


def _pair(name: str, text: str, sign: str, example: str) -> tuple[str, str]:
    key, found, value = text.partition(sign)
    if not (key and found and value):
        raise SearchError(f"{name} must be NAME{sign}VALUE, got {text!r}", hint=f"for instance {example}")
    return key, value


def trials_or_none(text: str) -> int | None:
    """A number of trials on the command line; 0 means no limit."""
    try:
        return int(text) or None
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None
