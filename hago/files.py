"""Files that are either whole or not there, and temporary folders: neither is left by a process that was killed.

A file is written without a name, where the file system can do that, and then put in its place. Elsewhere, and in
temporary folders, what is being written is locked, and the next that writes there removes what nobody holds.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from glob import escape
from pathlib import Path
from typing import BinaryIO

from . import arguments
from .errors import StorageError
from .locking import lock

_MARK = ".hago-tmp-"


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made where it is not there. Raises StorageError."""
    path = arguments.path("a folder", path, StorageError)
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "choose another with --out"
        raise write_failure(error, path, what="the folder cannot be made", hint=hint) from error
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
        raise write_failure(error, target, len(payload)) from error


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
            with _removed_on_error(beside):
                give_name(beside)
                os.replace(beside, target)


def _write_named(target: Path, payload: bytes, mode: int) -> None:
    prefix = _beside(target)
    _remove_left(prefix.parent, prefix.name)
    while True:
        handle, name = tempfile.mkstemp(dir=prefix.parent, prefix=prefix.name)
        with os.fdopen(handle, "wb") as file, _removed_on_error(name):
            if not _locked(handle, name):
                continue
            _fill(file, payload, mode)
            os.replace(name, target)
            return


def _beside(target: Path) -> Path:
    """What the name of a temporary file for ``target`` begins with."""
    return target.parent / f".{target.name}{_MARK}"


def _fill(file: BinaryIO, payload: bytes, mode: int) -> None:
    file.write(payload)
    file.flush()
    os.fsync(file.fileno())
    os.fchmod(file.fileno(), mode)


@contextmanager
def _removed_on_error(name: str) -> Iterator[None]:
    """A block that a full disk or a signal leaves without the file."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _locked(handle: int, name: str) -> bool:
    """Locks a new file or folder; False where it was taken for one that was left, and removed, before that."""
    lock(handle)  # where the file system has no locks, nothing is removed either
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
                if not lock(handle, wait=False):
                    continue
                if os.path.isdir(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            finally:
                os.close(handle)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = (os.strerror(errno.ENOSPC), "database or disk is full")  # as compilers, linkers and sqlite say it


def is_full(error: BaseException | None) -> bool:
    """Whether it comes, at whatever remove, of a disk that takes no more: then it is no fault of what was tried."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in _FULL or any(text in str(error) for text in _FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_failure(
    error: BaseException,
    where: str | os.PathLike[str],
    nbytes: int | None = None,
    *,
    what: str = "cannot be written",
    hint: str = "choose another folder, or see that this one is there and can be written to",
) -> StorageError:
    """What a write that failed is told as. ``nbytes`` were to be written; a full disk says so, and how much is free."""
    reason = getattr(error, "strerror", None) or getattr(error, "what", None) or error
    if is_full(error):
        hint = "free some space or choose another folder, then run again"
        reason = f"{reason}{room(where, nbytes)}"
    return StorageError(f"{what}: {reason}", where=str(where), hint=hint)


def room(where: str | os.PathLike[str], nbytes: int | None = None) -> str:
    """`` (12 KiB needed, 4 KiB free)``, as far as that is known and says something."""
    told = [] if nbytes is None else [f"{_size(nbytes)} needed"]
    with suppress(OSError):
        path = Path(where).absolute()
        free = shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free
        if nbytes is None or free < nbytes:
            told.append(f"{_size(free)} free")
    return f" ({', '.join(told)})" if told else ""


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB" if nbytes >= 1 << 20 else f"{-(-nbytes // 1024)} KiB"


def require_space(folder: str | os.PathLike[str], nbytes: int, hint: str = "", *, where: str = "") -> None:
    """Raises StorageError where fewer bytes than this are free: for writers that cannot fail gracefully.

    ``where`` is the file that is to be written, the folder if not said.
    """
    if shutil.disk_usage(folder).free < nbytes:
        raise StorageError(
            f"cannot be written: {os.strerror(errno.ENOSPC)}{room(folder, nbytes)}",
            where=where or str(folder),
            hint=hint or "free some space or choose another folder, then run again",
        )


def hash_bytes(*parts: bytes | str) -> str:
    """The SHA-256, in hexadecimal, of the parts, each told apart from the next by its length."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
