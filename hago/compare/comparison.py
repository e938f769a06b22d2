"""One model in several engines, side by side: latency in turns, accuracy on the same samples, size.

The first engine is what ratios and changes are told against. An engine that cannot be opened or run
keeps its row, with the reason in place of the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import HagoError, MeasureError, MissingExtraError
from ..measure.accuracy import Accuracy, measure_accuracy
from ..measure.clocks import BUSY_SHARE, SYSTEM_CLOCKS, Clocks
from ..measure.environment import Environment, read_environment
from ..measure.latency import Latency, measure_latency
from ..measure.metrics import fit
from ..measure.outputs import ModelOutputs
from ..measure.running import Renamed, batch_of, collect_outputs
from ..tensor import TensorInfo
from .cells import markdown_table, ratio_text, rich_table, row_cells
from .faithful import unfaithful, warning
from .rows import ComparisonRow, Engine

if TYPE_CHECKING:
    from rich.table import Table

    from ..data import Samples
    from ..measure.metrics import Metric
    from ..measure.runner import Runner

Progress = Callable[[str], None]

_FEW = 32  # samples that tell the magnitudes of outputs
_AA_TEST_S = 2.0
_TOO_BUSY = "latency cannot be told: other work interrupted nearly every turn"


@dataclass(frozen=True)
class Comparison:
    """The rows, in the order asked for, and how they came about.

    ``aa`` is the A/A test: a second runner of the baseline, beside the first. None where nothing was timed.
    """

    rows: tuple[ComparisonRow, ...]
    model: str
    metric: str
    n_samples: int
    batch: int
    environment: Environment
    aa: Latency | None = None
    notes: tuple[str, ...] = ()

    @property
    def baseline(self) -> str:
        """The label of the first row, which ratios and changes are to."""
        return self.rows[0].label

    def row(self, label: str) -> ComparisonRow:
        """The row of this label; KeyError where there is none."""
        return {row.label: row for row in self.rows}[label]

    def table(self) -> Table:
        """The table for a terminal."""
        return rich_table(self._header(), self._cells(), title=self.model, caption=self.provenance())

    def to_markdown(self) -> str:
        """The table for a page, with how it was measured below it."""
        return markdown_table(self._header(), self._cells()) + f"\n\n{self.provenance()}\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        measured = self.rows[0].latency is not None
        told = self.aa if self.aa is not None and self.aa.reliable else None
        return {
            "model": self.model,
            "metric": self.metric,
            "n_samples": self.n_samples,
            "batch": self.batch,
            "baseline": self.baseline,
            "aa_ratio": None if told is None else told.ratio,
            "aa_ratio_interval": None if told is None else [told.ratio_low, told.ratio_high],
            "too_busy": self.too_busy,
            "rows": [row.to_dict(measured) for row in self.rows],
            "notes": list(self.notes),
            "environment": self.environment.to_dict(),
        }

    def to_json(self) -> str:
        """The comparison as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def provenance(self) -> str:
        """How and on what it was measured, in sentences."""
        rounds = max((row.latency.samples for row in self.rows if row.latency is not None), default=0)
        timed = f"Latency: median of {rounds} rounds in turns, batch {self.batch}, {self._clocks()}. " if rounds else ""
        sentences = (
            *self.notes,
            f"{timed}Accuracy: {self.metric} on {self.n_samples} samples. In brackets: 95 % intervals. "
            f"Ratio and change are to {self.baseline}. {self.environment.sentence()}.{self._quiet()}",
            self.warning(),
        )
        return " ".join(filter(None, sentences))

    def warning(self) -> str:
        """What is to be said of engines that do not compute what their file says; empty where all do."""
        labels = [row.label for row in self.rows if row.unfaithful]
        return warning(labels, self.environment) if labels else ""

    @property
    def too_busy(self) -> bool:
        """Whether the baseline was not even as fast as itself, so that no latency here is to be relied on."""
        return self.aa is not None and not (self.aa.reliable and self.aa.ratio_low <= 1 <= self.aa.ratio_high)

    def _clocks(self) -> str:
        return " and ".join(dict.fromkeys(row.latency.clock for row in self.rows if row.latency is not None))

    def _quiet(self) -> str:
        """How quiet the machine was, in sentences."""
        load, cores = self.environment.load, self.environment.cores
        busy = f" The machine was busy: load {load} on {cores} cores." if load and load > cores else ""
        shares = [row.latency.disturbed for row in self.rows if row.latency is not None and row.latency.disturbed]
        if shares and max(shares) >= BUSY_SHARE:
            busy += f" Other work interrupted {max(shares):.0%} of the calls."
        if self.aa is None:
            return busy
        if self.too_busy:
            found = f", not 1 but {ratio_text(self.aa)}" if self.aa.reliable else ""
            return f"{busy} This machine is too busy to tell latencies now: {self.baseline} beside itself{found}."
        return f"{busy} A/A test ({self.baseline} beside itself): {ratio_text(self.aa)}."

    def _header(self) -> list[str]:
        return ["", "latency", "ratio", self.metric, "change", "size", ""]

    def _cells(self) -> list[list[str]]:
        measured = self.rows[0].latency is not None
        return [row_cells(row, measured) for row in self.rows]


