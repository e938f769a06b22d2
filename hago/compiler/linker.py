"""From compiled kernels to object code and shared objects, by whatever linker the machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import BuildError
from ..files import TemporaryFolder, require_space
from ..runtime.processor import machine_name

_GLIBC = "2.28"  # the oldest that TVM's wheels support


@cache
def linker(triple: str = "") -> tuple[str, ...] | None:
    """The command that links objects into a shared object, or None if the machine has none.

    A system compiler or linker comes first, then the package ``ziglang`` from PyPI. ``triple`` is LLVM's name of the
    machine to link for ("aarch64-linux-gnu"); the default is this one.
    """
    foreign = is_foreign(triple)
    names = (f"{triple}-ld", f"{triple}-gcc", "ld.lld") if foreign else ("ld.lld", "ld", "cc", "gcc", "clang")
    for name in names:
        path = shutil.which(name)
        if path:
            return (path,)
    if find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc", *(("-target", f"{triple}.{_GLIBC}") if foreign else ()))
    return None


def is_foreign(triple: str) -> bool:
    """Whether code for this target cannot run here."""
    return bool(triple) and triple.partition("-")[0] != machine_name()


def require_linker(triple: str, where: str) -> None:
    """Raises BuildError if no linker serves ``triple``: to be called before the work, not only after it."""
    if linker(triple) is None:
        raise _missing_linker(where, triple)


def _missing_linker(where: str, triple: str) -> BuildError:
    if not is_foreign(triple):
        return BuildError(
            "a linker is needed to write a shared object, and none was found",
            where=where,
            hint="install one (Debian: apt install binutils; anywhere: pip install ziglang)",
        )
    machine = triple.partition("-")[0]
    return BuildError(
        f"a linker for {triple} is needed to write a shared object, and none was found",
        where=where,
        hint=f"install one (Debian: apt install binutils-{triple}, or lld; anywhere: pip install ziglang); the "
        f"system's own linker does not know {machine}",
    )


def object_code(module: Any) -> bytes:
    """The object file of a compiled LLVM module.

    It is written to memory if the system supports that: LLVM ends the process when a disk is full.
    """
    if hasattr(os, "memfd_create"):
        with suppress(OSError), os.fdopen(os.memfd_create("kernel"), "rb") as memory:
            module.write_to_file(f"/proc/self/fd/{memory.fileno()}", "o")
            return memory.read()
    with TemporaryFolder() as place:
        require_space(place, 1 << 22)
        path = Path(place) / "kernel.o"
        module.write_to_file(str(path), "o")
        return path.read_bytes()


def link(objects: list[Path], target: Path, triple: str = "") -> None:
    """Links ``objects`` into the shared object ``target``. Raises BuildError."""
    require_linker(triple, str(target))
    command = linker(triple) or ()
    run = [*command, "-shared", "-o", str(target), *map(str, objects)]
    here = {
        **os.environ,
        "TMPDIR": str(target.parent),
    }  # a killed linker may leave files behind, which go with the folder
    done = subprocess.run(run, env=here, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"linking failed: {done.stderr.strip()[-500:]}", where=str(target))
