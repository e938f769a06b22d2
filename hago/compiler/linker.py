"""From compiled kernels to object code and shared objects, through whatever linker the machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import BuildError
from ..files import require_space


@cache
def linker() -> tuple[str, ...] | None:
    """The command that links objects into a shared object, or None where the machine has none.

    A system compiler or linker first; the package ``ziglang`` from PyPI can stand in for it.
    """
    for name in ("ld.lld", "ld", "cc", "gcc", "clang"):
        path = shutil.which(name)
        if path:
            return (path,)
    if find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    return None


def object_code(module: Any) -> bytes:
    """The object file of a compiled LLVM module.

    It is written to memory where the system can do that: LLVM ends the process when a disk is full.
    """
    if hasattr(os, "memfd_create"):
        with suppress(OSError), os.fdopen(os.memfd_create("kernel"), "rb") as memory:
            module.write_to_file(f"/proc/self/fd/{memory.fileno()}", "o")
            return memory.read()
    with tempfile.TemporaryDirectory() as place:
        require_space(place, 1 << 22)
        path = Path(place) / "kernel.o"
        module.write_to_file(str(path), "o")
        return path.read_bytes()


def link(objects: list[Path], target: Path) -> None:
    """Links ``objects`` into the shared object ``target``. Raises BuildError."""
    command = linker()
    if command is None:
        raise BuildError(
            "a linker is needed to write a shared object, and none was found",
            where=str(target),
            hint="install one (Debian: apt install binutils; anywhere: pip install ziglang)",
        )
    run = [*command, "-shared", "-o", str(target), *map(str, objects)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"linking failed: {done.stderr.strip()[-500:]}", where=str(target))
