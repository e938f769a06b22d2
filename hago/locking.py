"""Advisory locks on open files: they go with their process, so a killed one blocks nobody."""

from __future__ import annotations

import errno
import fcntl

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


def lock(handle: int, *, wait: bool = True) -> bool:
    """Takes the lock of an open file or folder, until it is closed; False where its file system has no locks.

    Raises BlockingIOError where another holds it and ``wait`` is False.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True
