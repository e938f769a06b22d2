"""Depthwise convolution (one filter for each channel), in integers and in floats.

A thread computes neighbouring pixels of a row, in four neighbouring channels (in one, where C is no multiple of four).

    x        [N, H, W, C]    uint8 or floats
    weights  [KG * KW, C]    int32 words: of up to four rows of the kernel, KG = ceil(KH / 4); or float32, KG = KH
    ...                      the buffers of the epilogue (thread_epilogue.py)
    y        [N, OH, OW, C]  uint8 or floats

Integers: a dot product adds up four neighbours of one word, so the bytes of up to four *rows* of a column of the image
are interleaved, channel by channel, and serve all columns of the kernel that they fall under.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.anchor import constant, geometry
from ..common.calls import KernelCall, NodeView
from ..common.flat import Expr, Flat, primfunc, unravel
from ..common.remembered import remembered
from .families import Gpu
from .grid import each
from .guarded import floats_where, read_if, word_of
from .loads import Window
from .thread_epilogue import WIDE, Epilogue, finish_of, float_epilogue, integer_epilogue, pack_columns
from .words import read

_PACK = 4  # rows of the kernel in one word
_MOST_TAPS = 64  # that are written out one by one; more are loops
_BUSY = 512  # threads that keep a multiprocessor busy


@dataclass(frozen=True)
class DepthwiseParams:
    """What one kernel reads; ``pixels`` of a row are computed by one thread."""

    window: Window
    epilogue: Epilogue
    pixels: int = 1
    dtype: str = "uint8"  # of x

    @property
    def y(self) -> tuple[int, int, int, int]:
        """Shape of the output."""
        return (*self.window.places, self.window.x[3])

    @property
    def integer(self) -> bool:
        """Whether codes are multiplied, not floats."""
        return self.dtype == "uint8"

    @property
    def groups(self) -> int:
        """Groups of the kernel's rows: of four, or of one."""
        return -(-self.window.kernel[0] // _PACK) if self.integer else self.window.kernel[0]

    @property
    def is_large(self) -> bool:
        """Whether the taps are too many to write out."""
        return prod(self.window.kernel) > _MOST_TAPS


def depthwise(params: DepthwiseParams, gpu: Gpu, threads: int = 1) -> Any:
    """(x, weights, buffers of the epilogue ...) -> y, see the module's docstring."""
    p, window = params, params.window
    channels = window.x[3]
    lanes = 1 if channels % WIDE else WIDE
    x = TensorType(p.dtype, window.x)
    weights = TensorType(p.epilogue.sums, (p.groups * window.kernel[1], channels))
    y = TensorType(p.epilogue.out, p.y)
    n, oh, ow, _ = p.y
    across = -(-ow // p.pixels)

    def body(x: Flat, weights: Flat, *rest: Flat) -> None:
        *buffers, y = rest

        def some(index: Expr) -> None:
            image, row, stretch, part = unravel(index, (n, oh, across, channels // lanes))
            first = T.bind(T.min(stretch * p.pixels, ow - p.pixels))  # the last ones overlap those before
            place = (T.bind(image), T.bind(row), first, T.bind(part * lanes))
            _Pixels(p, lanes, x, weights, finish_of(p.epilogue, buffers, y), place).write()

        each(n * oh * across * (channels // lanes), some)

    return primfunc([x, weights, *p.epilogue.arguments(channels, y)], [y], body)


class _Pixels:
    """Writes what one thread computes."""

    def __init__(
        self, p: DepthwiseParams, lanes: int, x: Flat, weights: Flat, finish: Any, place: tuple[Expr, ...]
    ) -> None:
        self.p, self.lanes, self.x, self.weights, self.finish = p, lanes, x, weights, finish
        self.image, self.row, self.first, self.channel = place
        self.window = p.window
        self.top = T.bind(self.row * self.window.strides[0] - self.window.pads[0])
        self.left = T.bind(self.first * self.window.strides[1] - self.window.pads[1])
        if p.integer:
            self.outside = T.bind(finish.zero_x * 0x01010101 if lanes == WIDE else finish.zero_x)

    def write(self) -> None:
        p, lanes = self.p, self.lanes
        starts = self.finish.starts(self.channel, lanes)
        self.sums = T.alloc_buffer((p.pixels * lanes,), p.epilogue.sums, scope="local")
        for q in range(p.pixels):
            for i in range(lanes):
                T.buffer_store(self.sums, starts[i], [q * lanes + i])
        if p.is_large:
            with T.serial(0, p.groups) as group:
                self._add_group(group)
        else:
            for group in range(p.groups):
                self._add_group(group)
        factors = self.finish.factors(self.channel, lanes)
        _, oh, ow, channels = p.y
        line = T.bind(((self.image * oh + self.row) * ow + self.first) * channels + self.channel)
        for q in range(p.pixels):
            self.finish.store([self.sums[q * lanes + i] for i in range(lanes)], factors, line + q * channels)

    def _add_group(self, group: Any) -> None:
        """Adds the products of one group of the kernel's rows."""
        p = self.p
        rows = self._rows(group)
        if p.is_large:
            with T.serial(0, self.window.kernel[1]) as j:
                self._add(self._column(rows, j * self.window.dilations[1]), self._tap(group, j), 0)
            return
        taps = [self._tap(group, j) for j in range(self.window.kernel[1])]
        for column, uses in columns(p.pixels, self.window.kernel[1], self.window.strides[1], self.window.dilations[1]):
            parts = self._column(rows, column)
            for q, j in uses:
                self._add(parts, taps[j], q)

    def _add(self, parts: Sequence[Expr], tap: Sequence[Expr], pixel: int) -> None:
        for i, (part, weight) in enumerate(zip(parts, tap, strict=True)):
            at = pixel * self.lanes + i
            if self.p.integer:
                total = T.call_extern("int32", "hago::dp4a_u8s8", part, weight, self.sums[at])
            else:
                total = T.fma(part, weight, self.sums[at])
            T.buffer_store(self.sums, total, [at])

    def _tap(self, group: Any, j: Any) -> list[Expr]:
        return read(self.weights, (group * self.window.kernel[1] + j) * self.window.x[3] + self.channel, self.lanes)

    def _rows(self, group: Any) -> list[tuple[Expr, Expr | None]]:
        """Where each of the group's rows begins in x, and whether it lies in the image (None: it always does)."""
        p = self.p
        _, h, w, channels = self.window.x
        pack = _PACK if p.integer else 1
        count = min(pack, self.window.kernel[0]) if p.is_large else min(pack, self.window.kernel[0] - group * pack)
        found = []
        for k in range(count):
            tap = (
                T.min(group * pack + k, self.window.kernel[0] - 1) if p.is_large else group * pack + k
            )  # weights past it are 0
            y = T.bind(self.top + tap * self.window.dilations[0])
            start = T.bind((self.image * h + y) * (w * channels) + self.channel)
            found.append((start, T.bind(tirx.all(y >= 0, y < h)) if any(self.window.pads) else None))
        return found

    def _column(self, rows: Sequence[tuple[Expr, Expr | None]], column: Any) -> Sequence[Expr]:
        """What each channel multiplies of one column of the image: a word of up to four rows, or a float."""
        p = self.p
        x = T.bind(self.left + column)
        within = T.bind(tirx.all(x >= 0, x < self.window.x[2])) if any(self.window.pads) else None
        places = [(start + x * self.window.x[3], None if row is None else tirx.all(row, within)) for start, row in rows]
        if not p.integer:
            ((at, inside),) = places
            return floats_where(inside, self.x, at, self.lanes, p.dtype)
        if self.lanes == 1:
            codes = [read_if(inside, T.cast(self.x.at(at), "int32"), self.outside) for at, inside in places]
            return [T.bind(word_of(codes))]
        words = self.x.seen_as("int32")
        return interleaved([read_if(inside, words.at(at // WIDE), self.outside) for at, inside in places])


def columns(pixels: int, width: int, stride: int, dilation: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Each column of the image under ``pixels`` neighbours, and the (pixel, column of the kernel) that it serves."""
    uses: dict[int, list[tuple[int, int]]] = {}
    for q in range(pixels):
        for j in range(width):
            uses.setdefault(q * stride + j * dilation, []).append((q, j))
    yield from sorted(uses.items())


def interleaved(rows: Sequence[Expr]) -> list[Expr]:
    """One to four words, each of a row's four channels -> four words, each of a channel's rows (and other bytes)."""

    def bytes_of(a: Expr, b: Expr, order: int) -> Expr:
        return T.bind(T.call_extern("int32", "hago::bytes_of", a, b, T.int32(order)))

    if len(rows) == 1:
        return [rows[0], *(T.bind(T.shift_right(rows[0], T.int32(8 * i))) for i in range(1, 4))]
    low, high = bytes_of(rows[0], rows[1], 0x5140), bytes_of(rows[0], rows[1], 0x7362)  # a0 b0 a1 b1, a2 b2 a3 b3
    if len(rows) == 2:
        return [low, T.bind(T.shift_right(low, T.int32(16))), high, T.bind(T.shift_right(high, T.int32(16)))]
    if len(rows) == 3:
        orders = ((low, 0x4410), (low, 0x5532), (high, 0x6610), (high, 0x7732))
        return [bytes_of(pair, rows[2], order) for pair, order in orders]
    below_low, below_high = bytes_of(rows[2], rows[3], 0x5140), bytes_of(rows[2], rows[3], 0x7362)
    pairs = ((low, below_low), (high, below_high))
    return [bytes_of(above, below, order) for above, below in pairs for order in (0x5410, 0x7632)]


def pack_rows(weights: np.ndarray) -> np.ndarray:
    """int8 [C, KH, KW] -> int32 words [KG * KW, C] of four rows each, with zeros past the last one."""
    channels, kh, kw = weights.shape
    groups = -(-kh // _PACK)
    rows = np.zeros((channels, groups * _PACK, kw), np.int8)
    rows[:, :kh] = weights
    words = rows.reshape(channels, groups, _PACK, kw).transpose(1, 3, 0, 2)  # [KG, KW, C, 4]
    return np.ascontiguousarray(words).view(np.int32).reshape(groups * kw, channels)


def emit_qdepthwise(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """A QConv with one filter for each channel, without group scales."""
    weights = constant(node, 1)[..., 0]
    epilogue, buffers = integer_epilogue(node, weights.astype(np.int64).sum((1, 2)), len(weights))
    (packed,) = remembered(weights, "rows in words", lambda w: (pack_rows(w),))
    return _call(node, gpu, epilogue, packed, weights.shape[1:], buffers)


def emit_depthwise(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """A Conv with one filter for each channel; sums are float32, whatever the precision."""
    weights = constant(node, 1)[..., 0]
    epilogue, buffers = float_epilogue(node, len(weights), len(weights))
    packed = pack_columns(weights, len(weights))
    return _call(node, gpu, epilogue, packed, weights.shape[1:], buffers)


def _call(
    node: NodeView, gpu: Gpu, epilogue: Any, packed: np.ndarray, kernel: Any, buffers: Sequence[str | np.ndarray]
) -> Sequence[KernelCall]:
    n, h, w, c = node.type(node.inputs[0]).shape
    window = Window((n, h, w, c), (kernel[0], kernel[1]), **geometry(node))
    pixels = 1 if prod(kernel) > _MOST_TAPS else pixels_of(node.type(node.outputs[0]).shape, gpu)
    params = DepthwiseParams(window, epilogue, pixels, node.type(node.inputs[0]).dtype)
    return [KernelCall("depthwise", params, depthwise, (node.inputs[0], packed, *buffers), node.outputs, node.layer)]


def pixels_of(y: Sequence[int], gpu: Gpu) -> int:
    """Neighbouring pixels for one thread: as many as leave enough threads."""
    wanted = gpu.multiprocessors * _BUSY
    return next((q for q in (4, 2) if q <= y[2] and prod(y) // (WIDE * q) >= wanted), 1)
