"""Instructions that a network executes on an Arm processor, counted in the emulator: an *estimate* of its cost.

The count is exact and the same every time, but a count is not a time: no caches, no latencies, no second instruction in
the same cycle. It orders kernels of one processor by the work they do; seconds need the board.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from ..errors import DeviceError
from ..files import hash_bytes
from .emulated import environment_of, sysroot

_TIME_S = 900.0

# Runs in the emulated Python. The first call lays out memory; getppid is the mark at which the plugin starts and stops.
_PROGRAM = """
import json, os, sys
import numpy as np
import tvm
from tvm.runtime.vm import VirtualMachine
machine = VirtualMachine(tvm.runtime.load_module(sys.argv[1]), tvm.cpu())
meta = json.loads(machine["hago_meta"]().numpy().tobytes())
inputs = [tvm.runtime.tensor(np.zeros(i["shape"], i["dtype"])) for i in meta["inputs"]]
machine["main"](*inputs)
os.getppid()
machine["main"](*inputs)
os.getppid()
"""


@dataclass(frozen=True)
class InstructionCount:
    """Instructions of one call, by class: dot, multiply, fused (multiply-add), vector, load, store, branch, scalar."""

    by_class: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_class.values())


def count_instructions(library: Path, spec: str) -> InstructionCount:
    """What one call of a saved network executes on the processor of ``spec``, inputs all zero.

    Raises DeviceError where the emulator, its machine or a C compiler is missing, or the network fails there.
    """
    folder, emulator = sysroot(), shutil.which("qemu-aarch64")
    if folder is None or emulator is None:
        raise DeviceError(
            "counting needs the emulated AArch64 machine and qemu-aarch64",
            hint="scripts/aarch64_sysroot.py makes the one; Debian: apt install qemu-user",
        )
    root = folder / "root"
    environment = environment_of(spec) | {
        "QEMU_LD_PREFIX": str(root), "PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(folder / "wheels"),
        "PYTHONHASHSEED": "0",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "counts"
        plugin = f"{_plugin(folder)},out={out}"
        command = [
            emulator,
            "-plugin",
            plugin,
            str(root / "usr/bin/python3.11"),
            "-c",
            _PROGRAM,
            str(library.resolve()),
        ]
        try:
            done = subprocess.run(
                command, env=environment, cwd=place, capture_output=True, text=True, timeout=_TIME_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"the emulated network did not end within {_TIME_S:.0f} s", where=str(library)) from None
        if done.returncode or not out.is_file():
            raise DeviceError(f"the emulated network failed: {done.stderr.strip()[-800:]}", where=str(library))
        lines = (line.split() for line in out.read_text().splitlines())
        return InstructionCount(MappingProxyType({name: int(count) for name, count in lines}))


@cache
def _plugin(folder: Path) -> Path:
    """The plugin, compiled from count.c and kept beside the emulated machine."""
    source = Path(__file__).with_name("count.c")
    made = folder / f"count-{hash_bytes(source.read_bytes())[:12]}.so"
    if made.is_file():
        return made
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise DeviceError("counting needs a C compiler for the emulator's plugin", hint="Debian: apt install gcc")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        half = Path(place) / made.name
        command = [compiler, "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(half), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeviceError(f"the plugin does not compile: {done.stderr.strip()[-500:]}", where=str(source))
        os.replace(half, made)
    return made
