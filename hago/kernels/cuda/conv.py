"""Dense int8 convolution as an implicit matrix product on tensor cores (mma.m16n8k32, sm_80 and newer).

Notation: `N` batch, `H W` height and width, `C` input channels, `O` output channels, `KH KW` taps; of the product
``M = N * OH * OW`` output pixels by ``O`` channels, summed over ``K = KH * KW * C``.

A block computes a tile of ``rows`` pixels by ``columns`` channels. Both operands come by asynchronous copies of 16
bytes (neighbouring channels of one tap), ``stages`` steps of ``depth`` bytes ahead. The 16-byte chunks of a row of
shared memory are permuted by the row's number, so that neither copies nor ldmatrix meet in a bank. Where a tap lies
outside of the image, the input's zero point is stored there instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .families import Gpu

Expr: TypeAlias = Any

CHUNK = 16
"""Bytes of one asynchronous copy; the channels of inputs and outputs are multiples of it."""

_WARP = 32
_MOST_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class BlockTile:
    """How a block divides its work: ``warps`` along rows and columns; ``depth`` in bytes, 64 or 128.

    With ``warpgroups``, each four warps multiply 64 rows by all columns together (wgmma, sm_90a).
    """

    rows: int
    columns: int
    depth: int
    stages: int
    warps: tuple[int, int]
    warpgroups: bool = False

    def __post_init__(self) -> None:
        down, across = self.warps
        if self.warpgroups and (
            across != 1 or self.rows != 16 * down or down % 4 or self.depth != 128 or self.columns not in (64, 128, 256)
        ):
            raise ValueError(f"a warpgroup multiplies 64 rows by 64, 128 or 256 columns, over 128 bytes: {self}")
        if self.stages < 2 + self.warpgroups:
            raise ValueError(f"a tile needs at least {2 + self.warpgroups} stages: {self}")
        if self.rows % (16 * down) or self.columns % (16 * across) or self.depth not in (64, 128):
            raise ValueError(f"warps must share rows and columns in multiples of 16, over 64 or 128 bytes: {self}")

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warps[0] * self.warps[1] * _WARP

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one step."""
        return (self.rows + self.columns) * self.depth

    @property
    def pitch(self) -> int:
        """Bytes from one row of the finished tile to the next: 16 more than it has, for the banks."""
        return self.columns + CHUNK

    @property
    def finished_bytes(self) -> int:
        """Shared memory of the finished tile."""
        return self.rows * self.pitch


