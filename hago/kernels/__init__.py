"""Kernel templates, one family per file; importing this registers all their emitters."""

from . import anchors, matmul, pointwise, pool  # noqa: F401
