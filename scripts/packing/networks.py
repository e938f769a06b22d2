"""Compiled networks for the bundle: their libraries, the outputs to expect, and what their kernels have to do."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hago.compiler.build import build, cross_build
from hago.compiler.built import Built, KernelUse
from hago.compiler.cache import KernelCache
from hago.compiler.conformance import is_exact
from hago.compiler.program import emit
from hago.compiler.toolchain import toolchain_of
from hago.errors import HagoError
from hago.lower import LoweredGraph, lower, reference
from hago.model import Model
from hago.report.gpu_results import strategy_hash
from hago.spec import resolve_hw

from .models import Forms

TOLERANCES = {"float32": 1e-4, "int8": 2e-2, "float16": 2e-2, "mixed": 2e-2}
"""Of the largest output, where outputs may differ: sums in another order, roundings to float16, a code of softmax."""

_SHORT = ("float16", "mixed")
_FEW = 8  # samples of the numpy reference, which takes a second for one


@dataclass(frozen=True)
class Refused:
    """A network that could not be compiled."""

    model: str
    precision: str
    batch: int
    reason: str


class Packer:
    """Compiles the networks of one model into ``folder``; ``for_emulation``, it writes their lowered graphs instead."""

    def __init__(self, forms: Forms, folder: Path, cache: KernelCache, for_emulation: bool = False) -> None:
        self.forms, self.folder, self.cache, self.for_emulation = forms, folder, cache, for_emulation

    def network(self, precision: str, batch: int) -> dict[str, Any] | Refused:
        """The entry of the manifest; writes the library and, at the first batch, the outputs to expect."""
        source, spec = self.forms.source, self.forms.spec
        name = f"{source.name}.{precision}.b{batch}"
        try:
            proto, strategy = self.forms.at(precision, batch)
            lowered = lower(proto, spec)
            built = self._emitted(lowered, name) if self.for_emulation else self._compiled(lowered, name)
            if not self._expected(precision).is_file():
                self._write_expected(precision)
        except HagoError as error:
            return Refused(source.name, precision, batch, str(error))
        return {
            "name": name,
            "model": source.name,
            "precision": precision,
            "batch": batch,
            "file": f"{name}.so",
            "strategy": strategy_hash(strategy),
            "exact": is_exact(lowered, spec),
            "tolerance": TOLERANCES[precision],
            "kernels": kernel_rows(built.uses(), source.model(batch)),
        }

    def _compiled(self, lowered: LoweredGraph, name: str) -> Built:
        net = cross_build(lowered, self.forms.spec, cache=self.cache)
        net.save(self.folder / f"{name}.so")
        return net.built

    def _emitted(self, lowered: LoweredGraph, name: str) -> Built:
        (self.folder / f"{name}.lowered").write_bytes(pickle.dumps(lowered))
        toolchain = toolchain_of(self.forms.spec, 1)
        return Built(emit(lowered, toolchain), {}, toolchain, self.cache, 0.0)

    def _expected(self, precision: str) -> Path:
        return self.folder / f"{self.forms.source.name}.{precision}.expected.npz"

    def _write_expected(self, precision: str) -> None:
        proto, _ = self.forms.at(precision, 1)
        host = resolve_hw("auto")
        inputs = self.forms.source.inputs
        count = len(next(iter(inputs.values())))
        run: Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]
        if precision in _SHORT:  # this processor may have no float16
            run, count = reference(lower(proto, self.forms.spec)), min(count, _FEW)
        else:
            run = build(lower(proto, host), host, cache=self.cache).run
        rows = [run({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(count)]
        outputs = {f"output{i}": np.concatenate(parts) for i, parts in enumerate(zip(*rows, strict=True))}
        np.savez(self._expected(precision), **outputs)  # type: ignore[arg-type]


def kernel_rows(uses: Sequence[KernelUse], model: Model) -> list[dict[str, Any]]:
    """Each different kernel once: its tensors, and the operations of the layer if it does the layer's work."""
    work = {layer.name: 2 * layer.macs for layer in model.layers}
    largest: dict[str, KernelUse] = {}
    for use in uses:
        if use.layer and (use.layer not in largest or _bytes(use) > _bytes(largest[use.layer])):
            largest[use.layer] = use
    rows: dict[str, dict[str, Any]] = {}
    for use in uses:
        main = use.layer is not None and largest.get(use.layer) is use
        row = {
            "symbol": use.symbol,
            "layer": use.layer,
            "family": use.family,
            "tensors": [[dtype, list(shape)] for dtype, shape in use.tensors],
            "operations": work.get(use.layer or "", 0) if main else 0,
            "precision": _precision(use),
            "count": 0,
        }
        rows.setdefault(use.key, row)["count"] += 1
    return list(rows.values())


def _bytes(use: KernelUse) -> int:
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, shape in use.tensors if dtype != "bfloat16")


def _precision(use: KernelUse) -> str:
    """What the kernel computes in, by its first input."""
    first = use.tensors[0][0]
    return "int8" if first in ("uint8", "int8") else first
