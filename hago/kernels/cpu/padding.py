"""A copy of an image tensor with its padding filled in, so that the loops behind it need no conditions.

x [N, H, W, C]   copy [N, top + H + bottom, left + W + right, C], and ``slack`` more elements behind it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .ir_builder import maybe_parallel


@dataclass(frozen=True)
class Padding:
    """Images of ``shape`` [N, H, W, C] with ``pads`` (top, left, bottom, right) pixels of the scalar ``value``."""

    shape: tuple[int, int, int, int]
    pads: tuple[int, int, int, int]
    value: Any

    @property
    def lines(self) -> int:
        """Lines of all padded images."""
        return self.shape[0] * (self.pads[0] + self.shape[1] + self.pads[2])

    @property
    def columns(self) -> int:
        """Pixels of one padded line."""
        return self.pads[1] + self.shape[2] + self.pads[3]


def padded_copy(
    x: Any, padding: Padding, kind: str, slack: int, chunks: int, read: Callable[[Any], Any] | None = None
) -> Any:
    """The flat buffer that flat ``x`` and its padding are copied to, in ``chunks`` threads.

    Each element goes through ``read``, by default a cast to ``kind``, the type of the copy. ``slack`` more elements of
    padding follow the last pixel, for reads that pass it.
    """
    (_, _, w, c), left, right = padding.shape, padding.pads[1], padding.pads[3]
    line, inner = padding.columns * c, w * c
    size = padding.lines * line
    copy = T.alloc_buffer((size + slack,), kind)
    read = read or (lambda element: T.Cast(kind, element))
    value = T.bind(read(padding.value))

    def fill(start: Any, count: int) -> None:
        if count:
            with T.serial(0, count) as i:
                T.buffer_store(copy, value, [start + i])

    def copy_line(source: Any, target: Any) -> None:
        fill(target * line, left * c)
        with T.serial(0, inner) as i:
            T.buffer_store(copy, read(x[source * inner + i]), [target * line + left * c + i])
        fill(target * line + left * c + inner, right * c)

    each_line(padding, chunks, copy_line, lambda target: fill(target * line, line))
    fill(size, slack)
    return copy


def each_line(
    padding: Padding, chunks: int, copy_line: Callable[[Any, Any], None], fill_line: Callable[[Any], None]
) -> None:
    """Calls ``copy_line`` (source, target) for each line of the images, and ``fill_line`` (target) above and below."""
    (_, h, _, _), (top, _, bottom, _) = padding.shape, padding.pads
    height = top + h + bottom
    with maybe_parallel(padding.lines, chunks) as (at, end), T.serial(at, end) as target:
        if not (top or bottom):
            copy_line(target, target)
        else:
            y = T.bind(target % height - top)
            with T.If(T.And(y >= 0, y < h)):
                with T.Then():
                    copy_line(target // height * h + y, target)
                with T.Else():
                    fill_line(target)
