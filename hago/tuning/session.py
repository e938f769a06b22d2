"""A tuning session: samples divided, evaluator made, search run, folder filled.

out/
  strategy.yaml      the answer: layer -> precision, granularity, calibrator
  model.qdq.onnx     the answer as a standard QDQ model (the float model where float32 is the answer)
  model.so           the answer compiled; needs TVM's runtime alone
  records.jsonl      all that was measured, a line each
  report.html, .md   what was found, how, and what each layer gained or lost
  environment.json   machine and software that measured
  study.db           the Optuna study
  search.json        what it was for, from which `hago answer` answers other bounds
  calibration.npz    ranges of all activations
"""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api import Result
from ..bench import Bench
from ..bench.local import LocalBench
from ..compiler.build import build
from ..compiler.cache import KernelCache
from ..compiler.linker import require_linker
from ..data import DataParts, Samples, make_samples, split_samples
from ..deadline import Deadline
from ..device.places import Target
from ..documents import read_document
from ..errors import BuildError, DeviceError, HagoError, HagoWarning, StorageError
from ..files import write_atomic
from ..interrupts import Interrupts
from ..lower import lower
from ..measure.latency import measure_latency
from ..measure.metrics import Metric, unit_of
from ..model import Model
from ..report import ReportData, from_search, write_report
from ..report.answer import tell
from ..report.data import KEPT
from ..report.write import HTML
from ..runners import TvmRunner
from ..runtime.threads import check_threads, default_threads
from ..search import SearchSpace, run_search
from ..search.ledger import has_search
from ..search.progress import Telling
from ..spec import HardwareSpec, resolve_hw
from ..spec.joint import join
from ..strategy import Strategy
from ..visible import visible
from .afford import Affordable
from .evaluator import LIBRARY, TvmEvaluator, require_labels
from .job import Job
from .joint import JointEvaluator

if TYPE_CHECKING:
    from ..search import SearchResult


@dataclass(frozen=True)
class Found:
    """What a search found, and how it is told."""

    result: SearchResult
    strategy: Strategy
    report: ReportData


@dataclass(frozen=True)
class Session:
    """Everything that one tuning job needs; ``held`` is let go of when it is closed."""

    evaluator: TvmEvaluator | JointEvaluator
    space: SearchSpace
    progress: Telling
    folder: Path | None
    deadline: Deadline
    interrupts: Interrupts
    held: ExitStack = field(default_factory=ExitStack)
    hw: str = ""
    devices: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        *,
        model: Model,
        spec: HardwareSpec,
        data: Any,
        calibration: Any,
        test: Any,
        metric: Metric,
        seed: int,
        threads: int | None,
        folder: Path | None,
        cache: KernelCache,
        progress: Telling,
        deadline: Deadline,
        interrupts: Interrupts,
        places: Sequence[Target] = (),
        rule: str = "worst",
    ) -> Session:
        """Reads and divides the samples, as many as ``deadline`` allows. Raises DataError, StrategyError, DeviceError.

        ``places`` are where candidates run, if not on this machine as ``spec`` describes it: one place, or several
        for one strategy that is to be good on all, judged by ``rule``.
        """
        if folder is not None:
            _warn_without_linker([resolve_hw(place.devices[0].spec) for place in places] or [spec])
        # What an earlier run took, or all where it had time enough, is what a resumed one takes.
        begun = folder is not None and has_search(folder)
        affordable = Affordable(None if begun else deadline.seconds, folder, seed, resumed=begun)

        def read(name: str, source: Any) -> Samples:
            progress.say(f"reading the samples: {name}")
            return affordable.read(name, make_samples(source, model.inputs))

        samples = read("data", data)
        apart = None if calibration is None else make_samples(calibration, model.inputs)
        if apart is not None:
            apart = affordable.read("calibration", apart.calibration or apart)
        held_out = None if test is None else read("test", test)
        progress.say("dividing the samples")
        parts = split_samples(samples, apart, test=held_out, seed=seed)
        require_labels(metric, parts)
        if threads is None:
            progress.say("choosing the number of threads")
            away = any(not place.is_here for place in places)
            threads = 1 if away else _chosen_threads(model, spec, parts, cache, folder)

        benches: dict[str, Bench] = {place.name: place.bench(threads, cache, seed) for place in places}
        benches = benches or {"": LocalBench(spec, seed)}
        specs = [bench.spec for bench in benches.values()]
        shared = specs[0] if len(specs) == 1 else join(specs)
        own: dict[str, Any] = {"threads": threads, "cache": cache, "folder": folder, "seed": seed}
        own |= {"say": progress.say, "deadline": deadline}
        evaluators = {
            name: TvmEvaluator(model, shared, parts, metric, bench=bench, **own) for name, bench in benches.items()
        }
        taken = affordable.divided(parts, next(iter(evaluators.values())).float_run_s)
        for each in evaluators.values():
            each.parts = taken
        evaluator = next(iter(evaluators.values())) if len(evaluators) == 1 else JointEvaluator(evaluators, rule)
        space = SearchSpace.from_model(model, shared)
        names = tuple(place.name for place in places)
        return cls(evaluator, space, progress, folder, deadline, interrupts, devices=names)

    def find(self, **options: Any) -> Found:
        """Runs the search; ``options`` are those of `run_search`."""
        found = run_search(
            self.space,
            self.evaluator,
            folder=self.folder,
            seed=self.evaluator.seed,
            progress=self.progress,
            deadline=self.deadline,
            interrupts=self.interrupts,
            **options,
        )
        strategy = found.best.strategy or Strategy(self.evaluator.model.hash, self.evaluator.spec.name)
        return Found(found, strategy, self._report(found, strategy, str(options.get("sampler", "tpe"))))

    def write(self, found: Found) -> Result:
        """Fills the folder, if there is one: all that can be written is, and ``search.error`` holds what could not.

        A signal waits until that is done, the first one.
        """
        search, folder = found.result, self.folder
        if folder is not None:
            environment = json.dumps(self.evaluator.environment.to_dict(), indent=2)
            with self.interrupts.careful():
                for write in (
                    lambda: write_atomic(folder / "environment.json", environment + "\n"),
                    lambda: self.evaluator.deliver(found.strategy, folder),
                    lambda: self._job().save(folder),
                    lambda: write_report(found.report, folder),
                ):
                    try:
                        write()
                    except HagoError as error:
                        search = replace(search, error=search.error or error)
        answer = tell(found.report)
        return Result(search, found.strategy, folder, " ".join([answer.sentence, *answer.notes]))

    def _job(self) -> Job:
        """What `hago answer` needs to know of this search."""
        evaluator, model = self.evaluator, self.evaluator.model
        path = Path(model.source)
        return Job(
            model=str(path.absolute()) if path.is_file() else None,
            model_hash=model.hash,
            hw=self.hw or evaluator.spec.name,
            batch=model.batch,
            threads=evaluator.threads,
            metric=evaluator.metric.name,
            higher_is_better=evaluator.metric.higher_is_better,
            unit=unit_of(evaluator.metric),
            input_shapes=model.input_shapes,  # type: ignore[arg-type]
            devices=[name for name in self.devices if name],
        )

    def _report(self, found: SearchResult, strategy: Strategy, sampler: str) -> ReportData:
        evaluator = self.evaluator
        return from_search(
            found,
            model=evaluator.model,
            spec=evaluator.spec,
            where=evaluator.where,
            estimated=evaluator.estimated,
            joint=isinstance(evaluator, JointEvaluator),
            remarks=evaluator.remarks(),
            metric=evaluator.metric,
            split=evaluator.parts.split,
            environment=evaluator.environment,
            space=self.space,
            strategy=strategy,
            float_times=self._times(Strategy(strategy.model_hash, strategy.hw)),
            chosen_times=self._times(strategy),
            sampler=sampler,
            seed=evaluator.seed,
            files=(*evaluator.delivered, *KEPT),
        )

    def _times(self, strategy: Strategy) -> Mapping[str, float] | None:
        """None where the devices are gone: what was measured is told all the same."""
        try:
            return self.evaluator.kernel_times(strategy)
        except DeviceError:
            return None

    def close(self) -> None:
        """Lets go of the devices and of the folder."""
        with self.held:
            self.evaluator.close()


