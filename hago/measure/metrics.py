"""What makes an output good: one score per sample, so that changes against float can be told pair by pair.

Notation: ``n`` samples, ``C`` classes; ``outputs`` are the model's outputs in order, each [n, ...].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import DataError

Scores = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
# (the output, or the list of outputs where there are several; labels) -> one score per sample, or one for all
ScoreFunction = Callable[[Any, Any], npt.ArrayLike]

# Where outputs agree to float32's own rounding, the ratio has no meaning: 150 dB is 2**-25 of the signal.
SQNR_LIMIT_DB = 150.0


@runtime_checkable
class Metric(Protocol):
    """A measure of quality. ``needs_float`` metrics compare with the outputs of the float model."""

    @property
    def name(self) -> str: ...

    @property
    def needs_labels(self) -> bool: ...

    @property
    def needs_float(self) -> bool: ...

    @property
    def higher_is_better(self) -> bool: ...

    def per_sample(
        self, outputs: Sequence[Array], labels: Array | None, float_outputs: Sequence[Array] | None = None
    ) -> Scores:
        """Scores [n]. Raises DataError where labels or float outputs are missing or do not fit."""
        ...

    def value(self, scores: npt.ArrayLike) -> float:
        """The value over samples, of their scores [n]."""
        ...


@dataclass(frozen=True)
class _Mean:
    name: str
    needs_labels: bool = False
    needs_float: bool = False
    higher_is_better: bool = True

    def value(self, scores: npt.ArrayLike) -> float:
        """The mean of scores [n]."""
        return float(np.mean(np.asarray(scores, np.float64)))


@dataclass(frozen=True)
class TopK(_Mean):
    """Whether the label is among the ``k`` classes that score highest; of equal scores the lower class wins.

    The first output holds scores [n, C] (or [n, C, 1, 1]); labels are [n] integers. Scores for each
    position, [n, T, C] with labels [n, T], give the share of positions that are right.
    """

    k: int = 1

    def per_sample(
        self, outputs: Sequence[Array], labels: Array | None, float_outputs: Sequence[Array] | None = None
    ) -> Scores:
        logits = np.asarray(outputs[0])
        if labels is None:
            raise DataError(
                f"the metric {self.name} needs labels, the samples have none",
                hint="give (x, y), or choose a metric against the float outputs: sqnr, cosine, mse",
            )
        truth = np.asarray(labels)
        while logits.ndim > 2 and logits.ndim > truth.ndim + 1 and logits.shape[-1] == 1:
            logits = logits[..., 0]
        self._check(logits, truth)
        own = np.take_along_axis(logits, truth[..., None].astype(np.int64), axis=-1)
        earlier = np.arange(logits.shape[-1]) < truth[..., None]
        rank = np.count_nonzero((logits > own) | ((logits == own) & earlier), axis=-1)
        # Comparisons with NaN are false, which would make a sample without a score a right one.
        right = (rank < self.k) & ~np.isnan(logits.astype(np.float32)).any(axis=-1)
        return right.reshape(len(right), -1).mean(axis=1, dtype=np.float64)

    def _check(self, logits: Array, truth: Array) -> None:
        if truth.dtype.kind not in "biu" or truth.shape != logits.shape[:-1]:
            one_hot = truth.shape == logits.shape
            raise DataError(
                f"the metric {self.name} needs integer labels of shape {logits.shape[:-1]} for scores of "
                f"shape {logits.shape}, found {truth.dtype.name} of shape {truth.shape}",
                hint="one-hot labels become classes by y.argmax(axis=-1)"
                if one_hot
                else "give integer classes, or pass a function (outputs, labels) -> scores as the metric",
            )
        classes = logits.shape[-1]
        if classes <= self.k:
            raise DataError(
                f"the metric {self.name} needs more than {self.k} classes, the output has {classes}",
                hint="choose another metric, or pass a function (outputs, labels) -> scores",
            )
        wrong = (truth < 0) | (truth >= classes)
        if wrong.any():
            first = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(
                f"labels must be from 0 to {classes - 1}, found {truth[first]}",
                hint="do labels begin at 1, or belong to another model?",
            )


@dataclass(frozen=True)
class CosineSimilarity(_Mean):
    """Cosine of the angle between a sample's outputs and the float ones, all outputs taken as one vector."""

    def per_sample(
        self, outputs: Sequence[Array], labels: Array | None, float_outputs: Sequence[Array] | None = None
    ) -> Scores:
        found, wanted = _pair(self.name, outputs, float_outputs)
        finite = np.isfinite(found).all(axis=1) & np.isfinite(wanted).all(axis=1)
        found, wanted = _scaled(found, wanted)
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        dot = np.einsum("ij,ij->i", found, wanted)
        # Two zero vectors are equal; a zero vector and another have nothing in common.
        same = (found == wanted).all(axis=1)
        cosine = np.divide(dot, norms, out=same.astype(np.float64), where=norms > 0)
        return np.where(finite, np.clip(cosine, -1.0, 1.0), -1.0)


