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
from glob import escape
from pathlib import Path

from .errors import StorageError

_MARK = ".hago-tmp-"


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made where it is not there. Raises StorageError."""
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
    temporary: str | None = None
    try:
        handle, temporary = _new_file(target)
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
            temporary = temporary or _named(file.fileno(), target)
            if temporary is not None:
                os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
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


def _new_file(target: Path) -> tuple[int, str | None]:
    """A new file in the folder of ``target``, open for writing, and its name: None where it has none yet."""
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        with suppress(OSError):  # the file system has no unnamed files, or what is wrong is told below
            return os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o600), None
    prefix = f".{target.name}{_MARK}"
    _remove_left(target.parent, prefix)
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix)
        if _locked(handle, name):
            return handle, name
        os.close(handle)


def _named(handle: int, target: Path) -> str | None:
    """Gives an unnamed file the name of ``target``; where that is taken, another, which is returned."""
    name: str | None = None
    while True:
        try:
            # The first path is absolute: src_dir_fd is there because Python follows the link with it alone.
            os.link(f"/proc/self/fd/{handle}", name or target, src_dir_fd=handle, follow_symlinks=True)
            return name
        except FileExistsError:
            name = str(target.parent / f".{target.name}{_MARK}{secrets.token_hex(4)}")


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
