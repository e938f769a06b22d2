"""Depthwise convolution (one filter per channel), in integers and in floats.

    N images, H W input height and width, OH OW output, KH KW kernel, C channels, P pixels and R rows of a tile,
    L 32-bit lanes of one vector, KP kernel rows packed into one lane, KG = ceil(KH / KP),
    S vectors of sums for one stretch of channels, CS = ceil(C / (S*L)) stretches

    x        [N, H, W, C]               uint8, float32 or float16
    weights  [CS*S, R*KG*KW, L*KP]      packed by `pack_depthwise_weights`
    bias     [CS*S*L]                   int32 or float32, packed by `pack_depthwise_channels`, as is the scale
    scale    [CS*S*L]                   float32; integers and float16 only
    zero     [3]                        int32; integers only, see common/anchor.py
    bounds   [7]                        float32, see common/anchor.py
    y        [N, OH, OW, C]             uint8 or float32

Integers: the dot-product instructions add up KP neighbours within a lane, so KP *rows* of the image are
interleaved, channel by channel, and serve all kernel columns that they fall under. If the result is bytes,
a stretch of channels is a whole vector of bytes: two rounds of unpacking interleave four rows into S = 4
vectors, and two rounds of packing undo the order of channels that this leaves behind (`channel_order`). If a
kernel leaves some of the four unused, the same vectors serve R = 2 rows of the result, with weights shifted by the
stride. Floats: one fused multiply-add per tap; float16 adds up in float16, its weights divided as in float16.py.

Tiles inside the image are read in place, and only those at its border are copied first, with padding; small
images, which are mostly border, are copied whole. The caller guarantees what dense.py asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ..common.anchor import BOUNDS, ZEROS
from .dense import channel_starts
from .dot import DOTS
from .epilogue import (
    bounded,
    dequantize,
    requantize,
    requantized_bytes,
)
from .families import Isa
from .float16 import MOST_TERMS, doubled, factors
from .ir_builder import Registers, argument, channel_start, flat, maybe_parallel, moved_back, vector_index
from .padding import Padding, padded_copy
from .window import Window

MIN_CHANNELS = 4  # the narrowest vector; thinner images take the dense template, group by group
_MACS_WORTH_A_THREAD = 60_000
_MOSTLY = 0.5  # share of tiles inside the image below which the whole image is copied once
_UNPACKED = 4  # vectors of sums that one vector of bytes becomes


@dataclass(frozen=True)
class DepthwiseParams(Window):
    """Shapes and types of one depthwise kernel; ``dot`` as in dot.py."""

    dot: str
    out: str
    n: int
    h: int
    w: int
    c: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    @property
    def macs(self) -> int:
        """Multiply-adds of one call."""
        return self.n * self.oh * self.ow * self.c * self.kernel[0] * self.kernel[1]


def fitted(p: DepthwiseParams, isa: Isa) -> tuple[Isa, int]:
    """The instructions at the vector width that the channels fill, and S."""
    if DOTS[p.dot].narrow:
        return isa, _UNPACKED if p.c >= 16 else 2
    if DOTS[p.dot].pack in (1, _UNPACKED) and DOTS[p.dot].integer and p.out == "uint8" and p.c >= 16:
        bits = isa.bits
        while bits // 8 > p.c:
            bits //= 2
        return replace(isa, bits=bits), _UNPACKED
    return (doubled(isa) if DOTS[p.dot].half else isa).fit(p.c), 1


def result_rows(p: DepthwiseParams, isa: Isa) -> int:
    """R: how many neighbouring rows of the result one tile computes."""
    _, stretch = fitted(p, isa)
    reach = p.kernel[0] + p.strides[0]  # rows of the image under two rows of the result
    enough = stretch == _UNPACKED and isa.registers > 16 and p.dilations[0] == 1 and reach <= DOTS[p.dot].pack
    return 2 if enough and p.oh > 1 and not DOTS[p.dot].narrow else 1


def channel_order(p: DepthwiseParams, isa: Isa) -> np.ndarray:
    """Channel of every lane [CS*S, L]; the last stretch is moved back to end with the channels."""
    isa, stretch = fitted(p, isa)
    lanes = isa.lanes
    if stretch == 1:
        return channel_starts(p.c, lanes)[:, None] + np.arange(lanes)
    # Unpacking (and widening) works within 128 bits: there, vector k of four holds channels 4k to 4k + 3 of 16.
    # order [S, L]: channel within the stretch
    part, lane = np.arange(stretch)[:, None], np.arange(lanes)
    order = lane // 4 * 16 + part * 4 + lane % 4
    return (channel_starts(p.c, stretch * lanes)[:, None, None] + order).reshape(-1, lanes)


def pack_depthwise_channels(values: np.ndarray, p: DepthwiseParams, isa: Isa) -> np.ndarray:
    """Per-channel values [C] -> [CS*S*L], in the order of `channel_order`."""
    return np.ascontiguousarray(values[channel_order(p, isa)].reshape(-1))


def pack_depthwise_weights(w: np.ndarray, p: DepthwiseParams, isa: Isa) -> np.ndarray:
    """Weights [C, KH, KW] -> [CS*S, R*KG*KW, L*KP]; rows beyond the kernel have zero weights."""
    dot = DOTS[p.dot]
    kh, kw = p.kernel
    height = -(-kh // dot.pack) * dot.pack
    index = channel_order(p, isa)
    parts = []
    for r in range(result_rows(p, isa)):
        top = r * p.strides[0]
        padded = np.pad(w.astype(dot.weight_numpy), [(0, 0), (top, height - kh - top), (0, 0)])
        packed = padded.reshape(p.c, -1, dot.pack, kw)[index]  # [CS*S, L, KG, KP, KW]
        # -> [CS*S, KG, KW, L, KP] -> [CS*S, KG*KW, L*KP]
        parts.append(packed.transpose(0, 2, 4, 1, 3).reshape(len(index), -1, index.shape[1] * dot.pack))
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


def half_depthwise_fits(kernel: tuple[int, int]) -> bool:
    """Whether float16 may hold the sum of all taps."""
    return kernel[0] * kernel[1] <= MOST_TERMS


def pack_depthwise_halves(w: np.ndarray, p: DepthwiseParams, isa: Isa) -> tuple[np.ndarray, np.ndarray]:
    """Weights float16 [C, KH, KW] -> those divided and packed, and the factors [C]."""
    wide = w.astype(np.float32)
    found = factors(np.abs(wide).sum(axis=(1, 2))[None])
    return pack_depthwise_weights(wide / found[:, None, None], p, isa), found


def depthwise(p: DepthwiseParams, isa: Isa, threads: int) -> Any:
    """The PrimFunc; its buffers are those of the module's docstring, in that order."""
    return Depthwise(p, isa, threads).build()


