"""Opens, scores and times engines side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import HagoError, MeasureError, MissingExtraError
from ..measure.accuracy import Accuracy, measure_accuracy
from ..measure.clocks import SYSTEM_CLOCKS, Clocks
from ..measure.environment import read_environment
from ..measure.gpu import read_gpu
from ..measure.latency import Latency, measure_latency
from ..measure.metrics import fit
from ..measure.outputs import ModelOutputs
from ..measure.runner import device_clock
from ..measure.running import Renamed, batch_of, collect_outputs
from ..tensor import TensorInfo
from .comparison import Comparison
from .faithful import unfaithful
from .rows import ComparisonRow, Engine

if TYPE_CHECKING:
    from ..data import Samples
    from ..measure.metrics import Metric
    from ..measure.runner import Runner

Progress = Callable[[str], None]

_FEW = 32  # samples to find the magnitudes of outputs
_AA_TEST_S = 2.0
_TOO_BUSY = "latency cannot be determined: other work interrupted nearly every turn"


@dataclass(frozen=True)
class TurnPlan:
    """How runners are timed in turns: ``rounds``, bounded by ``budget_s`` too, in an order drawn by ``seed``."""

    rounds: int = 30
    budget_s: float | None = None
    seed: int = 0
    clocks: Clocks = SYSTEM_CLOCKS

    def measure(self, runners: Sequence[Runner], samples: Samples, spread: float = 0.0) -> dict[str, Latency]:
        """Latency by runner's name, on the first batch; ``spread`` as in `measure_latency`."""
        return measure_latency(
            runners,
            _first_batch(samples, batch_of(runners[0])),
            rounds=self.rounds,
            budget_s=self.budget_s,
            spread=spread,
            seed=self.seed,
            clocks=self.clocks,
        )


def compare(
    engines: Sequence[Engine],
    samples: Samples,
    metric: Metric,
    *,
    model: str = "",
    plan: TurnPlan = TurnPlan(),
    threads: int | None = None,
    progress: Progress | None = None,
    outputs: ModelOutputs | None = None,
) -> Comparison:
    """Opens, scores and times all engines; see :class:`Comparison`.

    ``plan`` says how they are timed. ``progress`` hears what is being done. ``outputs`` are those of the model, for
    metrics that read one by its name or join several (measure/outputs.py). Raises MeasureError when there is nothing to
    compare; what goes wrong with one engine is its row's note.
    """
    if not engines or len({engine.label for engine in engines}) != len(engines):
        raise MeasureError("a comparison needs engines with different labels")
    say = progress if progress is not None else lambda text: None
    environment = read_environment(threads)  # now, so that the load excludes the comparison itself
    opened = _Opened(engines, samples, plan, say)
    try:
        opened.open()
        accuracies = opened.accuracies(metric, outputs)
        say("comparing answers")
        strange = unfaithful(engines, opened.runners, samples, classes=metric.name.startswith("top"))
        say("timing in turns")
        batch = max((batch_of(runner) for runner in opened.runners.values()), default=1)
        aa = opened.aa_test()
        latencies = opened.latencies(aa)
        if any(device_clock(runner) is not None for runner in opened.runners.values()):
            environment = replace(environment, gpu=read_gpu())  # now, with the clocks of a GPU that works
    finally:
        opened.close()
    sizes, notes = opened.sizes, opened.notes
    rows = tuple(
        ComparisonRow(
            label, latencies.get(label), accuracies.get(label), sizes.get(label), notes.get(label), strange.get(label)
        )
        for label in (engine.label for engine in engines)
    )
    return Comparison(rows, model, metric.name, len(samples), batch, environment, aa)