def compare(
    engines: Sequence[Engine],
    samples: Samples,
    metric: Metric,
    *,
    model: str = "",
    rounds: int = 30,
    budget_s: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    outputs: ModelOutputs | None = None,
    clocks: Clocks = SYSTEM_CLOCKS,
) -> Comparison:
    """Opens, scores and times all engines; see :class:`Comparison`.

    ``budget_s`` bounds the timing besides ``rounds``. ``progress`` hears what is being done. ``outputs`` are those of
    the model, for metrics that read one by its name or join several (measure/outputs.py). Raises
    MeasureError when there is nothing to compare; what goes wrong with one engine is its row's note.
    """
    if not engines or len({engine.label for engine in engines}) != len(engines):
        raise MeasureError("a comparison needs engines with different labels")
    say = progress if progress is not None else lambda text: None
    environment = read_environment(threads)  # now: the load must not be that of the comparison itself
    notes: dict[str, str] = {}
    sizes: dict[str, int | None] = {c.label: c.size_bytes for c in engines if c.size_bytes is not None}
    runners: dict[str, Runner] = {}
    try:
        for engine in engines:
            say(f"preparing {engine.label}")
            try:
                runner = runners[engine.label] = engine.open()
                sizes.setdefault(engine.label, getattr(runner, "size_bytes", None))
            except Exception as error:  # also a bug of one engine leaves the other rows
                notes[engine.label] = _note(error)
        accuracies = _accuracies(engines[0].label, runners, samples, metric, outputs, notes, seed, say)
        say("comparing answers")
        strange = unfaithful(engines, runners, samples, classes=metric.name.startswith("top"))
        say("timing in turns")
        batch = max((batch_of(runner) for runner in runners.values()), default=1)
        aa = _aa_test(engines[0], runners, samples, rounds, budget_s, seed, clocks)
        latencies = _latencies(runners, samples, notes, rounds, budget_s, seed, clocks, aa)
        notes.update({label: _TOO_BUSY for label, latency in latencies.items() if not latency.reliable})
        latencies = {label: latency for label, latency in latencies.items() if latency.reliable}
    finally:
        for runner in runners.values():
            runner.close()
    rows = tuple(
        ComparisonRow(
            label, latencies.get(label), accuracies.get(label), sizes.get(label), notes.get(label), strange.get(label)
        )
        for label in (engine.label for engine in engines)
    )
    return Comparison(rows, model, metric.name, len(samples), batch, environment, aa)


