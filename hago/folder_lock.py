"""One process at a time fills a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import StorageError

LOCK_FILE = ".hago.lock"


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Holds the folder for the time of the block; the lock goes with the process, so a killed one blocks nobody.

    Raises StorageError where another process, or another thread of this one, holds it, or it cannot be written to.
    """
    try:
        import fcntl  # noqa: F401
    except ImportError:  # no such locks on this system: one writer at a time is then up to the caller
        yield
        return
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
        raise StorageError(f"cannot be written: {error.strerror}", where=str(path)) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # still locked: whoever opened it before sees that it is not the folder's any more
        os.close(handle)


def _take(path: Path) -> int:
    """The open and locked file. Raises BlockingIOError naming the process that holds it."""
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            os.close(handle)
            raise BlockingIOError(f"process {holder or 'unknown'}") from None
        except OSError:  # a file system without locks
            return handle
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            with suppress(OSError):  # on a full disk it is locked all the same
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            return handle
        os.close(handle)  # its holder has just ended and removed it
