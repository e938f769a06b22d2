"""Windowed pooling over images in NHWC: maximum and average, quantized and float.

    N images, H W input height and width, OH OW output, KH KW window, C channels
    x [N, H, W, C] -> y [N, OH, OW, C]

A thread computes some neighbouring channels of one pixel. It reads all taps: where one lies outside of the image, the
nearest pixel, which does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.epilogue import Epilogue, constants_type
from ..common.flat import Expr, Flat, primfunc, unravel
from ..common.math import maximum, named
from ..common.pools import PoolWindow, interior, taps_inside
from .families import Gpu
from .grid import each
from .registry import computes
from .words import per_thread, read, write

_MOST_UNROLLED_TAPS = 25

Finish = Callable[[list[Expr], Expr], list[Expr]]
"""(what was accumulated of each channel, taps inside of the image) -> results."""


@computes(PoolWindow)
def window_pool(params: PoolWindow, gpu: Gpu, threads: int) -> Any:
    """The template of each operator."""
    template = {"AvgPool": avg_pool, "QAvgPool": q_avg_pool}.get(params.op, max_pool)
    return template(params, gpu, threads)


def max_pool(params: PoolWindow, gpu: Gpu, threads: int) -> Any:
    """(x) -> y, both uint8 or both float32."""
    integer = params.dtype == "uint8"

    def larger(acc: Expr, value: Expr) -> Expr:
        return T.max(acc, value) if integer else maximum(named(acc), named(value))

    def body(x: Flat, y: Flat) -> None:
        start = T.int32(0) if integer else T.float32("-inf")
        _windows(params, gpu, x, y, start, larger, lambda: lambda sums, inside: sums)

    return primfunc([TensorType(params.dtype, params.x)], [TensorType(params.dtype, params.y)], body)


def avg_pool(params: PoolWindow, gpu: Gpu, threads: int) -> Any:
    """(x float32) -> y float32 = sum / count."""
    taps = params.kernel[0] * params.kernel[1]

    def finish(sums: list[Expr], inside: Expr) -> list[Expr]:
        count = T.int32(taps) if params.include_pad else T.max(inside, 1)
        return [total / T.cast(count, "float32") for total in sums]

    def body(x: Flat, y: Flat) -> None:
        _windows(params, gpu, x, y, T.float32(0), lambda acc, value: acc + value, lambda: finish)

    return primfunc([TensorType("float32", params.x)], [TensorType("float32", params.y)], body)


def q_avg_pool(params: PoolWindow, gpu: Gpu, threads: int) -> Any:
    """(x uint8, numbers int32 [1] x_zero_point, scales float32 [KH*KW + 1], epilogue constants) -> y uint8 or float32.

    acc = sum of (x - x_zero_point) over the taps inside the image; y = epilogue(float32(acc) * scales[count])
    where count is the number of taps that the average divides by: scales[count] = scale / count.
    """
    taps = params.kernel[0] * params.kernel[1]

    def body(x: Flat, numbers: Flat, scales: Flat, constants: Flat, y: Flat) -> None:
        def load() -> Finish:
            zero, epilogue = numbers.load(0), Epilogue(params.out, constants)

            def finish(sums: list[Expr], inside: Expr) -> list[Expr]:
                scale = scales.load(T.int32(taps) if params.include_pad else inside)
                return [epilogue(T.cast(total - inside * zero, "float32") * scale, 1) for total in sums]

            return finish

        _windows(params, gpu, x, y, T.int32(0), lambda acc, value: acc + value, load)

    inputs = [TensorType("uint8", params.x), TensorType("int32", (1,)), TensorType("float32", (taps + 1,))]
    return primfunc([*inputs, constants_type(params.out)], [TensorType(params.out, params.y)], body)


def _windows(
    params: PoolWindow,
    gpu: Gpu,
    x: Flat,
    y: Flat,
    start: Expr,
    accumulate: Callable[[Expr, Expr], Expr],
    make_finish: Callable[[], Finish],
) -> None:
    """Of each output: accumulates the taps, from ``start`` on, in its type, and finishes."""
    _, height, width, channels = params.x
    images, out_height, out_width, _ = params.y
    (taps_h, taps_w), (step_h, step_w), (far_h, far_w) = params.kernel, params.strides, params.dilations
    checked_h = interior(height, out_height, taps_h, step_h, far_h, params.pads[0]) != (0, out_height)
    checked_w = interior(width, out_width, taps_w, step_w, far_w, params.pads[1]) != (0, out_width)
    lanes = per_thread(gpu, y.size, params.dtype, channels)
    dtype = str(start.ty.dtype)
    loop = T.unroll if taps_h * taps_w <= _MOST_UNROLLED_TAPS else T.serial

    def outputs(index: Expr) -> None:
        finish = make_finish()
        places = unravel(index, (images, out_height, out_width, channels // lanes))
        image, oh, ow, piece = (T.bind(place) for place in places)
        top, left = T.bind(oh * step_h - params.pads[0]), T.bind(ow * step_w - params.pads[1])
        held = T.alloc_buffer((lanes,), dtype, scope="local")
        for k in range(lanes):
            T.buffer_store(held, start, [k])
        with loop(0, taps_h) as i, loop(0, taps_w) as j:
            h, w = T.bind(top + i * far_h), T.bind(left + j * far_w)
            checks = [T.And(h >= 0, h < height)] if checked_h else []
            checks += [T.And(w >= 0, w < width)] if checked_w else []
            near_h = T.max(T.min(h, height - 1), 0) if checked_h else h
            near_w = T.max(T.min(w, width - 1), 0) if checked_w else w
            at = T.bind(((image * height + near_h) * width + near_w) * channels + piece * lanes)
            inside = T.bind(T.And(*checks) if len(checks) == 2 else checks[0]) if checks else None
            for k, value in enumerate(read(x, at, lanes)):
                value = value if dtype == params.dtype else T.cast(value, dtype)
                counted = value if inside is None else T.Select(inside, value, start)
                T.buffer_store(held, accumulate(held[k], counted), [k])
        count: Expr = T.int32(taps_h * taps_w)
        if checked_h or checked_w:
            first_h, last_h = taps_inside(top, far_h, taps_h, height)
            first_w, last_w = taps_inside(left, far_w, taps_w, width)
            count = T.bind((last_h - first_h) * (last_w - first_w))
        results = finish([named(held[k]) for k in range(lanes)], count)
        write(y, index * lanes, [value if value.ty.dtype == y.dtype else T.cast(value, y.dtype) for value in results])

    each(y.size // lanes, outputs)
