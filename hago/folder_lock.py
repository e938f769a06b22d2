"""One process at a time fills a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import arguments
from .errors import StorageError
from .files import make_folder, write_failure
from .locking import lock

LOCK_FILE = ".hago.lock"


@contextmanager
def filled_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Creates the folder if needed and locks it for the block. A new folder that stays empty is removed.

    The lock ends with the process, so a killed process blocks nobody. Raises StorageError if another process, or
    another thread of this one, holds the lock, or if the folder cannot be created or written.
    """
    is_new = not Path(arguments.path("a folder", path, StorageError)).exists()
    folder = make_folder(path)
    try:
        with _held(folder):
            yield folder
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    path = folder / LOCK_FILE
    try:
        handle = _take(path)
    except BlockingIOError as busy:
        raise StorageError(
            f"another run of hago ({busy}) is filling this folder",
            where=str(folder),
            hint="wait until it ends, or choose another folder",
        ) from None
    except OSError as error:
        raise write_failure(error, path) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # still locked: anyone who opened it before notices that it was removed
        os.close(handle)


def _take(path: Path) -> int:
    """The open and locked file. Raises BlockingIOError naming the process that holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            if not lock(handle, wait=False):
                return handle
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            os.close(handle)
            raise BlockingIOError(f"process {holder or 'unknown'}") from None
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            with suppress(OSError):  # a full disk does not prevent the lock
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            return handle
        os.close(handle)  # its holder has just ended and removed it
