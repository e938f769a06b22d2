"""The choice for one layer, as a value; `hago.knobs` has the table of what can be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .documents import mapping
from .errors import StrategyError
from .knobs import KNOBS, find_knob
from .precision import FLOAT32, Precision
from .scheme import PER_CHANNEL, Granularity

_FIELDS = ("precision", "granularity", "calibrator")


@dataclass(frozen=True, order=True)
class Choice:
    """The choice for one layer: its precision, how its weights share scales, how ranges are found, and other methods.

    A value has an effect only if its knob matters (`hago.knobs`): ``granularity`` if the layer has quantized weights,
    ``calibrator`` if its activations are integers. ``methods`` are sorted (knob, value) pairs of the other knobs that
    are not at their default. `value` reads any knob, `with_` changes some.
    """

    precision: str = FLOAT32
    granularity: Granularity = PER_CHANNEL
    calibrator: str = "minmax"
    methods: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        find_knob("calibrator").check(self.calibrator)
        given = {find_knob(name): value for name, value in self.methods}
        others = sorted((knob.name, knob.check(value)) for knob, value in given.items() if value != knob.default)
        object.__setattr__(self, "methods", tuple(others))

    @property
    def is_quantized(self) -> bool:
        """Whether the layer leaves float32."""
        return self.precision != FLOAT32

    def value(self, knob: str) -> str:
        """The value of this knob, as text."""
        if knob in _FIELDS:
            return str(getattr(self, knob))
        return dict(self.methods).get(knob) or find_knob(knob).default

    def values(self, weighted: bool) -> dict[str, str]:
        """Knob -> value, of the knobs that change something; ``weighted``: whether the layer has weights."""
        about = weighted, Precision.named(self.precision), self.granularity
        return {knob.name: self.value(knob.name) for knob in KNOBS if knob.matters(*about)}

    def with_(self, **values: str) -> Choice:
        """The same choice with other values of some knobs. Raises StrategyError for an unknown knob or value."""
        own = {name: values.pop(name, self.value(name)) for name in _FIELDS}
        methods = tuple({**dict(self.methods), **values}.items())
        return Choice(own["precision"], Granularity.parse(own["granularity"]), own["calibrator"], methods)

    def to_dict(self) -> dict[str, str]:
        """Knob -> value, for the knobs that are always written and those that are not at their default."""
        values = {knob: self.value(knob.name) for knob in KNOBS}
        return {knob.name: value for knob, value in values.items() if knob.always or value != knob.default}

    @classmethod
    def from_dict(cls, data: Any, where: str | None = None) -> Choice:
        """Reads what :meth:`to_dict` writes; absent keys take their defaults.

        Raises StrategyError on an unknown key, a value that is no string, or an unknown name.
        """
        fields = mapping(data, where, error=StrategyError, known=tuple(knob.name for knob in KNOBS))
        for key, value in fields.items():
            if not isinstance(value, str):
                raise StrategyError(f"{key} must be a string, not {value!r}", where=where)
        try:
            return cls().with_(**fields)
        except StrategyError as error:
            raise StrategyError(error.what, where=where, hint=error.hint) from None
        except ValueError as error:  # a group size of thousands of digits
            raise StrategyError(f"granularity is not valid: {error}", where=where) from None
