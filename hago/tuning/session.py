"""A tuning session: splits the samples, creates the evaluator, runs the search and fills the folder.

out/
  strategy.yaml      the answer: layer -> precision, granularity, calibrator
  model.qdq.onnx     the answer as a standard QDQ model (the float model if float32 is the answer)
  model.so           the answer, compiled; needs only TVM's runtime
  records.jsonl      everything that was measured, one record per line
  report.html, .md   what was found, how, and what each layer gained or lost
  environment.json   the machine and the software versions
  study.db           the Optuna study
  search.json        the job, from which `hago answer` answers other bounds
  calibration.npz    ranges of all activations
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bench import Bench
from ..bench.local import LocalBench
from ..compiler.cache import KernelCache
from ..compiler.linker import require_linker
from ..data import DataParts, Samples, make_samples, split_samples
from ..data.sample_shapes import sample_shapes
from ..deadline import Deadline
from ..device.places import find_place
from ..errors import BuildError, DeviceError, HagoError, HagoWarning
from ..files import write_atomic
from ..folder_lock import filled_folder
from ..goal import Goal
from ..interrupts import Interrupts
from ..measure.metrics import unit_of
from ..model import Model, load_model
from ..options import Options
from ..read_goal import read_goal
from ..record import Record
from ..report import Measured, ReportData, from_search, write_report
from ..report.data import KEPT
from ..report.sentence import tell
from ..runtime.threads import check_threads
from ..search import SearchSpace, run_search
from ..search.keep import read_keep
from ..search.progress import JobProgress, make_progress
from ..search.start import read_start
from ..search.trial_store import has_search
from ..spec import HardwareSpec, resolve_hw
from ..spec.join import join
from ..strategy import Strategy
from .afford import Affordable
from .evaluator import LIBRARY, TvmEvaluator, require_labels
from .job import Job
from .joint import JointEvaluator
from .thread_choice import chosen_threads

if TYPE_CHECKING:
    from ..search import SearchResult


@dataclass(frozen=True)
class Result:
    """The result of `tune`.

    ``best`` is the answer and ``float`` is float32, both measured on the test part, which the search never sees;
    ``front`` holds the Pareto-optimal records (on the search part), the fastest first. ``search`` has all
    details: every record, why the search stopped, and what prevents the bound from being met.
    """

    search: SearchResult
    strategy: Strategy
    folder: Path | None
    answer: str

    @property
    def float(self) -> Record:
        """float32, on the test part."""
        return self.search.float_test or self.search.float

    @property
    def best(self) -> Record:
        """The answer, on the test part (on the search part if the search was cut short)."""
        return self.search.test or self.search.best

    @property
    def front(self) -> tuple[Record, ...]:
        """The Pareto front: records of the search that no other beats in everything the goal asks for."""
        return self.search.front

    @property
    def met(self) -> bool:
        """Whether a strategy within ``max_drop`` and faster than float32 was found."""
        return self.search.met

    @property
    def outcome(self) -> str:
        """``"met"``, ``"not faster"``, ``"not met"`` or ``"not told"``: what `best` is."""
        return self.search.outcome

    @property
    def too_busy(self) -> bool:
        """Whether the A/A test failed, that is, the machine was too busy to measure latencies."""
        return self.search.too_busy

    def summary(self) -> str:
        """The answer in a few sentences, as in the report."""
        return self.answer


@dataclass(frozen=True)
class Found:
    """The result of a search, and the report on it."""

    result: SearchResult
    strategy: Strategy
    report: ReportData


@dataclass(frozen=True)
class Session:
    """Everything that one tuning job needs. Closing it releases ``held``."""

    evaluator: TvmEvaluator | JointEvaluator
    space: SearchSpace
    options: Options
    goal: Goal
    start: Strategy | None
    progress: JobProgress
    folder: Path | None
    deadline: Deadline
    interrupts: Interrupts
    held: ExitStack

    def find(self) -> Found:
        """Runs the search."""
        found = run_search(
            self.space,
            self.evaluator,
            replace(self.options.search, start=self.start),
            goal=self.goal,
            folder=self.folder,
            progress=self.progress,
            deadline=self.deadline,
            interrupts=self.interrupts,
        )
        strategy = found.best.strategy or Strategy(self.evaluator.model.hash, self.evaluator.spec.name)
        return Found(found, strategy, self._report(found, strategy))

    def write(self, found: Found) -> Result:
        """Fills the folder, if there is one. ``search.error`` is the first failure; the other files are still written.

        A first signal waits until this is done.
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
        """What `hago answer` needs to know about this search."""
        evaluator, model = self.evaluator, self.evaluator.model
        path = Path(model.source)
        return Job(
            model=str(path.absolute()) if path.is_file() else None,
            model_hash=model.hash,
            hw=_file_of(self.options.job.hw) or evaluator.spec.name,
            batch=model.batch,
            threads=evaluator.threads,
            metric=evaluator.metric.name,
            higher_is_better=evaluator.metric.higher_is_better,
            unit=unit_of(evaluator.metric),
            input_shapes=model.input_shapes,  # type: ignore[arg-type]
            devices=list(self.options.job.devices),
        )

    def _report(self, found: SearchResult, strategy: Strategy) -> ReportData:
        evaluator, search = self.evaluator, self.options.search
        measured = Measured(
            model=evaluator.model,
            spec=evaluator.spec,
            space=self.space,
            metric=evaluator.metric,
            split=evaluator.parts.split,
            environment=evaluator.environment,
            sampler=str(search.sampler),
            seed=search.seed,
            where=evaluator.where,
            estimated=evaluator.estimated,
            joint=isinstance(evaluator, JointEvaluator),
            remarks=evaluator.remarks(),
            asked=search.words(),
            files=(*evaluator.delivered, *KEPT),
        )
        floats = self._times(Strategy(strategy.model_hash, strategy.hw))
        return from_search(found, measured, strategy, float_times=floats, chosen_times=self._times(strategy))

    def _times(self, strategy: Strategy) -> Mapping[str, float] | None:
        """Kernel times; None if the devices are gone, so that the measurements are still reported."""
        try:
            return self.evaluator.kernel_times(strategy)
        except DeviceError:
            return None

    def close(self) -> None:
        """Releases the devices and the folder."""
        with self.held:
            self.evaluator.close()


