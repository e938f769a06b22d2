"""From a strategy to a record: quantize, lower, build, measure. The search measures candidates with it.

One object holds everything that the candidates of one model on one machine share: the float baseline and its outputs,
the calibration, quantized weights and compiled kernels. A bench (hago.bench) times the candidates, on this machine or
on a device.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnx

from ..bench import Bench, Candidate, MeasurementBudget
from ..bench.local import LocalBench
from ..calibrate import Calibration
from ..compiler.build import build
from ..compiler.cache import KernelCache
from ..compiler.linker import linker
from ..data import DataParts
from ..deadline import Deadline
from ..errors import DataError, HagoError, HagoWarning, NoDeviceError, StorageError
from ..files import is_full, make_folder, write_atomic
from ..knobs import TRANSFORMATION, read_knobs, transformation_of
from ..lower import LoweredGraph, lower
from ..measure.environment import Environment, read_environment
from ..measure.metrics import Metric, fit, unit_of
from ..measure.outputs import ModelOutputs
from ..measure.topk import TopK
from ..methods import needs_of, transformed
from ..model import Model
from ..precision import FLOAT32
from ..qdq import Quantizer, observed_tensors
from ..qdq.batch import free_batch
from ..record import Record
from ..runners import TvmRunner
from ..runtime.artifact import Artifact
from ..spec import HardwareSpec
from ..strategy import Strategy, uniform
from .calibrating import calibrate_model
from .float_reference import FloatReference

FLOAT, TWIN = FLOAT32, "float32 again"
Say = Callable[[str], None]

LIBRARY = "model.so"
_AA_TEST_S = 2.0  # limit; one round if that takes longer
_TESTING = 0.2  # share of the remaining time for one pass over the test samples
_TESTING_S = 1.0  # minimum for that pass
_FEWEST_TESTS = 16
_TRIED_S = 0.2
_CHECKED = 4  # batches whose outputs on a device are compared with this machine's


def require_labels(metric: Metric, parts: DataParts) -> None:
    """Raises DataError if the metric needs labels and the search or test part has none."""
    for part in (parts.search, parts.test):
        if metric.needs_labels and part.labels is None:
            raise DataError(
                f"the metric {metric.name!r} needs labels, and the samples have none",
                where=part.where,
                hint="give labels (y), or choose a metric without labels, such as --metric cosine (metric=)",
            )


class TvmEvaluator:
    """Measures strategies of one model with TVM, on this machine or on another ``bench``.

    ``parts`` are the samples; ``folder`` stores the calibration, so that a resumed search has the same. ``knobs``, as
    from `read_knobs`, are the values that strategies may have; calibration gathers what their methods need. ``say`` is
    called with a few words before each slow step. ``deadline`` bounds the final measurements; for candidates the search
    passes the time that is left.
    """

    def __init__(
        self,
        model: Model,
        spec: HardwareSpec,
        parts: DataParts,
        metric: Metric,
        *,
        threads: int = 1,
        cache: KernelCache | None = None,
        folder: Path | None = None,
        seed: int = 0,
        say: Say = lambda text: None,
        bench: Bench | None = None,
        deadline: Deadline | None = None,
        knobs: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        chosen = read_knobs() if knobs is None else knobs
        self.needs, self.transformation = needs_of(chosen), transformation_of(chosen)
        self.model, self.spec, self.parts, self._asked = model, spec, parts, metric
        self.bench: Bench = bench if bench is not None else LocalBench(spec, seed)
        self.host = self.bench.host
        self.threads, self.seed, self.folder, self.say = threads, seed, folder, say
        self.deadline = deadline or Deadline()
        self.cache = cache if cache is not None else KernelCache()
        self._candidates: dict[str, Candidate] = {}
        self._spread = 0.0  # of float32 against itself in the last A/A test
        require_labels(metric, parts)
        if isinstance(metric, TopK):
            fit(metric, ModelOutputs.of(model), lambda: parts.search.labels)  # report a misfit at once

    # The interface that the search uses (see search/objective.py, Evaluator).

    @property
    def metric(self) -> Metric:
        """The metric, bound to the outputs that it reads."""
        return self.floats.metric

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return self._asked.higher_is_better

    @property
    def unit(self) -> str:
        """The unit of the metric: "share", "dB" or ""."""
        return unit_of(self._asked)

    def remarks(self) -> tuple[str, ...]:
        """Caveats about the metric's values."""
        return self.floats.remarks()

    def identity(self) -> Mapping[str, str]:
        """What must be the same for a search to be resumed."""
        hashes = self.parts.split.hashes
        return {
            "model": self.model.hash,
            "hw": self.spec.name,
            "metric": self._asked.name,
            "threads": str(self.threads),
            "batch": str(self.model.batch),
            **{f"samples.{name}": value for name, value in hashes.items()},
            **({"samples taken": str(dict(self.parts.split.sizes))} if self.parts.split.left_out else {}),
            **({} if self.transformation == TRANSFORMATION.default else {TRANSFORMATION.name: self.transformation}),
            **self.bench.identity(),
        }

    def float_record(self) -> Record:
        """float32 on the search part."""
        started = time.perf_counter()
        record = self._record(-1, FLOAT, None).with_accuracy(self.floats.accuracy("search"))
        return self._finished(self._against_itself(record), self.float_artifact, started)

    def evaluate(
        self, strategy: Strategy, *, stop_below: float | None = None, time_left_s: float | None = None
    ) -> Record:
        """One candidate on the search part; a failure becomes a record with the reason."""
        if strategy.is_float:
            return replace(self.float_record(), strategy=strategy, accuracy_change=0.0, latency_ratio=1.0)
        started = time.perf_counter()
        record = self._record(0, "candidate", strategy)
        try:
            candidate = self.candidate(strategy)
            artifact = candidate.artifact
            stop = None if stop_below is None else self.floats.race(-stop_below)
            answers = self.floats.answers() if self.floats.expectation is not None else None
            with self.bench.runner(candidate) as runner:
                accuracy = self.floats.of_candidate(runner, "search", stop, answers)
            record = record.with_accuracy(accuracy)
            if answers is not None and self.floats.expectation is not None and not accuracy.partial:
                record = replace(record, expected_change=self.floats.expectation.change(answers.classes))
            if record.state == "pruned":  # hopeless: do not time it
                return self._finished(record, artifact, started)
            budget = self._budget(limit_s=time_left_s)
            timing = self.bench.measure([self._float_candidate, candidate], self._samples, budget)
            return self._finished(record.measured_by(timing, candidate.name), artifact, started)
        except (StorageError, NoDeviceError):  # not the candidate's fault: end the search, which can be resumed
            raise
        except HagoError as error:
            if is_full(error):
                raise StorageError(error.what, where=error.where, hint="free some space, then resume") from error
            return self._record(0, "candidate", strategy, state="failed", reason=str(error))

    def remeasure(self, records: Sequence[Record]) -> list[Record]:
        """The records with latencies measured again: float32 and all of them in turns."""
        candidates = [self._float_candidate]
        for index, record in enumerate(records):
            assert record.strategy is not None
            candidates.append(self.candidate(record.strategy, str(index)))
        budget = self._budget(rounds=2, time=1 + len(records), limit_s=self.deadline.share_s(0.5))
        timing = self.bench.measure(candidates, self._samples, budget)
        return [record.measured_by(timing, str(index)) for index, record in enumerate(records)]

    def test(self, strategy: Strategy) -> Record:
        """The candidate on the test part, with a thorough latency measurement."""
        started = time.perf_counter()
        self._limit_test()
        if strategy.is_float:
            record = self._record(-1, FLOAT, None)
            record = record.with_accuracy(self.floats.accuracy("test"), part="test")
            return self._finished(self._against_itself(record), self.float_artifact, started)
        record, candidate = self._record(-2, "chosen", strategy), self.candidate(strategy)
        with self.bench.runner(candidate) as runner:
            record = record.with_accuracy(self.floats.of_candidate(runner, "test"), part="test")
        budget = self._budget(rounds=4, time=8, limit_s=self.deadline.share_s(0.5))
        timing = self.bench.measure([self._float_candidate, candidate], self._samples, budget)
        return self._finished(record.measured_by(timing, candidate.name), candidate.artifact, started)

    def _against_itself(self, record: Record) -> Record:
        """float32's record with its latency and the A/A test against a second network with the same kernels.

        No interval of this session may be narrower than the difference between the two.
        """
        twin = replace(self._float_candidate, name=TWIN, artifact=self.build(self.model.proto))
        budget = MeasurementBudget(rounds=2, time=2, limit_s=_AA_TEST_S, settled=False)
        timing = self.bench.measure([self._float_candidate, twin], self._samples, budget)
        record = record.measured_by(timing, FLOAT).with_aa_test(timing.latency[TWIN])
        self._spread = abs(math.log(record.aa_ratio)) if record.aa_ratio else 0.0
        return record

    def _budget(self, **more: Any) -> MeasurementBudget:
        return MeasurementBudget(spread=self._spread, **more)

    def _limit_test(self) -> None:
        """Limits the test samples to the remaining time, before the first of them is run."""
        left, total = self.deadline.left_s(), len(self.parts.test)
        if left is None or self.floats.has_accuracy("test"):
            return
        count = min(total, max(_FEWEST_TESTS, int(max(_TESTING * left, _TESTING_S) / self.float_run_s())))
        if count < total:
            warnings.warn(f"time budget: using {count:,} of {total:,} test samples", HagoWarning, 2)
            self.parts = self.floats.parts = self.parts.limited("test", count, self.seed)

    def float_run_s(self) -> float:
        """Seconds per sample of float32."""
        feeds = self._samples[0]
        self.float_artifact.run(feeds)  # compiled and warm
        started, calls = time.perf_counter(), 0
        while calls < 2 or (calls < 20 and time.perf_counter() - started < _TRIED_S):
            self.float_artifact.run(feeds)
            calls += 1
        return (time.perf_counter() - started) / calls / self.model.batch

    def test_together(self, protos: Mapping[str, onnx.ModelProto]) -> dict[str, Record]:
        """Several QDQ models of this network on the test part, all timed in turns with float32."""
        candidates, records = [self._float_candidate], {}
        for index, (name, proto) in enumerate(protos.items()):
            candidate = Candidate(str(index), proto, self.build(proto))
            with self.bench.runner(candidate) as runner:
                records[name] = self._record(-2, name, None).with_accuracy(
                    self.floats.of_candidate(runner, "test"), "test"
                )
            candidates.append(candidate)
        timing = self.bench.measure(candidates, self._samples, self._budget(rounds=4, time=4 * len(candidates)))
        return {name: record.measured_by(timing, str(i)) for i, (name, record) in enumerate(records.items())}

    def sensitivity(self, strategy: Strategy, samples: int) -> float:
        """Noise power over signal power of the final outputs, on the first calibration samples."""
        runner = TvmRunner(self.artifact(strategy), name="probe")
        return self.floats.noise(runner, min(samples, len(self.parts.calibration)))

    def kernel_times(self, strategy: Strategy) -> Mapping[str, float]:
        """Layer -> seconds of its kernels; layout changes and conversions are under ``""``.

        If the bench estimates, they are instructions, each counted as `INSTRUCTION_S`.
        """
        return self.bench.kernel_costs(self.candidate(strategy))

    # Delivering the answer.

    @property
    def estimated(self) -> bool:
        """Whether its latencies are instruction counts."""
        return self.bench.estimated

    @property
    def where(self) -> str:
        """A description of the machine; empty for this one."""
        return self.bench.where

    def deliver(self, strategy: Strategy, folder: Path) -> None:
        """Writes ``strategy.yaml``, ``model.qdq.onnx`` and ``model.so`` (a board also gets ``run.py``).

        Without a linker ``model.so`` is left out, and an old one is removed, since it would not be the answer.
        """
        candidate = self.candidate(strategy)
        make_folder(folder)
        replace(strategy, structure=self.model.structure).save(folder / "strategy.yaml")
        write_atomic(folder / "model.qdq.onnx", free_batch(candidate.proto, self.model).SerializeToString())
        if self._links:
            self.bench.save(candidate, folder)
        else:
            (folder / LIBRARY).unlink(missing_ok=True)

    @property
    def delivered(self) -> tuple[str, ...]:
        """The files that `deliver` writes."""
        compiled = (LIBRARY, *self.bench.files) if self._links else ()
        return (*compiled, "model.qdq.onnx", "strategy.yaml")

    @property
    def _links(self) -> bool:
        return linker(self.bench.spec.triple) is not None

    def close(self) -> None:
        """Releases the devices."""
        self.bench.close()

    # Intermediate results.

    @cached_property
    def environment(self) -> Environment:
        """Versions, processor and load of this machine."""
        return read_environment(self.threads)

    @cached_property
    def float_artifact(self) -> Artifact:
        """float32 by the same compiler: the baseline of every candidate."""
        self.say("compiling float32")
        return self.build(self.model.proto)

    @cached_property
    def transformed(self) -> Model:
        """The model after the transformation, if there is one: what is calibrated and quantized."""
        return transformed(self.model, self.transformation)

    @cached_property
    def calibration(self) -> Calibration:
        """Ranges of all activations, from one pass over the calibration part."""
        self.say(f"calibrating: {len(self.parts.calibration)} samples")
        ahead = Thread(target=self._compile_ahead, daemon=True)
        ahead.start()
        try:
            return calibrate_model(
                self.transformed,
                self.parts.calibration,
                self.host,
                threads=self.threads,
                cache=self.cache,
                needs=self.needs,
                store=None if self.folder is None else self.folder / "calibration.npz",
                progress=lambda done, total: self.say(f"calibrating: {done} of {total} samples"),
            )
        finally:
            ahead.join()  # nothing may run during later timings

    def _compile_ahead(self) -> None:
        """Compiles the kernels of the first candidate, which do not depend on the calibration.

        A failure here is reported when the candidate itself is built.
        """
        with suppress(Exception):
            quantizer = Quantizer(self.model, Calibration.placeholder(observed_tensors(self.model)), self.spec)
            favourite = next(choice.precision for choice in self.spec.choices("conv"))
            self.build(quantizer.qdq(uniform(self.model, self.spec, favourite)))

    @cached_property
    def quantizer(self) -> Quantizer:
        """Quantizes every candidate; weights and ranges are computed once."""
        return Quantizer(self.transformed, self.calibration, self.spec)

    def qdq(self, strategy: Strategy) -> onnx.ModelProto:
        """The strategy as a standard QDQ model."""
        return self.quantizer.qdq(strategy)

    def artifact(self, strategy: Strategy) -> Artifact:
        """The strategy, compiled for this machine."""
        return self.candidate(strategy).artifact

    def candidate(self, strategy: Strategy, name: str = "candidate") -> Candidate:
        """The strategy as a candidate for the bench; float32 if it quantizes nothing.

        The last few are cached, since the search asks for some repeatedly.
        """
        if strategy.is_float:
            return self._float_candidate
        key = strategy.key()
        if key not in self._candidates:
            while len(self._candidates) >= 4:
                self._candidates.pop(next(iter(self._candidates)))
            proto = self.qdq(strategy)
            self._candidates[key] = Candidate(name, proto, self.build(proto))
        return replace(self._candidates[key], name=name)

    def lowered(self, proto: onnx.ModelProto) -> LoweredGraph:
        """The model lowered for this machine."""
        return lower(proto, self.host)

    def build(self, proto: onnx.ModelProto) -> Artifact:
        """The model compiled for this machine."""
        return build(self.lowered(proto), self.host, threads=self.threads, cache=self.cache)

    @cached_property
    def _float_candidate(self) -> Candidate:
        return Candidate(FLOAT, self.model.proto, self.float_artifact, quantized=False)

    @cached_property
    def floats(self) -> FloatReference:
        """float32 on the samples."""
        return FloatReference(lambda: self._float_runner, self.model, self.parts, self._asked, self.seed, self.say)

    @cached_property
    def _float_runner(self) -> TvmRunner:
        return TvmRunner(self.float_artifact, name=FLOAT)

    @cached_property
    def _samples(self) -> list[dict[str, np.ndarray]]:
        """A few batches: the first for timing, all for comparing a device's outputs with this machine's."""
        return self.parts.search.whole_batches(self.model.batch, _CHECKED)

    def _record(self, number: int, label: str, strategy: Strategy | None, **more: Any) -> Record:
        return Record(
            id=number,
            label=label,
            strategy=strategy,
            metric=self._asked.name,
            threads=self.threads,
            environment=self.environment.key(),
            **more,
        )

    def _finished(self, record: Record, artifact: Artifact, started: float) -> Record:
        return replace(
            record,
            size_bytes=artifact.size_bytes,
            build_s=artifact.build_s,
            trial_s=time.perf_counter() - started,
        )
