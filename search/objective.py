"""What a search wants, and what it asks of whoever measures candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .. import arguments
from ..errors import HagoError, NoDeviceError, SearchError, StorageError
from ..files import is_full
from ..record import Record
from ..strategy import Strategy

OBJECTIVES = ("latency", "accuracy", "size")
WORTH_TELLING = 0.95  # of float32's latency: less of a gain than that is none
_ROUNDING = 1e-9  # 10 samples of 1,000 are a drop of 0.01, whatever binary fractions say


class Evaluator(Protocol):
    """Builds and measures strategies of one model on one machine. Calls come from one thread.

    Accuracy must be the same whenever the same strategy is measured (that of compiled integers is), and so
    must ``sensitivity``; ``kernel_times`` should come from a cache that outlives the process. Then two
    searches of one seed propose the same strategies, however noisy the latencies.
    """

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better (top-1) or less (mean squared error)."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What must not change when a search is resumed: name -> value, such as ``model``, ``hw``,
        ``metric``, ``threads``, ``samples`` (a hash of the split)."""
        ...

    def float_record(self) -> Record:
        """float32 on the search part. Raises HagoError when it cannot be built or run."""
        ...

    def evaluate(
        self, strategy: Strategy, *, stop_below: float | None = None, time_left_s: float | None = None
    ) -> Record:
        """Builds and measures one candidate on the search part; the search numbers and labels the record.

        What goes wrong is a record of state "failed" with its reason; a HagoError raised is made into one.
        With ``stop_below`` (such as -0.02), the accuracy need not be finished, state "pruned", once it is
        clear that it changes for the worse by more than that. ``time_left_s`` is what the search's budget
        still allows, for measurements that can be shorter.
        """
        ...

    def remeasure(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records with their latency measured once more, all of them and float32 in turns. May raise
        HagoError.
        """
        ...

    def test(self, strategy: Strategy) -> Record:
        """The same on the test part (part "test"). Called once or twice, after the search.

        A strategy without choices is float32.
        """
        ...

    def sensitivity(self, strategy: Strategy, samples: int) -> float:
        """How far the final outputs are from float32's on the first ``samples`` calibration samples.

        Sum of squared differences over the sum of squared float outputs (the inverse of SQNR, linear):
        0 is exact, 1 is as much noise as signal. May raise HagoError.
        """
        ...

    def kernel_times(self, strategy: Strategy) -> Mapping[str, float]:
        """Layer name -> measured seconds of its kernels, when the whole model runs this strategy.

        May raise HagoError.
        """
        ...


def check_objectives(objectives: tuple[str, ...]) -> None:
    """Raises SearchError where they are not some of `OBJECTIVES`, each once, with one that quantizing can gain."""
    unknown = [name for name in objectives if name not in OBJECTIVES]
    if unknown or not objectives or len(set(objectives)) != len(objectives):
        raise SearchError(f"objectives must be some of {', '.join(OBJECTIVES)}, each once, got {objectives!r}")
    if "latency" not in objectives and "size" not in objectives:
        raise SearchError("accuracy alone is no objective: float32 would be the answer", hint="add latency or size")


@dataclass(frozen=True)
class Goal:
    """Little latency (and size) at an accuracy that drops by at most ``max_drop``, in the metric's unit.

    Where there is a ``limit``, the metric's value has to be as good as that instead, and `settled` makes ``max_drop``
    of it. Of decibels (``unit`` "dB"), drops are told as noise over signal: that adds up over layers.

    ``margin`` is kept free of the bound when the answer is chosen: the best of many candidates looks
    better on the samples that chose it than it is. ``objectives`` are what the sampler minimises; the
    bound is a constraint in any case.
    """

    max_drop: float = 0.01
    margin: float = 0.0
    objectives: tuple[str, ...] = ("latency", "accuracy")
    higher_is_better: bool = True
    limit: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        for name, value in (("max_drop", self.max_drop), ("margin", self.margin)):
            arguments.number(name, value, hint="max_drop=0.01 allows a loss of one point of top-1")
        check_objectives(self.objectives)

    def settled(self, float_record: Record) -> Goal:
        """The goal with the drop that its limit allows, now that float32 is known.

        Raises SearchError where float32 itself is not as good as that.
        """
        value = float_record.accuracy
        if self.limit is None or value is None:
            return self
        if self._above(value) < -_ROUNDING:
            raise SearchError(
                f"float32 itself has {value:.4g} on the search samples, the bound is "
                f"{'at least' if self.higher_is_better else 'at most'} {self.limit:g}",
                where=float_record.metric,
                hint="ask for less, or check that labels, metric and preprocessing are the model's",
            )
        allowed = _noise(self.limit) if self._in_noise else max(self._above(value), 0.0)
        return replace(self, max_drop=allowed)

    def drop(self, record: Record) -> float:
        """How much worse than float32 the record is, on the same samples; infinite where not measured."""
        change = record.accuracy_change
        if change is None or math.isnan(change) or record.state == "failed":
            return math.inf
        if self._in_noise and record.accuracy is not None:
            return _noise(record.accuracy) if change else 0.0
        return -change if self.higher_is_better else change

    def likely_drop(self, record: Record) -> float:
        """The drop to judge by: the measured one, or the one expected on other samples where that is larger."""
        drop, expected = self.drop(record), record.expected_change
        if expected is None:
            return drop
        return max(drop, -expected if self.higher_is_better else expected)

    def within(self, record: Record, margin: float = 0.0) -> bool:
        """Whether the record was measured in full and keeps the bound, there and likely elsewhere."""
        if record.state != "ok":
            return False
        if self.limit is None or record.accuracy is None:
            return self.likely_drop(record) <= self.max_drop - margin + _ROUNDING
        luck = 0.0 if self._in_noise else self.likely_drop(record) - self.drop(record)
        return self._above(record.accuracy) - luck >= margin - _ROUNDING

    @property
    def hopeless_drop(self) -> float:
        """A drop beyond which a candidate is worth no more samples, once some other keeps the bound."""
        return 2 * self.max_drop

    @property
    def worst_drop(self) -> float:
        """The drop from which on the front is of no interest."""
        return 4 * self.max_drop if self._in_noise else max(4 * self.max_drop, 0.02)

    @property
    def words(self) -> str:
        """``a drop of at most 0.01``, ``at least 30 dB``."""
        if self.limit is None:
            return f"a drop of at most {self.max_drop:g}"
        unit = " dB" if self.unit == "dB" else ""
        return f"at {'least' if self.higher_is_better else 'most'} {self.limit:g}{unit}"

    @property
    def _in_noise(self) -> bool:
        return self.limit is not None and self.unit == "dB"

    def _above(self, value: float) -> float:
        """How much better than the limit a value is."""
        assert self.limit is not None
        return value - self.limit if self.higher_is_better else self.limit - value


def _noise(decibels: float) -> float:
    """Noise over signal."""
    return float(10.0 ** (-decibels / 10.0))


def is_faster(record: Record) -> bool:
    """Whether the record beats float32 by more than the noise: the whole interval of the ratio is below 1."""
    if record.latency_ratio is None or record.state == "failed":
        return False
    high = record.latency_ratio_interval[1] if record.latency_ratio_interval else record.latency_ratio
    return high < 1


def is_untold(record: Record) -> bool:
    """Whether a gain worth having (5 %) can be neither told nor ruled out: the interval of the ratio holds 1, or the
    machine was too busy for any number."""
    if record.state != "ok" or (record.strategy is not None and record.strategy.is_float):
        return False
    if record.latency_ratio is None:
        return True
    low, high = record.latency_ratio_interval or (record.latency_ratio, record.latency_ratio)
    return low < WORTH_TELLING and high >= 1


def evaluate_safely(
    evaluator: Evaluator, strategy: Strategy, *, stop_below: float | None, time_left_s: float | None
) -> Record:
    """Measures one candidate; whatever goes wrong is a failed record, but for a full disk and devices that are gone.

    Raises StorageError, NoDeviceError and KeyboardInterrupt alone.
    """
    try:
        record = evaluator.evaluate(strategy, stop_below=stop_below, time_left_s=time_left_s)
    except (StorageError, NoDeviceError):
        raise
    except HagoError as error:
        return Record(0, "", strategy, state="failed", reason=f"{type(error).__name__}: {error}")
    except Exception as error:  # a bug of a compiler or of a metric must not end the search
        if is_full(error):
            raise StorageError(str(error), hint="free some space, then resume") from error
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0] if text else 'no message'}"
        return Record(0, "", strategy, state="failed", reason=reason)
    if record.state == "ok" and (record.accuracy is None or record.accuracy_change is None):
        return Record(0, "", strategy, state="failed", reason="the evaluator gave no accuracy")
    return record


def common_reason(records: Sequence[Record]) -> str:
    """The reason that most of these failed records share, by its first line."""
    reasons = [(record.reason or "no reason given").splitlines()[0] for record in records]
    return max(reasons, key=reasons.count)
