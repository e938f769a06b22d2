"""From a strategy to a record: quantize, lower, build, measure. What the search measures candidates with.

One object holds everything that the candidates of one model on one machine share: the float baseline and
its outputs, the calibration, quantized weights, compiled kernels. Where candidates are timed is the bench's business
(hago.bench): on this machine, or on a device.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from ..bench import Bench, Candidate, MeasurementBudget
from ..bench.local import LocalBench
from ..compiler.linker import linker
from ..data import DataParts
from ..errors import HagoError, HagoWarning, NoDeviceError, StorageError
from ..files import is_full, make_folder, write_atomic
from ..knobs import TRANSFORMATION
from ..measure.environment import Environment, read_environment
from ..measure.metrics import Metric, fit, unit_of
from ..measure.outputs import ModelOutputs
from ..measure.topk import TopK
from ..model import Model
from ..precision import FLOAT32
from ..qdq.batch import free_batch
from ..record import Record
from ..result_files import LIBRARY_FILE, QDQ_FILE, STRATEGY_FILE
from ..runners import TvmRunner
from ..runtime.artifact import Artifact
from ..spec import HardwareSpec
from ..strategy import Strategy
from .candidates import CandidateBuilder, EvaluatorOptions
from .float_reference import FloatReference, require_labels

TWIN = "float32 again"

_AA_TEST_S = 2.0  # limit; one round if that takes longer
_TESTING = 0.2  # share of the remaining time for one pass over the test samples
_TESTING_S = 1.0  # minimum for that pass
_FEWEST_TESTS = 16


class TvmEvaluator(CandidateBuilder):
    """Measures strategies of one model with TVM, on this machine or on another ``bench``; ``parts`` are the samples."""

    def __init__(
        self,
        model: Model,
        spec: HardwareSpec,
        parts: DataParts,
        metric: Metric,
        options: EvaluatorOptions | None = None,
        bench: Bench | None = None,
    ) -> None:
        options = options or EvaluatorOptions()
        self.bench: Bench = bench if bench is not None else LocalBench(spec, options.seed)
        super().__init__(model, spec, parts, self.bench.host, options)
        self.seed, self.deadline, self._asked = options.seed, options.deadline, metric
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
        record = self._record(-1, FLOAT32, None).with_accuracy(self.floats.accuracy("search"))
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
            timing = self.bench.measure([self.float_candidate, candidate], self.batches, budget)
            return self._finished(record.measured_by(timing, candidate.name), artifact, started)
        except (StorageError, NoDeviceError):  # not the candidate's fault: end the search, which can be resumed
            raise
        except HagoError as error:
            if is_full(error):
                raise StorageError(error.what, where=error.where, hint="free some space, then resume") from error
            return self._record(0, "candidate", strategy, state="failed", reason=str(error))

    def remeasure(self, records: Sequence[Record]) -> list[Record]:
        """The records with latencies measured again: float32 and all of them in turns."""
        candidates = [self.float_candidate]
        for index, record in enumerate(records):
            assert record.strategy is not None
            candidates.append(self.candidate(record.strategy, str(index)))
        budget = self._budget(rounds=2, time=1 + len(records), limit_s=self.deadline.share_s(0.5))
        timing = self.bench.measure(candidates, self.batches, budget)
        return [record.measured_by(timing, str(index)) for index, record in enumerate(records)]

    def test(self, strategy: Strategy) -> Record:
        """The candidate on the test part, with a thorough latency measurement."""
        started = time.perf_counter()
        self._limit_test()
        if strategy.is_float:
            record = self._record(-1, FLOAT32, None)
            record = record.with_accuracy(self.floats.accuracy("test"), part="test")
            return self._finished(self._against_itself(record), self.float_artifact, started)
        record, candidate = self._record(-2, "chosen", strategy), self.candidate(strategy)
        with self.bench.runner(candidate) as runner:
            record = record.with_accuracy(self.floats.of_candidate(runner, "test"), part="test")
        budget = self._budget(rounds=4, time=8, limit_s=self.deadline.share_s(0.5))
        timing = self.bench.measure([self.float_candidate, candidate], self.batches, budget)
        return self._finished(record.measured_by(timing, candidate.name), candidate.artifact, started)

    def _against_itself(self, record: Record) -> Record:
        """float32's record with its latency and the A/A test against a second network with the same kernels.

        No interval of this session may be narrower than the difference between the two.
        """
        twin = replace(self.float_candidate, name=TWIN, artifact=self.build(self.model.proto))
        budget = MeasurementBudget(rounds=2, time=2, limit_s=_AA_TEST_S, settled=False)
        timing = self.bench.measure([self.float_candidate, twin], self.batches, budget)
        record = record.measured_by(timing, FLOAT32).with_aa_test(timing.latency[TWIN])
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

    def test_together(self, protos: Mapping[str, onnx.ModelProto]) -> dict[str, Record]:
        """Several QDQ models of this network on the test part, all timed in turns with float32."""
        candidates, records = [self.float_candidate], {}
        for index, (name, proto) in enumerate(protos.items()):
            candidate = Candidate(str(index), proto, self.build(proto))
            with self.bench.runner(candidate) as runner:
                records[name] = self._record(-2, name, None).with_accuracy(
                    self.floats.of_candidate(runner, "test"), "test"
                )
            candidates.append(candidate)
        timing = self.bench.measure(candidates, self.batches, self._budget(rounds=4, time=4 * len(candidates)))
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
        replace(strategy, structure=self.model.structure).save(folder / STRATEGY_FILE)
        write_atomic(folder / QDQ_FILE, free_batch(candidate.proto, self.model).SerializeToString())
        if self._links:
            self.bench.save(candidate, folder)
        else:
            (folder / LIBRARY_FILE).unlink(missing_ok=True)

    @property
    def delivered(self) -> tuple[str, ...]:
        """The files that `deliver` writes."""
        compiled = (LIBRARY_FILE, *self.bench.files) if self._links else ()
        return (*compiled, QDQ_FILE, STRATEGY_FILE)

    @property
    def _links(self) -> bool:
        return linker(self.bench.spec.triple) is not None

    def close(self) -> None:
        """Releases the devices."""
        self.bench.close()

    @cached_property
    def environment(self) -> Environment:
        """Versions, processor or GPU, and load of this machine."""
        return read_environment(self.threads, gpu=self.bench.host.family == "nvidia")

    @cached_property
    def floats(self) -> FloatReference:
        """float32 on the samples."""
        return FloatReference(lambda: self._float_runner, self.model, self.parts, self._asked, self.seed, self.say)

    @cached_property
    def _float_runner(self) -> TvmRunner:
        return TvmRunner(self.float_artifact, name=FLOAT32)

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
