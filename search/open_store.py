"""Opens the stored study of a search: a new one, or the one to resume, which must belong to the same search."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.study import StudyDirection

from ..errors import HagoWarning, SearchError, StorageError
from ..files import make_folder
from ..goal import QUANTITIES, Goal
from .space import SearchSpace
from .storage import STUDY_FILE, StorageLike, damage, open_storage, storage_errors
from .trial_store import KEPT, RECORDS_FILE, TrialStore

_IDENTITY = f"{KEPT}identity"
_FORMAT = "1"


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
    """Opens or creates the study.

    Raises SearchError if there is one already and ``resume`` is False, or if the one to resume belongs to another
    search, naming what differs; StorageError if it cannot be read or written.
    """
    path = None if folder is None else make_folder(folder)
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
                    f"the study {study_name!r} there was not created by hago", where=where, hint="name another"
                )
            if found is not None and not has_records and _is_empty(study):
                # It failed before its first trial: there is nothing to resume, and nothing to lose.
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
    """Whether nothing was measured: no trial, and not float32 either."""
    return not study.get_trials(deepcopy=False) and f"{KEPT}float" not in study.user_attrs


def _set_aside(folder: Path) -> None:
    """Moves a damaged study aside if the records can replace it."""
    study = folder / STUDY_FILE
    if not (folder / RECORDS_FILE).is_file() or not study.is_file() or (found := damage(study)) is None:
        return
    try:
        for suffix in ("", "-journal", "-wal", "-shm"):  # these files would be taken for those of the new study
            part = study.with_name(study.name + suffix)
            if part.exists():
                part.replace(folder / f"damaged-{part.name}")
    except OSError as error:
        raise StorageError(f"is damaged ({found}), and cannot be moved: {error.strerror}", where=str(study)) from error
    kept = folder / f"damaged-{study.name}"
    warnings.warn(
        f"{study} is damaged ({found}): moved to {kept.name}, and rebuilt from {RECORDS_FILE}", HagoWarning, 2
    )


def _check_identity(found: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    differing = [key for key in {**found, **now} if found.get(key) != now.get(key)]
    if differing:
        details = "; ".join(f"{key} was {_short(found.get(key))}, is {_short(now.get(key))}" for key in differing)
        raise SearchError(
            f"the search there was a different one: {details}",
            where=where,
            hint="resume it with its own options, or choose another folder for this one",
        )


def _short(value: object) -> str:
    """The value as text; of a hash only the beginning."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:13]}...'"
