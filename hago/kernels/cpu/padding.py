"""A copy of an image tensor with its padding filled in, so that the loops behind it need no conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from .ir_builder import maybe_parallel


def padded_copy(
    x: Any,
    shape: tuple[int, int, int, int],
    pads: tuple[int, int, int, int],
    kind: str,
    pad: Any,
    slack: int,
    chunks: int,
    read: Callable[[Any], Any] | None = None,
) -> Any:
    """Copies flat ``x`` [N, H, W, C] to [N, top+H+bottom, left+W+right, C] of type ``kind``, each element by ``read``.

    ``pads`` is (top, left, bottom, right), ``pad`` the value of the padding; ``slack`` more elements
    of it stand at the end, for reads that pass the last pixel. Returns the flat buffer.
    """
    n, h, w, c = shape
    top, left, bottom, right = pads
    height, line, inner = top + h + bottom, (left + w + right) * c, w * c
    size = n * height * line + slack
    copy = T.alloc_buffer((size,), kind)
    read = read or (lambda element: T.Cast(kind, element))
    value = T.bind(read(pad))

    def fill(start: Any, count: int) -> None:
        if count:
            with T.serial(0, count) as i:
                T.buffer_store(copy, value, [start + i])

    def copy_line(source: Any, target: Any) -> None:
        fill(target * line, left * c)
        with T.serial(0, inner) as i:
            T.buffer_store(copy, read(x[source * inner + i]), [target * line + left * c + i])
        fill(target * line + left * c + inner, right * c)

    each_line(n, h, (top, bottom), chunks, copy_line, lambda target: fill(target * line, line))
    fill(size - slack, slack)
    return copy


def each_line(
    n: int,
    h: int,
    pads: tuple[int, int],
    chunks: int,
    copy_line: Callable[[Any, Any], None],
    fill_line: Callable[[Any], None],
) -> None:
    """Calls ``copy_line`` (source, target) for lines of N images, and ``fill_line`` (target) above and below them."""
    top, bottom = pads
    height = top + h + bottom
    with maybe_parallel(n * height, chunks) as (at, end), T.serial(at, end) as target:
        if not (top or bottom):
            copy_line(target, target)
        else:
            y = T.bind(target % height - top)
            with T.If(T.And(y >= 0, y < h)):
                with T.Then():
                    copy_line(target // height * h + y, target)
                with T.Else():
                    fill_line(target)
