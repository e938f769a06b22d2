"""The connections behind TVM's RPC sessions, which TVM does not expose.

A hanging device answers nothing, not even the release of an object, and TVM waits for that answer while it blocks all
of Python. The operating system must therefore end the wait: by a time limit on every connection, and by cutting
abandoned ones.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import suppress


def open_sockets() -> frozenset[int]:
    """The open sockets of this process, by number; empty if the system does not list them."""
    found = []
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.append(int(name))
    return frozenset(found)


class Connection:
    """The sockets opened since ``before``, including those of other threads that connect at the same moment."""

    def __init__(self, before: frozenset[int]) -> None:
        self._sockets = [copy for number in open_sockets() - before if (copy := _connected(number)) is not None]

    def limit(self, seconds: float) -> None:
        """Limits how long anything waits for an answer before it fails."""
        span = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        for copy in self._sockets:
            with suppress(OSError):
                copy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)

    def cut(self) -> None:
        """Cuts the connection at once: any wait for an answer fails."""
        for copy in self._sockets:
            with suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)
        self.forget()

    def forget(self) -> None:
        """Closes these handles; the connections themselves stay open."""
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
