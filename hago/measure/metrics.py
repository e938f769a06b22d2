"""Metrics of outputs: a score for each sample, or one number for a whole set.

A `SampleMetric` scores samples one by one (top-1), so that changes against float32 are paired and hopeless candidates
can be stopped early. A `SetMetric` computes one number from all outputs and labels of a part (macro F1, AUC, mAP, word
error rate), which is not a mean over samples.

Notation: ``n`` samples; ``outputs`` are the model's outputs in order, each [n, ...].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .against_float import SQNR_LIMIT_DB, AgainstFloat, CosineSimilarity, MeanSquaredError, Sqnr
from .outputs import Array, ModelOutputs
from .topk import Scores, TopK

__all__ = ["SQNR_LIMIT_DB", "Metric", "SampleMetric", "Scores", "SetMetric", "fit", "get_metric"]

# (the output, or the list of several outputs; labels) -> one score for each sample, or one number for all
ScoreFunction = Callable[[Any, Any], Any]


class _Described(Protocol):
    """What both kinds have in common. ``needs_float`` metrics compare with the outputs of the float model."""

    @property
    def name(self) -> str: ...

    @property
    def needs_labels(self) -> bool: ...

    @property
    def needs_float(self) -> bool: ...

    @property
    def higher_is_better(self) -> bool: ...


@runtime_checkable
class SampleMetric(_Described, Protocol):
    """Scores samples one by one; called on blocks of samples."""

    def per_sample(
        self, outputs: Sequence[Array], labels: Any, float_outputs: Sequence[Array] | None = None
    ) -> npt.ArrayLike:
        """Scores [n]. Raises DataError if labels or float outputs are missing or do not fit."""
        ...

    def value(self, scores: npt.ArrayLike) -> float:
        """The metric's value from the scores of samples [n]."""
        ...


@runtime_checkable
class SetMetric(_Described, Protocol):
    """One number for a set; called with all outputs and labels of a part, and with resamples of them."""

    def of_set(self, outputs: Sequence[Array], labels: Any, float_outputs: Sequence[Array] | None = None) -> float:
        """The value over all n samples."""
        ...


Metric = SampleMetric | SetMetric


@dataclass(frozen=True)
class FunctionMetric:
    """A metric made of ``function(outputs, labels)``, of either kind, depending on its result.

    ``outputs`` is the array of a model with one output, else the list of all. A function that returns one score for
    each sample is a `SampleMetric`, one that returns one number a `SetMetric`. The first call, with all outputs of a
    part, decides, unless ``whole_set`` does: a function declared to return scores (False) only receives blocks.
    """

    name: str
    function: ScoreFunction
    needs_labels: bool = False
    needs_float: bool = False
    higher_is_better: bool = True
    whole_set: bool | None = None

    def per_sample(self, outputs: Sequence[Array], labels: Any, float_outputs: Sequence[Array] | None = None) -> Scores:
        """Scores [n]."""
        found, n = self.call(outputs, labels), len(outputs[0])
        if found.shape != (n,):
            raise DataError(
                f"the metric function must give one score for each of {n} samples, as it did before; "
                f"it gave the shape {found.shape}",
                where=self.name,
            )
        return found

    def value(self, scores: npt.ArrayLike) -> float:
        """The mean of scores [n]."""
        return float(np.mean(np.asarray(scores, np.float64)))

    def of_set(self, outputs: Sequence[Array], labels: Any, float_outputs: Sequence[Array] | None = None) -> float:
        """The function's number for all samples."""
        found = self.call(outputs, labels)
        if found.shape != ():
            raise DataError(
                f"the metric function must give one number, as it did before; it gave the shape {found.shape}",
                where=self.name,
            )
        return float(found)

    def call(self, outputs: Sequence[Array], labels: Any) -> npt.NDArray[np.float64]:
        """The function's result: scores [n], or one number []. Raises DataError for anything else."""
        n = len(outputs[0])
        given = outputs[0] if len(outputs) == 1 else list(outputs)
        try:
            found = np.asarray(self.function(given, labels), dtype=np.float64)
        except Exception as error:
            raise DataError(
                f"the metric function failed: {type(error).__name__}: {error}",
                where=self.name,
                hint="it is called as function(outputs, labels); outputs is an array, or a list of several",
            ) from error
        if found.shape not in ((), (n,)):
            raise DataError(
                f"the metric function must give one number, or one for each of {n} samples; "
                f"it gave the shape {found.shape}",
                where=self.name,
            )
        return found


_METRICS: dict[str, TopK | AgainstFloat] = {
    "top1": TopK("top1", k=1),
    "top5": TopK("top5", k=5),
    "cosine": CosineSimilarity("cosine"),
    "sqnr": Sqnr("sqnr"),
    "mse": MeanSquaredError("mse"),
}


def get_metric(metric: str | Metric | ScoreFunction) -> Metric:
    """The metric of that name (top1, top5, cosine, sqnr, mse), or one made of a function.

    ``top1:logits`` reads the output of that name, or of that number (``top1:0``). A function's attributes
    ``higher_is_better`` (else True), ``needs_labels`` (else False) and ``whole_set`` (see `FunctionMetric`) are
    respected. Raises DataError for an unknown name.
    """
    if isinstance(metric, str):
        name, _, output = metric.partition(":")
        if name not in _METRICS or metric.endswith(":"):
            raise DataError(
                f"unknown metric {metric!r}",
                hint=f"metrics: {', '.join(_METRICS)}, of one output as top1:OUTPUT, or your own function",
            )
        return _METRICS[name] if not output else replace(_METRICS[name], name=metric, output=output)
    if isinstance(metric, SampleMetric | SetMetric):
        return metric
    if callable(metric):
        whole_set = getattr(metric, "whole_set", None)
        return FunctionMetric(
            str(getattr(metric, "__name__", type(metric).__name__)),
            metric,
            needs_labels=bool(getattr(metric, "needs_labels", False)),
            higher_is_better=bool(getattr(metric, "higher_is_better", True)),
            whole_set=None if whole_set is None else bool(whole_set),
        )
    raise DataError(
        f"a metric is a name, a function or a Metric, not {type(metric).__name__}",
        hint=f"metrics: {', '.join(_METRICS)}",
    )


def fit(metric: Metric, outputs: ModelOutputs, labels: Callable[[], Any]) -> Metric:
    """The metric, settled on the outputs that it reads; ``labels`` is called if it reads labels."""
    if isinstance(metric, TopK | AgainstFloat):
        return metric.fitted(outputs, labels() if reads_labels(metric) else None)
    return metric


def reads_labels(metric: Metric) -> bool:
    """Whether it receives labels, if there are any."""
    return bool(getattr(metric, "reads_labels", True))


def unit_of(metric: Metric) -> str:
    """The unit of its values: "share" (a fraction), "dB", or "" for a plain number."""
    return str(getattr(metric, "unit", ""))
