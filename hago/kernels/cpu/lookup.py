"""256-entry tables applied to uint8 tensors.

By what the processor has: `vpermi2b` (AVX512-VBMI), 128 entries at a time from registers; on Arm `tbl` and `tbx`, 64
entries at a time; else one load per element, which the processor overlaps to about one a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from .families import Isa
from .vector import Expr, Flat, byte_lanes, chunks, primfunc


@dataclass(frozen=True)
class Lookup:
    """y = table[x]; ``dtype`` is the table's and the output's."""

    shape: tuple[int, ...]
    dtype: str


def lookup(params: Lookup, isa: Isa, threads: int) -> Any:
    """(x uint8, table [256]) -> y."""

    def body(x: Flat, table: Flat, y: Flat) -> None:
        apply = LookupTable(table, isa, x.size)

        def vector(at: Expr, lanes: int) -> None:
            y.store(at, apply(x.load(at, lanes), lanes), lanes)

        chunks(x.size, apply.lanes, threads, x.size, vector)

    x = TensorType("uint8", params.shape)
    return primfunc([x, TensorType(params.dtype, (256,))], [TensorType(params.dtype, params.shape)], body)


class LookupTable:
    """A table held in registers where the instruction set allows; made before the loops.

    ``lanes`` is the vector width that suits it.
    """

    def __init__(self, table: Flat, isa: Isa, count: int) -> None:
        self._table = table
        self._isa = isa
        self.lanes = byte_lanes(isa) if table.dtype == "uint8" else isa.lanes
        self._vectors: list[Expr] = []
        if table.dtype == "uint8" and isa.lookup and count >= 64:
            width = self.lanes
            self._vectors = [table.load(at, width) for at in range(0, 256, width)]

    def __call__(self, index: Expr, lanes: int) -> Expr:
        if self._vectors and lanes == self.lanes:
            return self._from_registers(index) if self._isa.lookup == "tbl" else self._permuted(index)
        return self._table.gather(T.cast(index, "int32" if lanes == 1 else f"int32x{lanes}"))

    def _permuted(self, index: Expr) -> Expr:
        name = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpermi2var.qi.512")
        low, high = (
            T.bind(
                T.call_llvm_pure_intrin(name, self._vectors[2 * i], index, self._vectors[2 * i + 1], dtype="uint8x64")
            )
            for i in range(2)
        )
        return T.Select(index < T.broadcast(T.uint8(128), 64), low, high)

    def _from_registers(self, index: Expr) -> Expr:
        """An index past a quarter of the table gives 0 by tbl, and leaves what there was by tbx."""
        found = _intrinsic("tbl4", *self._vectors[:4], index)
        for quarter in range(1, 4):
            within = index - T.broadcast(T.uint8(64 * quarter), self.lanes)
            found = _intrinsic("tbx4", found, *self._vectors[4 * quarter : 4 * quarter + 4], within)
        return found


def _intrinsic(name: str, *arguments: Expr) -> Expr:
    return T.bind(T.call_llvm_pure_intrin("uint8x16", f"llvm.aarch64.neon.{name}.v16i8", *arguments))
