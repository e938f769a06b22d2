"""Depthwise convolution of bytes on Arm processors without a dot product: `smull` and `smull7` of dot.py.

Neighbours within a vector are channels, so nothing is interleaved: the products of some taps are added in int16
(smull, smlal), and their sums, channel by channel, in int32 (saddw).

    B = 16 or 8 channels of a stretch, S = B / 4 vectors of sums, P pixels of a tile, CS = ceil(C / B) stretches

Buffers as of depthwise.py, but for weights int8 [CS, KH*KW, B]. The caller guarantees that C >= 8, that results are
bytes, and that `taps_fit_int16` accepts the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from .depthwise import Depthwise, DepthwiseParams, channel_order
from .epilogue import requantized_bytes
from .families import Isa
from .ir_builder import Registers, vector_index

_PIXELS = 4


def pack_bytes_weights(w: np.ndarray, p: DepthwiseParams, isa: Isa) -> np.ndarray:
    """Weights [C, KH, KW] -> [CS, KH*KW, B]."""
    count = channels_of_stretch(p.c)
    order = channel_order(p, isa).reshape(-1, count)
    return np.ascontiguousarray(w.astype(np.int8).reshape(p.c, -1)[order].transpose(0, 2, 1))


def channels_of_stretch(c: int) -> int:
    """B, for at least eight channels."""
    return 16 if c >= 16 else 8


def taps_fit_int16(packed: np.ndarray, terms: int) -> bool:
    """Whether no sum of the products of ``terms`` taps can leave int16; the other factor is a code less 128."""
    taps = np.abs(packed.astype(np.int32))
    return all(128 * taps[:, at : at + terms].sum(1).max(initial=0) <= 32767 for at in range(0, taps.shape[1], terms))


class DepthwiseBytes(Depthwise):
    """Emits one kernel; it differs from `Depthwise` in how a tile is computed."""

    def pixels(self) -> int:
        """P such that sums, two rows of columns and the weights fit the registers."""
        p = self.p
        best, least = 1, float("inf")
        for pixels in range(1, min(_PIXELS, p.ow) + 1):
            if pixels * self.S + 2 * len(self.columns(pixels)) + 4 > self.isa.registers and pixels > 1:
                continue
            full, rest = divmod(p.ow, pixels)
            cost = full * self.cost(pixels) + (self.cost(rest) if rest else 0)
            if cost < least:
                best, least = pixels, cost
        return best

    def cost(self, pixels: int) -> int:
        """Roughly the instructions of a tile."""
        kh, kw = self.p.kernel
        return pixels * 15 * self.S + kh * (2 * len(self.columns(pixels)) + kw) + 20

    def stretches_of_row(self) -> list[tuple[int, int, int]]:
        """Tiles of P pixels, and one of the rest: a tile costs too much to compute part of it twice."""
        full, rest = divmod(self.p.ow, self.P)
        return [(0, full, self.P), *([(self.p.ow - rest, 1, rest)] if rest else [])]

    def columns(self, pixels: int) -> list[int]:
        """Columns of the image under a tile."""
        (_, kw), (_, sw), (_, dw) = self.p.kernel, self.p.strides, self.p.dilations
        return sorted({q * sw + j * dw for q in range(pixels) for j in range(kw)})

    def weights_shape(self) -> tuple[int, ...]:
        """[CS, KH*KW, B]."""
        return self.stretches, self.p.kernel[0] * self.p.kernel[1], self.S * self.lanes

    def tile(self, x: Any, source: Any, row: int, target: Any, first: Any) -> None:
        """y [P, B] of one row, some taps at a time."""
        p, count = self.p, self.S * self.lanes
        (kh, kw), (_, sw), (_, dw) = p.kernel, p.strides, p.dilations
        taps = [(i, j) for i in range(kh) for j in range(kw)]
        stretch = first // self.S
        acc = Registers(self.P, f"int32x{count}")
        start = T.bind(self.bias.vload([first * self.lanes], f"int32x{count}"))
        loaded: dict[tuple[int, int], Any] = {}

        def codes(i: int, column: int) -> Any:
            """int8 [B]: the codes less 128 of one pixel under the tile, loaded once."""
            if (i, column) not in loaded:
                at = source + i * row + column * p.c
                loaded[i, column] = T.bind(self.dot.read(x.vload([at], f"uint8x{count}"), count))
            return loaded[i, column]

        for at in range(0, len(taps), self.dot.terms):
            part = range(at, min(at + self.dot.terms, len(taps)))
            weights = {k: T.bind(self.weights.vload([stretch, k, 0], f"int8x{count}")) for k in part}
            for q in range(self.P):
                sums = None
                for k in part:
                    i, j = taps[k]
                    wide = f"int16x{count}"
                    # int8 [B] * int8 [B] -> int16 [B]
                    product = T.Cast(wide, codes(i, q * sw + j * dw)) * T.Cast(wide, weights[k])
                    sums = product if sums is None else sums + product
                acc[q] = (acc[q] if at else start) + T.Cast(f"int32x{count}", sums)
        for q in range(self.P):
            total, lanes = T.bind(acc[q]), self.lanes
            sums = [T.Shuffle([total], [s * lanes + k for k in range(lanes)]) for s in range(self.S)]  # S x [4]
            scales = [self.scale.vload([(first + s) * lanes], f"float32x{lanes}") for s in range(self.S)]
            result = requantized_bytes(self.isa, sums, scales, self.zero[1], self.bounds)
            T.buffer_store(self.y, result, [vector_index(target + q * p.c, count)])


def depthwise_bytes(p: DepthwiseParams, isa: Isa, threads: int) -> Any:
    """The PrimFunc. Buffers: x, weights [CS, KH*KW, B], bias [CS*B], scale [CS*B], zero, bounds, y."""
    return DepthwiseBytes(p, isa, threads).build()
