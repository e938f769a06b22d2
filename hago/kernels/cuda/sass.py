"""What a cubin holds, as NVIDIA's disassemblers say: instructions, registers, and whether any are spilled."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import BuildError, MissingExtraError
from ...files import TemporaryFolder

_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Za-z0-9_.]*)", re.MULTILINE)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Sass:
    """``instructions``: name with its modifiers ("IMMA.16832.U8.S8") -> how often it stands in the code."""

    instructions: Mapping[str, int]
    registers: int
    stack_bytes: int
    shared_bytes: int

    def count(self, name: str) -> int:
        """How many instructions of this name there are, whatever their modifiers."""
        return sum(many for full, many in self.instructions.items() if full.split(".")[0] == name)

    @property
    def spills(self) -> bool:
        """Whether something that belongs into registers lies in memory."""
        return self.stack_bytes > 0 or self.count("LDL") > 0 or self.count("STL") > 0


def disassemble(cubin: bytes) -> Sass:
    """Reads a cubin of one kernel. Raises MissingExtraError without nvdisasm and cuobjdump, BuildError of no cubin."""
    with TemporaryFolder() as place:
        path = Path(place) / "kernel.cubin"
        path.write_bytes(cubin)
        code = _run("nvdisasm", "-c", str(path))
        usage = _USAGE.search(_run("cuobjdump", "-res-usage", str(path)))
    if usage is None:
        raise BuildError("cuobjdump does not say how many registers a kernel takes")
    registers, stack, shared, local = map(int, usage.groups())
    return Sass(dict(Counter(_INSTRUCTION.findall(code))), registers, stack + local, shared)


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([_find(tool), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{tool} fails: {done.stderr.strip()[-500:]}")
    return done.stdout + done.stderr


def _find(tool: str) -> str:
    """The program out of its package, or else the system's."""
    spec = importlib.util.find_spec("nvidia.cu13") if importlib.util.find_spec("nvidia") else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "bin" / tool
        if path.is_file():
            return str(path)
    found = shutil.which(tool)
    if found is None:
        raise MissingExtraError(f"nvidia-cuda-{tool}", "cuda", "looking into kernels for NVIDIA GPUs")
    return found
