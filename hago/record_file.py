"""``records.jsonl``: one record per line, written by several processes at once.

A line is written whole and forced to disk before :func:`append_record` returns, so a process killed at any
moment leaves all finished records, and at most one torn line at the end, which the next append cuts off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .documents import parse_json
from .errors import StorageError
from .files import write_atomic, write_failure
from .locking import lock
from .record import Record


def append_record(path: str | os.PathLike[str], record: Record) -> None:
    """Appends one line to ``path``, created if missing; on return the line is on disk.

    Several processes may append to one file at once. Raises StorageError (disk full, no permission).
    """
    target = Path(path)
    payload = (record.to_line() + "\n").encode("utf-8")
    try:
        handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            lock(handle)
            end = _end_of_lines(handle)
            try:
                _write_all(handle, payload)
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, end)  # a full disk must not leave a partial line
                raise
        finally:
            os.close(handle)
    except OSError as error:
        raise write_failure(error, target, len(payload)) from error


def write_records(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Writes ``records``, replacing the file atomically."""
    write_atomic(path, "".join(record.to_line() + "\n" for record in records))


def read_records(path: str | os.PathLike[str], damaged: Callable[[StorageError], None] | None = None) -> list[Record]:
    """The records of a file in order, without a torn last line (the writer was killed).

    Raises StorageError if the file cannot be read or another line is damaged, naming the line; ``damaged``, if given,
    is called for each such line, which is then skipped.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    *lines, rest = raw.split(b"\n")
    if not _is_torn(rest):
        lines.append(rest)
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(_from_line(line, f"{path}: line {number}"))
        except StorageError as error:
            if damaged is None:
                raise
            damaged(error)
    return records


def _from_line(line: bytes, where: str) -> Record:
    try:
        data = parse_json(line.decode("utf-8"))
    except ValueError as error:
        raise StorageError(
            f"is damaged: {error}", where=where, hint="delete this line to continue without its record"
        ) from error
    return Record.from_dict(data, where)


def _write_all(handle: int, payload: bytes) -> None:
    # Usually one system call; the rest follows if the kernel took only a part.
    while payload:
        payload = payload[os.write(handle, payload) :]


def _is_torn(line: bytes) -> bool:
    """Whether the text after the last line end is torn: a part of a JSON object is not a JSON object."""
    try:
        return not isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return True


def _end_of_lines(handle: int) -> int:
    """Cuts off a torn last line, or ends one that only lacks its end; returns the resulting size."""
    size = os.fstat(handle).st_size
    begin = size
    line = b""
    while begin > 0 and b"\n" not in line:
        begin = max(0, begin - 65536)
        line = os.pread(handle, size - begin, begin)
    end = begin + line.rfind(b"\n") + 1
    rest = line[line.rfind(b"\n") + 1 :]
    if rest and not _is_torn(rest):
        _write_all(handle, b"\n")
        return size + 1
    if rest:
        os.ftruncate(handle, end)
    return end
