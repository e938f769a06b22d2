"""Who works on a trial: tells trials of dead processes from those of live ones."""

from __future__ import annotations

import os
import re
import socket
from datetime import datetime, timedelta
from pathlib import Path

from ..files import hash_bytes

_STALE = timedelta(hours=1)  # a trial on another machine is abandoned after this time


def this_worker() -> str:
    """Machine (hashed, as studies are shared), process, and the start of the process."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"


def is_alive(worker: str, begun: datetime | None) -> bool:
    """Whether that worker may still be at the trial that it began then; this process never is."""
    machine, pid, started = (*worker.split(":"), "", "", "")[:3]
    if machine != _machine():
        return begun is not None and datetime.now() - begun < _STALE
    if not re.fullmatch("[0-9]{1,9}", pid) or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it exists and belongs to another user
    return _started(int(pid)) == started


def _machine() -> str:
    return hash_bytes(socket.gethostname())[:12]


def _started(pid: int) -> str:
    """The start of a process in clock ticks, as process ids are reused. Empty if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()
    return "dead" if state in "ZX" else rest[18]
