"""Linux lets a process use AMX tiles only on request, because their registers make every context larger."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18  # Linux on x86-64


@cache
def allow_tiles() -> bool:
    """Requests the tiles for all threads of this process; returns whether they may be used.

    False on other systems, on a kernel older than 5.16, and if a sandbox forbids the call. The caller must know that
    the processor has tiles.
    """
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    try:
        call = ctypes.CDLL(None).syscall
    except (OSError, AttributeError):
        return False
    return bool(call(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0)
