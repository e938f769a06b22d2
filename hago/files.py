"""Files that are either whole or not there, and temporary folders: neither is left by a process that was killed.

A file is written without a name, where the file system can do that, and then put in its place. Elsewhere, and in
temporary folders, what is being written is locked, and the next that writes there removes what nobody holds.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from functools import partial
from glob import escape
from pathlib import Path
from typing import BinaryIO

from . import arguments
from .errors import StorageError

_MARK = ".hago-tmp-"


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made where it is not there. Raises StorageError."""
    path = arguments.path("a folder", path, StorageError)
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the folder cannot be made: {error.strerror}", where=str(path), hint="choose another with --out"
        ) from error
    return Path(path)


def write_atomic(path: str | os.PathLike[str], data: bytes | str, mode: int = 0o644) -> None:
    """Writes ``data`` to ``path`` so that a reader, or a crash, never sees half of it.

    Raises StorageError (disk full, no permission, no such folder).
    """
    target = Path(path)
    payload = data.encode("utf-8") if isinstance(data, str) else data
    try:
        try:
            _write_unnamed(target, payload, mode)
        except (OSError, AttributeError):  # not with this system, or not there; what else is wrong is told by the other
            _write_named(target, payload, mode)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror or error}",
            where=str(target),
            hint="free some space or choose another folder, then run again (a search resumes where it was)",
        ) from error


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A folder for what is made on the way, in ``parent`` or where the system keeps such. Raises OSError."""

    def __init__(self, parent: str | os.PathLike[str] | None = None) -> None:
        place = Path(parent or tempfile.gettempdir())
        _remove_left(place, _MARK)
        while True:
            super().__init__(prefix=_MARK, dir=place)
            self._handle = os.open(self.name, os.O_RDONLY)
            if _locked(self._handle, self.name):
                return
            os.close(self._handle)

    def cleanup(self) -> None:
        """Removes the folder and all that is in it."""
        super().cleanup()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _write_unnamed(target: Path, payload: bytes, mode: int) -> None:
    handle = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as file:
        _fill(file, payload, mode)
        # Absolute, and so src_dir_fd says nothing; but only with it does Python follow the link.
        give_name = partial(os.link, f"/proc/self/fd/{handle}", src_dir_fd=handle, follow_symlinks=True)
        try:
            give_name(target)
        except FileExistsError:
            beside = f"{_beside(target)}{secrets.token_hex(4)}"
            give_name(beside)
            _move(beside, target)


def _write_named(target: Path, payload: bytes, mode: int) -> None:
    prefix = _beside(target)
    _remove_left(prefix.parent, prefix.name)
    while True:
        handle, name = tempfile.mkstemp(dir=prefix.parent, prefix=prefix.name)
        with os.fdopen(handle, "wb") as file:
            if not _locked(handle, name):
                continue
            try:
                _fill(file, payload, mode)
            except OSError:
                os.unlink(name)
                raise
            _move(name, target)
            return


def _beside(target: Path) -> Path:
    """What the name of a temporary file for ``target`` begins with."""
    return target.parent / f".{target.name}{_MARK}"


def _fill(file: BinaryIO, payload: bytes, mode: int) -> None:
    file.write(payload)
    file.flush()
    os.fsync(file.fileno())
    os.fchmod(file.fileno(), mode)


def _move(name: str, target: Path) -> None:
    try:
        os.replace(name, target)
    except OSError:
        os.unlink(name)
        raise


def _locked(handle: int, name: str) -> bool:
    """Locks a new file or folder; False where it was taken for one that was left, and removed, before that."""
    with suppress(OSError):  # a file system without locks, where nothing is removed either
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(handle), os.stat(name))
    except FileNotFoundError:
        return False


def _remove_left(folder: Path, prefix: str) -> None:
    """Removes what begins so and nobody holds: the process that made it was killed."""
    for path in folder.glob(f"{escape(prefix)}*"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.isdir(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            finally:
                os.close(handle)


def is_full(error: BaseException | None) -> bool:
    """Whether it comes, at whatever remove, of a disk that takes no more: then it is no fault of what was tried."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def require_space(folder: str | os.PathLike[str], nbytes: int) -> None:
    """Raises StorageError where fewer bytes than this are free: for writers that cannot fail gracefully."""
    if shutil.disk_usage(folder).free < nbytes:
        raise StorageError(
            f"{os.strerror(errno.ENOSPC)}: {nbytes / 2**20:.1f} MiB are needed",
            where=str(folder),
            hint="free some space, then run again",
        )


def hash_bytes(*parts: bytes | str) -> str:
    """The SHA-256, in hexadecimal, of the parts, each told apart from the next by its length."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
