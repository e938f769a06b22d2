"""Dense dot products in float16 (Arm): twice the channels in a vector, short sums in float16, long ones in float32.

    x f16 [N, H, W, C]   weights f16 [G*OV, D, L], divided by scale f32 [G*OV*L]   y f32 [N, OH, OW, O]

A long sum of products in float16 would lose what is added last, and overflow beyond 65504 where float32 does not. So
at most `TERMS` products are added in float16, and these sums in float32. The weights of a channel are divided by a
power of two such that the magnitudes of those that meet in one short sum add up to less than one: no sum of finite
inputs leaves float16. Dividing is exact but for weights far smaller than their neighbours.

To get vectors of L = 8 channels, the dense template is given vectors twice as wide (`doubled`). Other buffers as in
dense.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from .dense import Dense, DenseParams, Tile, pack_weights, plan
from .families import Isa
from .ir_builder import Registers

TERMS = 32  # the error of a sum is then three times that of rounding the operands, and a third of bfloat16's
MOST_TERMS = 2 * TERMS  # of a sum that cannot be cut: a depthwise kernel of up to 8x8
_ROOM = 31 / 32  # rounding enlarges the largest possible sum of that many terms by less than 1/31


def doubled(isa: Isa) -> Isa:
    """The instruction set with vectors that hold as many float32 lanes as one vector of float16."""
    return replace(isa, bits=2 * isa.bits)


def halved(p: DenseParams, isa: Isa, threads: int) -> Any:
    """The PrimFunc; buffers as of `dense`, with a scale."""
    return _Halved(p, doubled(isa), threads).build()


def blocks(p: DenseParams, isa: Isa) -> tuple[int, int]:
    """How the steps of one tap are cut into short sums: their number and length; (0, 0) if one sum holds all taps."""
    shape = plan(p, isa)
    if p.kernel[0] * shape.taps * shape.steps <= TERMS:
        return 0, 0
    return -(-shape.steps // TERMS), min(shape.steps, TERMS)


def factors(sizes: np.ndarray) -> np.ndarray:
    """float32 [O]: powers of two that bring the largest of the sums ``sizes`` [.., O] of each channel below one."""
    largest = np.maximum(sizes.reshape(-1, sizes.shape[-1]).max(axis=0), 2.0**-14)
    return np.exp2(np.ceil(np.log2(largest / _ROOM))).astype(np.float32)


def pack_halves(w: np.ndarray, p: DenseParams, isa: Isa) -> tuple[np.ndarray, np.ndarray]:
    """Weights float16 [O, KH, KW, C/G] -> those divided and packed by `pack_weights`, and the factors float32 [O]."""
    isa = doubled(isa)
    count, length = blocks(p, isa)
    sizes = np.abs(w.astype(np.float32))
    if not count:
        sums = sizes.sum(axis=(1, 2, 3))[None]
    else:
        rows = sizes.reshape(len(w), w.shape[1], -1) if p.contiguous_row else sizes
        sums = np.add.reduceat(rows, np.arange(count) * length, axis=-1)
        sums = np.moveaxis(sums, 0, -1)
    found = factors(sums)
    return pack_weights(w.astype(np.float32) / found[:, None, None, None], p, isa), found


@lru_cache(maxsize=4096)
def choose_half_tile(p: DenseParams, isa: Isa) -> Tile:
    """The tile with the fewest estimated instructions, for doubled vectors: each sum takes three registers."""
    shape = plan(p, isa)
    depth = p.kernel[0] * shape.taps * shape.steps
    count = p.kernel[0] * shape.taps * blocks(p, isa)[0] or 1
    best, best_cost = Tile(1, 1), float("inf")
    for vectors in range(1, min(shape.vectors, 8) + 1):
        for pixels in range(1, min(shape.cols, 28) + 1):
            sums = pixels * vectors
            if 3 * sums + pixels + min(vectors, 4) > isa.registers:
                continue
            inner = max(sums + vectors + pixels / 8, 5) + 0.5
            tiles = -(-shape.cols // pixels) * -(-shape.vectors // vectors)
            cost = tiles * (inner * depth + 5 * sums * count + 12 * sums + 20)
            if cost < best_cost * 0.999:
                best, best_cost = Tile(pixels, vectors), cost
    return best


class _Halved(Dense):
    """Replaces the one sum of `Dense` by short and long ones."""

    def best_tile(self) -> Tile:
        return choose_half_tile(self.p, self.isa)

    def compute(self, vector: Any, first: Any, x_at: Any, y_at: Any) -> None:
        p, sums = self.p, self.P * self.V
        # P*V x float32 [L], and as many short sums float16 [L]
        acc, part = Registers(sums, self.acc_type), Registers(sums, f"float16x{self.lanes}")
        for k in range(sums):
            acc[k] = T.broadcast(T.float32(0), self.lanes)
        count, length = blocks(p, self.isa)
        if not count:
            with self.short_sums(acc, part):
                self.reduce(part, x_at, first, 0, self.depth)
        else:
            with T.serial(0, p.kernel[0]) as i, T.serial(0, self.plan.taps) as j:
                at = x_at + i * (p.dilations[0] * self.row) + j * self.plan.tap_stride
                depth = (i * self.plan.taps + j) * self.plan.steps
                full = self.plan.steps // length
                with T.serial(0, full) as block, self.short_sums(acc, part):
                    self.steps(part, at + block * length, first, depth + block * length, length)
                if rest := self.plan.steps - full * length:
                    with self.short_sums(acc, part):
                        self.steps(part, at + full * length, first, depth + full * length, rest)
        self.finish_tile(acc, vector, first, y_at)

    @contextmanager
    def short_sums(self, acc: Registers, part: Registers) -> Iterator[None]:
        """Encloses what fills ``part``: sets it to zero before, and adds it to ``acc`` after."""
        for k in range(self.P * self.V):
            part[k] = T.broadcast(T.float16(0), self.lanes)
        yield
        for k in range(self.P * self.V):
            acc[k] = acc[k] + T.Cast(self.acc_type, part[k])

    def steps(self, part: Registers, x_at: Any, first: Any, depth: Any, count: int) -> None:
        """``count`` neighbouring steps, in runs that one load of a pixel's elements serves."""
        at_once = self.row_steps
        in_rows = count // at_once * at_once if at_once > 1 else 0
        if in_rows:
            with T.serial(0, in_rows // at_once) as s:
                self.row_of_steps(part, x_at + s * at_once, first, depth + s * at_once)
        with T.serial(in_rows, count) as s:
            self.step(part, x_at + s, first, depth + s)

    def result(self, value: Any, r: Any, lane: Any) -> Any:
        scale, bias = (buffer.vload([lane], self.acc_type) for buffer in (self.scale, self.bias))
        total = T.call_llvm_pure_intrin(self.acc_type, "llvm.fma", value, scale, bias)
        return super().result(total, r, lane)


__all__ = ["MOST_TERMS", "TERMS", "choose_half_tile", "doubled", "factors", "halved", "pack_halves"]
