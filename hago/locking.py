"""Advisory locks on open files. They end with their process, so a killed process blocks nobody."""

from __future__ import annotations

import errno
import fcntl

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


def lock(handle: int, *, wait: bool = True) -> bool:
    """Locks an open file or folder until it is closed; returns False if the file system has no locks.

    Raises BlockingIOError if another process holds the lock and ``wait`` is False.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True
