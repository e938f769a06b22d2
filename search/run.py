"""One run of a search: propose, measure, store, until there is a reason to stop; then the conclusion."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from statistics import median

from ..deadline import Deadline
from ..errors import HagoError, NoDeviceError, SearchError, StorageError
from ..goal import Goal
from ..interrupts import Interrupts, name_of
from ..options import SearchOptions
from ..record import Record
from .conclusion import conclude
from .context import Context
from .objective import Evaluator, common_reason, evaluate_safely
from .planner import WARM_START, Planner, Proposal
from .progress import Progress, Status
from .result import SearchResult
from .space import SearchSpace
from .stopping import trials_without_gain
from .trial_store import Finished, TrialStore, stored_values

_LAST_SHARE = 0.15  # of the time budget, for the play-off and the test samples
_WORTH_BEGINNING = 0.5  # of the shortest trial: with less time left, none is begun
_LAST_S = 10.0  # for the test samples, once a signal has asked for the end
_MOST_FAILURES = 5


class SearchRun:
    """One run of a search."""

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator,
        goal: Goal,
        store: TrialStore,
        display: Progress,
        interrupts: Interrupts,
        deadline: Deadline,
        options: SearchOptions,
    ) -> None:
        self._space, self._evaluator, self._goal, self._store = space, evaluator, goal, store
        self._display, self._interrupts, self._deadline, self._options = display, interrupts, deadline, options
        self._history: list[Finished] = []
        self._measured: list[Record] = []  # in this run
        self._spans_s: list[float] = []  # what each trial of this run took
        self._float: Record | None = None
        self._stage = "float32"
        self._first_within_s: float | None = None

    def run(self) -> SearchResult:
        """float32, the trials, the answer."""
        self._display.start(self._status())
        try:
            context = self._begin()
            planner = Planner(context)
            stopped, error = self._run_trials(planner)
            result = conclude(context, planner, self._all_records(), stopped, error)
            self._stage = f"stopped: {result.stopped}"
        finally:
            self._display.finish(self._status())
        if result.test is not None:
            try:
                self._store.note(result.test)
            except StorageError as caught:
                result = replace(result, error=result.error or caught)
        return replace(result, seconds=self._deadline.elapsed_s(), first_within_s=self._first_within_s)

    def _begin(self) -> Context:
        """Measures float32, which settles the goal."""
        with self._interrupts.allowed():
            self._float = _baseline(self._evaluator.float_record())
            self._goal = self._goal.settled(self._float)
        if self._store.recall("float") is None:
            self._store.note(self._float)
            self._store.remember("float", self._float.to_dict())
        return Context(
            space=self._space,
            evaluator=self._evaluator,
            goal=self._goal,
            floats=self._float,
            first_floats=Record.from_dict(self._store.recall("float"), self._store.where),
            store=self._store,
            interrupts=self._interrupts,
            deadline=self._deadline,
            options=self._options,
            tell=self._tell,
            left_s=self._left_s,
        )

    def _run_trials(self, planner: Planner) -> tuple[str, HagoError | None]:
        """Why the trials ended, and the error that ended them, if any."""
        try:
            stopped = self._loop(planner)
        except KeyboardInterrupt as caught:
            signum = self._interrupts.signum = getattr(caught, "signum", signal.SIGINT)
            self._deadline.shorten(_LAST_S)
            return f"{name_of(signum)}; nothing is lost: continue with --resume (resume=True)", None
        except StorageError as error:
            return "the disk or the storage failed; resume once it is repaired", error
        except NoDeviceError as error:
            return "no device answers; nothing is lost: resume once one does", error
        if not stopped:
            failures = SearchError(
                f"{_MOST_FAILURES} candidates in a row failed: {common_reason(self._last_measured())}",
                hint="records.jsonl holds every reason; `hago inspect` lists what each layer can do",
            )
            return failures.what, failures
        records = [past.record for past in self._history]
        if records and all(record.state == "failed" for record in records):
            return stopped, SearchError(f"no candidate could be measured: {common_reason(records)}")
        return stopped, None

    def _all_records(self) -> list[Record]:
        """All trials, including those that could not be stored."""
        stored = {past.number for past in self._history}
        unwritten = [record for record in self._measured if record.id not in stored]
        return [past.record for past in self._history] + unwritten

    def _last_measured(self) -> list[Record]:
        return self._measured[-_MOST_FAILURES:]

    def _loop(self, planner: Planner) -> str:
        """Runs trials until there is a reason to stop, which is returned; empty for too many failures."""
        while True:
            self._history = self._store.finished()
            reason = self._reason_to_stop(planner)
            if reason is not None:
                return reason
            proposal = planner.next(self._history)
            if proposal is None:
                if not self._space.parameters and not self._history:
                    return "no layer of the model can be quantized on this hardware"
                return "every strategy that the sampler can propose has been measured"
            if self._left_s() != 0:
                self._measure(proposal, planner)

    def _reason_to_stop(self, planner: Planner) -> str | None:
        done = len(self._history)
        if self._options.trials is not None and done >= self._options.trials:
            return f"{done} trials"
        left = self._left_s()
        if left is not None and left <= (_WORTH_BEGINNING * min(self._spans_s) if self._spans_s else 0):
            return f"the time budget of {self._deadline.seconds:g} s"
        last = self._last_measured()
        if len(last) == _MOST_FAILURES and all(record.state == "failed" for record in last):
            return ""
        if self._options.patience is not None and not planner.in_warm_start(self._history):
            points = [planner.measures.point(past) for past in self._history if past.record.state == "ok"]
            still = trials_without_gain(points, planner.measures.reference)
            newest = self._history[len(self._history) - len(self._measured) :]
            sampled = sum(past.origin not in WARM_START for past in newest)
            if min(still, sampled) >= self._options.patience:
                return f"the front reached a plateau: no improvement in {self._options.patience} trials"
        return None

    def _measure(self, proposal: Proposal, planner: Planner) -> None:
        """Begins one trial in the store, measures and finishes it."""
        strategy = self._space.strategy(proposal.params)
        number, trial_id = self._store.begin(proposal.params, proposal.origin, proposal.label)
        self._tell(f"trial {number + 1}: {proposal.label}")
        found = any(planner.measures.keeps(past) for past in self._history)
        # Until a candidate keeps the bound, the closest one matters: only clearly broken candidates are cut short.
        hopeless = 2 * self._goal.max_drop if found else max(2 * self._goal.worst_drop, 0.1)
        stop_below = -hopeless if self._goal.bounds_accuracy else None
        begin = time.monotonic()
        try:
            with self._interrupts.allowed():
                record = evaluate_safely(self._evaluator, strategy, stop_below=stop_below, time_left_s=self._left_s())
        except BaseException as error:
            self._store.leave(trial_id, type(error).__name__)
            raise
        spent = time.monotonic() - begin
        record = replace(
            record,
            id=number,
            label=proposal.label,
            strategy=strategy,
            trial_s=spent if record.trial_s is None else record.trial_s,
        )
        self._measured.append(record)
        self._spans_s.append(spent)
        if self._first_within_s is None and self._goal.within(record):
            self._first_within_s = self._deadline.elapsed_s()
        self._store.finish(trial_id, record, stored_values(self._goal, record))
        self._history.append(Finished(number, dict(proposal.params), strategy.key(), record, proposal.origin))
        self._display.trial(self._status())

    def _tell(self, stage: str) -> None:
        self._stage = stage
        self._display.update(self._status())

    def _left_s(self) -> float | None:
        """Seconds left for trials; None without a time budget. The first trial may use the reserve for the end."""
        left = self._deadline.left_s()
        if left is None or not self._history:
            return left
        return max(0.0, left - _LAST_SHARE * (self._deadline.seconds or 0.0))

    def _status(self) -> Status:
        records = [past.record for past in self._history]
        within = [record for record in records if self._goal.within(record)]
        left = self._left_s()
        if self._options.trials is not None and self._spans_s:
            # The median, because some trials also build the tables of the models, or new kernels.
            by_trials = median(self._spans_s) * max(0, self._options.trials - len(records))
            left = by_trials if left is None else min(left, by_trials)
        return Status(
            stage=self._stage,
            trial=len(records),
            trials=self._options.trials,
            elapsed_s=self._deadline.elapsed_s(),
            left_s=left,
            max_drop=self._goal.max_drop,
            bound=self._goal.phrase,
            float=self._float,
            best=min(within, key=self._goal.cost, default=None),
            last=self._measured[-1] if self._measured else None,
            failed=sum(record.state == "failed" for record in records),
        )


def _baseline(record: Record) -> Record:
    """float32 as a record like the others: no change, and a ratio of 1."""
    change = 0.0 if record.accuracy_change is None else record.accuracy_change
    ratio = 1.0 if record.latency_ratio is None and record.cost_s is not None else record.latency_ratio
    return replace(record, id=-1, label=record.label or "float32", accuracy_change=change, latency_ratio=ratio)
