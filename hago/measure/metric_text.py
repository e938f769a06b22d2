"""Values of a metric and changes of it, as text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import DataError
from ..record import Record
from ..text import NOTHING, signed, significant
from .metrics import Metric, SampleMetric, get_metric, unit_of

_NEAR = 1e-5  # of 1: nearer than that a similarity is as good as any
_KNOWN = {"top1": "top-1", "top5": "top-5", "cosine": "cosine similarity", "sqnr": "SQNR", "mse": "mean squared error"}


@dataclass(frozen=True)
class MetricInfo:
    """What a reader needs to know of a metric.

    ``unit`` is "share" (a fraction, written in percent and its changes in points), "dB", or "" (a plain number).
    ``whole_set`` marks metrics that are no mean over samples, ``against_float`` those that compare with float32's
    outputs, so that float32's own value says nothing (a cosine of 1).
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True
    against_float: bool = False
    whole_set: bool = False

    @property
    def is_similarity(self) -> bool:
        """Whether it is 1 for float32 itself, and less for all others."""
        return self.against_float and self.higher_is_better and not self.unit


def describe_metric(metric: Metric) -> MetricInfo:
    """How a reader knows this metric; one made of a function is a plain number under its own name."""
    name, _, output = metric.name.partition(":")
    known = _KNOWN.get(name, metric.name)
    if output and name in _KNOWN:
        known += f" of {output}"
    whole_set = getattr(metric, "whole_set", None) or not isinstance(metric, SampleMetric)
    return MetricInfo(known, unit_of(metric), metric.higher_is_better, metric.needs_float, whole_set)


def describe_named(name: str) -> MetricInfo:
    """The same from a metric's name, as records have it; a user's own metric is a plain number."""
    try:
        return describe_metric(get_metric(name))
    except DataError:
        return MetricInfo(name)


@dataclass(frozen=True)
class MetricText:
    """Writes values of one metric. ``places`` are the digits after the point, of points where a share."""

    info: MetricInfo
    places: int

    @classmethod
    def of(cls, info: MetricInfo, max_drop: float, n_samples: int | None, value: float | None) -> MetricText:
        """Digits that show one sample's difference and write ``max_drop`` as it is."""
        if info.unit == "share":
            fine = max_drop > 0 and not math.isclose(max_drop * 1000, round(max_drop * 1000), abs_tol=1e-9)
            return cls(info, 2 if fine or (n_samples or 0) >= 5000 else 1)
        if info.unit == "dB":
            return cls(info, 1)
        # Two digits of the smaller of the two: a bound, or an error that is close to zero.
        told = [max_drop, value]
        if info.is_similarity:  # what counts is how near to 1 it is
            told += [max(1 - x, _NEAR) for x in (max_drop, value) if x is not None and x < 1]
        small = min((abs(x) for x in told if x and math.isfinite(x)), default=1.0)
        return cls(info, min(9, max(3, 1 - math.floor(math.log10(small)))))

    @classmethod
    def of_record(cls, record: Record) -> MetricText:
        """For the values of one record, outside of a report."""
        return cls.of(describe_named(record.metric or "accuracy"), 0.0, record.n_samples, record.accuracy)

    @property
    def is_share(self) -> bool:
        """Whether values are fractions, written in percent."""
        return self.info.unit == "share"

    @property
    def factor(self) -> float:
        """From the metric's unit to that of changes."""
        return 100.0 if self.is_share else 1.0

    @property
    def change_unit(self) -> str:
        """The unit of changes: "points", "dB" or nothing."""
        return "points" if self.is_share else self.info.unit

    def value(self, value: float | None) -> str:
        """``91.3 %``, ``38.2 dB``, ``0.0123``."""
        if value is None:
            return NOTHING
        vanishes = value != 0 and abs(value) < 10.0**-self.places
        if not math.isfinite(value) or (not self.is_share and (abs(value) >= 1e5 or vanishes)):
            return significant(value)
        unit = " %" if self.is_share else " dB" if self.info.unit == "dB" else ""
        return f"{value * self.factor:.{self.places}f}".replace("-", "−") + unit

    def interval(self, value: float | None, interval: tuple[float, float] | None) -> str:
        """``91.3 % (88.6 to 93.4)``."""
        if value is None or interval is None:
            return self.value(value)
        return f"{self.value(value)} ({self.interval_ends(interval)})"

    def interval_ends(self, interval: tuple[float, float]) -> str:
        """``88.6 to 93.4``, without the unit."""
        low, high = (self.value(v).split(" ")[0] for v in interval)
        return f"{low} to {high}"

    def number(self, amount: float, places: int | None = None) -> str:
        """An amount of change without sign or unit: ``0.2``."""
        return f"{abs(amount) * self.factor:.{self.places if places is None else places}f}"

    def amount(self, amount: float, places: int | None = None) -> str:
        """An amount of change: ``0.2 points``."""
        return f"{self.number(amount, places)} {self.change_unit}".rstrip()

    def change(self, change: float | None) -> str:
        """``−0.2``, in points where a share."""
        return NOTHING if change is None else signed(change * self.factor, self.places)

    def change_interval(self, change: float | None, interval: tuple[float, float] | None) -> str:
        """``−0.2 (−0.8 to +0.4)``."""
        if change is None or interval is None:
            return self.change(change)
        return f"{self.change(change)} ({self.change(interval[0])} to {self.change(interval[1])})"

    def beyond(self, drop: float, bound: float) -> tuple[str, str]:
        """A drop and the bound it breaks, with digits enough that the two differ."""
        for places in range(self.places, self.places + 4):
            if self.number(drop, places) != self.number(bound, places):
                break
        return self.amount(drop, places), self.number(bound, places)
