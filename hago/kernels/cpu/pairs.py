"""Dense dot products by Arm's matrix instructions: the same packed weights, the same integers, twice the products.

    A [2, KP] two pixels   B [2, KP] two output channels   C [2, 2] += A x B^T, each one vector of 16 bytes

A vector of the dense template's sums is one pixel by L = 4 channels. Here two vectors are two pixels by 4 channels,
and each holds two channels of both pixels. A packed step of weights is 4 channels one after the other, so its
halves are just what the instruction takes. Of each pixel 16 neighbouring bytes are loaded, two steps, and two pixels
exchange halves. After the reduction the same exchange gives the vectors that the epilogue expects. Buffers as in
dense.py.

Arm Architecture Reference Manual, USMMLA, BFMMLA.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from tvm.script.ir_builder import tirx as T

from .dense import Dense, DenseParams, Tile, choose_tile, estimate, plan
from .dense_plan import finish_cost
from .dot import DOTS
from .families import Isa
from .ir_builder import Registers

_FROM_VECTORS = {"usdot": "usmmla", "bfdot": "bfmmla"}
_STEPS = 2  # packed steps in a vector of one pixel's elements


def paired(p: DenseParams, isa: Isa, threads: int) -> Any:
    """The PrimFunc; buffers as of `dense`."""
    return _Paired(p, isa, threads).build()


@lru_cache(maxsize=4096)
def best_pairs(p: DenseParams, isa: Isa) -> str:
    """The instruction for these shapes: ``p.dot``, or its counterpart on pairs if that is estimated to be faster."""
    dot = _FROM_VECTORS.get(p.dot)
    if dot is None or p.group_steps or p.o // p.groups < isa.lanes or plan(p, isa).cols < 2:
        return p.dot
    pairs = replace(p, dot=dot, tile=None)
    vectors = estimate(p, isa, choose_tile(p, isa)) + _copying(p, isa)
    return dot if choose_pairs(pairs, isa)[1] + _copying(pairs, isa) < vectors else p.dot


@lru_cache(maxsize=4096)
def choose_pairs(p: DenseParams, isa: Isa) -> tuple[Tile, float]:
    """The tile, of an even number of pixels, with the fewest estimated cycles, and their number."""
    shape, best = plan(p, isa), (Tile(2, 1), float("inf"))
    for vectors in range(1, min(shape.vectors, 8) + 1):
        for pixels in range(2, min(shape.cols, 28) + 1, 2):
            # Besides the sums: two steps of every pixel, and a vector of weights.
            if pixels * vectors + pixels + 2 > isa.registers:
                continue
            cost = _estimate(p, isa, Tile(pixels, vectors))
            if cost < best[1] * 0.999:
                best = Tile(pixels, vectors), cost
    return best


def _estimate(p: DenseParams, isa: Isa, tile: Tile) -> float:
    """Instructions, the unit of `dense.estimate`: small cores start two of any kind in a cycle."""
    shape = plan(p, isa)
    blocks = -(-shape.cols // tile.pixels) * -(-shape.vectors // tile.vectors)
    sums = tile.pixels * tile.vectors
    inner = max(sums + 2 * tile.vectors + tile.pixels, 5) + 0.5
    depth = p.kernel[0] * shape.taps * shape.steps
    finish = finish_cost(p, isa, tile.vectors) * tile.pixels + sums
    return blocks * (inner * depth + finish + 2 * tile.vectors + 20) * shape.rows * p.groups


def _copying(p: DenseParams, isa: Isa) -> float:
    """Instructions of the padded copy, if there is one: steps of eight leave a rest where those of four do not."""
    size = DOTS[p.dot].weight_numpy.itemsize
    return p.n * p.h * p.w * p.c * size / 8 if plan(p, isa).scratch else 0.0


class _Paired(Dense):
    """Works on pairs of pixels where `Dense` works on one pixel.

    Order of the sums: pair of pixels, then vector, then half of its channels.
    """

    def __init__(self, p: DenseParams, isa: Isa, threads: int) -> None:
        super().__init__(p, isa, threads)
        self.row_steps = _STEPS
        self.half = self.lanes * self.dot.pack // 2  # elements of the weights of two channels in a step

    def best_tile(self) -> Tile:
        return choose_pairs(self.p, self.isa)[0]

    def compute(self, vector: Any, first: Any, x_at: Any, y_at: Any) -> None:
        lanes = self.lanes
        acc = Registers(self.P * self.V, self.acc_type)  # P/2 * V * 2 x [2 pixels, 2 channels]
        for v in range(self.V):
            bias = T.bind(self.bias.vload([(first + v) * lanes], self.acc_type))
            for half in range(2):
                start = T.bind(T.Shuffle([bias], [2 * half, 2 * half + 1] * 2))
                for q in range(0, self.P, 2):
                    acc[q * self.V + 2 * v + half] = start
        self.reduce(acc, x_at, first, 0, self.depth)
        whole = {}  # P*V x [L], in the order of the dense template: pixel, then vector
        for q in range(self.P):
            order = [0, 1, 4, 5] if q % 2 == 0 else [2, 3, 6, 7]
            for v in range(self.V):
                k = q // 2 * 2 * self.V + 2 * v
                whole[q * self.V + v] = T.Shuffle([acc[k], acc[k + 1]], order)
        self.finish_tile(whole, vector, first, y_at)

    def row_of_steps(self, acc: Any, x_at: Any, first: Any, depth: Any) -> None:
        """Two steps, for which each pixel is loaded once."""
        rows = self._loaded(x_at, _STEPS)
        for s in range(_STEPS):
            # 2 x [2*KP] -> [2 pixels, KP]
            turned = [T.Shuffle(rows[q : q + 2], self._halves(s, _STEPS)) for q in range(0, self.P, 2)]
            self._products(acc, turned, first, depth + s)

    def step(self, acc: Any, x_at: Any, first: Any, depth: Any) -> None:
        rows = self._loaded(x_at, 1)
        self._products(acc, [T.Shuffle(rows[q : q + 2], self._halves(0, 1)) for q in range(0, self.P, 2)], first, depth)

    def _loaded(self, x_at: Any, steps: int) -> list[Any]:
        """``steps`` packed steps of each pixel: P x [steps*KP]."""
        kind, stride = f"{self.dot.read_type}x{steps * self.dot.pack}", self.p.strides[1] * self.p.c
        return [T.bind(self.x.vload([x_at + q * stride], kind)) for q in range(self.P)]

    def _halves(self, step: int, steps: int) -> list[int]:
        """Indices [2*KP] of one step's elements in two pixels' rows [2, steps*KP]."""
        pack = self.dot.pack
        return [row * steps * pack + step * pack + k for row in range(2) for k in range(pack)]

    def _products(self, acc: Any, pixels: list[Any], first: Any, depth: Any) -> None:
        """One step of all pairs of pixels: each [2, KP] x weights [2, KP]^T -> acc [2, 2]."""
        kind = f"{'int8' if self.dot.integer else self.dot.read_type}x{2 * self.dot.pack}"
        pairs = [T.bind(T.reinterpret(kind, pair)) for pair in pixels]
        for v in range(self.V):
            for half in range(2):
                weights = T.bind(self.w.vload([first + v, depth, half * self.half], kind))
                for q, pair in enumerate(pairs):
                    k = q * 2 * self.V + 2 * v + half
                    acc[k] = self.dot.step(self.isa, acc[k], pair, weights)


__all__ = ["best_pairs", "choose_pairs", "paired"]
