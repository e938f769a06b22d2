"""Finding a linker: compiled kernels become shared objects through it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from .errors import BuildError


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
