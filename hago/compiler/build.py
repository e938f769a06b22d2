"""Lowered graph -> artifact: a small VM executable that calls kernels from the cache.

Every kernel is compiled separately, and once; a candidate of a search is then only a new list of calls, and
building it takes milliseconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..lower.graph import LoweredGraph
from ..runtime.artifact import FORMAT, Artifact
from .built import Built
from .cache import KernelCache
from .choose import chosen
from .compile import Progress, compile_missing
from .executable import executable
from .program import emit
from .toolchain import toolchain_of

if TYPE_CHECKING:
    from ..spec import HardwareSpec


def build(
    lowered: LoweredGraph,
    spec: HardwareSpec,
    *,
    threads: int = 1,
    cache: KernelCache | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compiles the kernels that are not in the cache yet, and assembles the calls.

    The artifact for another kind of machine (AArch64, on x86) can be saved, not run. ``progress`` is called with
    the number of missing kernels that are compiled. Raises BuildError, and UnsupportedOpError for an operator that
    neither Hago nor TVM knows.
    """
    started = time.perf_counter()
    built = _built(lowered, spec, threads, cache, progress)
    meta = _describe(built, spec)
    if built.toolchain.is_foreign:
        return Artifact(None, meta, built)
    linked = executable(built.program, hold=built.toolchain.backend.has_device_code)
    for kernel in built.modules.values():
        linked.mod.import_module(kernel)
    built = replace(built, build_s=time.perf_counter() - started)
    return Artifact(linked.mod, meta, built)


@dataclass(frozen=True)
class CrossBuilt:
    """A network compiled for another machine: it can be saved here and run there."""

    meta: Mapping[str, Any]
    built: Built

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one self-contained shared object for `hago.load` there. Raises BuildError if there is no linker."""
        self.built.export(Path(path), self.meta)


def cross_build(
    lowered: LoweredGraph,
    spec: HardwareSpec,
    *,
    threads: int = 1,
    cache: KernelCache | None = None,
    progress: Progress | None = None,
) -> CrossBuilt:
    """Like `build`, for another machine (or as if for one); ``threads`` are those of that machine."""
    built = _built(lowered, spec, threads, cache, progress)
    return CrossBuilt(_describe(built, spec), built)


def _built(
    lowered: LoweredGraph, spec: HardwareSpec, threads: int, cache: KernelCache | None, progress: Progress | None
) -> Built:
    """The program with all of its kernels compiled, for any machine."""
    started = time.perf_counter()
    cache = cache if cache is not None else KernelCache()
    toolchain = toolchain_of(spec, threads)
    program = chosen(emit(lowered, toolchain), toolchain, cache, progress)
    modules = compile_missing(program, toolchain, cache, progress)
    return Built(program, modules, toolchain, cache, time.perf_counter() - started)


def _describe(built: Built, spec: HardwareSpec) -> dict[str, Any]:
    """The artifact's metadata: JSON in the saved file."""
    program, toolchain = built.program, built.toolchain

    def infos(names: tuple[str, ...]) -> list[dict[str, Any]]:
        types = ((name, program.declared[name]) for name in names)
        return [{"name": name, "dtype": t.dtype, "shape": list(t.shape)} for name, t in types]

    arrays = {id(i): i for step in program.steps for i in step.inputs if isinstance(i, np.ndarray)}
    return {
        "format": FORMAT,
        "inputs": infos(program.inputs),
        "outputs": infos(program.outputs),
        "threads": toolchain.threads,
        "hw": spec.name,
        "executor": toolchain.backend.executor.name,
        "device_code": toolchain.backend.has_device_code,
        "arch": toolchain.arch,
        "cpu_features": list(getattr(spec, "cpu_features", ())),
        "size_bytes": sum(array.nbytes for array in arrays.values()),
    }
