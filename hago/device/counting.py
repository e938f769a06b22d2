"""Instructions that a network executes on an Arm processor, counted in the emulator: an *estimate* of its cost.

The count is exact and reproducible, but it is not a time: it knows no caches, latencies, or instructions executed in
parallel. It ranks kernels of one processor by their work; seconds need the board.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from ..compiler.cache_folder import usable_default
from ..errors import DeviceError
from ..files import TemporaryFolder, hash_bytes
from ..measure.kernels import KernelTypes
from .emulated import settings_of, sysroot

_TIME_S = 900.0


@dataclass(frozen=True)
class InstructionCount:
    """Instructions of one call, by class: dot, multiply, fused (multiply-add), vector, load, store, branch, scalar."""

    by_class: Mapping[str, int]

    @property
    def total(self) -> int:
        """Instructions of all classes together."""
        return sum(self.by_class.values())

    def less(self, other: InstructionCount) -> InstructionCount:
        """These counts minus ``other``'s, with no class below zero."""
        rest = {name: max(0, count - other.by_class.get(name, 0)) for name, count in self.by_class.items()}
        return InstructionCount(MappingProxyType(rest))


@dataclass(frozen=True)
class Machine:
    """An emulator, and the Python with TVM's runtime that it runs; ``getppid`` is the number of that system call."""

    emulator: str
    python: str
    environment: Mapping[str, str]
    getppid: int


def arm_machine(spec: str) -> Machine:
    """The emulated AArch64 machine. Raises DeviceError if a part of it is missing."""
    folder, emulator = sysroot(), shutil.which("qemu-aarch64")
    if folder is None or emulator is None:
        raise DeviceError(
            "counting needs the emulated AArch64 machine and qemu-aarch64",
            hint="scripts/aarch64_sysroot.py makes the machine; for qemu-aarch64 on Debian: apt install qemu-user",
        )
    root = folder / "root"
    # No environment of this machine, fixed seeds, one thread (`settings_of`), and no cached modules, which may or may
    # not exist: whatever moves memory changes counts.
    environment = settings_of(spec) | {
        "QEMU_LD_PREFIX": str(root), "PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(folder / "wheels"),
        "PYTHONHASHSEED": "0", "QEMU_RAND_SEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/nowhere",
    }  # fmt: skip
    return Machine(emulator, str(root / "usr/bin/python3.11"), environment, getppid=173)


class Counter:
    """One emulated processor of a spec that counts network after network; a context manager.

    Its Python starts with the first count, and again after a count that timed out. Counts do not depend on earlier
    ones. Not thread-safe.
    """

    def __init__(self, spec: str, *, time_s: float = _TIME_S, machine: Machine | None = None) -> None:
        self.spec, self.time_s, self.machine = spec, time_s, machine
        self._python: subprocess.Popen[str] | None = None
        self._place: TemporaryFolder | None = None

    def __enter__(self) -> Counter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def count(self, library: Path) -> InstructionCount:
        """Instructions of one call of a saved network, with all inputs zero.

        Raises DeviceError if the emulator, its machine or a C compiler is missing, or the network fails there.
        """
        return self._counts(library, None)[0]

    def count_kernels(self, library: Path, kernels: Sequence[tuple[str, KernelTypes]]) -> list[InstructionCount]:
        """Instructions of each kernel of a saved network alone, by symbol, on zeros. Raises DeviceError."""
        counts = self._counts(library, [[symbol, [list(kind) for kind in kinds]] for symbol, kinds in kernels])
        return [call.less(nothing) for call, nothing in zip(counts[::2], counts[1::2], strict=True)]

    def close(self) -> None:
        """Stops the emulated Python."""
        if self._python is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._python.pid, signal.SIGKILL)
            self._python.communicate()
        if self._place is not None:
            self._place.cleanup()
        self._python = self._place = None

    def _counts(self, library: Path, kernels: Any) -> list[InstructionCount]:
        """Requests one network, and reads the counts that the plugin wrote."""
        python, place = self._started()
        out, link = place / "counts", place / "network.so"
        out.write_text("")
        link.unlink(missing_ok=True)
        link.symlink_to(library.resolve())
        request = {"library": "./network.so", "kernels": kernels}
        answer = json.loads(self._answer(python, place, json.dumps(request), str(library)))
        if "error" in answer:
            raise DeviceError(f"the emulated network failed: {answer['error'][-800:]}", where=str(library))
        lines = out.read_text().splitlines()
        if len(lines) != answer["intervals"]:
            raise DeviceError(f"the emulator wrote {len(lines)} counts of {answer['intervals']}", where=str(library))
        return [_parsed(line) for line in lines]

    def _answer(self, python: subprocess.Popen[str], place: Path, request: str, where: str) -> str:
        assert python.stdin is not None and python.stdout is not None
        try:
            python.stdin.write(request + "\n")
            python.stdin.flush()
            ready = select.select([python.stdout], [], [], self.time_s)[0]
            line = python.stdout.readline() if ready else ""
        except OSError:
            ready, line = [python.stdout], ""
        if line:
            return line
        said = (place / "log").read_bytes()[-800:].decode(errors="replace").strip()
        self.close()
        if not ready:
            raise DeviceError(f"the emulated network did not end within {self.time_s:.0f} s", where=where)
        raise DeviceError(f"the emulated network failed: {said or 'it said nothing'}", where=where)

    def _started(self) -> tuple[subprocess.Popen[str], Path]:
        """The emulated Python, started if necessary, and the folder that it writes to."""
        if self._python is not None and self._place is not None:
            return self._python, Path(self._place.name)
        machine = self.machine or arm_machine(self.spec)
        self._place = TemporaryFolder()
        place = Path(self._place.name)
        plugin = f"{_plugin()},out={place / 'counts'},mark={machine.getppid}"
        program = ["-P", str(Path(__file__).with_name("counted.py"))]
        command = [machine.emulator, "-plugin", plugin, machine.python, *program]
        with open(place / "log", "wb") as log:
            self._python = subprocess.Popen(
                command,
                env=dict(machine.environment),
                cwd=place,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        return self._python, place


def count_instructions(library: Path, spec: str) -> InstructionCount:
    """`Counter.count` of one network on a processor started for it. Raises DeviceError."""
    with Counter(spec) as counter:
        return counter.count(library)


def _parsed(line: str) -> InstructionCount:
    words = line.split()
    return InstructionCount(MappingProxyType({n: int(c) for n, c in zip(words[::2], words[1::2], strict=True)}))


@cache
def _plugin() -> Path:
    """The plugin, compiled from count.c and cached in the user's cache folder."""
    folder = usable_default()
    source = Path(__file__).with_name("count.c")
    made = folder / f"count-{hash_bytes(source.read_bytes())[:12]}.so"
    if made.is_file():
        return made
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise DeviceError("counting needs a C compiler for the emulator's plugin", hint="Debian: apt install gcc")
    with TemporaryFolder(folder) as place:
        half = Path(place) / made.name
        command = [compiler, "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(half), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeviceError(f"the plugin does not compile: {done.stderr.strip()[-500:]}", where=str(source))
        os.replace(half, made)
    return made
