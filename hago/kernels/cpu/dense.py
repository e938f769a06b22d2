"""Dense dot products: convolution (also grouped), fully connected, in integers and in floats.

A convolution is computed directly, without an im2col buffer. L output channels share one vector register, a
tile of P pixels times V such vectors is accumulated in registers over the whole reduction, and the epilogue
(requantize, clamp, residual) runs on the registers before anything is stored.

    N batch, H W input height and width, C input channels, O output channels, OH OW output height and width,
    KH KW kernel, G groups, OV vectors of output channels in a group, P pixels of a tile, V vectors of a tile,
    L lanes, KP reduction steps packed in a lane, D packed steps of the whole reduction (KH * taps * steps)

    x           [N, H, W, C]          uint8, float32, float16, or uint16: the bits of bfloat16
    weights     [G*OV, D, L*KP]       packed by `pack_weights`
    bias        [G*OV*L]              int32 or float32, packed by `pack_channels`, as is the scale
    scale       [G*OV*L]              float32; integers and float16 only
    zero        [3]                   int32; integers only, see common/anchor.py
    bounds      [7]                   float32, see common/anchor.py
    multiplier  [G*OV, D / group_steps, L]   int32; two-level scales only
    r           like y                residual only
    y           [N, OH, OW, O]        uint8 or float32

A vector of output channels that would pass the last one is moved back (the overlapping lanes are computed
twice, to the same value), and so is the last tile of a row: no masks and no remainder code.

The numbers of quantization (bias, scale, zero points, bounds) are inputs, not part of the code, so that one
compiled kernel serves every calibration of a layer. The caller guarantees that the bias already holds the zero
point's share, -zero_x * sum of weights, that no sum leaves int32 (or what the instruction adds up in, see
dot.py), and that no two buffers overlap.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ..common.anchor import BOUNDS, ZEROS
from .dense_plan import (
    TILE_STEPS,
    DenseParams,
    Plan,
    Tile,
    channel_starts,
    choose_tile,
    estimate,
    pack_channels,
    pack_weights,
    plan,
    row_steps,
    together,
)
from .dot import DOTS
from .epilogue import (
    add_residual,
    bounded,
    dequantize,
    requantize,
    requantized_bytes,
)
from .epilogue_arm import residual_bytes
from .families import Isa
from .ir_builder import Registers, argument, channel_start, flat, maybe_parallel, moved_back, prefetch, vector_index
from .padding import Padding, padded_copy
from .pairwise import pairs_copy

_WEIGHTS_IN_CACHE = 512 * 1024
_MACS_WORTH_A_THREAD = 300_000  # two to five microseconds of work: less does not pay for waking a thread


def dense(p: DenseParams, isa: Isa, threads: int) -> Any:
    """The PrimFunc; its buffers are those of the module's docstring, in that order."""
    return Dense(p, isa, threads).build()


