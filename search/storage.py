"""Where a study is stored: sqlite by default, any database that Optuna supports, a journal file, or memory."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from .. import arguments
from ..errors import HagoError, SearchError, StorageError, reason_of
from ..files import is_full, room
from ..locking import lock
from ..result_files import STUDY_FILE

_JOURNALS = (".journal", ".log")
_LONGEST_PATH = 500  # bytes: the longest that sqlite opens
_STUDY_BYTES = 256 << 10  # size of an empty study and its journal in sqlite
_BUSY_S = 60  # seconds to wait for another process that writes to the same sqlite file
_TABLES_VERSION_HINT = "it was made by another version of Optuna: `optuna storage upgrade` brings it up to date"

StorageLike = str | os.PathLike[str] | BaseStorage | None


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turns any exception of a storage into one StorageError that says what to do."""
    try:
        yield
    except HagoError:
        raise
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, sqlite3.OperationalError, OSError) as error:
        cause = error.__cause__ if error.__cause__ is not None else error
        text = str(getattr(cause, "orig", None) or getattr(cause, "strerror", None) or cause).splitlines()
        reason = text[0] if text else type(cause).__name__
        if is_full(error):
            reason += room(where, _STUDY_BYTES)
        raise StorageError(
            f"the study cannot be read or written: {reason}",
            where=where,
            hint="trials finished so far are safe; free some space or repair the storage, then resume",
        ) from error
    except Exception as error:  # a changed or damaged file: rows and lines that no Optuna writes
        raise StorageError(
            f"the study is damaged: {reason_of(error)}",
            where=where,
            hint="move it away, then resume: records.jsonl in the same folder holds every finished trial",
        ) from error


def open_storage(storage: StorageLike, folder: Path | None) -> tuple[BaseStorage, str]:
    """The storage, and its name in messages.

    ``storage``: a URL (``sqlite:///...``, ``postgresql://...``, ``mysql://...``), a path (a journal if it ends in
    .journal or .log, else sqlite), an Optuna storage, or None for ``study.db`` in ``folder`` (in memory without a
    folder). Raises StorageError, or SearchError for an invalid URL.
    """
    if isinstance(storage, BaseStorage):
        return storage, type(storage).__name__
    if storage is None:
        if folder is None:
            return InMemoryStorage(), "memory"
        storage = folder / STUDY_FILE
    text = arguments.path("storage", storage)
    if "://" in text:
        return _open_database(text, _without_password(text)), _without_password(text)
    path = Path(text)
    if not path.parent.is_dir():
        raise StorageError("there is no such folder", where=str(path.parent), hint="make it, or name another")
    if path.suffix in _JOURNALS:
        with storage_errors(text):
            lock = _FileLock(path)
            _cut_torn_line(path, lock)
            return JournalStorage(JournalFileBackend(str(path), lock_obj=cast(Any, lock))), text
    if len(os.fsencode(path.absolute())) > _LONGEST_PATH:
        raise StorageError(
            f"sqlite opens no path of more than {_LONGEST_PATH} bytes", where=text, hint="choose another"
        )
    # Quoted twice: SQLAlchemy unquotes once, and in Optuna's URLs a brace begins a template.
    return _open_database(f"sqlite:///{quote(_as_uri(path))}?uri=true", text), text


def _as_uri(path: Path) -> str:
    """sqlite's URI of a path, safe for any bytes in it."""
    return f"file:{quote(os.fsencode(path.absolute()))}"


def damage(path: Path) -> str | None:
    """What is wrong with the content of an sqlite study, or None; a busy study is not damaged."""
    try:
        with closing(sqlite3.connect(f"{_as_uri(path)}?mode=ro", uri=True, timeout=_BUSY_S)) as file:
            found = [str(row[0]) for row in file.execute("PRAGMA quick_check(1)")]
            if found != ["ok"]:
                return found[0].splitlines()[-1]
            for table in ("study_user_attributes", "trial_user_attributes"):
                for (text,) in file.execute(f"SELECT value_json FROM {table}"):
                    json.loads(text)
    except sqlite3.OperationalError:
        return None  # locked, unreadable, or without these tables: opening it reports that
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        return str(error)
    return None


def has_trials(path: Path) -> bool:
    """Whether an sqlite study holds a trial; True if it cannot be read."""
    try:
        with closing(sqlite3.connect(f"{_as_uri(path)}?mode=ro", uri=True, timeout=_BUSY_S)) as file:
            return file.execute("SELECT 1 FROM trials LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)  # only part of the tables fitted on a full disk
    except sqlite3.DatabaseError:
        return True


def _open_database(url: str, where: str) -> BaseStorage:
    engine: dict[str, object] = {}
    if url.startswith("sqlite"):
        engine = {"connect_args": {"timeout": _BUSY_S}}
    with storage_errors(where):
        try:
            return RDBStorage(url, engine_kwargs=engine)
        except (ImportError, ValueError, ArgumentError) as error:
            raise SearchError(
                f"the storage cannot be opened: {reason_of(error)}",
                where=where,
                hint="a storage is a path, or a URL such as sqlite:///study.db or postgresql://user@host/name "
                "(whose driver, such as psycopg2, must be installed)",
            ) from error
        except RuntimeError as error:
            raise StorageError(
                f"the storage cannot be opened: {reason_of(error)}", where=where, hint=_TABLES_VERSION_HINT
            ) from error


def _without_password(url: str) -> str:
    scheme, rest = url.split("://", 1)
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user.split(':')[0]}{at}{host}"


class _FileLock:
    """A lock on a file beside the journal, which the system releases when its holder dies."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._handle: int | None = None

    def acquire(self) -> bool:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        lock(handle)
        self._handle = handle
        return True

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _cut_torn_line(path: Path, lock: _FileLock) -> None:
    """Cuts off a partial line that a killed writer left: the next line would be lost with it."""
    if not path.exists():
        return
    lock.acquire()
    try:
        with path.open("r+b") as file:
            data = file.read()
            end = data.rfind(b"\n") + 1
            if end < len(data):
                file.truncate(end)
    finally:
        lock.release()
