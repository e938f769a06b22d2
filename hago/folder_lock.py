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
    """The folder, made where it is not there and held for the time of the block; one that stays empty is removed.

    The lock goes with the process, so a killed one blocks nobody. Raises StorageError where another process, or
    another thread of this one, holds it, or it cannot be made or written to.
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
            path.unlink()  # still locked: whoever opened it before sees that it is not the folder's any more
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
            with suppress(OSError):  # on a full disk it is locked all the same
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            return handle
        os.close(handle)  # its holder has just ended and removed it
