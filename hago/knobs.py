"""What can be chosen for a layer, in one table: strategies, the search, the command line and reports read it.

A knob added here is a key of a layer in strategy.yaml, can be fixed or searched (``--knob NAME=A,B``), and stands in
the report; what is left is the code that carries it out, which asks ``choice.value(NAME)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import arguments
from .documents import did_you_mean
from .errors import StrategyError
from .methods import CORRECTION, RANGES, ROUNDING
from .precision import FLOAT32, Precision
from .scheme import PER_CHANNEL, Granularity


@dataclass(frozen=True)
class Knob:
    """One thing that can be chosen for a layer.

    ``values`` are empty where the hardware's ways say what there is. ``matters`` tells, from whether the layer has
    weights, its precision and their granularity, whether the knob changes anything. ``searched`` are the values that
    a search tries unless told otherwise, the default alone where empty. ``tied``: layers that read one tensor have
    one value. ``always``: written even at its default.
    """

    name: str
    default: str
    values: tuple[str, ...]
    title: str
    matters: Callable[[bool, Precision, Granularity], bool]
    searched: tuple[str, ...] = ()
    tied: bool = False
    always: bool = False

    def check(self, value: str) -> str:
        """The value; raises StrategyError for one that there is not."""
        if self.name == "precision":
            return Precision.named(value).name
        if self.name == "granularity":
            return str(Granularity.parse(value))
        if value not in self.values:
            raise StrategyError(f"unknown {self.name} {value!r}", hint=did_you_mean(value, self.values))
        return value


def _always(weights: bool, numbers: Precision, granularity: Granularity) -> bool:
    return True


def _integer_weights(weights: bool, numbers: Precision, granularity: Granularity) -> bool:
    return weights and numbers.weights.is_integer


def _integer_activations(weights: bool, numbers: Precision, granularity: Granularity) -> bool:
    return numbers.is_integer


def _integer_products(weights: bool, numbers: Precision, granularity: Granularity) -> bool:
    return weights and numbers.is_integer


def _rounded_otherwise(weights: bool, numbers: Precision, granularity: Granularity) -> bool:
    others = [method for name, method in ROUNDING.items() if name != "nearest"]
    return _integer_weights(weights, numbers, granularity) and any(granularity.kind in m.acts_on for m in others)


KNOBS = (
    Knob("precision", FLOAT32, (), "Precision", _always, always=True),
    Knob("granularity", str(PER_CHANNEL), (), "Scales of weights", _integer_weights, always=True),
    Knob(
        "calibrator",
        "minmax",
        tuple(RANGES),
        "Ranges of activations",
        _integer_activations,
        searched=tuple(RANGES),
        tied=True,
        always=True,
    ),
    Knob("rounding", "nearest", tuple(ROUNDING), "Rounding of weights", _rounded_otherwise),
    Knob("correction", "none", tuple(CORRECTION), "Correction of biases", _integer_products),
)
FREE = KNOBS[2:]
"""Each is a parameter of its own in a search; precision and granularity are one, as the hardware's ways bind them."""

_BY_NAME: Mapping[str, Knob] = {knob.name: knob for knob in KNOBS}


def find_knob(name: str) -> Knob:
    """The knob of that name; raises StrategyError, with the nearest."""
    if name not in _BY_NAME:
        raise StrategyError(f"there is no knob {name!r}", hint=did_you_mean(name, _BY_NAME))
    return _BY_NAME[name]


def read_knobs(asked: Mapping[str, str | Sequence[str]] | None = None) -> dict[str, tuple[str, ...]]:
    """The values of every knob that a search may use: those asked for, else its usual ones.

    ``asked`` maps knobs to one value, which is fixed, or to several, which are searched: ``{"correction": ("none",
    "bias"), "calibrator": "mse"}``; texts may hold several with commas between them. Precision and granularity, which
    the hardware binds, are in the answer only where they are asked for. Raises StrategyError for what there is not.
    """
    found = {knob.name: knob.searched or (knob.default,) for knob in FREE}
    if asked is not None and not isinstance(asked, Mapping):
        raise StrategyError(f"knobs must map a knob to its values, got {asked!r}")
    for name, values in (asked or {}).items():
        knob = find_knob(name)
        listed = arguments.names(f"knob {name}", values, StrategyError)
        found[name] = tuple(dict.fromkeys(knob.check(value) for value in listed))
        if not listed:
            raise StrategyError(f"knob {name} needs a value", hint=f"values: {', '.join(knob.values)}")
    return found


def setting_text(values: Mapping[str, str]) -> str:
    """Values of free knobs as one text: the calibrator, then what is not at its default (``mse,correction=bias``)."""
    first, *others = ((knob, values.get(knob.name, knob.default)) for knob in FREE)
    return ",".join([first[1], *(f"{knob.name}={value}" for knob, value in others if value != knob.default)])


def read_setting(text: str) -> dict[str, str]:
    """The value of every free knob, of what `setting_text` wrote."""
    first, *others = text.split(",")
    values = {knob.name: knob.default for knob in FREE} | {FREE[0].name: first}
    return values | dict(other.split("=", 1) for other in others)
