"""Convolution in groups of channels, in integers and in floats, of any shape.

A thread computes `PIXELS` pixels in four neighbouring channels (in one, where a group's number of them is no multiple
of four). Neighbouring threads have neighbouring output channels, so that they share pixels and read weights side by
side.

    D input channels of one group of the convolution, B blocks of D with a multiplier each (1 without group scales),
    S steps through a block: words of four channels, or single floats

    x        [N, H, W, C]            uint8 or floats
    weights  [B * KH * KW * S, O]    int32 words, or float32
    mult     [B, O]                  int32; only with group scales
    ...                              the buffers of the epilogue (thread_epilogue.py)
    y        [N, OH, OW, O]          uint8 or floats
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.anchor import constant, geometry, roles
from ..common.calls import KernelCall, NodeView
from ..common.elements import widened
from ..common.flat import Expr, Flat, primfunc
from ..common.remembered import remembered
from .families import Gpu
from .grid import each
from .guarded import read_if, word_of
from .loads import Window
from .thread_epilogue import WIDE, Epilogue, finish_of, float_epilogue, integer_epilogue, pack_columns
from .words import read

PIXELS = 4
"""Pixels of one thread."""

_PACK = 4  # channels in one word


@dataclass(frozen=True)
class GroupedParams:
    """What one kernel reads; ``block`` channels share a multiplier, where there are several."""

    window: Window
    outputs: int
    groups: int
    block: int
    scaled: bool
    epilogue: Epilogue
    x_shape: tuple[int, ...]  # as the graph has them
    y_shape: tuple[int, ...]
    dtype: str = "uint8"  # of x

    @property
    def integer(self) -> bool:
        """Whether codes are multiplied, not floats."""
        return self.dtype == "uint8"

    @property
    def depth(self) -> int:
        """D."""
        return self.window.x[3] // self.groups

    @property
    def blocks(self) -> int:
        """B."""
        return -(-self.depth // self.block)

    @property
    def steps(self) -> int:
        """S."""
        return -(-self.block // _PACK) if self.integer else self.block


def grouped(params: GroupedParams, gpu: Gpu, threads: int = 1) -> Any:
    """(x, weights [, mult], buffers of the epilogue ...) -> y, see the module's docstring."""
    p, outputs = params, params.outputs
    lanes = 1 if outputs // p.groups % WIDE else WIDE
    x = TensorType(p.dtype, p.x_shape)
    rows = p.blocks * prod(p.window.kernel) * p.steps
    weights = TensorType(p.epilogue.sums, (rows, outputs))
    mult = [TensorType("int32", (p.blocks, outputs))] if p.scaled else []
    y = TensorType(p.epilogue.out, p.y_shape)
    count = -(-p.window.rows // PIXELS)

    def body(x: Flat, weights: Flat, *rest: Flat) -> None:
        mult = rest[0] if p.scaled else None
        *buffers, y = rest[1:] if p.scaled else rest

        def some(index: Expr) -> None:
            channel = T.bind(index % (outputs // lanes) * lanes)
            first = T.bind(index // (outputs // lanes) * PIXELS)
            made = finish_of(p.epilogue, buffers, y)
            _Pixels(p, lanes, x, weights, mult, made, channel).write(first)

        each(count * (outputs // lanes), some)

    return primfunc([x, weights, *mult, *p.epilogue.arguments(outputs, y)], [y], body)


class _Pixels:
    """Writes what one thread computes."""

    def __init__(
        self, p: GroupedParams, lanes: int, x: Flat, weights: Flat, mult: Flat | None, finish: Any, channel: Expr
    ) -> None:
        self.p, self.lanes, self.x, self.weights, self.mult, self.finish = p, lanes, x, weights, mult, finish
        self.window, self.channel = p.window, channel
        self.depth_at = T.bind(channel // (p.outputs // p.groups) * p.depth)
        self.words = p.integer and p.depth % _PACK == 0 and p.block % _PACK == 0
        if p.integer:
            self.outside = T.bind(finish.zero_x * 0x01010101)

    def write(self, first: Expr) -> None:
        p, lanes, (_, oh, ow) = self.p, self.lanes, self.window.places
        last = self.window.rows - 1
        pixels = [T.bind(T.min(first + q, last)) for q in range(PIXELS)]  # threads at the end repeat the last one
        self.corners = []
        for m in pixels:
            top = T.bind(m // ow % oh * self.window.strides[0] - self.window.pads[0])
            self.corners.append(
                (T.bind(m // (oh * ow)), top, T.bind(m % ow * self.window.strides[1] - self.window.pads[1]))
            )
        starts = self.finish.starts(self.channel, lanes)
        self.sums = T.alloc_buffer((PIXELS * lanes,), p.epilogue.sums, scope="local")
        for at in range(PIXELS * lanes):
            T.buffer_store(self.sums, starts[at % lanes], [at])
        if self.mult is None:
            self._add_block(self.sums, 0)
        else:
            with T.serial(0, p.blocks) as block:
                self._add_scaled(block, self.mult)
        factors = self.finish.factors(self.channel, lanes)
        for q, m in enumerate(pixels):
            self.finish.store([self.sums[q * lanes + i] for i in range(lanes)], factors, m * p.outputs + self.channel)

    def _add_scaled(self, block: Expr, mult: Flat) -> None:
        """Adds the sums of one block, times their multipliers."""
        parts = T.alloc_buffer((PIXELS * self.lanes,), "int32", scope="local")
        for at in range(PIXELS * self.lanes):
            T.buffer_store(parts, T.int32(0), [at])
        self._add_block(parts, block)
        factors = read(mult, block * self.p.outputs + self.channel, self.lanes)
        for at in range(PIXELS * self.lanes):
            T.buffer_store(self.sums, self.sums[at] + parts[at] * factors[at % self.lanes], [at])

    def _add_block(self, sums: Any, block: Any) -> None:
        """Adds all products of one block of input channels."""
        p, lanes, (_, h, w, channels) = self.p, self.lanes, self.window.x
        taps, dilations = prod(self.window.kernel), self.window.dilations
        with T.serial(0, taps) as tap:
            down, right = tap // self.window.kernel[1], tap % self.window.kernel[1]
            places = []
            for image, top, left in self.corners:
                y, x = T.bind(top + down * dilations[0]), T.bind(left + right * dilations[1])
                start = T.bind(((image * h + y) * w + x) * channels + self.depth_at)
                places.append((start, T.bind(tirx.all(y >= 0, y < h, x >= 0, x < w))))
            with T.serial(0, p.steps) as step:
                weights = read(self.weights, ((block * taps + tap) * p.steps + step) * p.outputs + self.channel, lanes)
                for q, (start, inside) in enumerate(places):
                    value = self._value(start, inside, block * p.block, step)
                    for i, weight in enumerate(weights):
                        at = q * lanes + i
                        T.buffer_store(sums, self._product(value, weight, sums[at]), [at])

    def _product(self, value: Expr, weight: Expr, total: Expr) -> Expr:
        if self.p.integer:
            return T.call_extern("int32", "hago::dp4a_u8s8", value, weight, total)
        return T.fma(value, weight, total)

    def _value(self, start: Expr, inside: Expr, block: Any, step: Expr) -> Expr:
        """What one step reads of a pixel: four codes in a word, or a float; weights past the block are zero."""
        p, x = self.p, self.x
        if not p.integer:
            return read_if(inside, widened(x.at(start + step), p.dtype, 1).value, T.float32(0))
        at = block + step * _PACK
        if self.words:
            return read_if(inside, x.seen_as("int32").at((start + T.min(at, p.depth - _PACK)) // _PACK), self.outside)
        codes = [T.cast(x.at(start + T.min(at + k, p.depth - 1)), "int32") for k in range(min(_PACK, p.block))]
        return read_if(inside, word_of(codes), self.outside)


def pack_steps(weights: np.ndarray, block: int) -> np.ndarray:
    """int8 [O, KH, KW, D] -> int32 words [B * KH * KW * S, O] of four channels each, with zeros past each block."""
    outputs, kh, kw, depth = weights.shape
    blocks, steps = -(-depth // block), -(-block // _PACK)
    whole = np.zeros((outputs, kh, kw, blocks * block), np.int8)
    whole[..., :depth] = weights
    padded = np.zeros((outputs, kh, kw, blocks, steps * _PACK), np.int8)
    padded[..., :block] = whole.reshape(outputs, kh, kw, blocks, block)
    words = np.ascontiguousarray(padded).view(np.int32)  # [O, KH, KW, B, S]
    return np.ascontiguousarray(words.transpose(3, 1, 2, 4, 0).reshape(-1, outputs))


def images(weights: np.ndarray) -> np.ndarray:
    """Weights of a convolution as they are, those of a fully connected layer [O, K] as of one tap."""
    return weights if weights.ndim == 4 else weights[:, None, None, :]


def emit_qgrouped(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """A QConv with any number of groups, or a QGemm, and any block of channels with a scale each."""
    weights = images(constant(node, 1))
    depth, mult = weights.shape[-1], roles(node).get("mult")
    block = depth if mult is None else min(int(node.attrs["group_size"]), depth)
    sums = np.add.reduceat(weights.sum((1, 2), dtype=np.int64), range(0, depth, block), axis=1)  # [O, B]
    epilogue, buffers = integer_epilogue(node, (sums if mult is None else sums * mult).sum(1), len(weights))
    if mult is not None:
        buffers = [np.ascontiguousarray(mult.T.astype(np.int32)), *buffers]
    (packed,) = remembered(weights, ("channels in words", block), lambda w: (pack_steps(w, block),))
    return _call(node, epilogue, packed, weights.shape, block, mult is not None, buffers)


def emit_grouped(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """A Conv with any number of groups, or a Gemm; sums are float32, whatever the precision."""
    weights = images(constant(node, 1))
    epilogue, buffers = float_epilogue(node, len(weights), len(weights))
    packed = pack_columns(weights, len(weights))
    return _call(node, epilogue, packed, weights.shape, weights.shape[-1], False, buffers)


def _call(
    node: NodeView, epilogue: Any, packed: np.ndarray, shape: tuple[int, ...], block: int, scaled: bool,
    buffers: Sequence[str | np.ndarray],
) -> Sequence[KernelCall]:  # fmt: skip
    x, y = node.type(node.inputs[0]).shape, node.type(node.outputs[0]).shape
    n, h, w, c = x if node.op.endswith("Conv") else (1, 1, prod(x[:-1]), x[-1])
    window = Window((n, h, w, c), (shape[1], shape[2]), **geometry(node))
    groups = int(node.attrs.get("group", 1))
    params = GroupedParams(window, shape[0], groups, block, scaled, epilogue, x, y, node.type(node.inputs[0]).dtype)
    return [KernelCall("grouped", params, grouped, (node.inputs[0], packed, *buffers), node.outputs, node.layer)]
