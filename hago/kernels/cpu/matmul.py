"""Matrix product of two activations, as in attention, in integers and in floats.

    a [B, M, K]   b [B, K, N]   y [B, M, N]   (B = 1 for an operand that all batches share)
    P rows and V vectors of columns of a tile, L lanes, KP steps packed in a lane, NV = ceil(N / L), KV = ceil(K / KP)

    a, b    uint8, or float32; as the graph has them
    scale   [1]   float32; integers only
    zero    [3]   int32: zero points of a, y, b; integers only
    bounds  [7]   float32, see common/anchor.py
    y       uint8 or float32

The right operand is packed at run time into the layout that the dense template uses for weights, [NV, KV, L*KP];
the rest is the same register tile. The instruction multiplies unsigned by signed, so b is shifted by 128, and the
zero points are taken out through the sums of rows and columns:

    sum (a - za)(b - zb) = sum a b' - za sum b' - zb' sum a + K za zb',   b' = b - 128, zb' = zb - 128

The caller guarantees that no sum leaves int32: K * 255 * 255 < 2**31.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...errors import BuildError
from ..common.anchor import BOUNDS, ZEROS, bounds, bounds_of, zeros
from ..common.calls import KernelCall, NodeView
from .dense import DenseParams, Tile, choose_tile
from .dot import DOTS
from .epilogue import bounded, dequantize, requantize
from .families import Isa
from .ir_builder import Registers, argument, channel_start, flat, maybe_parallel, moved_back, vector_index
from .registry import emits

_MACS_WORTH_A_THREAD = 200_000


@dataclass(frozen=True)
class MatMulParams:
    """Shapes and types; ``*_shape`` as the graph has them."""

    dot: str  # see dot.py
    out: str  # "uint8" or "float32"
    batch: int  # B
    m: int
    k: int
    n: int
    a_batch: bool  # whether a (b) differs from batch to batch
    b_batch: bool
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    y_shape: tuple[int, ...]


def matmul(p: MatMulParams, isa: Isa, threads: int) -> Any:
    """The PrimFunc; its buffers are those of the module's docstring, in that order."""
    return _MatMul(p, isa, threads).build()


