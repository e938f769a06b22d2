"""Windowed pooling over images in NHWC: maximum and average, quantized and float.

    N images, H W input height and width, OH OW output, KH KW window, C channels
    x [N, H, W, C] -> y [N, OH, OW, C]

A vector runs along C. Pixels whose window lies inside the image take unrolled taps; those at the border loop over
the taps that lie inside. No two buffers may overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.epilogue import constants_type
from ..common.flat import Expr, Flat, all_lanes, cast, primfunc
from ..common.math import maximum, named
from ..common.pools import PoolWindow, interior, taps_inside
from .families import Isa
from .registry import computes
from .vector import Epilogue, byte_lanes, local, rows, spans

_MOST_UNROLLED_TAPS = 25


Accumulate = Callable[[Expr | None, Expr, int], Expr]
"""(accumulator or None, flat input index, lanes) -> new accumulator."""

Finish = Callable[[Expr, Expr, Expr, int], None]
"""(flat output index, accumulator, taps inside the image, lanes) -> stores the result."""


@computes(PoolWindow)
def window_pool(params: PoolWindow, isa: Isa, threads: int) -> Any:
    """The template of each operator."""
    template = {"AvgPool": avg_pool, "QAvgPool": q_avg_pool}.get(params.op, max_pool)
    return template(params, isa, threads)


def max_pool(params: PoolWindow, isa: Isa, threads: int) -> Any:
    """(x) -> y, both uint8 or both float32."""
    lanes = byte_lanes(isa) if params.dtype == "uint8" else isa.lanes
    lowest = T.uint8(0) if params.dtype == "uint8" else T.float32("-inf")

    def body(x: Flat, y: Flat) -> None:
        def accumulate(acc: Expr | None, at: Expr, width: int) -> Expr:
            value = x.load(at, width)
            if acc is None:
                return value
            if params.dtype == "uint8":
                return T.max(acc, value)
            return named(maximum(acc, named(value)))  # both are used several times: see `math.named`

        def finish(at: Expr, acc: Expr, taps: Expr, width: int) -> None:
            y.store(at, acc, width)

        _windows(params, lanes, threads, params.dtype, lowest, accumulate, finish)

    return primfunc([TensorType(params.dtype, params.x)], [TensorType(params.dtype, params.y)], body)


def avg_pool(params: PoolWindow, isa: Isa, threads: int) -> Any:
    """(x float32) -> y float32 = sum / count."""
    taps = params.kernel[0] * params.kernel[1]

    def body(x: Flat, y: Flat) -> None:
        def accumulate(acc: Expr | None, at: Expr, width: int) -> Expr:
            return x.load(at, width) if acc is None else acc + x.load(at, width)

        def finish(at: Expr, acc: Expr, inside: Expr, width: int) -> None:
            count = T.int32(taps) if params.include_pad else T.max(inside, 1)
            y.store(at, acc / T.cast(count, "float32"), width)

        _windows(params, isa.lanes, threads, "float32", T.float32(0), accumulate, finish)

    return primfunc([TensorType("float32", params.x)], [TensorType("float32", params.y)], body)


def q_avg_pool(params: PoolWindow, isa: Isa, threads: int) -> Any:
    """(x uint8, numbers int32 [1] x_zero_point, scales float32 [KH*KW + 1], epilogue constants) -> y uint8 or float32.

    acc = sum of (x - x_zero_point) over the taps inside the image; y = epilogue(float32(acc) * scales[count])
    where count is the number of taps that the average divides by: scales[count] = scale / count.
    """
    taps = params.kernel[0] * params.kernel[1]

    def body(x: Flat, numbers: Flat, scales: Flat, constants: Flat, y: Flat) -> None:
        zero, epilogue = numbers.load(0), Epilogue(params.out, constants, 0, isa)

        def accumulate(acc: Expr | None, at: Expr, width: int) -> Expr:
            value = cast(x.load(at, width), "int32", width)
            return value if acc is None else acc + value

        def finish(at: Expr, acc: Expr, inside: Expr, width: int) -> None:
            scale = scales.load(taps if params.include_pad else inside)
            product = cast(acc - inside * zero, "float32", width) * scale
            y.store(at, epilogue(product, width), width)

        _windows(params, 2 * isa.lanes, threads, "int32", T.int32(0), accumulate, finish)

    return primfunc(
        [
            TensorType("uint8", params.x),
            TensorType("int32", (1,)),
            TensorType("float32", (taps + 1,)),
            constants_type(params.out),
        ],
        [TensorType(params.out, params.y)],
        body,
    )


def _windows(
    params: PoolWindow,
    lanes: int,
    threads: int,
    dtype: str,
    start: Expr,
    accumulate: Accumulate,
    finish: Finish,
) -> None:
    """For every output pixel and vector of channels: accumulates the taps, from ``start`` on, and finishes."""
    _, height, width, channels = params.x
    images, out_height, out_width, _ = params.y
    (kh_all, kw_all), (step_h, step_w), (far_h, far_w) = params.kernel, params.strides, params.dilations
    top, left = params.pads[:2]
    first_h, last_h = interior(height, out_height, kh_all, step_h, far_h, top)
    first_w, last_w = interior(width, out_width, kw_all, step_w, far_w, left)

    def inside(image: Expr, oh: Expr, ow: Expr) -> None:
        corner = T.bind((image * height + oh * step_h - top) * width + ow * step_w - left)

        def vector(c: Expr, many: int) -> None:
            to = ((image * out_height + oh) * out_width + ow) * channels + c
            taps = [(kh * far_h * width + kw * far_w) * channels for kh in range(kh_all) for kw in range(kw_all)]
            acc = None
            for tap in taps:
                acc = T.bind(accumulate(acc, corner * channels + c + tap, many))
            finish(to, acc, T.int32(len(taps)), many)

        spans(channels, lanes, vector)

    def border(image: Expr, oh: Expr, ow: Expr) -> None:
        h, w = T.bind(oh * step_h - top), T.bind(ow * step_w - left)
        kh_from, kh_to = taps_inside(h, far_h, kh_all, height)
        kw_from, kw_to = taps_inside(w, far_w, kw_all, width)
        count = T.bind((kh_to - kh_from) * (kw_to - kw_from))

        def vector(c: Expr, many: int) -> None:
            to = ((image * out_height + oh) * out_width + ow) * channels + c
            acc = local(many, dtype)
            whole = [0 if many == 1 else T.ramp(0, 1, many)]
            T.buffer_store(acc, all_lanes(start, many), whole)
            with T.serial(0, kh_to - kh_from) as i, T.serial(0, kw_to - kw_from) as j:
                at_h, at_w = h + (kh_from + i) * far_h, w + (kw_from + j) * far_w
                at = ((image * height + at_h) * width + at_w) * channels + c
                T.buffer_store(acc, accumulate(acc[whole[0]], at, many), whole)
            finish(to, T.bind(acc[whole[0]]), count, many)

        spans(channels, lanes, vector)

    unrolled = kh_all * kw_all <= _MOST_UNROLLED_TAPS and first_h < last_h and first_w < last_w

    def line(row: Expr) -> None:
        image, oh = T.bind(row // out_height), T.bind(row % out_height)

        def columns(pixel: Callable[[Expr, Expr, Expr], None], begin: int, end: int) -> None:
            if end > begin:
                with T.serial(0, end - begin) as ow:
                    pixel(image, oh, ow + begin)

        if not unrolled:
            columns(border, 0, out_width)
            return
        if (first_h, last_h) == (0, out_height):
            columns(border, 0, first_w)
            columns(inside, first_w, last_w)
            columns(border, last_w, out_width)
            return
        with T.serial(0, out_width) as ow:
            within = T.And(T.And(oh >= first_h, oh < last_h), T.And(ow >= first_w, ow < last_w))
            with T.If(within):
                with T.Then():
                    inside(image, oh, ow)
                with T.Else():
                    border(image, oh, ow)

    work = kh_all * kw_all * int(np.prod(params.y, dtype=np.int64)) // max(1, lanes // 16)
    rows(images * out_height, threads, work, line)