def open_session(
    model: Any, data: Any, options: Options, goal: Goal, deadline: Deadline, interrupts: Interrupts
) -> Session:
    """Prepares a tuning job: reads and splits as many samples as ``deadline`` allows. The caller closes it.

    Raises HagoError for unusable input.
    """
    job, seed, keep = options.job, options.search.seed, read_keep(options.search.keep)
    places = [find_place(name, job.devices_file) for name in job.devices]
    if places and job.hw != "auto":
        raise DeviceError("each device has its own spec", where=f"hw {job.hw!r}", hint="leave out --hw (hw=)")
    display = JobProgress(make_progress(job.progress), deadline)
    with ExitStack() as held:
        folder = None if job.out is None else held.enter_context(filled_folder(job.out))
        held.callback(display.close)
        display.say("reading the model")
        shapes = partial(sample_shapes, data)
        loaded = load_model(model, job.batch, input_shapes=job.input_shapes, sample_shapes=shapes)
        spec = resolve_hw(job.hw)
        threads = None if job.threads is None else check_threads(job.threads)
        cache = KernelCache.of(job.cache)
        if folder is not None:
            _warn_without_linker([resolve_hw(place.devices[0].spec) for place in places] or [spec])
        # A resumed run takes the samples that the earlier run took.
        begun = folder is not None and has_search(folder)
        affordable = Affordable(None if begun else deadline.seconds, folder, seed, resumed=begun)
        parts = _divided(data, options, loaded, affordable, display)
        if threads is None:
            display.say("choosing the number of threads")
            away = any(not place.is_here for place in places)
            threads = 1 if away else chosen_threads(loaded, spec, parts, cache, folder)

        benches: dict[str, Bench] = {place.name: place.bench(threads, cache, seed) for place in places}
        benches = benches or {"": LocalBench(spec, seed)}
        specs = [bench.spec for bench in benches.values()]
        shared = specs[0] if len(specs) == 1 else join(specs)
        own: dict[str, Any] = {"threads": threads, "cache": cache, "folder": folder, "seed": seed}
        own |= {"say": display.say, "deadline": deadline, "knobs": options.search.knobs}
        evaluators = {
            name: TvmEvaluator(loaded, shared, parts, job.metric, bench=bench, **own) for name, bench in benches.items()
        }
        taken = affordable.divided(parts, next(iter(evaluators.values())).float_run_s)
        for each in evaluators.values():
            each.parts = taken
        alone = next(iter(evaluators.values()))
        evaluator = alone if len(evaluators) == 1 else JointEvaluator(evaluators, job.joint)
        space = SearchSpace.from_model(loaded, shared, options.search.knobs, keep=keep)
        start = read_start(options.search.start, loaded, shared)
        return Session(evaluator, space, options, goal, start, display, folder, deadline, interrupts, held.pop_all())


def _divided(data: Any, options: Options, model: Model, affordable: Affordable, display: JobProgress) -> DataParts:
    """The three parts of the samples. Raises DataError."""
    job = options.job

    def read(name: str, source: Any) -> Samples:
        display.say(f"reading the samples: {name}")
        return affordable.read(name, make_samples(source, model.inputs))

    samples = read("data", data)
    apart = None if job.calibration is None else make_samples(job.calibration, model.inputs)
    if apart is not None:
        apart = affordable.read("calibration", apart.calibration or apart)
    held_out = None if job.test is None else read("test", job.test)
    display.say("splitting the samples")
    parts = split_samples(samples, apart, test=held_out, seed=options.search.seed)
    require_labels(job.metric, parts)
    return parts


def goal_of(options: Options) -> Goal:
    """The goal that these options ask for. Raises SearchError."""
    return read_goal(options.job.metric, unit_of(options.job.metric), options.goal)


def _file_of(hw: str | os.PathLike[str] | HardwareSpec) -> str:
    """The path of a user's spec file; empty for one of Hago's specs."""
    return str(Path(hw).absolute()) if isinstance(hw, (str, os.PathLike)) and Path(hw).is_file() else ""


def _warn_without_linker(specs: Sequence[HardwareSpec]) -> None:
    """Warns before the search about what cannot be written after it."""
    for triple in dict.fromkeys(spec.triple for spec in specs):
        try:
            require_linker(triple, LIBRARY)
        except BuildError as error:
            warnings.warn(f"{error}\n  everything but {LIBRARY} will be written", HagoWarning, stacklevel=2)