@dataclass(frozen=True)
class ConvParams:
    """``x`` is [N, H, W, C]; ``signed`` says whether the input is int8 rather than uint8."""

    x: tuple[int, int, int, int]
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right
    tile: BlockTile
    signed: bool = False
    residual: bool = False

    def __post_init__(self) -> None:
        if self.x[3] % CHUNK or self.channels % CHUNK:
            raise ValueError(f"channels must be multiples of {CHUNK}, found {self.x[3]} and {self.channels}")
        if max(prod(self.x), prod(self.y), self.channels * self.sizes[2]) > _MOST_BYTES:
            raise ValueError(f"tensors of over {_MOST_BYTES} bytes are not addressed: {self.x} to {self.y}")

    @property
    def y(self) -> tuple[int, int, int, int]:
        """Shape of the output."""
        n, h, w, _ = self.x
        top, left, bottom, right = self.pads
        oh = (h + top + bottom - self.kernel[0]) // self.strides[0] + 1
        ow = (w + left + right - self.kernel[1]) // self.strides[1] + 1
        return (n, oh, ow, self.channels)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """M, O and K of the product."""
        n, oh, ow, channels = self.y
        return n * oh * ow, channels, self.kernel[0] * self.kernel[1] * self.x[3]

    @property
    def finished_at(self) -> int:
        """Where the finished tile lies in shared memory: over the operands, or, beginning as residual, behind them."""
        return self.tile.stages * self.tile.stage_bytes if self.residual else 0

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return max(self.tile.stages * self.tile.stage_bytes, self.finished_at + self.tile.finished_bytes)

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks along channels, which change first so that neighbours share pixels, and along pixels."""
        m, channels, _ = self.sizes
        return -(-channels // self.tile.columns), -(-m // self.tile.rows)


def conv(params: ConvParams, gpu: Gpu, threads: int = 1) -> Any:
    """(x, weight [O, K] int8, bias [O] int32, scale [O] float32, numbers [4] int32 [, residual,
    residual_scale [1] float32]) -> y uint8.

    ``numbers`` are the output's zero point, its lowest and highest code, and the input's zero point:
    y = clamp(rint(float32(sum + bias) * scale [+ residual * residual_scale]) + zero point).
    Zero points are part of the bias (and of the output's zero point), but for the taps outside of the image.
    """
    return _KernelWriter(params).primfunc()


class _KernelWriter:
    """Writes the function, one part after the other."""

    def __init__(self, params: ConvParams) -> None:
        self.p, self.t = params, params.tile
        self.m, self.o, self.k = params.sizes
        self.steps = -(-self.k // self.t.depth)
        # A product that a warpgroup began still reads its stage while the next step is begun.
        self.ahead = self.t.stages - (2 if self.t.warpgroups else 1)
        chunks = self.t.depth // CHUNK
        self.rows_at_once = self.t.threads // chunks
        self.chunks = chunks
        self.high = self.t.rows // self.t.warps[0] // 16  # fragments of a warp
        self.wide = self.t.columns // self.t.warps[1] // 8

    def primfunc(self) -> Any:
        p, t = self.p, self.t
        x_type = "int8" if p.signed else "uint8"
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
            self.x = _argument("x", p.x, x_type)
            self.weight = _argument("weight", (self.o, self.k), "int8")
            self.bias = _argument("bias", (self.o,), "int32")
            self.scale = _argument("scale", (self.o,), "float32")
            self.numbers = _argument("numbers", (4,), "int32")
            if p.residual:
                self.residual = _argument("residual", p.y, "uint8")
                self.residual_scale = _argument("residual_scale", (1,), "float32")
            self.y = _argument("y", p.y, "uint8")
            across, down = (T.env_thread(f"blockIdx.{axis}") for axis in "xy")
            self.thread = T.env_thread("threadIdx.x")
            with (
                T.launch_thread(across, p.grid[0]),
                T.launch_thread(down, p.grid[1]),
                T.launch_thread(self.thread, t.threads),
            ):
                self._body(T.bind(down * t.rows), T.bind(across * t.columns))
        return builder.get()

    def _body(self, first_row: Expr, first_column: Expr) -> None:
        p, t = self.p, self.t
        self.first_row, self.first_column = first_row, first_column
        self.shared = T.alloc_buffer((p.shared_bytes,), "uint8", scope="shared.dyn", align=1024)
        self.sums = T.alloc_buffer((self.high * self.wide * 4,), "int32", scope="local")
        self.lane = T.bind(self.thread % _WARP)
        warp = self.thread // _WARP
        self.warp_row = T.bind(warp // t.warps[1] * (t.rows // t.warps[0]))
        self.warp_column = T.bind(warp % t.warps[1] * (t.columns // t.warps[1]))
        _call("let_next_start")
        self._find_pixels()
        with T.unroll(0, self.high * self.wide * 4) as i:
            T.buffer_store(self.sums, T.int32(0), [i])
        begun = min(self.ahead, self.steps)
        for step in range(begun):
            self._load_weights(T.int32(step))
        _call("wait_for_previous")  # weights are there already, pixels need not be
        for step in range(self.ahead):
            if step < begun:
                self._load_pixels(T.int32(step))
            if step == begun - 1 and p.residual:
                self._load_residual()
            _call("commit_copies")
        with T.serial(0, self.steps) as step:
            _call(f"wait_copies<{self.ahead - 1}>")
            if t.warpgroups:
                _call("show_to_wgmma")
            _barrier()
            if self.steps > self.ahead:
                with _when(step + self.ahead < self.steps):
                    self._load_weights(step + self.ahead)
                    self._load_pixels(step + self.ahead)
            _call("commit_copies")
            if t.warpgroups:
                self._multiply_together(step)
            else:
                self._multiply(step)
        if t.warpgroups:
            _call("wait_wgmma<0>")
        _call("wait_copies<0>")
        if not p.residual:  # the finished tile takes the place of operands that other warps still read
            _barrier()
        self._finish()
        _barrier()
        self._store()

    def _find_pixels(self) -> None:
        """Of each row that this thread brings: the offset of its first tap, and where that lies in the image."""
        p, t = self.p, self.t
        _, h, w, c = p.x
        _, oh, ow, _ = p.y
        self.row = T.bind(self.thread // self.chunks)
        self.chunk = T.bind(self.thread % self.chunks)
        self.outside = T.bind(T.bitwise_and(self.numbers[3], 255) * 0x01010101)
        self.pixels = []
        for i in range(-(-t.rows // self.rows_at_once)):
            m = T.bind(self.first_row + self.row + i * self.rows_at_once)
            image, place = m // (oh * ow), m % (oh * ow)
            top = T.bind(place // ow * p.strides[0] - p.pads[0])
            left = T.bind(place % ow * p.strides[1] - p.pads[1])
            base = T.bind(((image * h + top) * w + left) * c)
            self.pixels.append((base, top, left, T.bind(m < self.m)))

    def _load_pixels(self, step: Expr) -> None:
        """Begins the copies of one step of the input."""
        p, t = self.p, self.t
        _, h, w, c = p.x
        to = T.bind(step % t.stages * t.stage_bytes)
        k = T.bind(step * t.depth + self.chunk * CHUNK)
        tap, channel = k // c, k % c
        down, right = T.bind(tap // p.kernel[1]), T.bind(tap % p.kernel[1])
        offset = T.bind((down * w + right) * c + channel)
        for i, (base, top, left, exists) in enumerate(self.pixels):
            row = self.row + i * self.rows_at_once
            y, x = top + down, left + right
            inside = tirx.all(exists, k < self.k, y >= 0, y < h, x >= 0, x < w)
            with self._rows(row, t.rows):
                _call("copy16_or_fill", self._at(to, row, self.chunk), self.x.data, base + offset, inside, self.outside)

    def _load_weights(self, step: Expr) -> None:
        """Begins the copies of one step of the weights."""
        t = self.t
        to = T.bind(step % t.stages * t.stage_bytes + t.rows * t.depth)
        k = T.bind(step * t.depth + self.chunk * CHUNK)
        for i in range(-(-t.columns // self.rows_at_once)):
            row = self.row + i * self.rows_at_once
            column = self.first_column + row
            inside = tirx.all(k < self.k, column < self.o)
            with self._rows(row, t.columns):
                place = self._at(to, row, self.chunk)
                _call("copy16_or_zero", place, self.weight.data, column * self.k + k, inside)

    def _load_residual(self) -> None:
        """Begins the copies of the residual to where the finished tile will stand."""
        for place, at, exists, within in self._pieces():
            target = T.address_of(self.shared[self.p.finished_at + place])
            with within:
                _call("copy16_or_zero", target, self.residual.data, at, exists)

    def _rows(self, row: Expr, count: int) -> Any:
        """A block of statements for those threads whose row is one of ``count``."""
        return _nothing() if count % self.rows_at_once == 0 else _when(row < count)

    def _at(self, tile: Expr, row: Expr, chunk: Expr) -> Expr:
        """Address of a chunk in a tile of shared memory."""
        permuted = T.bitwise_xor(chunk, row // 2 % 4 if self.t.depth == 64 else row % 8)
        return T.address_of(self.shared[tile + row * self.t.depth + permuted * CHUNK])

    def _multiply(self, step: Expr) -> None:
        t = self.t
        a_tile = T.bind(step % t.stages * t.stage_bytes)
        b_tile = a_tile + t.rows * t.depth
        a = T.alloc_buffer((self.high * 4,), "uint32", scope="local")
        b = T.alloc_buffer((self.wide * 2,), "uint32", scope="local")
        mma = "mma_s8s8" if self.p.signed else "mma_u8s8"
        for k in range(t.depth // 32):
            for i in range(self.high):
                row = self.warp_row + i * 16 + self.lane % 16
                _call("load_matrices", _address(a, i * 4), self._at(a_tile, row, k * 2 + self.lane // 16))
            for j in range(self.wide // 2):
                row = self.warp_column + j * 16 + self.lane % 8 + self.lane // 16 * 8
                _call("load_matrices", _address(b, j * 4), self._at(b_tile, row, k * 2 + self.lane // 8 % 2))
            for i in range(self.high):
                for j in range(self.wide):
                    _call(mma, _address(self.sums, (i * self.wide + j) * 4), _address(a, i * 4), _address(b, j * 2))

    def _multiply_together(self, step: Expr) -> None:
        """Begins the product of one step, and waits for that of the step before."""
        t = self.t
        a_tile = T.bind(step % t.stages * t.stage_bytes)
        group = self.thread // (4 * _WARP)
        a = self._rows_at(a_tile + group * 64 * t.depth)
        b = self._rows_at(a_tile + t.rows * t.depth)
        wgmma = f"{'wgmma_s8s8' if self.p.signed else 'wgmma_u8s8'}<{t.columns}>"
        _call("begin_wgmma")
        for k in range(t.depth // 32):
            _call(wgmma, _address(self.sums, 0), a + T.uint64(2 * k), b + T.uint64(2 * k))
        _call("commit_wgmma")
        _call("wait_wgmma<1>")

    def _rows_at(self, place: Expr) -> Expr:
        return T.bind(_value("uint64", "wgmma_rows", T.address_of(self.shared[place])))

    def _finish(self) -> None:
        """Sums to codes, which meet in shared memory."""
        t, start = self.t, self.p.finished_at
        pairs = T.decl_buffer((self.p.shared_bytes // 2,), "uint16", data=self.shared.data, scope="shared.dyn")
        zero, low, high = (T.bind(self.numbers[i]) for i in range(3))
        for j in range(self.wide):
            column = T.bind(self.warp_column + j * 8 + self.lane % 4 * 2)
            channel = T.bind(T.min(self.first_column + column, self.o - 2))
            bias = [T.bind(self.bias[channel + i]) for i in range(2)]
            scale = [T.bind(self.scale[channel + i]) for i in range(2)]
            for i in range(self.high):
                for half in range(2):
                    row = self.warp_row + i * 16 + self.lane // 4 + half * 8
                    place = T.bind((start + row * t.pitch + column) // 2)
                    added = T.bind(pairs[place]) if self.p.residual else None
                    codes = []
                    for at in range(2):
                        total = self.sums[(i * self.wide + j) * 4 + half * 2 + at] + bias[at]
                        value = T.cast(total, "float32") * scale[at]
                        if added is not None:
                            code = T.bitwise_and(T.shift_right(T.cast(added, "int32"), 8 * at), 255)
                            value = _value(
                                "float32", "multiply_add", T.cast(code, "float32"), self.residual_scale[0], value
                            )
                        code = _value("int32", "nearest", value) + zero
                        codes.append(T.cast(T.min(T.max(code, low), high), "uint16"))
                    both = T.bitwise_or(codes[0], T.shift_left(codes[1], T.uint16(8)))
                    T.buffer_store(pairs, both, [place])

    def _store(self) -> None:
        words = T.decl_buffer((self.p.shared_bytes // 4,), "int32", data=self.shared.data, scope="shared.dyn")
        out = T.decl_buffer((self.m * self.o // 4,), "int32", data=self.y.data)
        for place, at, exists, within in self._pieces():
            with within, _when(exists):
                value = words[T.ramp((self.p.finished_at + place) // 4, 1, 4)]
                T.buffer_store(out, value, [T.ramp(at // 4, 1, 4)])

    def _pieces(self) -> Iterator[tuple[Expr, Expr, Expr, Any]]:
        """Of each 16 bytes of the finished tile that this thread moves: where they lie in it and in the output, whether
        the output has them, and a block of statements for those threads whose bytes the tile has."""
        t = self.t
        across = t.columns // CHUNK
        for i in range(-(-t.rows * across // t.threads)):
            piece = T.bind(self.thread + i * t.threads)
            row, column = T.bind(piece // across), T.bind(piece % across * CHUNK)
            m, channel = self.first_row + row, self.first_column + column
            within = _nothing() if t.rows * across % t.threads == 0 else _when(row < t.rows)
            yield row * t.pitch + column, m * self.o + channel, tirx.all(m < self.m, channel < self.o), within


def _argument(name: str, shape: tuple[int, ...], dtype: str) -> Any:
    return T.arg(name, T.buffer(shape, dtype))


def _value(dtype: str, name: str, *arguments: Expr) -> Expr:
    """A call of a function of device.cuh that returns something."""
    return T.call_extern(dtype, f"hago::{name}", *arguments)


def _call(name: str, *arguments: Expr) -> None:
    """A call of a function of device.cuh."""
    T.evaluate(T.call_extern("void", f"hago::{name}", *arguments))


def _address(buffer: Any, index: int) -> Expr:
    return T.address_of(buffer[index])


def _barrier() -> None:
    T.evaluate(T.tvm_storage_sync("shared"))


@contextmanager
def _when(condition: Expr) -> Iterator[None]:
    with T.If(condition), T.Then():
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield
