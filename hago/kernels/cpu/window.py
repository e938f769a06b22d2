"""A window of taps that slides over an image: what all kinds of convolutions have in common."""

from __future__ import annotations


class Window:
    """Output size, for a parameter class with h, w, kernel, strides, pads and dilations."""

    h: int
    w: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    @property
    def oh(self) -> int:
        """Output height."""
        reach = self.dilations[0] * (self.kernel[0] - 1)
        return (self.h + self.pads[0] + self.pads[2] - reach - 1) // self.strides[0] + 1

    @property
    def ow(self) -> int:
        """Output width."""
        reach = self.dilations[1] * (self.kernel[1] - 1)
        return (self.w + self.pads[1] + self.pads[3] - reach - 1) // self.strides[1] + 1
