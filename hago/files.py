"""Atomic writes and temporary folders; a killed process leaves neither behind.

If the file system allows, a file is written without a name and then linked to its place. Otherwise, and for temporary
folders, the unfinished file is locked, and the next writer removes unlocked leftovers.
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
    """Creates the folder if it does not exist. Raises StorageError."""
    path = arguments.path("a folder", path, StorageError)
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "choose another with --out"
        raise write_failure(error, path, what="the folder cannot be created", hint=hint) from error
    return Path(path)


def write_atomic(path: str | os.PathLike[str], data: bytes | str, mode: int = 0o644) -> None:
    """Writes ``data`` to ``path`` atomically: neither a reader nor a crash sees a partial file.

    Raises StorageError (disk full, no permission, no such folder).
    """
    target = Path(path)
    payload = data.encode("utf-8") if isinstance(data, str) else data
    try:
        try:
            _write_unnamed(target, payload, mode)
        except (OSError, AttributeError):  # unsupported here; other causes fail below as well
            _write_named(target, payload, mode)
    except OSError as error:
        raise write_failure(error, target, len(payload)) from error


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder in ``parent``, or in the system's temporary folder. Raises OSError."""

    def __init__(self, parent: str | os.PathLike[str] | None = None) -> None:
        place = Path(parent or tempfile.gettempdir())
        _remove_left(place, _MARK)
        while True:
            super().__init__(prefix=_MARK, dir=place)
            try:
                self._handle = os.open(self.name, os.O_RDONLY)
            except FileNotFoundError:  # another process took it for a leftover before it could be locked
                super().cleanup()
                continue
            if _locked(self._handle, self.name):
                return
            os.close(self._handle)

    def cleanup(self) -> None:
        """Removes the folder and its contents."""
        super().cleanup()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _write_unnamed(target: Path, payload: bytes, mode: int) -> None:
    handle = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as file:
        _fill(file, payload, mode)
        # The path is absolute, so src_dir_fd has no effect, but Python follows the link only if it is given.
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
    """The prefix of temporary file names for ``target``."""
    return target.parent / f".{target.name}{_MARK}"


def _fill(file: BinaryIO, payload: bytes, mode: int) -> None:
    file.write(payload)
    file.flush()
    os.fsync(file.fileno())
    os.fchmod(file.fileno(), mode)


@contextmanager
def _removed_on_error(name: str) -> Iterator[None]:
    """Removes the file if the block fails or is interrupted."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _locked(handle: int, name: str) -> bool:
    """Locks a new file or folder; False if another process took it for a leftover and removed it first."""
    lock(handle)  # without locks in the file system, nothing is removed either
    try:
        return os.path.samestat(os.fstat(handle), os.stat(name))
    except FileNotFoundError:
        return False


def _remove_left(folder: Path, prefix: str) -> None:
    """Removes unlocked files with this prefix, left by killed processes."""
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
_FULL_TEXTS = (os.strerror(errno.ENOSPC), "database or disk is full")  # the wording of compilers, linkers and sqlite


def is_full(error: BaseException | None) -> bool:
    """Whether the error, or any error that led to it, is a full disk, which is not the fault of the operation."""
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
    hint: str = "choose another folder, or make sure that this one exists and is writable",
) -> StorageError:
    """The error for a failed write of ``nbytes``. For a full disk it says so, and how much is free."""
    reason = getattr(error, "strerror", None) or getattr(error, "what", None) or error
    if is_full(error):
        hint = "free some space or choose another folder, then run again"
        reason = f"{reason}{room(where, nbytes)}"
    return StorageError(f"{what}: {reason}", where=str(where), hint=hint)


def room(where: str | os.PathLike[str], nbytes: int | None = None) -> str:
    """`` (12 KiB needed, 4 KiB free)``, as far as known and relevant."""
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
    """Raises StorageError if fewer bytes than this are free, for writers that cannot fail gracefully.

    ``where`` is the file to write (default: the folder).
    """
    if shutil.disk_usage(folder).free < nbytes:
        raise StorageError(
            f"cannot be written: {os.strerror(errno.ENOSPC)}{room(folder, nbytes)}",
            where=where or str(folder),
            hint=hint or "free some space or choose another folder, then run again",
        )


def hash_bytes(*parts: bytes | str) -> str:
    """The SHA-256, in hexadecimal, of the parts, each prefixed with its length."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