@dataclass(frozen=True)
class Sqnr(_Mean):
    """Signal to quantization noise in dB: 10 log10(sum(f**2) / sum((f - q)**2)) over a sample's outputs.

    Within plus or minus 150 dB: exact agreement would be infinite, and outputs that are not finite count
    as the worst.
    """

    def per_sample(
        self, outputs: Sequence[Array], labels: Array | None, float_outputs: Sequence[Array] | None = None
    ) -> Scores:
        found, wanted = _pair(self.name, outputs, float_outputs)
        found, wanted = _scaled(found, wanted)
        signal = np.square(wanted).sum(axis=1)
        noise = np.square(wanted - found).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = 10.0 * np.log10(signal / noise)
        ratio = np.where(noise == 0, SQNR_LIMIT_DB, ratio)
        return np.clip(np.where(np.isnan(ratio), -SQNR_LIMIT_DB, ratio), -SQNR_LIMIT_DB, SQNR_LIMIT_DB)


@dataclass(frozen=True)
class MeanSquaredError(_Mean):
    """Mean squared difference from the targets, or from the float outputs where labels are no targets.

    Labels are targets where they are real numbers in the shape of the first (and only) output.
    """

    higher_is_better: bool = False

    def per_sample(
        self, outputs: Sequence[Array], labels: Array | None, float_outputs: Sequence[Array] | None = None
    ) -> Scores:
        if len(outputs) == 1 and labels is not None and np.asarray(labels).dtype.kind == "f":
            output, targets = np.asarray(outputs[0]), np.asarray(labels)
            if output.size == targets.size and len(output) == len(targets):
                float_outputs = [targets.reshape(output.shape)]
        found, wanted = _pair(self.name, outputs, float_outputs)
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.square(found - wanted).mean(axis=1)
        return np.where(np.isnan(error), np.inf, error)


@dataclass(frozen=True)
class FunctionMetric(_Mean):
    """A metric made of ``function(outputs, labels)``.

    ``outputs`` is the array of a model with one output, else the list of all. It gives one score per sample,
    or one number, which then counts for every sample of the batch that it was given.
    """

    function: ScoreFunction = lambda outputs, labels: 0.0

    def per_sample(
        self, outputs: Sequence[Array], labels: Array | None, float_outputs: Sequence[Array] | None = None
    ) -> Scores:
        n = len(outputs[0])
        given = outputs[0] if len(outputs) == 1 else list(outputs)
        try:
            scores = np.asarray(self.function(given, labels), dtype=np.float64)
        except Exception as error:
            raise DataError(
                f"the metric function failed: {type(error).__name__}: {error}",
                where=self.name,
                hint="it is called as function(outputs, labels); outputs is an array, or a list of several",
            ) from error
        if scores.shape not in ((), (n,)):
            raise DataError(
                f"the metric function must give one number, or one for each of {n} samples; "
                f"it gave the shape {scores.shape}",
                where=self.name,
            )
        return np.array(np.broadcast_to(scores, (n,)))


_METRICS: dict[str, Metric] = {
    "top1": TopK("top1", needs_labels=True, k=1),
    "top5": TopK("top5", needs_labels=True, k=5),
    "cosine": CosineSimilarity("cosine", needs_float=True),
    "sqnr": Sqnr("sqnr", needs_float=True),
    "mse": MeanSquaredError("mse", needs_float=True),
}


def get_metric(metric: str | Metric | ScoreFunction) -> Metric:
    """The metric of that name (top1, top5, cosine, sqnr, mse), or one made of a function.

    A function's attributes ``higher_is_better`` (else True) and ``needs_labels`` (else False) are
    respected. Raises DataError for an unknown name.
    """
    if isinstance(metric, str):
        if metric not in _METRICS:
            raise DataError(
                f"unknown metric {metric!r}",
                hint=f"metrics: {', '.join(_METRICS)}, or a function of your own",
            )
        return _METRICS[metric]
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return FunctionMetric(
            str(getattr(metric, "__name__", type(metric).__name__)),
            needs_labels=bool(getattr(metric, "needs_labels", False)),
            higher_is_better=bool(getattr(metric, "higher_is_better", True)),
            function=metric,
        )
    raise DataError(
        f"a metric is a name, a function or a Metric, not {type(metric).__name__}",
        hint=f"metrics: {', '.join(_METRICS)}",
    )


def _pair(name: str, outputs: Sequence[Array], float_outputs: Sequence[Array] | None) -> tuple[Scores, Scores]:
    """Outputs and float outputs, each flattened to float64 [n, elements of all outputs]."""
    if float_outputs is None:
        raise DataError(f"the metric {name} needs the float model's outputs on the same samples")
    shapes, wanted = [np.shape(o) for o in outputs], [np.shape(o) for o in float_outputs]
    if shapes != wanted:
        raise DataError(f"the metric {name} needs outputs of the float model's shapes {wanted}, found {shapes}")
    return _flat(outputs), _flat(float_outputs)


def _flat(outputs: Sequence[Array]) -> Scores:
    n = len(outputs[0])
    return np.concatenate([np.asarray(o).astype(np.float64).reshape(n, -1) for o in outputs], axis=1)


def _scaled(found: Scores, wanted: Scores) -> tuple[Scores, Scores]:
    """Both divided by the largest magnitude of their sample, so that no square overflows or vanishes."""
    peak = np.maximum(np.abs(found).max(axis=1, initial=0.0), np.abs(wanted).max(axis=1, initial=0.0))
    peak = np.maximum(peak, np.finfo(np.float64).tiny)[:, None]
    with np.errstate(invalid="ignore"):
        return found / peak, wanted / peak
