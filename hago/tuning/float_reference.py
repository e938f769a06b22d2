"""float32's outputs and scores on the parts of the samples, the reference of every candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from ..data import DataParts, Samples
from ..errors import DataError
from ..measure.accuracy import Accuracy, StopRule, hopeless, measure_accuracy
from ..measure.against_float import AgainstFloat
from ..measure.expected import ExpectedChange, is_classifier
from ..measure.metrics import FunctionMetric, Metric, SampleMetric, fit
from ..measure.outputs import ModelOutputs, Part
from ..measure.running import collect_outputs
from ..measure.topk import TopK
from ..model import Model
from ..runners import Runner

_FEW = 32  # calibration samples to find the magnitudes of outputs


def require_labels(metric: Metric, parts: DataParts) -> None:
    """Raises DataError if the metric needs labels and the search or test part has none."""
    for part in (parts.search, parts.test):
        if metric.needs_labels and part.labels is None:
            raise DataError(
                f"the metric {metric.name!r} needs labels, and the samples have none",
                where=part.where,
                hint="give labels (y), or choose a metric without labels, such as --metric cosine (metric=)",
            )


class FloatReference:
    """Runs float32 once on each part, on first use; ``opened`` returns its runner."""

    def __init__(
        self,
        opened: Callable[[], Runner],
        model: Model,
        parts: DataParts,
        metric: Metric,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self._opened, self.parts, self._asked, self._seed, self._say = opened, parts, metric, seed, say
        self._outputs = ModelOutputs.of(model, lambda: self._probe(min(_FEW, len(parts.calibration))))
        self._kept_outputs: dict[str, list[np.ndarray]] = {}
        self._kept_probes: dict[int, list[np.ndarray]] = {}
        self._kept_accuracy: dict[str, Accuracy] = {}
        self._logits: np.ndarray | None = None
        self._metric: Metric | None = None

    def part(self, name: str) -> Samples:
        """The samples of "calibration", "search" or "test"."""
        return {"calibration": self.parts.calibration, "search": self.parts.search, "test": self.parts.test}[name]

    @property
    def metric(self) -> Metric:
        """The metric, bound to the outputs that it reads and, once float32 is measured, to its kind.

        Raises DataError if outputs or labels do not fit.
        """
        if self._metric is None:
            self._metric = fit(self._asked, self._outputs, lambda: self.parts.search.labels)
        return self._metric

    def has_accuracy(self, part: str) -> bool:
        """Whether float32's accuracy on this part has been measured."""
        return part in self._kept_accuracy

    def accuracy(self, part: str) -> Accuracy:
        """float32's accuracy on a part."""
        if part not in self._kept_accuracy:
            metric = self.metric
            floats = self._outputs_on(part) if metric.needs_float else None
            self._say(f"float32's accuracy on the {part} samples")
            keep = self._keep_logits if part == "search" and isinstance(metric, TopK) and metric.k == 1 else None
            self._kept_accuracy[part] = measure_accuracy(
                self._opened(), self.part(part), metric, float_outputs=floats, seen=keep, seed=self._seed
            )
            if isinstance(metric, FunctionMetric):
                self._metric = replace(metric, whole_set=self._kept_accuracy[part].scores is None)
        return self._kept_accuracy[part]

    def race(self, max_drop: float) -> StopRule | None:
        """A rule that stops candidates on the search part once they lose more than ``max_drop``, by sample scores.

        None for metrics of the whole set and against float32, whose value over all samples cannot be predicted.
        """
        metric, scores = self.metric, self.accuracy("search").scores
        if not isinstance(metric, SampleMetric) or metric.needs_float or scores is None:
            return None
        return hopeless(scores, max_drop, higher_is_better=metric.higher_is_better, value=metric.value)

    def of_candidate(self, runner: Runner, part: str, stop: StopRule | None = None, seen: Any = None) -> Accuracy:
        """A candidate's accuracy, with its change against float32; ``stop`` and ``seen`` as in `measure_accuracy`."""
        return measure_accuracy(
            runner,
            self.part(part),
            self.metric,
            reference=self.accuracy(part),
            float_outputs=self._outputs_on(part) if self.metric.needs_float else None,
            stop=stop,
            seen=seen,
            seed=self._seed,
        )

    def remarks(self) -> tuple[str, ...]:
        """Caveats about the metric's values."""
        metric = self.metric
        told = list(getattr(metric, "remarks", ()))
        if isinstance(metric, TopK):
            found, guessed = self.accuracy("search"), metric.guessing(self.parts.search.labels)
            if found.low is not None and found.low <= guessed:
                most = "class" if metric.k == 1 else f"{metric.k} classes"
                told.append(
                    f"On the search samples float32 itself is right on {100 * found.value:.1f} %, not clearly better "
                    f"than always predicting the most frequent {most} ({100 * guessed:.1f} %): do the labels, the "
                    "output and the preprocessing belong to this model?"
                )
        return tuple(told)

    def noise(self, runner: Runner, count: int) -> float:
        """Noise power over signal power on the first ``count`` calibration samples.

        The mean over the quantities that the metric scores, so that none is hidden by a larger one.
        """
        floats, found = self._probe(count), collect_outputs(runner, self.parts.calibration, count)
        return float(np.mean([_noise(part.of(floats), part.of(found)) for part in self._judged]))

    @cached_property
    def expectation(self) -> ExpectedChange | None:
        """Judges top-1 on the search part; None for other metrics."""
        self.accuracy("search")
        return None if self._logits is None else ExpectedChange(self._logits, np.asarray(self.parts.search.labels))

    def answers(self) -> Answers:
        """Collects a candidate's predictions on the search part, for `expectation`."""
        assert isinstance(self.metric, TopK)
        return Answers(self.metric, len(self.parts.search))

    def _keep_logits(self, outputs: Sequence[np.ndarray], where: np.ndarray) -> None:
        """Keeps float32's scores of the classes [n, C], if there is one row per sample."""
        metric, labels = self.metric, np.asarray(self.parts.search.labels)
        assert isinstance(metric, TopK)
        logits = metric.scores(outputs, labels[where])
        if not is_classifier(logits, labels[where]):
            return
        if self._logits is None:
            self._logits = np.empty((len(labels), logits.shape[1]), logits.dtype)
        self._logits[where] = logits

    @cached_property
    def _judged(self) -> tuple[Part, ...]:
        """The quantities that the metric reads; all of them if unknown."""
        metric, parts = self.metric, self._outputs.parts
        if isinstance(metric, AgainstFloat) and metric.parts:
            return metric.parts
        if isinstance(metric, TopK):
            return tuple(part for part in parts if part.output == metric.index) or parts
        return parts

    def _probe(self, count: int) -> list[np.ndarray]:
        """float32's outputs on the first ``count`` calibration samples."""
        if count not in self._kept_probes:
            self._kept_probes[count] = collect_outputs(self._opened(), self.parts.calibration, count)
        return self._kept_probes[count]

    def _outputs_on(self, part: str) -> list[np.ndarray]:
        """Outputs on a part, each [n, ...]."""
        if part not in self._kept_outputs:
            self._say(f"running float32 on the {part} samples")
            self._kept_outputs[part] = collect_outputs(self._opened(), self.part(part))
        return self._kept_outputs[part]


class Answers:
    """Collects the class of the highest score of every sample."""

    def __init__(self, metric: TopK, count: int) -> None:
        self._metric = metric
        self.classes = np.zeros(count, np.int64)

    def __call__(self, outputs: Sequence[np.ndarray], where: np.ndarray) -> None:
        self.classes[where] = self._metric.scores(outputs, self.classes[where]).argmax(axis=-1)


def _noise(floats: np.ndarray, found: np.ndarray) -> float:
    """Error power over signal power of one quantity [n, e]."""
    noise, signal = float(np.square(floats - found).sum()), float(np.square(floats).sum())
    return noise / signal if signal else float(noise > 0)