def _warn_without_linker(specs: Sequence[HardwareSpec]) -> None:
    """Says before the search what cannot be written after it."""
    for triple in dict.fromkeys(spec.triple for spec in specs):
        try:
            require_linker(triple, LIBRARY)
        except BuildError as error:
            warnings.warn(f"{error}\n  all but {LIBRARY} will be written", HagoWarning, stacklevel=2)


# Several threads must be worth their cost in energy and in other work: this much faster than one.
_WORTH_THREADS = 0.9


def kept_threads(path: Path) -> int | None:
    """The number of threads that an earlier run wrote there; None where there is none, or a damaged one."""
    try:
        return check_threads(read_document(path, error=StorageError).data.get("threads"))
    except HagoError:
        return None


def _chosen_threads(model: Model, spec: HardwareSpec, parts: DataParts, cache: KernelCache, folder: Path | None) -> int:
    """One thread, or all physical cores where float32 is clearly faster so; a resumed search keeps its number."""
    kept = None if folder is None else folder / "threads.json"
    if kept is not None and (count := kept_threads(kept)) is not None:
        return count
    most, chosen = default_threads(), 1
    if most > 1:
        lowered = lower(model.proto, spec)
        runners = [TvmRunner(build(lowered, spec, threads=count, cache=cache), name=str(count)) for count in (1, most)]
        (feeds,) = parts.search.whole_batches(model.batch, 1)
        latency = measure_latency(runners, feeds, rounds=15, budget_s=2.0)[str(most)]
        chosen = most if latency.ratio_high < _WORTH_THREADS else 1
    if kept is not None:
        write_atomic(kept, json.dumps({"threads": chosen}) + "\n")
    return chosen


def console_summary(result: Result) -> str:
    """What `hago tune` prints at the end."""
    lines = [result.summary()]
    if result.folder is not None:
        if (result.folder / HTML).is_file():  # not where a full disk took none
            lines.append(f"Report: {result.folder / HTML}")
        lines += [f"Run it: {how}" for how in _how_to_run(result.folder)]
    return "\n".join(map(visible, lines))


def is_complete(folder: Path | None) -> bool:
    """Whether all was written there: False where there was no linker for the compiled network."""
    return folder is None or any(folder.rglob(LIBRARY))


def _how_to_run(folder: Path) -> list[str]:
    """What to type next, here or on the device."""
    boards = [script.parent for script in sorted([*folder.glob("run.py"), *folder.glob("*/run.py")])]
    built = [library for library in sorted(folder.rglob("model.so")) if library.parent not in boards]
    here = [f"hago run {shlex.quote(str(library))} --data SAMPLES.npz" for library in built]
    return here + [f"copy {board} to the board, and there: python run.py SAMPLES.npz" for board in boards]
