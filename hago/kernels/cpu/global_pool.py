"""Averages of codes over whole images in NHWC: x [N, H, W, C] -> y [N, 1, 1, C]. Those of floats are reductions.

A vector runs along the channels. No two buffers may overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.epilogue import constants_type
from ..common.flat import Expr, Flat, cast, primfunc
from ..common.pools import GlobalPool
from .families import Isa
from .registry import computes
from .vector import Epilogue, byte_lanes, local, rows, spans


@computes(GlobalPool)
def q_global_avg_pool(params: GlobalPool, isa: Isa, threads: int) -> Any:
    """(x uint8, numbers int32 [1] x_zero_point, scale float32 [1], epilogue constants) -> y uint8 or float32.

    acc = sum of (x - x_zero_point) over the pixels; y = epilogue(float32(acc) * scale), where scale is already
    divided by H * W. Up to 256 pixels are added in 16 bits, which cannot overflow; their sums in 32.
    """
    pixels, channels = params.x[1] * params.x[2], params.x[3]
    part = 256

    def body(x: Flat, numbers: Flat, scales: Flat, constants: Flat, y: Flat) -> None:
        zero, scale, epilogue = numbers.load(0), scales.load(0), Epilogue(params.out, constants, 0, isa)

        def image(n: Expr) -> None:
            def vector(c: Expr, lanes: int) -> None:
                def block(begin: Expr, count: int) -> Expr:
                    def pixel(p: Expr) -> Expr:
                        return cast(x.load((n * pixels + begin + p) * channels + c, lanes), "uint16", lanes)

                    return cast(_sum(count, "uint16", lanes, pixel), "int32", lanes)

                full, rest = divmod(pixels, part)
                total = T.int32(-pixels) * zero
                if full:
                    total += _sum(full, "int32", lanes, lambda i: block(i * part, part))
                if rest:
                    total += block(full * part, rest)
                product = cast(total, "float32", lanes) * scale
                y.store(n * channels + c, epilogue(product, lanes), lanes)

            spans(channels, byte_lanes(isa), vector)

        rows(params.x[0], threads, x.size // 4, image)

    return primfunc(
        [
            TensorType("uint8", params.x),
            TensorType("int32", (1,)),
            TensorType("float32", (1,)),
            constants_type(params.out),
        ],
        [TensorType(params.out, params.y)],
        body,
    )


def _sum(count: int, dtype: str, lanes: int, term: Callable[[Expr], Expr]) -> Expr:
    """The sum over ``range(count)`` of the vectors ``term(i)``."""
    whole = 0 if lanes == 1 else T.ramp(0, 1, lanes)
    total = local(lanes, dtype)
    T.buffer_store(total, T.bind(term(0)), [whole])
    if count > 1:
        with T.serial(1, count) as i:
            T.buffer_store(total, total[whole] + term(i), [whole])
    return T.bind(total[whole])
