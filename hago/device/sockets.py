"""The connections behind TVM's RPC sessions, which TVM keeps to itself.

A device that hangs answers nothing, not even when an object of its is let go of, and TVM waits for that answer with all
of Python standing still. So the operating system has to end the waiting: by a limit on every connection, and by cutting
one that is given up.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import suppress


def open_sockets() -> frozenset[int]:
    """The sockets that this process has open, by their numbers; none where the system does not tell."""
    found = []
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.append(int(name))
    return frozenset(found)


class Connection:
    """The sockets opened since ``before``; of other threads' too, if they connect to somewhere at this moment."""

    def __init__(self, before: frozenset[int]) -> None:
        self._sockets = [copy for number in open_sockets() - before if (copy := _connected(number)) is not None]

    def limit(self, seconds: float) -> None:
        """How long anything waits for an answer before it fails."""
        span = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        for copy in self._sockets:
            with suppress(OSError):
                copy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)

    def cut(self) -> None:
        """Ends the connection at once: whatever waits for an answer fails."""
        for copy in self._sockets:
            with suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)
        self.forget()

    def forget(self) -> None:
        """Lets go of the sockets without a word."""
        for copy in self._sockets:
            copy.close()
        self._sockets = []


def _connected(number: int) -> socket.socket | None:
    """A second handle of the socket, if it is connected to an internet address."""
    try:
        copy = socket.socket(fileno=os.dup(number))
    except OSError:
        return None
    with suppress(OSError):
        if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getpeername():
            return copy
    copy.close()
    return None
