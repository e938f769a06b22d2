"""Starts a search: reads its options, opens the store, and runs it (run.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from typing import Any

import optuna

from .. import arguments
from ..deadline import Deadline
from ..documents import did_you_mean
from ..errors import SearchError
from ..goal import DEFAULT_OBJECTIVES, Goal
from ..interrupts import Interrupts
from ..options import SearchOptions
from ..strategy import Strategy
from .objective import Evaluator
from .open_store import open_store
from .progress import Progress, make_progress
from .result import SearchResult
from .run import SearchRun
from .space import SearchSpace

_OF_GOAL = tuple(item.name for item in fields(Goal) if item.name not in ("higher_is_better", "unit"))


def run_search(
    space: SearchSpace,
    evaluator: Evaluator,
    options: SearchOptions | None = None,
    *,
    goal: Goal | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: str | Progress | None = None,
    deadline: Deadline | None = None,
    interrupts: Interrupts | None = None,
    **more: Any,
) -> SearchResult:
    """Searches ``space`` for the strategy that the ``goal`` asks for, measured by ``evaluator``.

    ``more`` are options of the search and, without a ``goal``, fields of :class:`Goal`: ``max_drop=0.02, trials=20``.
    Options that shape the space (``knobs``, ``keep``) have no effect here. ``start`` is a Strategy; the nearest one of
    the space is measured first.

    ``folder`` gets ``study.db`` and ``records.jsonl``; ``storage`` names another place for the study
    (:func:`hago.search.storage.open_storage`), ``study_name`` the study there. The search ends after ``trials`` trials
    (including those of earlier runs), after ``budget`` seconds of this run (or "10m"), when ``patience`` sampled trials
    in a row add nothing to the front, or on Ctrl-C, SIGTERM or SIGHUP. ``reproducible``: the same seed, model, samples
    and kernel times give the same proposals, because samplers see latencies of the time model; False shows them the
    measured ones. ``deadline`` replaces the budget with a clock that is already running; ``interrupts`` are already
    installed.

    A signal, a full disk, the loss of all devices and five failures in a row end the search with the trials so far;
    ``result.signum`` holds the signal, and ``result.error`` any other reason. Raises SearchError for invalid arguments,
    StorageError if the storage cannot be opened, any error of ``evaluator.float_record()``, and KeyboardInterrupt for a
    second signal.
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
        store = open_store(
            space,
            goal,
            identity,
            storage=chosen.storage,
            study_name=chosen.study_name,
            folder=folder,
            resume=chosen.resume,
        )
        store.recover(goal)
        return SearchRun(space, evaluator, goal, store, display, interrupts, deadline, chosen).run()


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


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keeps Optuna's reports of trials off the terminal: the progress display shows them."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
