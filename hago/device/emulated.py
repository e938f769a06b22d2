"""AArch64 without a board: TVM's RPC server in QEMU's user emulation, on this machine.

`scripts/aarch64_sysroot.py` makes the folder with the emulated machine's Python and TVM. The emulator runs the same
code as a board, instruction by instruction; its run time says nothing about a board's.
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

# QEMU's processors, each with the features of its spec and, if QEMU has such a one, no others: an instruction that the
# spec lacks ends the program. QEMU 7.2 has no Cortex-A76, but the Neoverse N1, its server sibling, and i8mm only in
# "max".
_PROCESSORS = {"arm-cortex-a72": "cortex-a72", "arm-cortex-a76": "neoverse-n1", "arm-neoverse-v1": "max"}


def sysroot() -> Path | None:
    """The emulated machine's folder: $HAGO_AARCH64, or in the user's cache; None if it is incomplete."""
    named = os.environ.get("HAGO_AARCH64")
    folder = Path(named) if named else default_folder() / "aarch64"
    return folder if (folder / "complete").is_file() else None


def processor_of(spec: str) -> str:
    """QEMU's name of the processor with exactly the spec's features. Raises DeviceError."""
    if spec not in _PROCESSORS:
        raise DeviceError(
            f"no processor of the emulator fits {spec!r}", hint=f"it can emulate {', '.join(_PROCESSORS)}"
        )
    return _PROCESSORS[spec]


def environment_of(spec: str) -> dict[str, str]:
    """The environment of an emulated Python with TVM's runtime: without this machine's Python, for its processor."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return ours | settings_of(spec)


def settings_of(spec: str) -> dict[str, str]:
    """The part of `environment_of` that does not come from this machine.

    numpy's BLAS would start a thread on import and end it before a fork; how far it gets in between, and so its memory,
    would depend on the machine's load.
    """
    one_thread = {"TVM_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {"QEMU_CPU": processor_of(spec), "TVM_USE_RUNTIME_LIB": "1"} | one_thread


@contextmanager
def emulated_server(spec: str, *, key: str = "", tracker: tuple[str, int] | None = None) -> Iterator[tuple[str, int]]:
    """An RPC server on an emulated machine of ``spec``: (host, port), until the block ends.

    With ``tracker`` and ``key`` it also registers there. Raises DeviceError if it does not start.
    """
    folder = sysroot()
    if folder is None:
        raise DeviceError("there is no emulated AArch64 machine", hint="make it with scripts/aarch64_sysroot.py")
    more = () if tracker is None else ("--tracker", f"{tracker[0]}:{tracker[1]}", "--key", key)
    python = [str(folder / "python")]
    with rpc_server(*more, python=python, environment=environment_of(spec), limit_s=_START_S) as (_, address):
        yield address
