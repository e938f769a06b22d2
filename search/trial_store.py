"""The stored study: all trials, written so that a process killed at any moment loses no finished one.

A trial is written in three atomic steps: begun (RUNNING, with its parameters), measured (its record), finished (its
state). A resumed search finishes trials that were measured, and measures again those that were only begun. Records are
also written to ``records.jsonl``; either is enough to resume.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..errors import HagoError, HagoWarning, StorageError
from ..goal import QUANTITIES, Goal
from ..record import Record
from ..record_file import append_record, read_records
from ..result_files import RECORDS_FILE, STUDY_FILE
from ..strategy import Strategy
from .space import Params, SearchSpace
from .storage import has_trials, storage_errors
from .worker import is_alive, this_worker

_RECORD, _WORKER, _ORIGIN, _LABEL, _LEFT = "record", "worker", "origin", "label", "interrupted"
KEPT = "hago:"  # prefix of Hago's attributes of a study
_ATTEMPTS = 3  # how often a candidate may crash the process
_STATES = {"ok": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class Finished:
    """A measured trial: parameters, the strategy's key, its record, and the stage that proposed it."""

    number: int
    params: Params
    key: str
    record: Record
    origin: str


@dataclass(frozen=True)
class Pending:
    """A candidate that was begun but not finished; it is measured again."""

    params: Params
    origin: str
    label: str


class TrialStore:
    """Reads and writes one stored study. Make it with :func:`open_store.open_store`."""

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
        """All measured trials by number, including those of other workers."""
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
        """Candidates that an interrupted search began and that were not measured since."""
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
        """Stores that a candidate is being measured; returns its number and its key in the storage."""
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
        """Stores the record of a candidate. ``values`` (for COMPLETE) are the study's objectives."""
        with storage_errors(self.where):
            self._storage.set_trial_user_attr(trial_id, _RECORD, record.to_dict())
            self._finish(trial_id, record, values)
        if self._records is not None:
            append_record(self._records, record)

    def _finish(self, trial_id: int, record: Record, values: Sequence[float] | None) -> None:
        state = _STATES[record.state]
        self._storage.set_trial_state_values(trial_id, state, values if state == TrialState.COMPLETE else None)

    def leave(self, trial_id: int, why: str) -> None:
        """Abandons a candidate, to be measured again when the search is resumed."""
        with storage_errors(self.where):
            self._storage.set_trial_user_attr(trial_id, _LEFT, why)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def note(self, record: Record) -> None:
        """Writes a record that is not a trial (float32, the test) to ``records.jsonl`` only."""
        if self._records is not None:
            append_record(self._records, record)

    def remember(self, key: str, value: Any) -> None:
        """Stores plain data with the study."""
        with storage_errors(self.where):
            self._storage.set_study_user_attr(self._study_id, f"{KEPT}{key}", value)

    def recall(self, key: str) -> Any:
        """What was remembered, or None."""
        with storage_errors(self.where):
            return self._storage.get_study_user_attrs(self._study_id).get(f"{KEPT}{key}")

    def recover(self, goal: Goal) -> None:
        """Repairs a study that was interrupted at any moment. Safe while another process works on it.

        Finishes measured trials, abandons dead ones (for good after some attempts), and copies records that only the
        study or only ``records.jsonl`` has to the other.
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
                continue  # a record of another space: it stays in the file and is not a trial here
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
        with storage_errors(self.where):  # a damaged study may hold parameters unknown to the space
            return self._space.strategy(self._params(trial))

    def _params(self, trial: FrozenTrial) -> dict[str, str]:
        return {name: str(value) for name, value in trial.params.items()}


def has_search(folder: Path) -> bool:
    """Whether this folder holds a search that can be resumed."""
    study = folder / STUDY_FILE
    return (folder / RECORDS_FILE).is_file() or (study.is_file() and has_trials(study))


def _tell_damage(error: StorageError) -> None:
    warnings.warn(f"{error.where} {error.what}; its trial is taken from the study, if the study has it", HagoWarning, 2)


def stored_values(goal: Goal, record: Record) -> list[float] | None:
    """The measured values of the stored study's objectives; None for an incomplete record."""
    if record.state != "ok" or record.accuracy_change is None:
        return None
    return [QUANTITIES[name].stored(goal, record) for name in goal.objectives]