class Dense:
    """Emits one kernel. An object, because the pieces share some twenty sizes and buffers."""

    def __init__(self, p: DenseParams, isa: Isa, threads: int) -> None:
        self.p, self.dot, self.plan = p, DOTS[p.dot], plan(p, isa)
        self.isa = isa = isa.fit(p.o // p.groups)
        tile = p.tile or self.best_tile()
        self.P, self.V = min(tile.pixels, self.plan.cols), min(tile.vectors, self.plan.vectors)
        self.lanes = isa.lanes
        self.o, self.c = p.o // p.groups, self.plan.group  # of one group
        self.depth = p.kernel[0] * self.plan.taps * self.plan.steps
        self.row_steps = row_steps(p, isa)
        self.tiles = -(-self.plan.cols // self.P)
        self.work = self.plan.rows * self.tiles
        self.blocks = -(-self.plan.vectors // self.V)
        self.row = (p.w + p.pads[1] + p.pads[3]) * self.plan.pixel  # elements of one input row, padding included
        self.chunks = threads if p.macs >= _MACS_WORTH_A_THREAD * threads else 1
        self.acc_type = f"{'int32' if self.dot.integer else 'float32'}x{self.lanes}"

    def best_tile(self) -> Tile:
        """The tile of a layer whose parameters name none."""
        return choose_tile(self.p, self.isa)

    def build(self) -> Any:
        """The PrimFunc."""
        p, dot = self.p, self.dot
        vectors = p.groups * self.plan.vectors
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("kernel")
            T.func_attr({"tirx.noalias": True})
            integer, channels = dot.integer, (vectors * self.lanes,)
            x = argument("x", p.x_shape or (p.n, p.h, p.w, p.c), dot.x_type)
            weights = (vectors, self.depth, self.lanes * dot.pack)
            self.w = argument("w", weights, dot.weight_numpy.name)
            self.bias = argument("bias", channels, "int32" if integer else "float32")
            if integer or dot.half:
                self.scale = argument("scale", channels, "float32")
            if integer:
                self.zero = argument("zero", (ZEROS,), "int32")
            self.bounds = argument("bounds", (BOUNDS,), "float32")
            if p.group_steps:
                groups = (vectors, self.depth // p.group_steps, self.lanes)
                self.multiplier = argument("multiplier", groups, "int32")
            shape = p.y_shape or (p.n, p.oh, p.ow, p.o)
            r = argument("r", shape, p.out) if p.residual else None
            y = argument("y", shape, p.out)
            self.r: Any = None if r is None else flat(r)
            self.y = flat(y)
            self.x = flat(x)
            if self.plan.scratch:
                pad = T.Cast(dot.x_type, self.zero[0] if integer else T.int32(0))
                padding, slack = Padding((p.n, p.h, p.w, p.c), p.pads, pad), dot.pack * max(1, p.group_steps)
                if dot.narrow:
                    self.x = pairs_copy(self.x, padding, p.groups, self.c, slack, self.chunks, dot.read)
                else:
                    self.x = padded_copy(self.x, padding, dot.read_type, slack, self.chunks, dot.read)
            with dot.scope(self.isa):
                self.loops()
        return builder.get()

    def loops(self) -> None:
        """Pixels in the outer loop and channels in the inner one if the weights stay in the cache, else vice versa."""
        p = self.p
        vectors = p.groups * self.plan.vectors
        nbytes = vectors * self.depth * self.lanes * self.dot.pack * self.dot.weight_numpy.itemsize
        by_pixels = self.work >= 2 * self.chunks or self.blocks * p.groups < self.chunks
        pixels_first = nbytes <= _WEIGHTS_IN_CACHE
        blocks = p.groups * self.blocks
        with maybe_parallel(self.work if by_pixels else blocks, self.chunks) as (at, end), self.prepared():
            pixel_range = (at, end) if by_pixels else (0, self.work)
            block_range = (0, blocks) if by_pixels else (at, end)
            outer, inner = (pixel_range, block_range) if pixels_first else (block_range, pixel_range)
            with T.serial(*outer) as i, T.serial(*inner) as j:
                self.tile(*((i, j) if pixels_first else (j, i)))

    def prepared(self) -> AbstractContextManager[None]:
        """What a thread sets up around its tiles: nothing."""
        return nullcontext()

    def channels_of(self, block: Any) -> tuple[Any, Any, Any]:
        """Of a block of output channels: its group, its first vector within the group, and that among all vectors."""
        grouped, vectors = self.p.groups > 1, self.plan.vectors
        group = block // self.blocks if grouped else 0
        vector = moved_back(block % self.blocks if grouped else block, self.V, vectors)
        return group, vector, T.bind(group * vectors + vector + T.int32(0))

    def tile(self, work: Any, block: Any) -> None:
        """One tile: y [P, V*L] at ``y_at``, from the input at ``x_at`` on."""
        p, plan_ = self.p, self.plan
        group, vector, first = self.channels_of(block)
        out_row = work // self.tiles
        pixel = moved_back(work % self.tiles, self.P, plan_.cols)
        if plan_.rows == 1:
            out_row, pixel = 0, moved_back(work, self.P, plan_.cols)
        y_at = T.bind((out_row * plan_.cols + pixel) * p.o + group * self.o + T.int32(0))
        if (plan_.rows == 1 and p.oh * p.n > 1) or (p.oh * p.n == 1 and p.kernel[0] == 1 and not any(p.pads)):
            x_at = T.bind(pixel * (p.strides[1] * self.plan.pixel) + group * self.c + T.int32(0))
        else:
            line = (out_row // p.oh) * (p.h + p.pads[0] + p.pads[2]) + out_row % p.oh * p.strides[0]
            x_at = T.bind(line * self.row + pixel * (p.strides[1] * self.plan.pixel) + group * self.c + T.int32(0))
        self.compute(vector, first, x_at, y_at)

    def compute(self, vector: Any, first: Any, x_at: Any, y_at: Any) -> None:
        """Initialise, reduce, finish.

        ``vector`` counts the vectors of the group, ``first`` those of all groups.
        """
        p = self.p
        acc = Registers(self.P * self.V, self.acc_type)  # P*V x [L], pixel by pixel
        for v in range(self.V):
            start = T.bind(self.bias.vload([(first + v) * self.lanes], self.acc_type))
            for q in range(self.P):
                acc[q * self.V + v] = start
        if p.group_steps:
            self.reduce_groups(acc, x_at, first)
        else:
            self.reduce(acc, x_at, first, 0, self.depth)
        self.finish_tile(acc, vector, first, y_at)

    def finish_tile(self, acc: Any, vector: Any, first: Any, y_at: Any) -> None:
        """Epilogue of all sums of a tile, pixel by pixel: P*V x [L] -> y [P, V*L]."""
        at = 0
        while at < self.V:
            count = together(self.p, self.isa, self.V - at)
            channel = channel_start(vector + at, self.o, self.lanes)
            for q in range(self.P):
                sums = [acc[q * self.V + at + v] for v in range(count)]
                y, lane = y_at + q * self.p.o + channel, (first + at) * self.lanes
                if count > 1:
                    self.finish_bytes(sums, y, lane)
                else:
                    self.finish(sums[0], y, lane)
            at += count

    def reduce(self, acc: Any, x_at: Any, first: Any, start: Any, count: Any) -> None:
        """Adds the products of all taps and steps: [P, D*KP] x [D*KP, V*L] -> acc [P, V*L]."""
        p, plan_, pack = self.p, self.plan, self.dot.pack
        in_rows = plan_.steps // self.row_steps * self.row_steps
        with T.serial(0, p.kernel[0]) as i, T.serial(0, plan_.taps) as j:
            at = x_at + i * (p.dilations[0] * self.row) + j * plan_.tap_stride
            depth = (i * plan_.taps + j) * plan_.steps
            if self.row_steps > 1 and in_rows:
                with T.serial(0, in_rows // self.row_steps) as s:
                    self.row_of_steps(acc, at + s * (self.row_steps * pack), first, depth + s * self.row_steps)
            else:
                in_rows = 0
            last = plan_.steps - plan_.short_end
            with T.serial(in_rows, last) as s:
                self.step(acc, at + s * pack, first, depth + s)
            if plan_.short_end:
                self.half_step(acc, at + last * pack, first, depth + last)

    def reduce_groups(self, acc: Any, x_at: Any, first: Any) -> None:
        """Two-level scales: the sum of each group of steps, times a small integer per channel, is added to ``acc``."""
        p, plan_ = self.p, self.plan
        part = Registers(self.P * self.V, self.acc_type)  # P*V x [L], of one group
        per_tap = plan_.steps // p.group_steps
        with T.serial(0, p.kernel[0]) as i, T.serial(0, plan_.taps) as j, T.serial(0, per_tap) as g:
            for k in range(self.P * self.V):
                part[k] = T.broadcast(T.int32(0), self.lanes)
            base = (i * plan_.taps + j) * plan_.steps + g * p.group_steps
            with T.serial(0, p.group_steps) as s:
                at = (
                    x_at + i * (p.dilations[0] * self.row) + j * plan_.tap_stride
                    + (g * p.group_steps + s) * self.dot.pack
                )  # fmt: skip
                self.step(part, at, first, base + s)
            group = (i * plan_.taps + j) * per_tap + g
            for v in range(self.V):
                factor = T.bind(self.multiplier.vload([first + v, group, 0], self.acc_type))  # [L]
                for q in range(self.P):
                    k = q * self.V + v
                    acc[k] = acc[k] + part[k] * factor

    def row_of_steps(self, acc: Any, x_at: Any, first: Any, depth: Any) -> None:
        """S neighbouring steps: [P, S*KP] x [S*KP, V*L] -> acc [P, V*L]; each pixel is loaded once for all of them."""
        kind = self.dot.weight_type(self.lanes)
        at = [x_at + q * (self.p.strides[1] * self.plan.pixel) for q in range(self.P)]
        rows = [T.bind(self.dot.load_row(self.x, where, self.row_steps)) for where in at]  # P x [S*KP]
        for s in range(self.row_steps):
            weights = [T.bind(self.w.vload([first + v, depth + s, 0], kind)) for v in range(self.V)]  # V x [L*KP]
            for q, row in enumerate(rows):
                a = T.bind(self.dot.spread(row, s, self.lanes))  # [L*KP]: KP elements, the same in every lane
                for v in range(self.V):
                    k = q * self.V + v
                    acc[k] = self.dot.step(self.isa, acc[k], a, weights[v])

    def step(self, acc: Any, x_at: Any, first: Any, depth: Any) -> None:
        """One packed step of the whole tile: [P, KP] x [KP, V*L] -> acc [P, V*L]."""
        kind = self.dot.weight_type(self.lanes)
        weights = [T.bind(self.w.vload([first + v, depth, 0], kind)) for v in range(self.V)]  # V x [L*KP]
        if self.isa.steps_ahead:
            self.prefetch(first, depth)
        for q in range(self.P):
            # [L*KP]: KP elements of a pixel, the same in every lane
            a = T.bind(self.dot.load(self.x, x_at + q * (self.p.strides[1] * self.plan.pixel), self.lanes))
            for v in range(self.V):
                k = q * self.V + v
                acc[k] = self.dot.step(self.isa, acc[k], a, weights[v])

    def half_step(self, acc: Any, x_at: Any, first: Any, depth: Any) -> None:
        """The last step of a row that ends in the middle of it: [P, KP/2] x [KP/2, V*L] -> acc [P, V*L]."""
        weights = [T.bind(self.w.vload([first + v, depth, 0], "int8x16")) for v in range(self.V)]
        for q in range(self.P):
            at = x_at + q * (self.p.strides[1] * self.plan.pixel)
            for v in range(self.V):
                k = q * self.V + v
                acc[k] = self.dot.half_step(acc[k], self.x, at, weights[v])

    def prefetch(self, first: Any, depth: Any) -> None:
        """Prefetches weights some steps ahead: the processor's own prefetcher stops at every page."""
        for v in range(self.V):
            offset = ((first + v) * self.depth + depth + self.isa.steps_ahead) * (self.lanes * self.dot.pack)
            prefetch(self.w.access_ptr("r", offset=offset))

    def finish_bytes(self, sums: list[Any], at: Any, lane: Any) -> None:
        """Epilogue and store of two or four neighbouring vectors of one pixel: 2 or 4 x [L] -> y [2*L] or [4*L]."""
        lanes, count = self.lanes, self.lanes * len(sums)
        scales = [self.scale.vload([lane + v * lanes], f"float32x{lanes}") for v in range(len(sums))]
        if self.p.residual:
            r = self.r.vload([at], f"uint8x{count}")
            first = self.p.residual == "first"
            codes = residual_bytes(self.isa, sums, scales, self.zero[1], self.bounds, r, first)
        else:
            codes = requantized_bytes(self.isa, sums, scales, self.zero[1], self.bounds)
        T.buffer_store(self.y, codes, [vector_index(at, count)])

    def finish(self, value: Any, at: Any, lane: Any) -> None:
        """Epilogue and store of one vector [L]; of O/G < L channels, those that exist are stored one by one."""
        p = self.p
        if self.o >= self.lanes:
            r = self.r.vload([at], f"{p.out}x{self.lanes}") if p.residual else None
            T.buffer_store(self.y, self.result(value, r, lane), [vector_index(at, self.lanes)])
            return
        whole = T.alloc_buffer((self.lanes,), p.out, scope="local")
        r = None
        if p.residual:
            with T.serial(0, self.o) as k:
                T.buffer_store(whole, self.r[at + k], [k])
            r = whole.vload([0], f"{p.out}x{self.lanes}")
        T.buffer_store(whole, self.result(value, r, lane), [vector_index(0, self.lanes)])
        with T.serial(0, self.o) as k:
            T.buffer_store(self.y, whole[k], [at + k])

    def result(self, value: Any, r: Any, lane: Any) -> Any:
        """The vector [L] that is stored: sums through the epilogue, with the residual ``r`` [L] added."""
        isa, lanes, bounds, p = self.isa, self.lanes, self.bounds, self.p
        if not self.dot.integer:
            total = value if r is None else value + T.Cast(f"float32x{lanes}", r)
            total = bounded(isa, total, bounds[0], bounds[1])
            return total if p.out == "float32" else T.Cast(f"{p.out}x{lanes}", total)
        scale = self.scale.vload([lane], f"float32x{lanes}")
        if p.out == "float32":
            return dequantize(isa, value, scale, bounds[0], bounds[1])
        wide = requantize(isa, value, scale, bounds[0], bounds[1])
        codes = wide + T.broadcast(self.zero[1], lanes)
        if r is None:
            return T.Cast(f"uint8x{lanes}", codes)
        other = T.Cast(f"int32x{lanes}", r)
        first, second = (other, codes) if p.residual == "first" else (codes, other)
        return add_residual(isa, first, second, bounds)


__all__ = [
    "TILE_STEPS", "Dense", "DenseParams", "Plan", "Tile", "channel_starts", "choose_tile", "dense", "estimate",
    "pack_channels", "pack_weights", "plan",
]  # fmt: skip
