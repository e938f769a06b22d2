"""The stored study: every trial, written so that a process killed at any moment loses no finished one.

A trial is written in three steps, each of them whole or not there: begun (RUNNING, with its parameters),
measured (its record), finished (its state). A search that is resumed finishes what was measured, and
measures again what was only begun. Records also stand in ``records.jsonl``; either is enough to go on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..errors import HagoError, HagoWarning, SearchError, StorageError
from ..goal import QUANTITIES, Goal
from ..record import Record
from ..record_file import append_record, read_records
from ..strategy import Strategy
from .space import Params, SearchSpace
from .storage import STUDY_FILE, StorageLike, damage, has_trials, open_storage, storage_errors
from .worker import is_alive, this_worker

RECORDS_FILE = "records.jsonl"
_RECORD, _WORKER, _ORIGIN, _LABEL, _LEFT = "record", "worker", "origin", "label", "interrupted"
_KEPT = "hago:"  # what a study's own attributes begin with
_IDENTITY = f"{_KEPT}identity"
_FORMAT = "1"
_ATTEMPTS = 3  # how often a candidate may take the process down with it
_STATES = {"ok": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class Finished:
    """A trial that counts: parameters, the strategy's key, its record, and what part of the search proposed it."""

    number: int
    params: Params
    key: str
    record: Record
    origin: str


@dataclass(frozen=True)
class Pending:
    """A candidate that was begun and not finished, to be measured again."""

    params: Params
    origin: str
    label: str