def _accuracies(
    baseline: str,
    runners: dict[str, Runner],
    samples: Samples,
    metric: Metric,
    outputs: ModelOutputs | None,
    notes: dict[str, str],
    seed: int,
    say: Progress,
) -> dict[str, Accuracy]:
    """Accuracy of each runner by label; the runners that fail are noted and dropped.

    Raises DataError where the metric fits neither the outputs nor the labels.
    """
    found: dict[str, Accuracy] = {}
    float_outputs: list[np.ndarray] | None = None
    if outputs is not None and not metric.needs_float:
        metric = fit(metric, outputs, lambda: samples.labels)
    for label in list(runners):
        say(f"accuracy of {label}")
        try:
            if label == baseline and metric.needs_float:
                float_outputs = collect_outputs(runners[label], samples)
                metric = fit(metric, _with_values(outputs, float_outputs), lambda: samples.labels)
            found[label] = measure_accuracy(
                runners[label],
                samples,
                metric,
                reference=found.get(baseline),
                float_outputs=float_outputs,
                seed=seed,
            )
        except Exception as error:
            notes[label] = _note(error)
            runners.pop(label).close()
    return found


def _with_values(outputs: ModelOutputs | None, floats: list[np.ndarray]) -> ModelOutputs:
    """The outputs with float32's values on a few samples; without names they are numbered."""
    if outputs is None:
        outputs = ModelOutputs(tuple(TensorInfo(str(i), f.dtype.name, f.shape) for i, f in enumerate(floats)))
    return replace(outputs, few=lambda: [array[:_FEW] for array in floats])


def _aa_test(
    baseline: Engine,
    runners: Mapping[str, Runner],
    samples: Samples,
    rounds: int,
    budget_s: float | None,
    seed: int,
    clocks: Clocks,
) -> Latency | None:
    """The baseline beside a second runner of itself; None where it cannot be run, which its row tells."""
    if baseline.label not in runners:
        return None
    first = runners[baseline.label]
    try:
        again = Renamed(baseline.open(), f"{first.name} again")
    except Exception:
        return None
    try:
        feeds, limit_s = _first_batch(samples, batch_of(first)), min(budget_s or _AA_TEST_S, _AA_TEST_S)
        found = measure_latency([first, again], feeds, rounds=rounds, budget_s=limit_s, seed=seed, clocks=clocks)
        return found[again.name]
    except MeasureError:
        return None
    finally:
        again.close()


def _latencies(
    runners: dict[str, Runner],
    samples: Samples,
    notes: dict[str, str],
    rounds: int,
    budget_s: float | None,
    seed: int,
    clocks: Clocks,
    aa: Latency | None,
) -> dict[str, Latency]:
    """Latency of each runner by label, all in turns; without those that fail, which are noted and dropped."""
    spread = abs(math.log(aa.ratio)) if aa is not None and aa.reliable else 0.0
    while runners:
        names = {runner.name: label for label, runner in runners.items()}
        batch = batch_of(next(iter(runners.values())))
        feeds = _first_batch(samples, batch)
        try:
            timed = measure_latency(
                list(runners.values()), feeds, rounds=rounds, budget_s=budget_s, spread=spread, seed=seed, clocks=clocks
            )
        except MeasureError as error:
            if error.where not in names:
                raise
            notes[names[error.where]] = _note(error)
            runners.pop(names[error.where]).close()
            continue
        return {names[name]: latency for name, latency in timed.items()}
    return {}


def _first_batch(samples: Samples, batch: int) -> dict[str, np.ndarray]:
    """The first samples, repeated from the start where there are fewer than a batch."""
    feeds = samples.batch(0, min(batch, len(samples)))
    return {name: np.ascontiguousarray(np.resize(x, (batch, *x.shape[1:]))) for name, x in feeds.items()}


def _note(error: Exception) -> str:
    if isinstance(error, MissingExtraError):
        return f"not installed: {error.hint}"
    return f"failed: {error.what}" if isinstance(error, HagoError) else f"failed: {error!r}"
