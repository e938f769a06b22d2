"""The protocol of an evaluator, which measures candidates for a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..errors import HagoError, NoDeviceError, StorageError
from ..files import is_full
from ..record import Record
from ..strategy import Strategy


class Evaluator(Protocol):
    """Builds and measures strategies of one model on one machine. All calls come from one thread.

    Accuracy and ``sensitivity`` must be the same whenever the same strategy is measured (compiled integers are), and
    ``kernel_times`` should come from a cache that outlives the process. Two searches with one seed then propose the
    same strategies, however noisy the latencies.
    """

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values of the metric are better (top-1) or smaller ones (mean squared error)."""
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

        A failure is a record of state "failed" with its reason; a HagoError raised becomes one. With
        ``stop_below`` (such as -0.02), measuring accuracy may stop (state "pruned") once it is clear that the change is
        worse than that. ``time_left_s`` is what the search's budget still allows, for measurements that can be
        shortened.
        """
        ...

    def remeasure(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records with their latency measured again, all of them and float32 in turns. May raise HagoError."""
        ...

    def test(self, strategy: Strategy) -> Record:
        """Measures a strategy on the test part (part "test"), once or twice, after the search.

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


def evaluate_safely(
    evaluator: Evaluator, strategy: Strategy, *, stop_below: float | None, time_left_s: float | None
) -> Record:
    """Measures one candidate; a failure becomes a failed record, except a full disk and devices that are gone.

    Raises only StorageError, NoDeviceError and KeyboardInterrupt.
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
    """The most common reason of these failed records, by its first line."""
    reasons = [(record.reason or "no reason given").splitlines()[0] for record in records]
    return max(reasons, key=reasons.count)
