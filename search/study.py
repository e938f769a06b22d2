"""The search itself: propose, measure, write down, until one of the reasons to stop holds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from statistics import median
from typing import Any

import optuna

from .. import arguments
from ..deadline import Deadline
from ..documents import did_you_mean
from ..errors import HagoError, NoDeviceError, SearchError, StorageError
from ..goal import DEFAULT_OBJECTIVES, Goal
from ..interrupts import Interrupts, name_of
from ..options import SearchOptions
from ..record import Record
from ..strategy import Strategy
from .conclusion import conclude
from .context import Context
from .objective import Evaluator, common_reason, evaluate_safely
from .planner import WARM_START, Planner, Proposal
from .progress import Progress, Status, make_progress
from .result import SearchResult
from .space import SearchSpace
from .stopping import trials_without_gain
from .trial_store import Finished, TrialStore, open_store, stored_values

_OF_GOAL = tuple(item.name for item in fields(Goal) if item.name not in ("higher_is_better", "unit"))
_LAST_SHARE = 0.15  # of the time budget, for the play-off and the test samples
_WORTH_BEGINNING = 0.5  # of what the shortest trial took: with less time left, none is begun
_LAST_S = 10.0  # for the test samples, once a signal has asked for the end
_MOST_FAILURES = 5


def run_search(
    space: SearchSpace,
    evaluator: Evaluator,
    options: SearchOptions | None = None,
    *,
    goal: Goal | None = None,
    folder: str | os.PathLike[str] | None = None,
    study_name: str = "hago",
    progress: str | Progress | None = None,
    deadline: Deadline | None = None,
    interrupts: Interrupts | None = None,
    **more: Any,
) -> SearchResult:
    """Searches ``space`` for the strategy that the ``goal`` asks for, measured by ``evaluator``.

    ``more`` are options of the search, and, where there is no goal, fields of :class:`Goal`: ``max_drop=0.02,
    trials=20``. Of the options, those that make the space (``knobs``, ``keep``) count no more, and ``start`` is a
    Strategy: it is measured first, or what of the space is nearest to it.

    ``folder`` gets ``study.db`` and ``records.jsonl``; ``storage`` names another place for the study
    (:func:`hago.search.storage.open_storage`). It ends after ``trials`` trials (with those of earlier runs),
    after ``budget`` seconds of this run (or "10m"), when ``patience`` sampled trials in a row add nothing
    to the front, or on Ctrl-C, SIGTERM or SIGHUP. ``reproducible``: the same seed, model, samples and kernel times give
    the same proposals, since samplers are shown latencies of the time model; False shows them the measured ones.
    ``deadline`` in place of the budget is a clock that runs already, and ``interrupts`` takes signals already.

    A signal, a full disk, devices that are all gone and five failures in a row end the search with what is there;
    ``result.error`` holds the reason of all but the first, and ``result.signum`` the signal. Raises SearchError for
    arguments that cannot be, StorageError when the storage cannot be opened, whatever ``evaluator.float_record()``
    raises, and KeyboardInterrupt for a second signal.
    """
    if goal is None:
        asked = {name: more.pop(name) for name in _OF_GOAL if name in more}
        asked["objectives"] = arguments.names("objectives", asked.get("objectives", DEFAULT_OBJECTIVES))
        goal = Goal(**asked, higher_is_better=evaluator.higher_is_better, unit=getattr(evaluator, "unit", ""))
    chosen = _with(options or SearchOptions(), more)
    display = make_progress(progress)
    deadline = deadline or Deadline(chosen.budget)
    with ExitStack() as held:
        held.enter_context(_quiet_optuna())
        interrupts = interrupts or held.enter_context(Interrupts().installed())
        held.enter_context(interrupts.careful())
        identity = {**evaluator.identity(), "seed": str(chosen.seed)}
        where = {"storage": chosen.storage, "folder": folder, "study_name": study_name, "resume": chosen.resume}
        store = open_store(space, goal, identity, **where)
        store.recover(goal)
        return _Search(space, evaluator, goal, store, display, interrupts, deadline, chosen).run()


def _with(options: SearchOptions, more: Mapping[str, Any]) -> SearchOptions:
    """The options with ``more`` of them. Raises SearchError for an unknown one."""
    known = [*(item.name for item in fields(SearchOptions)), *_OF_GOAL]
    for name in more:
        if name not in known:
            raise SearchError(f"run_search takes no {name!r}", hint=did_you_mean(name, known))
        if name in _OF_GOAL:
            raise SearchError(f"{name} is given beside goal=", hint="give it in Goal(...)")
    found = replace(options, **more)
    if not isinstance(found.start, Strategy | None):
        raise SearchError(f"start must be a Strategy here, got {found.start!r}", hint="hago.search.start.read_start")
    return found


class _Search:
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
        """Measures float32, by which the goal is settled."""
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
        """Why the trials ended, and the error that ended them, if one did."""
        try:
            stopped = self._loop(planner)
        except KeyboardInterrupt as caught:
            signum = self._interrupts.signum = getattr(caught, "signum", signal.SIGINT)
            self._deadline.shorten(_LAST_S)
            return f"{name_of(signum)}; nothing is lost: resume with --resume (resume=True)", None
        except StorageError as error:
            return "the disk or the storage failed; resume when it is mended", error
        except NoDeviceError as error:
            return "no device answers; nothing is lost: resume when one does", error
        if not stopped:
            failures = SearchError(
                f"{_MOST_FAILURES} candidates in a row failed: {common_reason(self._last_measured())}",
                hint="records.jsonl holds every reason; `hago inspect` tells what each layer can do",
            )
            return failures.what, failures
        records = [past.record for past in self._history]
        if records and all(record.state == "failed" for record in records):
            return stopped, SearchError(f"no candidate could be measured: {common_reason(records)}")
        return stopped, None

    def _all_records(self) -> list[Record]:
        """All trials, those included that could not be written down."""
        stored = {past.number for past in self._history}
        unwritten = [record for record in self._measured if record.id not in stored]
        return [past.record for past in self._history] + unwritten

    def _last_measured(self) -> list[Record]:
        return self._measured[-_MOST_FAILURES:]

    def _loop(self, planner: Planner) -> str:
        """Trials until there is a reason to stop, which is returned; empty for too many failures."""
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
        """One trial: begun, measured and finished in the trial store."""
        strategy = self._space.strategy(proposal.params)
        number, trial_id = self._store.begin(proposal.params, proposal.origin, proposal.label)
        self._tell(f"trial {number + 1}: {proposal.label}")
        found = any(planner.measures.keeps(past) for past in self._history)
        # Until something keeps the bound, the closest is of interest: only the clearly broken is cut short.
        hopeless = self._goal.hopeless_drop if found else max(2 * self._goal.worst_drop, 0.1)
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
        """Seconds left for trials; None without a time budget. The first may take what is kept for the end."""
        left = self._deadline.left_s()
        if left is None or not self._history:
            return left
        return max(0.0, left - _LAST_SHARE * (self._deadline.seconds or 0.0))

    def _status(self) -> Status:
        records = [past.record for past in self._history]
        within = [record for record in records if self._goal.within(record)]
        left = self._left_s()
        if self._options.trials is not None and self._spans_s:
            # The median: some trials wait for the tables of the models, or for new kernels.
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
    """float32 as a record like all others: no change, and a ratio of 1 to itself."""
    change = 0.0 if record.accuracy_change is None else record.accuracy_change
    ratio = 1.0 if record.latency_ratio is None and record.cost_s is not None else record.latency_ratio
    return replace(record, id=-1, label=record.label or "float32", accuracy_change=change, latency_ratio=ratio)


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keeps Optuna's report of every trial off the terminal: the progress display has its own."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
