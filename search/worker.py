"""Who works on a trial, so that one that was left by a dead process can be told from a live one."""

from __future__ import annotations

import os
import re
import socket
from datetime import datetime, timedelta
from pathlib import Path

from ..files import hash_bytes

_STALE = timedelta(hours=1)  # a trial of another machine that has run for so long is given up


def this_worker() -> str:
    """Machine (hashed: a study may be shown to others), process, and when the process began."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"


def is_alive(worker: str, begun: datetime | None) -> bool:
    """Whether that worker may still be at the trial that it began then. This very process is not."""
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
        pass  # it is there, and somebody else's
    return _started(int(pid)) == started


def _machine() -> str:
    return hash_bytes(socket.gethostname())[:12]


def _started(pid: int) -> str:
    """When a process began, in clock ticks: numbers of processes come round again. Empty if not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()
    return "dead" if state in "ZX" else rest[18]
