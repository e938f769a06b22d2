"""AArch64 without a board: TVM's RPC server in QEMU's user emulation, on this machine.

`scripts/aarch64_sysroot.py` makes the folder that holds the emulated machine's Python and TVM. What runs there is the
code that a board would run, instruction by instruction; the time that it takes says nothing about a board's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..bench.server import rpc_server
from ..compiler.cache_folder import default_folder
from ..errors import DeviceError

_START_S = 120.0

# QEMU's processors, each with what its spec asks for and, where QEMU has such a one, nothing more: an instruction that
# the spec does not have ends the program. QEMU 7.2 knows no Cortex-A76 but the Neoverse N1, its sibling for servers,
# and nothing with i8mm but "max".
_PROCESSORS = {"arm-cortex-a72": "cortex-a72", "arm-cortex-a76": "neoverse-n1", "arm-neoverse-v1": "max"}


def sysroot() -> Path | None:
    """The emulated machine's folder: $HAGO_AARCH64 or in the user's cache; None where it is not complete."""
    named = os.environ.get("HAGO_AARCH64")
    folder = Path(named) if named else default_folder() / "aarch64"
    return folder if (folder / "complete").is_file() else None


def processor_of(spec: str) -> str:
    """QEMU's name of the processor that has just what the spec asks for. Raises DeviceError."""
    if spec not in _PROCESSORS:
        raise DeviceError(
            f"no processor of the emulator fits {spec!r}", hint=f"it can stand for {', '.join(_PROCESSORS)}"
        )
    return _PROCESSORS[spec]


def environment_of(spec: str) -> dict[str, str]:
    """What an emulated Python with TVM's runtime must find: nothing of this machine's Python, its own processor."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return ours | settings_of(spec)


def settings_of(spec: str) -> dict[str, str]:
    """The part of `environment_of` that is not this machine's.

    numpy's BLAS would start a thread when it is imported, and end it before a fork: how far it gets in between, and so
    what memory it takes, depends on the machine's load.
    """
    one_thread = {"TVM_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {"QEMU_CPU": processor_of(spec), "TVM_USE_RUNTIME_LIB": "1"} | one_thread


@contextmanager
def emulated_server(spec: str, *, key: str = "", tracker: tuple[str, int] | None = None) -> Iterator[tuple[str, int]]:
    """An RPC server on an emulated machine of ``spec``: (host, port), until the block ends.

    With ``tracker`` and ``key`` it also reports there. Raises DeviceError where it does not start.
    """
    folder = sysroot()
    if folder is None:
        raise DeviceError("there is no emulated AArch64 machine", hint="make it with scripts/aarch64_sysroot.py")
    more = () if tracker is None else ("--tracker", f"{tracker[0]}:{tracker[1]}", "--key", key)
    python = [str(folder / "python")]
    with rpc_server(*more, python=python, environment=environment_of(spec), limit_s=_START_S) as (_, address):
        yield address
