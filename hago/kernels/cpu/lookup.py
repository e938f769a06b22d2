"""256-entry tables applied to uint8 tensors of any shape.

The table is read by what the processor has: `vpermi2b` (AVX512-VBMI), 128 entries at a time from registers; on Arm
`tbl` and `tbx`, 64 entries at a time; else one load per element, of which processors finish about one a cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc
from ..common.pointwise import Lookup
from .families import Isa
from .registry import computes
from .vector import byte_lanes, chunks


@computes(Lookup)
def lookup(params: Lookup, isa: Isa, threads: int) -> Any:
    """(x uint8, table [256]) -> y like x, of the table's type."""

    def body(x: Flat, table: Flat, y: Flat) -> None:
        apply = LookupTable(table, isa, x.size)

        def vector(at: Expr, lanes: int) -> None:
            y.store(at, apply(x.load(at, lanes), lanes), lanes)

        chunks(x.size, apply.lanes, threads, x.size, vector)

    x = TensorType("uint8", params.shape)
    return primfunc([x, TensorType(params.dtype, (256,))], [TensorType(params.dtype, params.shape)], body)


class LookupTable:
    """A table that is held in registers if the instruction set allows it; made before the loops.

    ``lanes`` is the vector width that suits it; ``count`` how many elements will be looked up.
    """

    def __init__(self, table: Flat, isa: Isa, count: int) -> None:
        self._table = table
        self.lanes = byte_lanes(isa) if table.dtype == "uint8" else isa.lanes
        self._vectors: list[Expr] = []
        self._read = _READS.get(isa.lookup)
        if self._read and table.dtype == "uint8" and count >= 64:
            self._vectors = [table.load(at, self.lanes) for at in range(0, 256, self.lanes)]

    def __call__(self, index: Expr, lanes: int) -> Expr:
        if self._read and self._vectors and lanes == self.lanes:
            return self._read(self._vectors, index)
        return self._table.gather(T.cast(index, "int32" if lanes == 1 else f"int32x{lanes}"))


def _by_vpermi2b(table: Sequence[Expr], index: Expr) -> Expr:
    """table [4, 64], index [64] -> [64]: the lower and the upper half of the table, of which bit 7 picks one."""
    name = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpermi2var.qi.512")
    low, high = (
        T.bind(T.call_llvm_pure_intrin(name, table[2 * i], index, table[2 * i + 1], dtype="uint8x64")) for i in range(2)
    )
    return T.Select(index < T.broadcast(T.uint8(128), 64), low, high)


def _by_tbl(table: Sequence[Expr], index: Expr) -> Expr:
    """table [16, 16], index [16] -> [16]: a quarter of the table at a time.

    An index outside the quarter gives 0 by tbl, and by tbx leaves what was found before.
    """
    found = _intrinsic("tbl4", *table[:4], index)
    for quarter in range(1, 4):
        within = index - T.broadcast(T.uint8(64 * quarter), 16)
        found = _intrinsic("tbx4", found, *table[4 * quarter : 4 * quarter + 4], within)
    return found


_READS: Mapping[str, Callable[[Sequence[Expr], Expr], Expr]] = {"vbmi": _by_vpermi2b, "tbl": _by_tbl}
"""How a table in registers is read, by `Isa.lookup`."""


def _intrinsic(name: str, *arguments: Expr) -> Expr:
    return T.bind(T.call_llvm_pure_intrin("uint8x16", f"llvm.aarch64.neon.{name}.v16i8", *arguments))
