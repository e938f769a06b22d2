"""The goal of a search: what is minimised, and what is bounded.

`QUANTITIES` lists everything that a goal can minimise or bound. A new quantity is an entry there, and a field of `Goal`
if it can be bounded; the search, the choice of the answer, the front and the stored study take it from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from . import arguments
from .amounts import time_text
from .errors import SearchError
from .text import size

if TYPE_CHECKING:
    from .record import Record

MAX_DROP = 0.01
DEFAULT_OBJECTIVES = ("latency", "accuracy")
_ROUNDING = 1e-9  # 10 samples of 1,000 are a drop of 0.01, despite binary rounding


@dataclass(frozen=True)
class Quantity:
    """One thing that a goal may minimise or bound.

    ``cost`` is what is minimised: infinite if it was not measured; costs within the factor ``same`` are alike.
    ``gains`` says whether a record is clearly better than float32. ``bound`` is the goal's (None: not bounded), and
    ``excess`` is how far a record exceeds it, in the bound's unit: as measured, or (True) at the pessimistic end.
    ``text`` formats an amount; ``best`` and ``better`` are the words for less of it. ``study_name`` and ``stored`` are
    its name and value in the stored study.
    """

    name: str
    best: str
    better: str
    bound_name: str
    study_name: str
    cost: Callable[[Goal, Record], float]
    gains: Callable[[Goal, Record, Record], bool]
    stored: Callable[[Goal, Record], float]
    bound: Callable[[Goal], float | None] = lambda goal: None
    excess: Callable[[Goal, Record, bool], float] = lambda goal, record, likely: 0.0
    text: Callable[[float], str] = "{:g}".format
    same: float = 1.0
    maximised: bool = False


@dataclass(frozen=True)
class Goal:
    """What is minimised, and what is bounded.

    The accuracy may drop by at most ``max_drop`` from float32's, in the metric's unit; infinite: not bounded. With a
    ``limit``, the metric's value must be as good as that instead, and `settled` computes ``max_drop`` from it. Drops in
    decibels (``unit`` "dB") are expressed as noise over signal, which adds up over layers.

    ``margin`` is the part of that bound kept free when the answer is chosen, because the best of many candidates looks
    better on the samples that chose it than it is. The sampler minimises the ``objectives``, and the answer the first
    of them that has no bound. ``max_latency_s`` is in seconds, ``max_size`` in bytes. ``scale`` is the magnitude of the
    metric's values, which matters if accuracy is not bounded.
    """

    max_drop: float = MAX_DROP
    margin: float = 0.0
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    higher_is_better: bool = True
    limit: float | None = None
    unit: str = ""
    max_latency_s: float | None = None
    max_size: int | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("max_drop", self.max_drop), ("margin", self.margin)):
            if value != math.inf or name == "margin":
                arguments.number(name, value, hint="max_drop=0.01 allows a loss of one point of top-1")
        check_objectives(self.objectives)
        if self.objectives == ("accuracy",) and self.bounds in ((), (QUANTITIES["accuracy"],)):
            raise SearchError(
                "accuracy cannot be the only objective: float32 would be the answer",
                hint="add latency or size, or bound one of them (--max-latency, --max-size)",
            )

    @property
    def bounds(self) -> tuple[Quantity, ...]:
        """The bounded quantities."""
        return tuple(q for q in QUANTITIES.values() if q.bound(self) is not None)

    @property
    def bounds_accuracy(self) -> bool:
        """Whether the accuracy is bounded, as a drop or a value."""
        return self.limit is not None or math.isfinite(self.max_drop)

    @property
    def primary(self) -> Quantity:
        """What the answer minimises: the first objective that is not bounded, else the first."""
        wanted = [QUANTITIES[name] for name in self.objectives]
        return next((q for q in wanted if q.bound(self) is None), wanted[0])

    @property
    def axes(self) -> tuple[Quantity, ...]:
        """The axes of the front: the objectives and the bounded quantities."""
        return tuple(q for q in QUANTITIES.values() if q.name in self.objectives or q.bound(self) is not None)

    def settled(self, float_record: Record) -> Goal:
        """The goal with the drop that its limit allows, once float32 is measured.

        Raises SearchError if float32 does not reach the limit, or a bound on latency has no seconds to apply to.
        """
        if self.max_latency_s is not None and (float_record.estimated or float_record.ratios):
            raise SearchError(
                "a bound on latency needs seconds, measured on one kind of machine",
                where=float_record.device,
                hint="leave out --max-latency (max_latency=): emulated devices give instruction counts, several "
                "devices give ratios",
            )
        value = float_record.accuracy
        if value is None:
            return self
        if not self.bounds_accuracy:
            return replace(self, scale=abs(value) or 1.0)
        if self.limit is None:
            return self
        if self._above(value) < -_ROUNDING:
            raise SearchError(
                f"float32 itself reaches {value:.4g} on the search samples, the bound is "
                f"{'at least' if self.higher_is_better else 'at most'} {self.limit:g}",
                where=float_record.metric,
                hint="relax the bound, or check that labels, metric and preprocessing belong to the model",
            )
        allowed = _noise(self.limit) if self._in_noise else max(self._above(value), 0.0)
        return replace(self, max_drop=allowed)

    def drop(self, record: Record) -> float:
        """How much worse than float32 the record is on the same samples; infinite if not measured."""
        change = record.accuracy_change
        if change is None or math.isnan(change) or record.state == "failed":
            return math.inf
        if self._in_noise and record.accuracy is not None:
            return _noise(record.accuracy) if change else 0.0
        return -change if self.higher_is_better else change

    def cost(self, record: Record) -> float:
        """What the answer minimises; of accuracy the likely drop."""
        return self.likely_drop(record) if self.primary.name == "accuracy" else self.primary.cost(self, record)

    def likely_drop(self, record: Record) -> float:
        """The drop to judge by: the measured one, or that expected on other samples if larger."""
        drop, expected = self.drop(record), record.expected_change
        if expected is None:
            return drop
        return max(drop, -expected if self.higher_is_better else expected)

    def within(self, record: Record, margin: float = 0.0) -> bool:
        """Whether the record was measured in full and keeps every bound, on these samples and likely on others.

        ``margin`` tightens the bound on accuracy.
        """
        return record.state == "ok" and all(self.kept(q, record, True, margin) for q in self.bounds)

    def keeps(self, record: Record) -> bool:
        """Whether the record, as measured, keeps every bound."""
        return all(self.kept(q, record, False) for q in self.bounds)

    def kept(self, quantity: Quantity, record: Record, likely: bool, margin: float = 0.0) -> bool:
        """Whether the record keeps one bound, as measured or (``likely``) at the pessimistic end."""
        kept_free = margin if quantity.name == "accuracy" else 0.0
        return quantity.excess(self, record, likely) <= _ROUNDING - kept_free

    def missed_share(self, quantity: Quantity, record: Record) -> float:
        """How far the record may exceed a bound at the pessimistic end, relative to that bound."""
        return quantity.excess(self, record, True) / (quantity.bound(self) or self.worst_drop)

    @property
    def worst_drop(self) -> float:
        """The drop beyond which the front does not matter."""
        if not self.bounds_accuracy:
            return 1.0 if self._in_noise else 0.2 * self.scale
        return 4 * self.max_drop if self._in_noise else max(4 * self.max_drop, 0.02)

    @property
    def amounts(self) -> dict[str, str]:
        """The bounds except on accuracy, as text: ``{"max_latency": "5 ms"}``."""
        bounds = {q: q.bound(self) for q in self.bounds if q.name != "accuracy"}
        return {q.bound_name: q.text(bound) for q, bound in bounds.items() if bound is not None}

    @property
    def words(self) -> str:
        """The bounds: ``a drop of at most 0.01 and at most 5 ms``, ``at least 30 dB``."""
        said = []
        if self.limit is not None:
            unit = " dB" if self.unit == "dB" else ""
            said.append(f"at {'least' if self.higher_is_better else 'most'} {self.limit:g}{unit}")
        elif self.bounds_accuracy:
            said.append(f"a drop of at most {self.max_drop:g}")
        return " and ".join([*said, *(f"at most {text}" for text in self.amounts.values())])

    @property
    def phrase(self) -> str:
        """``within a drop of at most 0.01``, ``with at least 30 dB``; empty without bounds."""
        if not self.bounds:
            return ""
        return f"{'within' if self.limit is None and self.bounds_accuracy else 'with'} {self.words}"

    @property
    def sentence(self) -> str:
        """The whole goal: ``the fastest within a drop of at most 0.01``."""
        return f"the {self.primary.best} {self.phrase}".strip()

    @property
    def _in_noise(self) -> bool:
        return self.unit == "dB" and (self.limit is not None or not self.bounds_accuracy)

    def _above(self, value: float) -> float:
        """How much better than the limit a value is."""
        assert self.limit is not None
        return value - self.limit if self.higher_is_better else self.limit - value

    def _accuracy_excess(self, record: Record, likely: bool) -> float:
        drop = self.likely_drop(record) if likely else self.drop(record)
        if self.limit is None or record.accuracy is None:
            return drop - self.max_drop
        expected = drop - self.drop(record) if likely and not self._in_noise else 0.0
        return expected - self._above(record.accuracy)

    def _latency_excess(self, record: Record, likely: bool) -> float:
        if self.max_latency_s is None or record.latency_s is None:
            return math.inf
        high = record.latency_interval[1] if likely and record.latency_interval else record.latency_s
        return high - self.max_latency_s

    def _more_accurate(self, record: Record) -> bool:
        """Whether it is more accurate than float32 by more than the noise."""
        interval = record.accuracy_change_interval
        if interval is None or self.likely_drop(record) >= 0:
            return False
        return interval[0] > 0 if self.higher_is_better else interval[1] < 0


def _noise(decibels: float) -> float:
    """Noise over signal."""
    return float(10.0 ** (-decibels / 10.0))


def _known(value: float | None) -> float:
    return math.inf if value is None else float(value)


_LIST = (
    Quantity(
        "latency", "fastest", "faster", "max_latency", "latency over float32",
        cost=lambda goal, record: _known(record.latency_ratio),
        gains=lambda goal, record, floats: record.is_faster,
        bound=lambda goal: goal.max_latency_s,
        excess=Goal._latency_excess,
        stored=lambda goal, record: 1.0 if record.latency_ratio is None else record.latency_ratio,
        text=time_text,
        same=1.03,
    ),
    Quantity(
        "accuracy", "most accurate", "more accurate", "max_drop", "accuracy change",
        cost=Goal.drop,
        gains=lambda goal, record, floats: goal._more_accurate(record),
        bound=lambda goal: goal.max_drop if goal.bounds_accuracy else None,
        excess=Goal._accuracy_excess,
        stored=lambda goal, record: (record.accuracy_change or 0.0) * (1.0 if goal.higher_is_better else -1.0),
        text="{:g}".format,
        maximised=True,
    ),
    Quantity(
        "size", "smallest", "smaller", "max_size", "size in bytes",
        cost=lambda goal, record: _known(record.size_bytes),
        gains=lambda goal, record, floats: _known(record.size_bytes) < _known(floats.size_bytes),
        bound=lambda goal: goal.max_size,
        excess=lambda goal, record, likely: _known(record.size_bytes) - (goal.max_size or 0),
        stored=lambda goal, record: float(record.size_bytes or 0),
        text=lambda amount: size(amount, digits=4),
        same=1.01,
    ),
)  # fmt: skip
QUANTITIES: Mapping[str, Quantity] = MappingProxyType({quantity.name: quantity for quantity in _LIST})
OBJECTIVES = tuple(QUANTITIES)


def check_objectives(objectives: tuple[str, ...]) -> None:
    """Raises SearchError unless they are some of `OBJECTIVES`, each once."""
    unknown = [name for name in objectives if name not in QUANTITIES]
    if unknown or not objectives or len(set(objectives)) != len(objectives):
        raise SearchError(f"objectives must be some of {', '.join(OBJECTIVES)}, each once, got {objectives!r}")
