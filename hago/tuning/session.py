"""A tuning session: runs the search and fills the folder.

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
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..deadline import Deadline
from ..errors import DeviceError, HagoError
from ..files import write_atomic
from ..goal import Goal
from ..interrupts import Interrupts
from ..measure.metrics import unit_of
from ..options import Options
from ..report import Measured, ReportData, from_search, write_report
from ..report.sentence import tell
from ..result_files import ENVIRONMENT_FILE, SEARCH_FILES
from ..search import SearchSpace, run_search
from ..search.progress import JobProgress
from ..spec import HardwareSpec
from ..strategy import Strategy
from .evaluator import TvmEvaluator
from .job import Job
from .joint import JointEvaluator
from .tuned import Result

if TYPE_CHECKING:
    from ..search import SearchResult


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
                    lambda: write_atomic(folder / ENVIRONMENT_FILE, environment + "\n"),
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
            files=(*evaluator.delivered, *SEARCH_FILES),
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


def _file_of(hw: str | os.PathLike[str] | HardwareSpec) -> str:
    """The path of a user's spec file; empty for one of Hago's specs."""
    return str(Path(hw).absolute()) if isinstance(hw, (str, os.PathLike)) and Path(hw).is_file() else ""
