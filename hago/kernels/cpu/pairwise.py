"""Dot products of bytes on Arm processors that have no instruction for them: `smull` and `smull7` of dot.py.

    smull   t  = a0 * w0          eight products in int16: two neighbouring steps of four channels
    smlal2  t += a1 * w1          the next two steps of the same channels
    sadalp  acc += t, pairwise    a channel's two sums, in int32

    acc int32 [4]   a int8 [4 pairs of steps, 4 channels, 2]   w int8 [4 pairs of steps, 4 channels, 2]

No instruction rearranges data. A packed step of weights holds every channel's first pair of steps, then every channel's
second pair and so on (`laid_out`); the input holds each pair four times (`pairs_copy`). That copy of the input,
which is made anyway (padding, codes less 128), is four times as large, but a load from it serves all output channels
of a tile.

    L = 4 channels of a vector, KP = 8 steps; the last packed step of a row may be half of one, 4 steps
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from .ir_builder import vector_index
from .padding import Padding, each_line

TIMES = 4  # copies of each pair of elements: one for each channel of a vector
_CHANNELS, _STEP = 4, 8


def laid_out(packed: np.ndarray) -> np.ndarray:
    """Packed weights [.., L, KP], channel by channel -> [.., KP/2, L, 2], pair by pair; last axes flattened."""
    by_channel = packed.reshape(*packed.shape[:-1], _CHANNELS, _STEP // 2, 2)
    return np.ascontiguousarray(by_channel.swapaxes(-3, -2)).reshape(packed.shape)


def sums_fit_int16(weights: np.ndarray, terms: int) -> bool:
    """Whether no sum of ``terms`` products can leave int16, for weights in the order of `laid_out`.

    The other factor is a code less 128, so each product is at most 128 |w|.
    """
    sums = np.abs(weights.astype(np.int32)).reshape(-1, terms, _CHANNELS * 2)  # pair, channel and step
    return bool(128 * sums.sum(axis=1).max(initial=0) <= 32767)


def pairs_copy(
    x: Any, padding: Padding, groups: int, channels: int, slack: int, chunks: int, read: Callable[..., Any]
) -> Any:
    """Copies flat ``x`` [N, H, W, C] to [N, top+H+bottom, left+W+right, G, C'], each pair four times (`padded_copy`).

    C' = ``channels`` is what each of the ``groups`` has, or one more, so that pairs do not reach into the next pixel.
    ``slack`` counts elements of the input. Returns the flat buffer int8 [4 * elements].
    """
    (_, _, w, c), left, right = padding.shape, padding.pads[1], padding.pads[3]
    pixel = groups * channels
    line = padding.columns * pixel
    size = padding.lines * line
    copy = T.alloc_buffer((TIMES * (size + slack),), "int8")
    value = T.bind(read(padding.value))

    def fill(start: Any, count: int) -> None:
        if count:
            with T.serial(0, TIMES * count) as i:
                T.buffer_store(copy, value, [TIMES * start + i])

    def copy_run(source: Any, target: Any, count: int) -> None:
        whole, rest = divmod(count, 16)
        with T.serial(0, whole) as i:
            codes = T.bind(read(x.vload([source + 16 * i], "uint8x16"), 16))
            order = [k // 8 * 2 + k % 2 for k in range(16 * TIMES)]
            T.buffer_store(copy, T.Shuffle([codes] * TIMES, order), [vector_index(TIMES * (target + 16 * i), 64)])
        with T.serial(0, rest // 2) as i:
            copy_pair(source + 16 * whole + 2 * i, target + 16 * whole + 2 * i, 2)
        if rest % 2:
            copy_pair(source + count - 1, target + count - 1, 1)

    def copy_pair(source: Any, target: Any, count: int) -> None:
        codes = T.reinterpret("uint16", x.vload([source], "uint8x2")) if count == 2 else T.Cast("uint16", x[source])
        store_pair(codes, target)

    def copy_colours(source: Any, target: Any) -> None:
        """Four pixels of three colours. The fourth channel meets zero weights, so any byte will do."""
        flip, order = T.reinterpret("int32", T.uint32(0x80808080)), [k // 8 * 2 + k % 2 for k in range(16)]
        for k, at in enumerate((0, 3, 6, 8)):
            codes = T.reinterpret("int32", x.vload([source + at], "uint8x4"))
            codes = T.bitwise_xor(T.shift_right(codes, T.int32(8)) if k == 3 else codes, flip)
            four = T.bind(T.reinterpret("int8x16", T.broadcast(codes, 4)))
            T.buffer_store(copy, T.Shuffle([four], order), [vector_index(TIMES * (target + 4 * k), 16)])

    def store_pair(codes: Any, target: Any) -> None:
        pair = T.broadcast(T.bitwise_xor(codes, T.Cast("uint16", T.int32(0x8080))), TIMES)
        T.buffer_store(copy, T.reinterpret("int8x8", pair), [vector_index(TIMES * target, 2 * TIMES)])

    def copy_line(source: Any, target: Any) -> None:
        start, inner = target * line + left * pixel, w * c
        if pixel % 2:
            copy_across(source * inner, target * line, inner)
            return
        fill(target * line, left * pixel)
        if channels * groups == c:
            copy_run(source * inner, start, inner)
        elif groups == 1 and c == 3 and w % 4 == 0:
            with T.serial(0, w // 4) as i:
                copy_colours(source * inner + 12 * i, start + 16 * i)
        else:
            with T.serial(0, w * groups) as i:
                copy_run(source * inner + i * (c // groups), start + i * channels, c // groups)
        fill(start + w * pixel, right * pixel)

    def copy_across(source: Any, target: Any, count: int) -> None:
        """A line whose pairs reach from one pixel into the next, and from padding into pixels."""
        fill(target, line)
        byte, eight = T.bind(T.Cast("uint16", T.Cast("uint8", padding.value))), T.Cast("uint16", T.int32(8))
        start, before = target + left * pixel, left * pixel % 2
        if before:
            store_pair(byte + T.shift_left(T.Cast("uint16", x[source]), eight), start - 1)
        copy_run(source + before, start + before, (count - before) // 2 * 2)
        if (count - before) % 2:
            last = source + count - 1
            store_pair(T.Cast("uint16", x[last]) + T.shift_left(byte, eight), start + count - 1)

    each_line(padding, chunks, copy_line, lambda target: fill(target * line, line))
    fill(size, slack)
    return copy


def llvm(terms: int) -> str:
    """LLVM functions that add one step, and half of one, to four sums; ``terms`` products are added in int16.

    Each is one block of assembly: LLVM's scheduler would start the products of many steps before it adds any, and
    spill them all.
    """
    product = "smull $1.8h, ${0}.8b, ${1}.8b; smlal2 $1.8h, ${0}.16b, ${1}.16b; "
    more = "smlal $1.8h, ${0}.8b, ${1}.8b; smlal2 $1.8h, ${0}.16b, ${1}.16b; "
    add = "sadalp $0.4s, $1.8h"
    first = product.format(2, 3) + add
    both = f"{first}; {product.format(4, 5)}{add}" if terms == 2 else product.format(2, 3) + more.format(4, 5) + add
    halves = "".join(
        f"  %{name}{half} = shufflevector <32 x i8> %{name}, <32 x i8> poison, <16 x i32> <{_numbers(half)}>\n"
        for name in "aw"
        for half in (0, 1)
    )
    kind = "{ <4 x i32>, <8 x i16> }"
    return f"""
define linkonce_odr <4 x i32> @hago_half(<4 x i32> %acc, <16 x i8> %a, <16 x i8> %w) alwaysinline nounwind {{
  %r = call {kind} asm "{first}", "=w,=&w,w,w,0"(<16 x i8> %a, <16 x i8> %w, <4 x i32> %acc)
  %s = extractvalue {kind} %r, 0
  ret <4 x i32> %s
}}
define linkonce_odr <4 x i32> @hago_step(<4 x i32> %acc, <32 x i8> %a, <32 x i8> %w) alwaysinline nounwind {{
{halves}
  %r = call {kind} asm "{both}", "=w,=&w,w,w,w,w,0"(
    <16 x i8> %a0, <16 x i8> %w0, <16 x i8> %a1, <16 x i8> %w1, <4 x i32> %acc)
  %s = extractvalue {kind} %r, 0
  ret <4 x i32> %s
}}
"""


def _numbers(half: int) -> str:
    return ", ".join(f"i32 {16 * half + i}" for i in range(16))
