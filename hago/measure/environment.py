"""Hardware and software of a measurement, without host names, user names or paths."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..files import hash_bytes
from ..runtime import processor
from .clocks import CPU, GPU, WALL
from .gpu import GpuState, read_gpu

# The features that decide which kernels run, of x86 (as /proc/cpuinfo names them) and of AArch64.
FEATURES = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime", "openvino", "nncf", "optuna")


@dataclass(frozen=True)
class Environment:
    """Machine and software. ``caches`` maps "L1d", "L2", "L3" to bytes of one instance of each.

    ``cpus`` are the CPUs that this process may run on, of ``cores`` in total; ``load`` was the 1-minute load average.
    ``governor``, ``llvm`` and ``load`` are None if the system does not report them. ``clock`` is the clock behind
    latencies on ``threads`` (clocks.py). ``gpu`` describes the GPU that networks run on, None if they run on the
    processor.
    """

    cpu: str
    architecture: str
    cores: int
    cpus: tuple[int, ...]
    features: tuple[str, ...]
    caches: Mapping[str, int]
    governor: str | None
    load: float | None
    system: str
    python: str
    llvm: str | None
    packages: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    clock: str | None = None
    gpu: GpuState | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        gpu = {} if self.gpu is None else {"gpu": self.gpu.to_dict()}
        plain = {**asdict(self), "caches": dict(self.caches), "packages": dict(self.packages), **gpu}
        return {key: value for key, value in plain.items() if key != "gpu" or value is not None}

    @property
    def saturates(self) -> bool:
        """Whether engines that multiply bytes by `vpmaddubsw` saturate with 8-bit weights here: on x86 without VNNI."""
        return self.architecture in ("x86_64", "AMD64") and not {"avx_vnni", "avx512_vnni"} & set(self.features)

    def key(self) -> str:
        """A short hash of what does not change: measurements with one key are comparable.

        It leaves out the load, a GPU's clocks of the moment, and LLVM, which TVM's version implies and only a loaded
        compiler reports.
        """
        gpu = None if self.gpu is None else self.gpu.lasting()
        stable = replace(self, load=None, llvm=None, gpu=gpu).to_dict()
        return hash_bytes(json.dumps(stable, sort_keys=True))[:16]

    def sentence(self) -> str:
        """One line for a report: GPU, CPU, cores, threads, versions."""
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads != 1 else ''} used"
        tvm = self.packages.get("apache-tvm", "absent")
        gpu = "" if self.gpu is None else f"{self.gpu.sentence()}, driven by "
        return (
            f"{gpu}{self.cpu} ({len(self.cpus)} of {self.cores} cores{threads}), {self.system}, "
            f"Python {self.python}, TVM {tvm}, LLVM {self.llvm or 'absent'}"
        )


def read_environment(threads: int | None = None, *, gpu: bool = False) -> Environment:
    """The environment of this process, now; ``threads`` is the number used by measurements.

    ``gpu``: networks run on this machine's GPU.
    """
    names = next(iter(processor.read_cpuinfo()), {})
    flags = set(names.get("flags", names.get("Features", "")).split())
    return Environment(
        cpu=processor.processor_name(),
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        cpus=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        features=tuple(name for name in FEATURES if name in flags),
        caches=processor.read_caches(),
        governor=_read(processor.GOVERNOR),
        load=_load(),
        system=f"{platform.system()} {_release()}".strip(),
        python=platform.python_version(),
        llvm=_llvm(),
        packages=_versions(),
        threads=threads,
        clock=None if threads is None else GPU if gpu else CPU if threads == 1 else WALL,
        gpu=read_gpu() if gpu else None,
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _release() -> str:
    """Only the kernel's version numbers: the rest often names a private build."""
    found = re.match(r"\d+(\.\d+)*", platform.release())
    return found.group() if found else ""


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _llvm() -> str | None:
    """The version of TVM's LLVM, if the compiler is loaded (the runtime has none)."""
    tvm = sys.modules.get("tvm")
    if tvm is None:
        return None
    try:
        major = tvm.target.codegen.llvm_version_major(allow_none=True)
    except Exception:  # not worth a failed measurement
        return None
    return None if major is None else str(major)


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