class TrialStore:
    """Reads and writes one stored study. Make it with :func:`open_store`."""

    def __init__(
        self, study: optuna.Study, storage: BaseStorage, where: str, space: SearchSpace, records: Path | None
    ) -> None:
        self.study = study
        self.where = where
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._space = space
        self._records = records
        self._read: dict[int, Finished] = {}
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(choices) for name, choices in space.parameters.items()
        }

    def finished(self) -> list[Finished]:
        """All trials that count, in the order of their numbers, those of other workers too."""
        found = []
        for trial in self._trials():
            if not trial.state.is_finished() or _RECORD not in trial.user_attrs:
                continue
            past = self._read.get(trial.number)
            if past is None:
                record = Record.from_dict(trial.user_attrs[_RECORD], f"{self.where}: trial {trial.number}")
                origin = str(trial.user_attrs.get(_ORIGIN, ""))
                past = Finished(trial.number, self._params(trial), self._strategy(trial).key(), record, origin)
                self._read[trial.number] = past
            found.append(past)
        return found

    def pending(self) -> list[Pending]:
        """Candidates that an interrupted search began, without those measured since."""
        done = {past.key for past in self.finished()}
        found: dict[str, Pending] = {}
        for trial in self._trials():
            key = self._strategy(trial).key()
            if trial.state == TrialState.FAIL and _LEFT in trial.user_attrs and key not in done:
                origin, label = (str(trial.user_attrs.get(name, "")) for name in (_ORIGIN, _LABEL))
                found.setdefault(key, Pending(self._params(trial), origin, label))
        return list(found.values())

    def elsewhere(self) -> set[str]:
        """The keys of strategies that other live processes are measuring for the same study."""
        running = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        return {
            self._strategy(trial).key()
            for trial in running
            if is_alive(str(trial.user_attrs.get(_WORKER, "")), trial.datetime_start)
        }

    def begin(self, params: Params, origin: str, label: str) -> tuple[int, int]:
        """Writes down that a candidate is being measured; returns its number and its key in the storage."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params={name: params[name] for name in self._distributions},
            distributions=self._distributions,
            user_attrs={_WORKER: this_worker(), _ORIGIN: origin, _LABEL: label},
        )
        with storage_errors(self.where):
            trial_id = self._storage.create_new_trial(self._study_id, template_trial=trial)
            return self._storage.get_trial_number_from_id(trial_id), trial_id

    def finish(self, trial_id: int, record: Record, values: Sequence[float] | None) -> None:
        """Writes down what came of a candidate. ``values`` (for COMPLETE) are the study's objectives."""
        with storage_errors(self.where):
            self._storage.set_trial_user_attr(trial_id, _RECORD, record.to_dict())
            self._finish(trial_id, record, values)
        if self._records is not None:
            append_record(self._records, record)

    def _finish(self, trial_id: int, record: Record, values: Sequence[float] | None) -> None:
        state = _STATES[record.state]
        self._storage.set_trial_state_values(trial_id, state, values if state == TrialState.COMPLETE else None)

    def leave(self, trial_id: int, why: str) -> None:
        """Gives a begun candidate up, to be measured again when the search is resumed."""
        with storage_errors(self.where):
            self._storage.set_trial_user_attr(trial_id, _LEFT, why)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def note(self, record: Record) -> None:
        """Writes a record that is no trial (float32, the test) to the records alone."""
        if self._records is not None:
            append_record(self._records, record)

    def remember(self, key: str, value: Any) -> None:
        """Keeps plain data with the study."""
        with storage_errors(self.where):
            self._storage.set_study_user_attr(self._study_id, f"{_KEPT}{key}", value)

    def recall(self, key: str) -> Any:
        """What was remembered, or None."""
        with storage_errors(self.where):
            return self._storage.get_study_user_attrs(self._study_id).get(f"{_KEPT}{key}")

    def recover(self, goal: Goal) -> None:
        """Brings a study that was left at any moment in order. Safe beside another process that works on it.

        Measured trials are finished, dead ones given up (for good after some attempts), and the study and
        ``records.jsonl`` get what the other has and they lack.
        """
        attempts: dict[str, int] = {}
        for trial in self._trials():
            if _LEFT in trial.user_attrs and trial.user_attrs[_LEFT] == "died":
                key = self._strategy(trial).key()
                attempts[key] = attempts.get(key, 0) + 1
        for trial in self._trials():
            if trial.state != TrialState.RUNNING:
                continue
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)
            if _RECORD in trial.user_attrs:
                record = Record.from_dict(trial.user_attrs[_RECORD], self.where)
                with storage_errors(self.where):
                    self._finish(trial_id, record, stored_values(goal, record))
            elif not is_alive(str(trial.user_attrs.get(_WORKER, "")), trial.datetime_start):
                strategy = self._strategy(trial)
                if attempts.get(strategy.key(), 0) + 1 < _ATTEMPTS:
                    self.leave(trial_id, "died")
                    continue
                reason = f"the process died {_ATTEMPTS} times while this candidate was measured"
                label = str(trial.user_attrs.get(_LABEL, ""))
                self.finish(trial_id, Record(trial.number, label, strategy, state="failed", reason=reason), None)
        if self._records is not None:
            self._reconcile(self._records, goal)

    def _reconcile(self, path: Path, goal: Goal) -> None:
        written = [r for r in read_records(path, _tell_damage) if r.is_trial] if path.exists() else []
        stored = {past.record.key for past in self.finished()}
        for record in written:
            if record.key in stored or record.strategy is None:
                continue
            if (record.strategy.model_hash, record.strategy.hw) != (self._space.model_hash, self._space.hw):
                continue
            try:
                params = self._space.params(record.strategy)
            except HagoError:
                continue  # a record of another space: it stays in the file, and is no trial here
            number, trial_id = self.begin(params, "records", record.label)
            record = replace(record, id=number)
            with storage_errors(self.where):
                self._storage.set_trial_user_attr(trial_id, _RECORD, record.to_dict())
                self._finish(trial_id, record, stored_values(goal, record))
        in_file = {record.key for record in written}
        for past in self.finished():
            if past.record.key not in in_file:
                append_record(path, past.record)

    def _trials(self) -> list[FrozenTrial]:
        with storage_errors(self.where):
            return self.study.get_trials(deepcopy=False)

    def _strategy(self, trial: FrozenTrial) -> Strategy:
        with storage_errors(self.where):  # a damaged study holds parameters that the space does not know
            return self._space.strategy(self._params(trial))

    def _params(self, trial: FrozenTrial) -> dict[str, str]:
        return {name: str(value) for name, value in trial.params.items()}


def has_search(folder: Path) -> bool:
    """Whether anything was measured in this folder, so that a search can be resumed there."""
    study = folder / STUDY_FILE
    return (folder / RECORDS_FILE).is_file() or (study.is_file() and has_trials(study))


