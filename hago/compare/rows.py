"""A row of a comparison: an engine and its measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..measure.accuracy import Accuracy
from ..measure.latency import Latency
from ..measure.runner import Runner


@dataclass(frozen=True)
class Engine:
    """An engine with one model: the label of its row, and how to open its runner, which may raise HagoError.

    ``size_bytes`` is the size of its weights as deployed; None asks the runner. Engines with the same ``file`` run the
    same model, and the first of them computes exactly what it defines; None: not compared.
    """

    label: str
    open: Callable[[], Runner]
    size_bytes: int | None = None
    file: str | None = None


@dataclass(frozen=True)
class ComparisonRow:
    """The measurements of one engine; ``note`` says why a value is None.

    ``unfaithful`` says how its outputs differ from those of its file (faithful.py); None if they do not.
    """

    label: str
    latency: Latency | None = None
    accuracy: Accuracy | None = None
    size_bytes: int | None = None
    note: str | None = None
    unfaithful: str | None = None

    def to_dict(self, baseline_measured: bool) -> dict[str, Any]:
        """Plain data for JSON, with ratios only if the baseline was measured."""
        data: dict[str, Any] = {"label": self.label, "size_bytes": self.size_bytes, "note": self.note}
        data["unfaithful"] = self.unfaithful
        if self.latency is not None:
            latency = self.latency
            data["clock"], data["disturbed"] = latency.clock, latency.disturbed
            data["latency_s"] = latency.median_s
            data["latency_interval"] = [latency.low_s, latency.high_s]
            data["threads"], data["rounds"] = latency.threads, latency.samples
            if baseline_measured:
                data["latency_ratio"] = latency.ratio
                data["latency_ratio_interval"] = [latency.ratio_low, latency.ratio_high]
        if self.accuracy is not None:
            accuracy = self.accuracy
            data["accuracy"] = accuracy.value
            if accuracy.low is not None:
                data["accuracy_interval"] = [accuracy.low, accuracy.high]
            if accuracy.parts:
                data["accuracy_parts"] = dict(accuracy.parts)
            data["n_samples"] = accuracy.n
            if accuracy.change is not None:
                data["accuracy_change"] = accuracy.change
                if accuracy.change_low is not None:
                    data["accuracy_change_interval"] = [accuracy.change_low, accuracy.change_high]
                data["p_value"] = accuracy.p_value
        return {key: value if _is_json(value) else str(value) for key, value in data.items()}


def _is_json(value: Any) -> bool:
    return not (isinstance(value, float) and not math.isfinite(value))
