"""float32's outputs and scores on the parts of the samples: what every candidate is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .data import DataParts, Samples
from .measure.accuracy import Accuracy, measure_accuracy, run_batch, summarize
from .measure.expected import ExpectedChange, is_classifier
from .measure.metrics import Metric
from .measure.running import batch_of
from .runners import Runner


class FloatReference:
    """Runs float32 once on each part, when it is first asked for; ``opened`` gives its runner then."""

    def __init__(
        self, opened: Callable[[], Runner], parts: DataParts, metric: Metric, seed: int, say: Callable[[str], None]
    ) -> None:
        self._opened, self._parts, self._metric, self._seed, self._say = opened, parts, metric, seed, say
        self._kept_outputs: dict[str, list[np.ndarray]] = {}
        self._kept_probes: dict[int, list[np.ndarray]] = {}
        self._kept_accuracy: dict[str, Accuracy] = {}

    def part(self, name: str) -> Samples:
        """The samples of "calibration", "search" or "test"."""
        return {"calibration": self._parts.calibration, "search": self._parts.search, "test": self._parts.test}[name]

    def accuracy(self, part: str) -> Accuracy:
        """float32's own."""
        if part not in self._kept_accuracy:
            self._kept_accuracy[part] = self._accuracy(part)
        return self._kept_accuracy[part]

    def of_candidate(self, runner: Runner, part: str, stop: Any = None, seen: Any = None) -> Accuracy:
        """A candidate's accuracy, with its change against float32; ``stop`` and ``seen`` as in `measure_accuracy`."""
        return measure_accuracy(
            runner,
            self.part(part),
            self._metric,
            float_scores=self.accuracy(part).scores,
            float_outputs=self._outputs(part) if self._metric.needs_float else None,
            stop=stop,
            seen=seen,
            seed=self._seed,
        )

    def noise(self, runner: Runner, count: int) -> float:
        """Noise power over signal power of the final outputs, on the first ``count`` calibration samples."""
        if count not in self._kept_probes:
            self._kept_probes[count] = _run(self._opened(), self._parts.calibration, count)
        floats = self._kept_probes[count]
        found = _run(runner, self._parts.calibration, count)
        noise = sum(float(np.square(f.astype(np.float64) - a).sum()) for f, a in zip(floats, found, strict=True))
        signal = sum(float(np.square(f.astype(np.float64)).sum()) for f in floats)
        return noise / signal if signal else float(noise > 0)

    @cached_property
    def expectation(self) -> ExpectedChange | None:
        """Judges top-1 on the search part; None for other metrics."""
        labels = self._parts.search.labels
        if self._metric.name != "top1" or labels is None:
            return None
        logits, labels = self._outputs("search")[0], np.asarray(labels)
        return ExpectedChange(logits, labels) if is_classifier(logits, labels) else None

    def _accuracy(self, part: str) -> Accuracy:
        if self._metric.name == "top1":  # its outputs on the search part are needed too: see expectation
            scores = self._metric.per_sample(self._outputs(part), np.asarray(self.part(part).labels))
            return summarize(self._metric, scores, seed=self._seed)
        floats = self._outputs(part) if self._metric.needs_float else None
        self._say(f"float32's accuracy on the {part} samples")
        return measure_accuracy(self._opened(), self.part(part), self._metric, float_outputs=floats, seed=self._seed)

    def _outputs(self, part: str) -> list[np.ndarray]:
        """Outputs on a part, each [n, ...]."""
        if part not in self._kept_outputs:
            self._say(f"running float32 on the {part} samples")
            samples = self.part(part)
            self._kept_outputs[part] = _run(self._opened(), samples, len(samples))
        return self._kept_outputs[part]


def _run(runner: Runner, samples: Samples, count: int) -> list[np.ndarray]:
    """Outputs on the first ``count`` samples, each [count, ...]."""
    batch = batch_of(runner)
    rows: list[Sequence[np.ndarray]] = []
    for start in range(0, count, batch):
        end = min(start + batch, count)
        rows.append(run_batch(runner, samples.batch(start, end), end - start))
    return [np.concatenate(arrays) for arrays in zip(*rows, strict=True)]
