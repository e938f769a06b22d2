"""The weights of anchors: which dot product takes them, and how they are packed for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..common.remembered import remembered
from .dense import DenseParams, pack_channels, pack_weights, plan
from .depthwise import (
    DepthwiseParams,
    pack_depthwise_channels,
    pack_depthwise_halves,
    pack_depthwise_weights,
)
from .depthwise_bytes import pack_bytes_weights, taps_fit_int16
from .dot import DOTS, Dot, pairs_fit_int16
from .families import Isa
from .float16 import doubled, pack_halves
from .pairs import best_pairs
from .pairwise import sums_fit_int16
from .tiles import best_tiles

Params = DenseParams | DepthwiseParams


def best_dot(p: DenseParams, isa: Isa) -> str:
    """``p.dot``, or the instruction of the first rule that has a faster one; other rules return ``p.dot``."""
    return next((dot for rule in (best_tiles, best_pairs) if (dot := rule(p, isa)) != p.dot), p.dot)


def per_channel(values: np.ndarray, p: Params, isa: Isa) -> np.ndarray:
    """Values [O], such as the bias, in the order of the kernel's lanes."""
    if isinstance(p, DenseParams):
        return pack_channels(values, p.groups, doubled(isa) if DOTS[p.dot].half else isa)
    return pack_depthwise_channels(values, p, isa)


def _pack(weights: np.ndarray, p: Params, isa: Isa) -> np.ndarray:
    if isinstance(p, DenseParams):
        return pack_weights(weights, p, isa)
    pack = pack_bytes_weights if DOTS[p.dot].narrow else pack_depthwise_weights
    return pack(weights[..., 0], p, isa)


def pack_floats(weights: np.ndarray, p: Params, isa: Isa) -> tuple[np.ndarray, ...]:
    """The packed weights; for float16, also the factors that they were divided by."""
    if not DOTS[p.dot].half:
        return (_pack(weights, p, isa),)
    if isinstance(p, DenseParams):
        packed, factor = pack_halves(weights, p, isa)
    else:
        packed, factor = pack_depthwise_halves(weights[..., 0], p, isa)
    return packed, per_channel(factor, p, isa)


def pack_integers(
    p: Params, isa: Isa, weights: np.ndarray, multiplier: np.ndarray | None, attrs: Any
) -> tuple[str, np.ndarray, np.ndarray]:
    """The dot product to use, the weights [O, KH, KW, C/G] packed for it, and their sums over the taps [O, C/G].

    Some processors have faster instructions for weights whose sums of products stay within int16, as those of all
    7-bit weights do.
    """

    def packed(dot: str) -> tuple[np.ndarray, ...]:
        q = replace(p, dot=dot)
        if multiplier is not None and isinstance(q, DenseParams):
            q = replace(q, group_steps=int(attrs["group_size"]) // DOTS[dot].pack)
        return remembered(weights, (q, isa), lambda w: (_pack(w, q, isa), _tap_sums(w)))

    for dot in _fast_dots(p, isa, 0 if multiplier is None else int(attrs["group_size"])):
        found = packed(dot)
        if _fits_int16(found[0], p, DOTS[dot]):
            return (dot, *found)  # type: ignore[return-value]
    dot = isa.exact_dot
    if isinstance(p, DenseParams) and multiplier is None:
        dot = best_dot(replace(p, dot=dot), isa)
    return (dot, *packed(dot))  # type: ignore[return-value]


def _fast_dots(p: Params, isa: Isa, group_size: int) -> list[str]:
    """Instructions for weights whose sums stay within int16, fastest first; ``group_size`` 0 means no group scales."""
    if isinstance(p, DenseParams):
        return [name for name in isa.fast_dots if group_size % DOTS[name].pack == 0]
    if isa.fast_depthwise_below is not None and p.c >= isa.fast_depthwise_below:
        return []
    in_bytes = p.out == "uint8" and p.c >= 8  # what depthwise_bytes.py can compute
    return [name for name in isa.fast_depthwise if in_bytes or not DOTS[name].narrow]


def _fits_int16(packed: np.ndarray, p: Params, dot: Dot) -> bool:
    """Whether no sum of products of these weights by ``dot`` can leave int16."""
    if not dot.narrow:
        return pairs_fit_int16(packed)
    fits = sums_fit_int16 if isinstance(p, DenseParams) else taps_fit_int16
    return fits(packed, dot.terms)


def _tap_sums(weights: np.ndarray) -> np.ndarray:
    return weights.sum(axis=(1, 2), dtype=np.int64)


def pack_multiplier(multiplier: np.ndarray, p: Params, isa: Isa) -> np.ndarray:
    """[O, G] -> [G*OV, taps * groups of steps, L]: the same multipliers for every tap."""
    assert isinstance(p, DenseParams)
    shape = plan(p, isa)
    taps = p.kernel[0] * shape.taps
    columns = [pack_channels(np.ascontiguousarray(m), p.groups, isa) for m in multiplier.astype(np.int32).T]
    lanes = isa.fit(p.o // p.groups).lanes
    per_tap = np.stack(columns, 0).reshape(len(columns), -1, lanes).transpose(1, 0, 2)
    return np.ascontiguousarray(np.tile(per_tap, (1, taps, 1)))
