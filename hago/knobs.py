"""The table of what can be chosen for a layer, read by strategies, the search, the command line and reports.

A knob added to `KNOBS` becomes a key of a layer in strategy.yaml, can be fixed or searched (``--knob NAME=A,B``), and
appears in the report. The code that carries it out reads ``choice.value(NAME)``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from . import arguments
from .documents import did_you_mean
from .errors import StrategyError
from .methods import CORRECTION, RANGES, ROUNDING, TRANSFORMATIONS
from .precision import FLOAT32, Precision
from .scheme import PER_CHANNEL, Granularity


@dataclass(frozen=True, eq=False)
class Knob:
    """One part of a layer's choice, or of the network's.

    ``values`` are empty if the hardware's ways define them. ``matters`` returns whether the knob has an effect, given
    whether the layer has weights, its precision, and the granularity of its weights. ``searched`` are the values that
    a search tries by default (empty: only the default). ``tied``: layers that read the same tensor share the value.
    ``always``: written even at its default.
    """

    name: str
    default: str
    values: Collection[str]
    title: str
    matters: Callable[[bool, Precision, Granularity], bool]
    searched: tuple[str, ...] = ()
    tied: bool = False
    always: bool = False

    def check(self, value: str) -> str:
        """The value in canonical form. Raises StrategyError for an unknown one."""
        if self.name == "precision":
            return Precision.named(value).name
        if self.name == "granularity":
            return str(Granularity.parse(value))
        if value not in self.values:
            raise StrategyError(f"unknown {self.name} {value!r}", hint=did_you_mean(value, self.values))
        return value


def _always(weights: bool, numbers: Precision, granularity: Granularity) -> bool:
    return True


def _never(weights: bool, numbers: Precision, granularity: Granularity) -> bool:
    return False


def _integer_weights(weights: bool, numbers: Precision, granularity: Granularity) -> bool:
    return weights and numbers.weights.is_integer


def _integer_activations(weights: bool, numbers: Precision, granularity: Granularity) -> bool:
    return numbers.is_integer


def _integer_products(weights: bool, numbers: Precision, granularity: Granularity) -> bool:
    return weights and numbers.is_integer


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
    Knob("rounding", "nearest", tuple(ROUNDING), "Rounding of weights", _integer_weights),
    Knob("correction", "none", tuple(CORRECTION), "Correction of biases", _integer_products),
)
TRANSFORMATION = Knob("transformation", "none", TRANSFORMATIONS, "Transformation of the network", _never)
"""Of the whole network, not of a layer: a key of the strategy, and fixed for a search."""
FREE = KNOBS[2:]
"""Each is a separate search parameter; precision and granularity form one, as the hardware's ways tie them together."""

_BY_NAME: Mapping[str, Knob] = {knob.name: knob for knob in KNOBS}


def find_knob(name: str, known: Mapping[str, Knob] = _BY_NAME) -> Knob:
    """The knob of a layer with this name. Raises StrategyError with the closest name."""
    if name not in known:
        raise StrategyError(f"there is no knob {name!r}", hint=did_you_mean(name, known))
    return known[name]


def read_knobs(asked: Mapping[str, str | Sequence[str]] | None = None) -> dict[str, tuple[str, ...]]:
    """The values of every knob that a search may use: those in ``asked``, else the defaults.

    ``asked`` maps knobs to one value, which is fixed, or to several, which are searched: ``{"correction": ("none",
    "bias"), "calibrator": "mse"}``; a text may hold several values separated by commas. Precision and granularity,
    which the hardware ties together, are included only if asked for, and so is the transformation of the network, of
    which a search has one. Raises StrategyError for unknown knobs or values.
    """
    found = {knob.name: knob.searched or (knob.default,) for knob in FREE}
    if asked is not None and not isinstance(asked, Mapping):
        raise StrategyError(f"knobs must map a knob to its values, got {asked!r}")
    for name, values in (asked or {}).items():
        knob = find_knob(name, {**_BY_NAME, TRANSFORMATION.name: TRANSFORMATION})
        listed = arguments.names(f"knob {name}", values, StrategyError)
        found[name] = tuple(dict.fromkeys(knob.check(value) for value in listed))
        if not listed:
            raise StrategyError(f"knob {name} needs a value", hint=f"values: {', '.join(knob.values)}")
        if knob is TRANSFORMATION and len(found[name]) > 1:
            raise StrategyError(
                f"a search has one transformation, got {', '.join(found[name])}", hint="search once with each"
            )
    return found


def transformation_of(knobs: Mapping[str, Sequence[str]]) -> str:
    """The transformation among the values of knobs that `read_knobs` gave."""
    return next(iter(knobs.get(TRANSFORMATION.name, ())), TRANSFORMATION.default)


def setting_text(values: Mapping[str, str]) -> str:
    """Values of free knobs as text: the calibrator, then those not at their default (``mse,correction=bias``)."""
    first, *others = ((knob, values.get(knob.name, knob.default)) for knob in FREE)
    return ",".join([first[1], *(f"{knob.name}={value}" for knob, value in others if value != knob.default)])


def read_setting(text: str) -> dict[str, str]:
    """The value of every free knob, from the text of `setting_text`."""
    first, *others = text.split(",")
    values = {knob.name: knob.default for knob in FREE} | {FREE[0].name: first}
    return values | dict(other.split("=", 1) for other in others)