@dataclass
class _Opened:
    """The engines whose runners still work, by label; ``notes`` says why others do not."""

    engines: Sequence[Engine]
    samples: Samples
    plan: TurnPlan
    say: Progress
    runners: dict[str, Runner] = field(default_factory=dict)
    sizes: dict[str, int | None] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def open(self) -> None:
        """Opens the runner of every engine."""
        for engine in self.engines:
            self.say(f"preparing {engine.label}")
            self.sizes[engine.label] = engine.size_bytes
            try:
                runner = self.runners[engine.label] = engine.open()
                if engine.size_bytes is None:
                    self.sizes[engine.label] = getattr(runner, "size_bytes", None)
            except Exception as error:  # a bug in one engine must not affect the other rows
                self.notes[engine.label] = _note(error)

    def close(self) -> None:
        """Closes all runners."""
        for runner in self.runners.values():
            runner.close()

    def drop(self, label: str, error: Exception) -> None:
        """Gives up an engine; its row says why."""
        self.notes[label] = _note(error)
        self.runners.pop(label).close()

    def accuracies(self, metric: Metric, outputs: ModelOutputs | None) -> dict[str, Accuracy]:
        """Accuracy of each runner by label; those that fail are dropped.

        Raises DataError where the metric fits neither the outputs nor the labels.
        """
        found: dict[str, Accuracy] = {}
        samples, baseline = self.samples, self.engines[0].label
        float_outputs: list[np.ndarray] | None = None
        if outputs is not None and not metric.needs_float:
            metric = fit(metric, outputs, lambda: samples.labels)
        for label, runner in list(self.runners.items()):
            self.say(f"accuracy of {label}")
            try:
                if label == baseline and metric.needs_float:
                    float_outputs = collect_outputs(runner, samples)
                    metric = fit(metric, _with_values(outputs, float_outputs), lambda: samples.labels)
                found[label] = measure_accuracy(
                    runner,
                    samples,
                    metric,
                    reference=found.get(baseline),
                    float_outputs=float_outputs,
                    seed=self.plan.seed,
                )
            except Exception as error:
                self.drop(label, error)
        return found

    def aa_test(self) -> Latency | None:
        """The baseline beside a second runner of itself; None where it cannot be run, which its row says."""
        baseline = self.engines[0]
        if baseline.label not in self.runners:
            return None
        first = self.runners[baseline.label]
        try:
            again = Renamed(baseline.open(), f"{first.name} again")
        except Exception:
            return None
        plan = replace(self.plan, budget_s=min(self.plan.budget_s or _AA_TEST_S, _AA_TEST_S))
        try:
            return plan.measure([first, again], self.samples)[again.name]
        except MeasureError:
            return None
        finally:
            again.close()

    def latencies(self, aa: Latency | None) -> dict[str, Latency]:
        """Latency of each runner by label, all in turns; those that fail are dropped, those not known are noted."""
        spread = abs(math.log(aa.ratio)) if aa is not None and aa.reliable else 0.0
        while self.runners:
            labels = {runner.name: label for label, runner in self.runners.items()}
            try:
                timed = self.plan.measure(list(self.runners.values()), self.samples, spread)
            except MeasureError as error:
                if error.where not in labels:
                    raise
                self.drop(labels[error.where], error)
                continue
            found = {labels[name]: latency for name, latency in timed.items()}
            self.notes |= {label: _TOO_BUSY for label, latency in found.items() if not latency.reliable}
            return {label: latency for label, latency in found.items() if latency.reliable}
        return {}


def _with_values(outputs: ModelOutputs | None, floats: list[np.ndarray]) -> ModelOutputs:
    """The outputs with float32's values on a few samples; unnamed outputs are numbered."""
    if outputs is None:
        outputs = ModelOutputs(tuple(TensorInfo(str(i), f.dtype.name, f.shape) for i, f in enumerate(floats)))
    return replace(outputs, few=lambda: [array[:_FEW] for array in floats])


def _first_batch(samples: Samples, batch: int) -> dict[str, np.ndarray]:
    """The first samples, repeated from the start if there are fewer than a batch."""
    feeds = samples.batch(0, min(batch, len(samples)))
    return {name: np.ascontiguousarray(np.resize(x, (batch, *x.shape[1:]))) for name, x in feeds.items()}


def _note(error: Exception) -> str:
    if isinstance(error, MissingExtraError):
        return f"not installed: {error.hint}"
    return f"failed: {error.what}" if isinstance(error, HagoError) else f"failed: {error!r}"
