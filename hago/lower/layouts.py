"""The two memory orders in which a tensor may be available, and how they convert.

Notation: N batch, C channels, H and W height and width, L length. The *ONNX* layout is the order that
the source graph uses; the *channels-last* layout, ``last`` for short, puts the channels last:

    image   [N, C, H, W]     <->  [N, H, W, C]
    line    [N, C, L]        <->  [N, 1, L, C]     (one-dimensional convolutions run with H = 1)
    flat    [N, C * H * W]   <->  [N, H * W * C]   (a flattened image)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TO_LAST = (0, 2, 3, 1)
TO_ONNX = (0, 3, 1, 2)


@dataclass(frozen=True)
class Layout:
    """How the two layouts of one tensor correspond.

    ``image`` is the ONNX shape [N, C, H, W] of the tensor seen as an image, ``rank`` that of the tensor itself.
    """

    rank: int
    image: tuple[int, int, int, int]

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Layout | None:
        """The layout of an ONNX shape of rank 3 or 4; a shape alone does not give other ranks one."""
        if len(shape) == 4:
            return cls(4, (shape[0], shape[1], shape[2], shape[3]))
        if len(shape) == 3:
            return cls(3, (shape[0], shape[1], 1, shape[2]))
        return None

    @property
    def kind(self) -> object:
        """What elementwise operands must share: the rank, and for flat tensors the image they came from."""
        return self.rank if self.rank > 2 else self.image[1:]

    @property
    def last_shape(self) -> tuple[int, ...]:
        """The shape in channels-last order."""
        n, c, h, w = self.image
        return (n, h * w * c) if self.rank == 2 else (n, h, w, c)

    @property
    def is_reshape(self) -> bool:
        """Whether both layouts order the elements alike in memory."""
        _, c, h, w = self.image
        return c == 1 or h * w == 1

    def axis_to_last(self, axis: int) -> int:
        """Index in the channels-last layout of an axis of the ONNX layout (image or line)."""
        axis %= self.rank
        if self.rank == 3:
            return (0, 3, 2)[axis]
        return TO_LAST.index(axis)

    def constant_to_last(self, array: np.ndarray) -> np.ndarray | None:
        """A constant operand that broadcasts against the ONNX layout, for the channels-last one; None if impossible."""
        if array.size == 1:
            return array
        if array.ndim > self.rank:
            return None
        full = array.reshape((1,) * (self.rank - array.ndim) + array.shape)
        if self.rank == 4:
            return full.transpose(TO_LAST)
        if self.rank == 3:
            return full[:, :, None, :].transpose(TO_LAST)
        if full.shape[1] == 1:
            return full
        return self.features_to_last(full)

    def features_to_last(self, array: np.ndarray) -> np.ndarray:
        """[R, C*H*W] with its columns reordered to [R, H*W*C]: a copy."""
        images = array.reshape(len(array), *self.image[1:])
        return images.transpose(TO_LAST).reshape(len(array), -1)