class _MatMul:
    """Emits one kernel."""

    def __init__(self, p: MatMulParams, isa: Isa, threads: int) -> None:
        self.p, self.isa, self.dot = p, isa.fit(p.n), DOTS[p.dot]
        self.lanes, self.narrow = self.isa.lanes, p.n < self.isa.lanes
        self.vectors, self.steps = -(-p.n // self.lanes), -(-p.k // self.dot.pack)
        tile = choose_tile(DenseParams(p.dot, p.out, 1, 1, p.m, p.k, p.n), isa)
        self.tile = Tile(min(tile.pixels, p.m), min(tile.vectors, self.vectors))
        self.acc_type = f"{'int32' if self.dot.integer else 'float32'}x{self.lanes}"
        worth = p.batch > 1 and p.batch * p.m * p.k * p.n >= _MACS_WORTH_A_THREAD * threads
        self.chunks = min(threads, p.batch) if worth else 1

    def build(self) -> Any:
        p, dot = self.p, self.dot
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("kernel")
            T.func_attr({"tirx.noalias": True})
            a = argument("a", p.a_shape, dot.x_type)
            b = argument("b", p.b_shape, dot.x_type)
            if dot.integer:
                self.scale = argument("scale", (1,), "float32")
                self.zero = argument("zero", (ZEROS,), "int32")
            self.bounds = argument("bounds", (BOUNDS,), "float32")
            y = argument("y", p.y_shape, p.out)
            self.a, self.b, self.y = flat(a), flat(b), flat(y)
            with maybe_parallel(p.batch, self.chunks) as (at, end), T.serial(at, end) as batch:
                self.one(batch)
        return builder.get()

    def one(self, batch: Any) -> None:
        """One product, a [M, K] x b [K, N] -> y [M, N]: packs b, then computes all tiles."""
        p = self.p
        a_at = T.bind(batch * (p.m * p.k if p.a_batch else 0) + T.int32(0))
        b_at = T.bind(batch * (p.k * p.n if p.b_batch else 0) + T.int32(0))
        packed = T.alloc_buffer((self.vectors, self.steps, self.lanes * self.dot.pack), self.dot.weight_numpy.name)
        start = T.alloc_buffer((self.vectors,), self.acc_type)  # [NV] x [L]: what every row's sums start from
        with T.serial(0, self.vectors) as v:
            self.pack(b_at, packed, start, v)
        a, rows = self.a, None
        if self.steps * self.dot.pack != p.k or self.dot.widens:
            a, a_at = self.copy_rows(a_at), T.int32(0)
        if self.dot.integer:
            rows = self.row_sums(self.a, T.bind(batch * (p.m * p.k if p.a_batch else 0) + T.int32(0)))
        P, V = self.tile.pixels, self.tile.vectors
        with T.serial(0, -(-p.m // P)) as t, T.serial(0, -(-self.vectors // V)) as block:
            self.reduce(a, a_at, packed, start, rows, batch, moved_back(t, P, p.m), moved_back(block, V, self.vectors))

    def pack(self, b_at: Any, packed: Any, start: Any, v: Any) -> None:
        """b [K, L] of one vector of columns -> packed [KV, L*KP], and K za zb' - za sum b' -> start [L]."""
        p, dot, lanes = self.p, self.dot, self.lanes
        column = channel_start(v, p.n, lanes)
        sums = T.alloc_buffer((1,), self.acc_type)
        T.buffer_store(sums, self.constant(0), [0])
        full, rest = divmod(p.k, dot.pack)
        with T.serial(0, full) as s:
            self.pack_step(b_at, packed, sums, v, column, s, dot.pack)
        if rest:
            self.pack_step(b_at, packed, sums, v, column, T.int32(full), rest)
        value = sums[0]
        if dot.integer:
            za, zb = self.zero[0] - dot.shift, self.zero[2] - 128
            value = T.broadcast(za * zb * p.k, lanes) - value * T.broadcast(za, lanes)
        T.buffer_store(start, value, [v])

    def pack_step(self, b_at: Any, packed: Any, sums: Any, v: Any, column: Any, s: Any, rows: int) -> None:
        """One packed step, ``rows`` <= KP rows of b: KP x [L] -> packed [L*KP]; adds the step's b' to ``sums`` [L]."""
        dot, lanes, n = self.dot, self.lanes, self.p.n
        kind = f"{dot.x_type}x{lanes}"
        lines = []
        for k in range(dot.pack):
            if k >= rows:  # past the end of K: the code that the shift by 128 turns into zero
                lines.append(T.broadcast(T.Cast(dot.x_type, T.int32(128 if dot.integer else 0)), lanes))
                continue
            at = b_at + (s * dot.pack + k) * n + column
            lines.append(T.bind(self.load_narrow(at) if self.narrow else self.b.vload([at], kind)))
        mixed = lines[0]
        if dot.pack > 1:
            mixed = T.Shuffle(lines, [k * lanes + i for i in range(lanes) for k in range(dot.pack)])
        wide = lanes * dot.pack
        if dot.widens and not dot.shift:
            mixed = T.Cast(f"int16x{wide}", mixed) - T.broadcast(T.int16(128), wide)
        elif dot.integer:
            shift = T.broadcast(T.Cast("uint8", T.int32(128)), wide)
            mixed = T.reinterpret(f"int8x{wide}", T.bitwise_xor(mixed, shift))
        value = T.bind(mixed)
        T.buffer_store(packed, value, [v, s, T.ramp(0, 1, wide)])
        if dot.integer:
            ones = T.broadcast(T.Cast("int16" if dot.read_type == "int16" else "int8", T.int32(1)), wide)
            T.buffer_store(sums, dot.step(self.isa, sums[0], ones, value), [0])

    def load_narrow(self, at: Any) -> Any:
        """N < L values in the first lanes of a vector [L]: there is nothing behind them to read."""
        whole = T.alloc_buffer((self.lanes,), self.dot.x_type, scope="local")
        for i in range(self.lanes):
            T.buffer_store(whole, self.b[at + i] if i < self.p.n else T.Cast(self.dot.x_type, T.int32(0)), [i])
        return whole.vload([0], f"{self.dot.x_type}x{self.lanes}")

    def copy_rows(self, a_at: Any) -> Any:
        """A copy of a [M, K] in the type that the instruction reads, with KP zeros behind it."""
        size = self.p.m * self.p.k
        copy = T.alloc_buffer((size + self.dot.pack,), self.dot.read_type, scope="local")
        with T.serial(0, size) as i:
            T.buffer_store(copy, self.dot.read(self.a[a_at + i]), [i])
        with T.serial(0, self.dot.pack) as i:
            T.buffer_store(copy, T.Cast(self.dot.read_type, T.int32(0)), [size + i])
        return copy

    def row_sums(self, a: Any, a_at: Any) -> Any:
        """int32 [M]: zb' times the sum of each row of a."""
        p = self.p
        rows = T.alloc_buffer((p.m,), "int32", scope="local")
        total = T.alloc_buffer((1,), "int32")
        with T.serial(0, p.m) as m:
            T.buffer_store(total, T.int32(-self.dot.shift * p.k), [0])
            with T.serial(0, p.k) as k:
                T.buffer_store(total, total[0] + T.Cast("int32", a[a_at + m * p.k + k]), [0])
            T.buffer_store(rows, total[0] * (self.zero[2] - 128), [m])
        return rows

    def reduce(self, a: Any, a_at: Any, packed: Any, start: Any, rows: Any, batch: Any, row: Any, vector: Any) -> None:
        """One tile: a [P, K] x packed [K, V*L] -> y [P, V*L]."""
        p, dot, lanes = self.p, self.dot, self.lanes
        P, V = self.tile.pixels, self.tile.vectors
        row, vector = T.bind(row + T.int32(0)), T.bind(vector + T.int32(0))
        acc = Registers(P * V, self.acc_type)  # P*V x [L]
        for v in range(V):
            first = T.bind(start[vector + v])
            for q in range(P):
                value = first if rows is None else first - T.broadcast(rows[row + q], lanes)
                acc[q * V + v] = value
        with T.serial(0, self.steps) as s:
            kind = dot.weight_type(lanes)
            weights = [T.bind(packed.vload([vector + v, s, 0], kind)) for v in range(V)]  # V x [L*KP]
            for q in range(P):
                value = T.bind(dot.load(a, a_at + (row + q) * p.k + s * dot.pack, lanes))
                for v in range(V):
                    acc[q * V + v] = dot.step(self.isa, acc[q * V + v], value, weights[v])
        for q in range(P):
            for v in range(V):
                at = (batch * p.m + row + q) * p.n + channel_start(vector + v, p.n, lanes)
                self.store(self.result(acc[q * V + v]), at)

    def result(self, value: Any) -> Any:
        """Sums [L] through the epilogue."""
        isa, lanes, limits = self.isa, self.lanes, self.bounds
        if not self.dot.integer:
            return bounded(isa, value, limits[0], limits[1])
        scale = T.broadcast(self.scale[0], lanes)
        if self.p.out == "float32":
            return dequantize(isa, value, scale, limits[0], limits[1])
        wide = requantize(isa, value, scale, limits[0], limits[1])
        return T.Cast(f"uint8x{lanes}", wide + T.broadcast(self.zero[1], lanes))

    def store(self, value: Any, at: Any) -> None:
        """Stores [L]; if N < L, the N lanes that exist, one by one."""
        if not self.narrow:
            T.buffer_store(self.y, value, [vector_index(at, self.lanes)])
            return
        whole = T.alloc_buffer((self.lanes,), self.p.out, scope="local")
        T.buffer_store(whole, value, [vector_index(0, self.lanes)])
        for i in range(self.p.n):
            T.buffer_store(self.y, whole[i], [at + i])

    def constant(self, value: int) -> Any:
        return T.broadcast(T.int32(value) if self.dot.integer else T.float32(value), self.lanes)


@emits("hago", "QMatMul")
def emit_qmatmul(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Integer product of two activations."""
    attrs, out = node.attrs, node.attrs.get("out", "uint8")
    zero_y = int(attrs.get("y_zero_point", 0))
    zero = zeros(int(attrs["a_zero_point"]), zero_y, int(attrs["b_zero_point"]))
    scale = np.asarray(node.constant(node.inputs[2]), np.float32).reshape(1)
    p = _params(node, isa.exact_dot, out)
    if p is None:
        shapes = [list(node.type(name).shape) for name in node.inputs[:2]]
        raise BuildError(f"no integer kernel for matrices of shapes {shapes}", where=f"node {node.name!r}")
    inputs = (node.inputs[0], node.inputs[1], scale, zero, bounds_of(node))
    return [KernelCall("matmul", p, matmul, inputs, node.outputs[:1], node.layer)]


@emits("", "MatMul")
def emit_matmul(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Float product of two activations; batches that broadcast in other ways take TVM's lowering."""
    p = _params(node, "fma", "float32") if node.type(node.inputs[0]).dtype == "float32" else None
    if p is None:
        from .fallback import emit_fallback

        return emit_fallback(node, isa)
    inputs = (node.inputs[0], node.inputs[1], bounds(-np.inf, np.inf))
    return [KernelCall("matmul", p, matmul, inputs, node.outputs[:1], node.layer)]


def _params(node: NodeView, dot: str, out: str) -> MatMulParams | None:
    a, b = node.type(node.inputs[0]).shape, node.type(node.inputs[1]).shape
    y = node.type(node.outputs[0]).shape
    if len(a) < 2 or len(b) < 2:
        return None
    batch = int(np.prod(y[:-2], dtype=np.int64))
    counts = [int(np.prod(shape[:-2], dtype=np.int64)) for shape in (a, b)]
    if any(count not in (1, batch) for count in counts):
        return None
    flags = [count == batch and batch > 1 for count in counts]
    return MatMulParams(dot, out, batch, a[-2], a[-1], b[-1], flags[0], flags[1], a, b, y)
