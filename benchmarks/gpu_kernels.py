"""Kernels for NVIDIA GPUs, compiled without one: what is in their machine code. Results are kept by their source."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tvm.target import Target

from hago.files import write_atomic
from hago.kernels.cuda.cuda_source import source_of
from hago.kernels.cuda.families import FAMILIES
from hago.kernels.cuda.nvrtc import compile_cubin, installed_version
from hago.kernels.cuda.sass import disassemble

PROMISES: Mapping[str, tuple[str, ...]] = {
    "mma m8n8k16 8-bit": ("IMMA.8816.",),
    "mma m16n8k32 8-bit": ("IMMA.16832.", "IGMMA."),
    "mma m8n8k32 4-bit": ("IMMA.8832.",),
    "mma m16n8k64 4-bit": ("IMMA.16864.",),
    "mma m16n8k8 f16": ("HMMA.1688.F32",),
    "mma m16n8k16 f16": ("HMMA.16816.F32", "HGMMA."),
    "mma m16n8k16 bf16": ("HMMA.16816.F32.BF16", "HGMMA."),
    "mma m16n8k32 e4m3": ("QMMA.",),
    "wgmma m64nNk32 s8": ("IGMMA.",),
    "wgmma m64nNk32 8-bit": ("IGMMA.",),
    "wgmma m64nNk16 f16": ("HGMMA.",),
    "wgmma m64nNk32 e4m3": ("QGMMA.",),
    "dp4a": ("IDP.4A",),
    "imad": ("IMAD",),
    "ffma": ("FFMA",),
}
"""A spec's name of an instruction -> what NVIDIA's disassembler calls it."""

PRODUCTS = ("IMMA", "IGMMA", "HMMA", "HGMMA", "QMMA", "QGMMA", "IDP", "FFMA", "IMAD", "HFMA2")
"""What multiplies; the first one that a layer has is what it is computed by."""


@dataclass(frozen=True)
class Job:
    """One kernel to compile for one architecture; ``key`` is its key in the kernel cache."""

    key: str
    family: str
    template: Callable[..., Any]
    params: Any
    gpu: str
    target: Mapping[str, Any]


@dataclass(frozen=True)
class Compiled:
    """What became of it: machine code, or ``error``. ``seconds`` are of this process, TVM's and NVRTC's."""

    key: str
    family: str
    gpu: str
    seconds: float = 0.0
    registers: int = 0
    shared_bytes: int = 0
    spills: bool = False
    products: Mapping[str, int] = field(default_factory=dict)
    error: str = ""

    def has(self, promise: str) -> bool:
        """Whether an instruction that the promise means is in the code."""
        return any(name.startswith(start) for name in self.products for start in PROMISES.get(promise, ()))


def compile_job(job: Job, place: Path, version: str) -> Compiled:
    """Compiles the kernel, unless ``place`` has what became of the same one under this ``version`` of templates."""
    return _kept(place / f"{job.key}-{version}.json", lambda: _from_source(job, place))


def _from_source(job: Job, place: Path) -> Compiled:
    started = time.process_time()
    gpu = FAMILIES[job.gpu]
    try:
        source = source_of(job.template(job.params, gpu, 1), "kernel", Target(dict(job.target))).text
    except Exception as error:
        return Compiled(job.key, job.family, job.gpu, error=f"TVM: {type(error).__name__}: {_first_line(error)}")
    written = time.process_time() - started
    name = sha256(f"{source}{gpu.arch}{installed_version()}".encode()).hexdigest()[:32]
    return _kept(place / f"{name}.json", lambda: _from_text(job, source, gpu.arch, written))


def _from_text(job: Job, source: str, arch: str, written: float) -> Compiled:
    started = time.process_time()
    try:
        cubin = compile_cubin(source, arch)
        seconds = written + time.process_time() - started
        sass = disassemble(cubin)
    except Exception as error:
        return Compiled(job.key, job.family, job.gpu, error=_first_line(error))
    products = {name: many for name, many in sass.instructions.items() if name.split(".")[0] in PRODUCTS}
    about = (sass.registers, sass.shared_bytes, sass.spills)
    return Compiled(job.key, job.family, job.gpu, seconds, *about, products)


def _kept(path: Path, make: Callable[[], Compiled]) -> Compiled:
    """What the file has, else what ``make`` gives; failures are not kept."""
    if path.is_file():
        return Compiled(**json.loads(path.read_text()))
    made = make()
    if not made.error:
        write_atomic(path, json.dumps(asdict(made)))
    return made


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
