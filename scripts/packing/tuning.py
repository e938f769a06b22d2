"""Kernels to choose among: those that a call could take, to be timed on a device; and their times, to be kept here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hago.compiler.built import Built
from hago.compiler.cache import KernelCache
from hago.compiler.choose import has_choice, variants
from hago.compiler.compile import compile_missing, symbol
from hago.compiler.program import Program, ProgramStep, emit
from hago.compiler.toolchain import Toolchain, toolchain_of
from hago.errors import HagoError
from hago.lower import lower
from hago.measure.kernels import KernelTime
from hago.runtime.executor import pack as pack_codes
from hago.spec import HardwareSpec

from .models import Forms, Source

LIBRARY, CODES = "tune.so", "tune.device"


def pack(
    sources: Sequence[Source],
    spec: HardwareSpec,
    batches: Sequence[int],
    precisions: Sequence[str],
    cache: KernelCache,
    folder: Path,
    most: int,
    for_emulation: bool = False,
) -> list[dict[str, Any]]:
    """Writes the library of all variants, at most ``most``; returns what the manifest says of them, shape by shape."""
    if not most:
        return []
    toolchain = toolchain_of(spec, 1)
    shapes: dict[str, dict[str, Any]] = {}
    steps: list[ProgramStep] = []
    for program, where in _programs(sources, spec, batches, precisions, toolchain):
        for step in filter(has_choice, program.steps):
            found = variants(step, program, toolchain)
            if step.key in shapes or len(steps) + len(found) > most:
                continue
            steps += found
            (use,) = Built(replace(program, steps=(step,)), {}, toolchain, cache, 0.0).uses()
            shapes[use.key] = {
                "shape": f"{where} {use.layer}",
                "chosen": use.key,
                "tensors": [[dtype, list(shape)] for dtype, shape in use.tensors],
                "candidates": [_candidate(one) for one in found],
            }
    if steps and not for_emulation:
        _write_library(replace(program, steps=tuple(steps)), toolchain, cache, folder)
    return list(shapes.values())


def _programs(
    sources: Sequence[Source],
    spec: HardwareSpec,
    batches: Sequence[int],
    precisions: Sequence[str],
    toolchain: Toolchain,
) -> Iterator[tuple[Program, str]]:
    for source in sources:
        forms = Forms(source, spec)
        for precision in precisions:
            for batch in batches:
                try:
                    proto, _ = forms.at(precision, batch)
                    yield emit(lower(proto, spec), toolchain), f"{source.name} {precision} b{batch}"
                except HagoError:  # told where the network is compiled
                    continue


def _candidate(step: ProgramStep) -> dict[str, Any]:
    assert step.call is not None and step.key is not None
    tile = getattr(step.call.params, "tile", step.call.params)
    return {"key": step.key, "symbol": symbol(step.key), "tile": repr(tile)}


def _write_library(program: Program, toolchain: Toolchain, cache: KernelCache, folder: Path) -> None:
    """All kernels of ``program`` as one shared object, and their code for the device beside it."""
    modules = compile_missing(program, toolchain, cache)
    Built(program, modules, toolchain, cache, 0.0).export_kernels(folder / LIBRARY)
    codes = [code for key in modules if (code := cache.device_code(key)) is not None]
    (folder / CODES).write_bytes(pack_codes(codes))


def import_times(path: Path, cache: KernelCache) -> int:
    """Keeps the times in a results file of the bundle; returns their number. Exits for another file."""
    try:
        results = json.loads(path.read_text())
        place = results["environment"]["device"]["name"]
        tried = [one for shape in results["tune"]["shapes"].values() for one in shape["tried"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path} has no times of kernels: {error!r}")
    for one in tried:
        cache.remember_time(one["key"], place, KernelTime(float(one["seconds"]), 0.0))
    return len(tried)
