"""Depthwise convolution (one filter per channel), in integers and in floats.

    x [N, H, W, C]   y [N, OH, OW, C]   L lanes = channels of one vector, CV = ceil(C / L) vectors,
    KP kernel rows packed into one lane, KG = ceil(KH / KP), P pixels of a tile

Integers: the dot-product instructions add up KP neighbours within a lane, so KP *rows* of the image are
interleaved, channel by channel, into one vector per image column; that vector serves all kernel columns
it falls under. Floats: one fused multiply-add per tap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .base import Isa
from .dense import channel_starts, pack_channels
from .dot import DOTS
from .emit import argument, channel_start, flat, maybe_parallel, moved_back, vector_index
from .epilogue import dequantize, requantize
from .padding import padded_copy
from .window import Window

MIN_CHANNELS = 4  # the narrowest vector; thinner images take the dense template, group by group
_MACS_WORTH_A_THREAD = 60_000


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
        return self.n * self.oh * self.ow * self.c * self.kernel[0] * self.kernel[1]


def pack_depthwise_weights(w: np.ndarray, p: DepthwiseParams, isa: Isa) -> np.ndarray:
    """Weights [C, KH, KW] -> [CV, KG*KW, L*KP]; rows that are not there have zero weights."""
    dot, isa = DOTS[p.dot], isa.fit(p.c)
    kh, kw = p.kernel
    groups = -(-kh // dot.pack)
    w = np.pad(w.astype(dot.weight_numpy), [(0, 0), (0, groups * dot.pack - kh), (0, 0)])
    index = channel_starts(p.c, isa.lanes)[:, None] + np.arange(isa.lanes)
    packed = w.reshape(p.c, groups, dot.pack, kw)[index]  # [CV, L, KG, KP, KW]
    packed = packed.transpose(0, 2, 4, 1, 3).reshape(len(index), groups * kw, -1)
    return np.ascontiguousarray(packed)


def depthwise(p: DepthwiseParams, isa: Isa, threads: int) -> Any:
    """The PrimFunc. Buffers: x, weights, bias [CV*L]; integers: scale [CV*L], zero; bounds; y (see dense.py)."""
    dot, isa = DOTS[p.dot], isa.fit(p.c)
    lanes, (kh, kw), (sh, sw), (dh, dw) = isa.lanes, p.kernel, p.strides, p.dilations
    integer, groups = dot.integer, -(-kh // dot.pack)
    vectors = -(-p.c // lanes)
    line = (p.w + p.pads[1] + p.pads[3]) * p.c
    height = p.h + p.pads[0] + p.pads[2]
    pixels = min(p.ow, 8)
    tiles = -(-p.ow // pixels)
    chunks = threads if p.macs >= _MACS_WORTH_A_THREAD * threads else 1
    acc_type = f"{'int32' if integer else 'float32'}x{lanes}"

    def column(x: Any, at: Any, group: int) -> Any:
        """KP rows of one column, interleaved; rows past the kernel have zero weights, so any row will do."""
        rows = [min(group * dot.pack + k, kh - 1) for k in range(dot.pack)]
        vectors = [x.vload([at + row * (dh * line)], f"{dot.x_type}x{lanes}") for row in rows]
        if dot.pack == 1:
            return vectors[0]
        order = [k * lanes + i for i in range(lanes) for k in range(dot.pack)]
        mixed = T.Shuffle(vectors, order)
        if dot.widens:
            return T.Cast(f"{dot.read_type}x{lanes * dot.pack}", mixed)
        return T.reinterpret(f"int8x{lanes * dot.pack}", mixed)

    def tile(x: Any, y: Any, buffers: Any, row: Any, t: Any, vector: Any) -> None:
        weights, bias, scale, zero, bounds = buffers
        pixel = moved_back(t, pixels, p.ow)
        channel = channel_start(vector, p.c, lanes)
        source = (row // p.oh * height + row % p.oh * sh) * line + pixel * (sw * p.c) + channel
        source = T.bind(source + T.int32(0))
        target = T.bind((row * p.ow + pixel) * p.c + channel + T.int32(0))
        acc = T.alloc_buffer((pixels,), acc_type, scope="local")
        for q in range(pixels):
            T.buffer_store(acc, bias.vload([vector * lanes], acc_type), [q])
        for group in range(groups):
            taps = [T.bind(weights.vload([vector, group * kw + j, 0], dot.weight_type(lanes))) for j in range(kw)]
            first_row = group * dot.pack * dh * line
            for x_column in sorted({q * sw + j * dw for q in range(pixels) for j in range(kw)}):
                base = source + x_column * p.c
                value = T.bind(column(x, base, group) if dot.pack > 1 else x.vload([base + first_row], acc_type))
                for q in range(pixels):
                    j, rest = divmod(x_column - q * sw, dw)
                    if rest == 0 and 0 <= j < kw:
                        T.buffer_store(acc, dot.step(isa, acc[q], value, taps[j]), [q])
        for q in range(pixels):
            at = vector_index(target + q * p.c, lanes)
            if not integer:
                value = T.max(T.min(acc[q], T.broadcast(bounds[1], lanes)), T.broadcast(bounds[0], lanes))
            elif p.out == "float32":
                value = dequantize(isa, acc[q], scale.vload([vector * lanes], f"float32x{lanes}"), bounds[0], bounds[1])
            else:
                wide = requantize(isa, acc[q], scale.vload([vector * lanes], f"float32x{lanes}"), bounds[0], bounds[1])
                value = T.Cast(f"uint8x{lanes}", wide + T.broadcast(zero[1], lanes))
            T.buffer_store(y, value, [at])

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        source = argument("x", (p.n, p.h, p.w, p.c), dot.x_type)
        weights = argument("w", (vectors, groups * kw, lanes * dot.pack), dot.weight_numpy.name)
        bias = argument("bias", (vectors * lanes,), "int32" if integer else "float32")
        scale: Any = argument("scale", (vectors * lanes,), "float32") if integer else None
        zero: Any = argument("zero", (6,), "int32") if integer else None
        bounds = argument("bounds", (6,), "float32")
        target = argument("y", (p.n, p.oh, p.ow, p.c), p.out)
        x, y = flat(source), flat(target)
        if any(p.pads):
            pad = zero[0] if integer else T.float32(0)
            x = padded_copy(x, (p.n, p.h, p.w, p.c), p.pads, dot.x_type, pad, lanes, chunks)
        buffers = (weights, bias, scale, zero, bounds)
        with (
            maybe_parallel(p.n * p.oh, chunks) as (at, end),
            T.serial(at, end) as row,
            T.serial(0, vectors) as vector,
            T.serial(0, tiles) as t,
        ):
            tile(x, y, buffers, row, t, vector)
    return builder.get()


__all__ = ["MIN_CHANNELS", "DepthwiseParams", "depthwise", "pack_channels", "pack_depthwise_weights"]