class Depthwise:
    """Emits one kernel."""

    def __init__(self, p: DepthwiseParams, isa: Isa, threads: int) -> None:
        self.p, self.dot = p, DOTS[p.dot]
        self.isa, self.S = fitted(p, isa)
        self.lanes = self.isa.lanes
        self.stretches = -(-p.c // (self.S * self.lanes))
        self.groups = -(-p.kernel[0] // self.dot.pack)
        self.R = result_rows(p, isa)
        self.strips = -(-p.oh // self.R)
        self.under = p.kernel[0] + (self.R - 1) * p.strides[0]  # rows under a tile, a dilation apart
        self.P = self.pixels()
        self.tiles = -(-p.ow // self.P)
        self.span = self.columns_under(self.P)
        self.chunks = threads if p.macs >= _MACS_WORTH_A_THREAD * threads else 1
        self.acc_type = f"{'int32' if self.dot.integer else 'float32'}x{self.lanes}"

        self.whole = any(p.pads) and self._inside() < _MOSTLY
        # What a tile reads: the image, or its padded copy.
        self.pads = (0, 0) if self.whole else p.pads[:2]
        self.height = p.h + (p.pads[0] + p.pads[2] if self.whole else 0)
        self.width = p.w + (p.pads[1] + p.pads[3] if self.whole else 0)

    def pixels(self) -> int:
        """P: how many neighbouring pixels of a row one tile computes."""
        wide = self.isa.registers // 8 if self.R == 1 else 2
        return min(self.p.ow, 8 if self.S == 1 else wide)

    def columns_under(self, pixels: int) -> int:
        """How many columns of the image lie under that many neighbouring pixels."""
        p = self.p
        return (pixels - 1) * p.strides[1] + (p.kernel[1] - 1) * p.dilations[1] + 1

    def stretches_of_row(self) -> list[tuple[int, int, int]]:
        """First pixel, number of tiles, and P of each part of a row."""
        return [(0, self.tiles, self.P)]

    def weights_shape(self) -> tuple[int, ...]:
        """The shape of the packed weights."""
        taps = self.R * self.groups * self.p.kernel[1]
        return self.stretches * self.S, taps, self.lanes * self.dot.pack

    def _inside(self) -> float:
        """Share of the tiles that lie inside the image."""
        p = self.p
        pixels = np.minimum(np.arange(self.tiles) * self.P, p.ow - self.P)
        x = pixels * p.strides[1] - p.pads[1]
        y = np.minimum(np.arange(self.strips) * self.R, p.oh - self.R) * p.strides[0] - p.pads[0]
        reach = (self.under - 1) * p.dilations[0]
        return float(((x >= 0) & (x + self.span <= p.w)).mean() * ((y >= 0) & (y + reach < p.h)).mean())

    def build(self) -> Any:
        """The PrimFunc."""
        p, dot = self.p, self.dot
        vectors = self.stretches * self.S
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("kernel")
            T.func_attr({"tirx.noalias": True})
            source = argument("x", (p.n, p.h, p.w, p.c), dot.x_type)
            self.weights = argument("w", self.weights_shape(), dot.weight_numpy.name)
            channels = (vectors * self.lanes,)
            self.bias = argument("bias", channels, "int32" if dot.integer else "float32")
            if dot.integer or dot.half:
                self.scale = argument("scale", channels, "float32")
            if dot.integer:
                self.zero = argument("zero", (ZEROS,), "int32")
            self.bounds = argument("bounds", (BOUNDS,), "float32")
            target = argument("y", (p.n, p.oh, p.ow, p.c), p.out)
            self.x, self.y = flat(source), flat(target)
            if self.whole:
                pad = self.zero[0] if dot.integer else T.float32(0)
                padding = Padding((p.n, p.h, p.w, p.c), p.pads, pad)
                self.x = padded_copy(self.x, padding, dot.x_type, self.lanes * dot.pack, self.chunks)
            with maybe_parallel(p.n * self.strips, self.chunks) as (at, end):
                self.rows(at, end)
        return builder.get()

    def rows(self, at: Any, end: Any) -> None:
        """All tiles of some strips of R rows: from the image, or from a padded copy if they reach beyond it."""
        p = self.p
        (top, left), (sh, sw), (dh, _) = self.pads, p.strides, p.dilations
        line = dh * self.width * p.c
        padded = any(p.pads) and not self.whole
        if padded:
            size = self.under * self.span * p.c + self.lanes * self.dot.pack
            self.copy = T.alloc_buffer((size,), self.dot.x_type, scope="local")

        def tile_at(strip: Any, first: int, t: Any) -> None:
            image = T.bind(strip // self.strips)
            row = T.bind(moved_back(strip % self.strips, self.R, p.oh) + T.int32(0))
            pixel = T.bind(moved_back(t, self.P, p.ow) + T.int32(first))
            target = T.bind(((image * p.oh + row) * p.ow + pixel) * p.c)
            y, x = T.bind(row * sh - top), T.bind(pixel * sw - left)
            source = T.bind((image * self.height + y) * (self.width * p.c) + x * p.c)
            if not padded:
                self.channels(self.x, source, line, target)
            else:
                below = y + (self.under - 1) * dh < p.h
                inside = T.And(T.And(y >= 0, below), T.And(x >= 0, x + self.span <= p.w))
                with T.If(inside):
                    with T.Then():
                        self.channels(self.x, source, line, target)
                    with T.Else():
                        self.copy_tile(image * (p.h * p.w * p.c), y, x)
                        self.channels(self.copy, 0, self.span * p.c, target)

        with T.serial(at, end) as strip:
            for first, tiles, pixels in self.stretches_of_row():
                self.P, self.span = pixels, self.columns_under(pixels)
                with T.serial(0, tiles) as t:
                    tile_at(strip, first, t)

    def copy_tile(self, image: Any, y: Any, x: Any) -> None:
        """Copies the pixels under one tile to ``copy`` [rows, columns, C], row by row of the kernel, with padding."""
        p, dot = self.p, self.dot
        value = T.bind(T.Cast(dot.x_type, self.zero[0] if dot.integer else T.float32(0)))
        with T.serial(0, self.under) as i, T.serial(0, self.span) as j:
            at = T.bind((i * self.span + j) * p.c)
            line, column = T.bind(y + i * p.dilations[0]), T.bind(x + j)
            valid = T.And(T.And(line >= 0, line < p.h), T.And(column >= 0, column < p.w))
            with T.If(valid):
                with T.Then():
                    source = T.bind(image + (line * p.w + column) * p.c)
                    with T.serial(0, p.c) as k:
                        T.buffer_store(self.copy, self.x[source + k], [at + k])
                with T.Else(), T.serial(0, p.c) as k:
                    T.buffer_store(self.copy, value, [at + k])

    def channels(self, x: Any, source: Any, row: int, target: Any) -> None:
        """All channels of one tile. ``row`` is the distance in elements between two rows of the kernel."""
        with T.serial(0, self.stretches) as stretch:
            channel = channel_start(stretch, self.p.c, self.S * self.lanes)
            self.tile(x, T.bind(source + channel), row, T.bind(target + channel), T.bind(stretch * self.S))

    def tile(self, x: Any, source: Any, row: int, target: Any, first: Any) -> None:
        """y [R, P, S*L], column by column of the image; a pixel is finished when its last column is done."""
        p, dot, lanes = self.p, self.dot, self.lanes
        (_, kw), (_, sw), (_, dw) = p.kernel, p.strides, p.dilations
        acc = Registers(self.R * self.P * self.S, f"float16x{lanes}" if dot.half else self.acc_type)
        if dot.half:
            starts = [T.broadcast(T.float16(0), lanes)]
        else:
            starts = [T.bind(self.bias.vload([(first + s) * lanes], self.acc_type)) for s in range(self.S)]
        taps = self.groups * kw  # of one row of the result
        columns = sorted({q * sw + j * dw for q in range(self.P) for j in range(kw)})
        for group, column in ((group, column) for group in range(self.groups) for column in columns):
            parts = self.column(x, source + column * p.c, row, group)  # S x [L*KP]
            for q in range(self.P):
                j, rest = divmod(column - q * sw, dw)
                if rest or not 0 <= j < kw:
                    continue
                for r, (s, part) in ((r, both) for r in range(self.R) for both in enumerate(parts)):
                    tap = self.weights.vload([first + s, r * taps + group * kw + j, 0], dot.weight_type(lanes))
                    k = (r * self.P + q) * self.S + s
                    # acc [L] += sum over KP rows of part [L, KP] * tap [L, KP]
                    acc[k] = dot.step(self.isa, starts[s] if (group, j) == (0, 0) else acc[k], part, tap)
                if (group, j) == (self.groups - 1, kw - 1):
                    for r in range(self.R):
                        k = (r * self.P + q) * self.S
                        self.finish([acc[k + s] for s in range(self.S)], target + (r * p.ow + q) * p.c, first)

    def column(self, x: Any, at: Any, row: int, group: int) -> list[Any]:
        """KP rows of one column [S*L], interleaved channel by channel: S x [L*KP].

        Rows past the kernel have zero weights, so any row will do.
        """
        dot, lanes = self.dot, self.lanes
        wanted = [min(group * dot.pack + k, self.under - 1) for k in range(dot.pack)]
        count = lanes * self.S
        loaded = {k: T.bind(x.vload([at + k * row], f"{dot.x_type}x{count}")) for k in sorted(set(wanted))}
        if dot.widens and (dot.shift or dot.pack == 1):
            loaded = {k: T.bind(dot.read(value, count)) for k, value in loaded.items()}
        rows = [loaded[k] for k in wanted]
        if dot.pack == 1:
            return rows if self.S == 1 else [T.Shuffle(rows, list(range(4 * s, 4 * s + 4))) for s in range(self.S)]
        if self.S == _UNPACKED:
            return [T.bind(T.reinterpret(f"int8x{count}", part)) for part in unpack_rows(rows, count)]
        order = [k * lanes + i for i in range(lanes) for k in range(dot.pack)]
        mixed = T.Shuffle(rows, order)
        if dot.widens and not dot.shift:
            return [T.bind(T.Cast(f"{dot.read_type}x{lanes * dot.pack}", mixed))]
        return [T.bind(T.reinterpret(f"int8x{lanes * dot.pack}", mixed))]

    def finish(self, sums: list[Any], at: Any, first: Any) -> None:
        """Epilogue and store of one pixel: S x [L] -> y [S*L]."""
        p, isa, lanes, bounds = self.p, self.isa, self.lanes, self.bounds
        y = [vector_index(at, lanes * self.S)]
        if not self.dot.integer and not self.dot.half:
            T.buffer_store(self.y, bounded(isa, sums[0], bounds[0], bounds[1]), y)
            return
        scales = [self.scale.vload([(first + s) * lanes], f"float32x{lanes}") for s in range(self.S)]
        if self.dot.half:
            bias = self.bias.vload([first * lanes], self.acc_type)
            total = T.call_llvm_pure_intrin(self.acc_type, "llvm.fma", T.Cast(self.acc_type, sums[0]), scales[0], bias)
            T.buffer_store(self.y, bounded(isa, total, bounds[0], bounds[1]), y)
            return
        if self.S == _UNPACKED:
            T.buffer_store(self.y, requantized_bytes(isa, sums, scales, self.zero[1], bounds), y)
        elif p.out == "float32":
            T.buffer_store(self.y, dequantize(isa, sums[0], scales[0], bounds[0], bounds[1]), y)
        else:
            wide = requantize(isa, sums[0], scales[0], bounds[0], bounds[1])
            T.buffer_store(self.y, T.Cast(f"uint8x{lanes}", wide + T.broadcast(self.zero[1], lanes)), y)


def unpack_rows(rows: list[Any], count: int) -> list[Any]:
    """4 rows x [count] bytes -> 4 x [count / 4, 4]: the rows' bytes of each channel become neighbours."""

    def unpacked(a: Any, b: Any, width: int) -> tuple[Any, Any]:
        """``a`` and ``b`` in turns, ``width`` bytes each: of the low and of the high half of every 128 bits."""
        found = []
        for half in (0, 8):
            order = [
                source * count + block + half + i + k
                for block in range(0, count, 16)
                for i in range(0, 8, width)
                for source in (0, 1)
                for k in range(width)
            ]
            found.append(T.bind(T.Shuffle([a, b], order)))
        return found[0], found[1]

    low, high = unpacked(rows[0], rows[1], 1)
    low2, high2 = unpacked(rows[2], rows[3], 1)
    return [*unpacked(low, low2, 2), *unpacked(high, high2, 2)]


__all__ = [
    "MIN_CHANNELS", "DepthwiseParams", "channel_order", "depthwise", "half_depthwise_fits", "pack_depthwise_channels",
    "pack_depthwise_halves", "pack_depthwise_weights",
]  # fmt: skip