def open_store(
    space: SearchSpace,
    goal: Goal,
    identity: Mapping[str, str],
    *,
    storage: StorageLike = None,
    folder: str | os.PathLike[str] | None = None,
    study_name: str = "hago",
    resume: bool = False,
) -> TrialStore:
    """Opens or makes the study.

    Raises SearchError when there is one already and ``resume`` is False, or when the one to resume was
    for something else, naming what differs; StorageError when it cannot be read or written.
    """
    path = None if folder is None else Path(folder)
    if path is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot be made: {error.strerror}", where=str(path)) from error
    records = None if path is None else path / RECORDS_FILE
    has_records = records is not None and records.exists()
    if path is not None and storage is None and resume:
        _set_aside(path)
    opened, where = open_storage(storage, path)
    known = {**identity, "space": space.signature[:12], "objectives": ", ".join(goal.objectives)}
    known["format"] = _FORMAT
    wanted = [QUANTITIES[name] for name in goal.objectives]
    directions = [StudyDirection.MAXIMIZE if q.maximised else StudyDirection.MINIMIZE for q in wanted]
    names = [quantity.study_name for quantity in wanted]
    with storage_errors(where):
        exists = study_name in optuna.get_all_study_names(opened)
        found = None
        if exists:
            study = optuna.load_study(study_name=study_name, storage=opened)
            found = study.user_attrs.get(_IDENTITY)
            if found is None and (study.get_trials(deepcopy=False) or len(study.directions) != len(names)):
                raise SearchError(
                    f"the study {study_name!r} there is not one of hago's", where=where, hint="name another"
                )
            if found is not None and not has_records and _is_empty(study):
                # It failed before its first trial: there is nothing to go on with, and nothing to lose.
                if found != known:
                    optuna.delete_study(study_name=study_name, storage=opened)
                    exists = False
                found = None
    if not resume and (found is not None or has_records):
        raise SearchError(
            "there is a search already",
            where=str(path) if found is None else where,
            hint="resume it (--resume, resume=True), or choose another folder",
        )
    with storage_errors(where):
        if found is not None:
            _check_identity(found, known, where)
        if not exists:
            study = optuna.create_study(
                storage=opened, study_name=study_name, directions=directions, load_if_exists=True
            )
        if found is None:
            with warnings.catch_warnings():  # names of objectives are marked experimental
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(names)
            study.set_user_attr(_IDENTITY, known)
    return TrialStore(study, opened, where, space, records)


def _is_empty(study: optuna.Study) -> bool:
    """Whether nothing was measured for it: no trial, and not float32 either."""
    return not study.get_trials(deepcopy=False) and f"{_KEPT}float" not in study.user_attrs


def _tell_damage(error: StorageError) -> None:
    warnings.warn(f"{error.where} {error.what}; its trial is taken from the study, if it is there", HagoWarning, 2)


def _set_aside(folder: Path) -> None:
    """Moves a damaged study out of the way where the records can stand in for it."""
    study = folder / STUDY_FILE
    if not (folder / RECORDS_FILE).is_file() or not study.is_file() or (found := damage(study)) is None:
        return
    try:
        for suffix in ("", "-journal", "-wal", "-shm"):  # what belongs to it would be taken for the new one's
            part = study.with_name(study.name + suffix)
            if part.exists():
                part.replace(folder / f"damaged-{part.name}")
    except OSError as error:
        raise StorageError(f"is damaged ({found}), and cannot be moved: {error.strerror}", where=str(study)) from error
    kept = folder / f"damaged-{study.name}"
    warnings.warn(f"{study} is damaged ({found}): now {kept.name}, and made anew from {RECORDS_FILE}", HagoWarning, 2)


def stored_values(goal: Goal, record: Record) -> list[float] | None:
    """The objectives of the stored study, as measured; None for a record that is not complete."""
    if record.state != "ok" or record.accuracy_change is None:
        return None
    return [QUANTITIES[name].stored(goal, record) for name in goal.objectives]


def _check_identity(found: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    differing = [key for key in {**found, **now} if found.get(key) != now.get(key)]
    if differing:
        details = "; ".join(f"{key} was {_short(found.get(key))}, is {_short(now.get(key))}" for key in differing)
        raise SearchError(
            f"the search there was another one: {details}",
            where=where,
            hint="resume it as it was begun, or choose another folder for this one",
        )


def _short(value: object) -> str:
    """Of a hash the beginning, of anything else the whole."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:13]}...'"
