"""What follows from a dense layer's shape and the instruction set: loops, register tile, layout of the weights.

Notation as in dense.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .dot import DOTS
from .families import Isa
from .window import Window

TILE_STEPS = 16  # most rows of a tile of weights: the packed steps that one tile instruction takes


@dataclass(frozen=True)
class Tile:
    """P pixels times V vectors of output channels, accumulated in registers."""

    pixels: int
    vectors: int


@dataclass(frozen=True)
class DenseParams(Window):
    """Shapes and types of one dense kernel. ``dot`` names the instruction (see dot.py)."""

    dot: str
    out: str  # "uint8" or "float32"
    n: int
    h: int
    w: int
    c: int
    o: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    residual: str = ""  # "first" or "second" summand; "": none
    group_steps: int = 0  # > 0: reduction steps that share one integer multiplier (two-level scales)
    tile: Tile | None = None
    x_shape: tuple[int, ...] | None = None  # as the graph has them, where not [N, H, W, C]
    y_shape: tuple[int, ...] | None = None

    @property
    def contiguous_row(self) -> bool:
        """Whether one kernel row reads KW*C neighbouring elements, so that taps share a packed step."""
        return self.groups == 1 and self.dilations[1] == 1 and not self.group_steps

    @property
    def macs(self) -> int:
        """Multiply-adds of one call."""
        return self.n * self.oh * self.ow * self.o * self.kernel[0] * self.kernel[1] * self.c // self.groups


@dataclass(frozen=True)
class Plan:
    """What follows from the parameters and the instruction set: the loop structure.

    The reduction takes D = KH * taps * steps packed steps of KP elements each.
    """

    lanes: int  # L
    vectors: int  # OV: vectors of output channels in one group
    taps: int  # of one kernel row: KW, or 1 if its taps are neighbours in memory and share packed steps
    steps: int  # of one tap: whole chunks
    chunk: int  # packed steps that one instruction takes: 1, or up to 16 if it multiplies tiles
    needed: int  # steps before they were rounded up to whole chunks
    tap_stride: int  # elements between two taps of one kernel row
    pixel: int  # elements between two pixels of a row, as the loops read them
    group: int  # elements of one pixel that belong to one group, as the loops read them
    short_end: bool  # the last step takes half the elements
    scratch: bool  # the input is copied into a padded (or widened) buffer first
    rows: int  # output rows as the loops see them (a 1x1 convolution is one long row)
    cols: int  # output columns as the loops see them


@lru_cache(maxsize=4096)
def plan(p: DenseParams, isa: Isa) -> Plan:
    """The loop structure for these parameters on this instruction set."""
    dot, isa = DOTS[p.dot], isa.fit(p.o // p.groups)
    per_group, kh, kw = p.c // p.groups, *p.kernel
    if dot.narrow and not _pairs_align(p):
        per_group += 1
    pixel = per_group * p.groups
    if p.contiguous_row:
        taps, length, tap_stride = 1, kw * pixel, 0
    else:
        taps, length, tap_stride = kw, per_group, p.dilations[1] * pixel
    unit = max(1, p.group_steps)
    needed = -(-length // (dot.pack * unit)) * unit
    chunk = min(needed, TILE_STEPS) if dot.tiles else 1
    steps = -(-needed // chunk) * chunk
    # A packed step that passes the end of its row or group reads elements that zero weights cancel;
    # only behind the last pixel is there nothing to read, hence the copy, which has slack there.
    ragged = needed * dot.pack != length
    scratch = any(p.pads) or ragged or dot.widens
    flat = kh == kw == 1 and p.strides == (1, 1) and not any(p.pads)
    rows, cols = (1, p.n * p.h * p.w) if flat else (p.n * p.oh, p.ow)
    vectors = -(-(p.o // p.groups) // isa.lanes)
    short_end = dot.narrow and not p.group_steps and needed * dot.pack - length >= dot.pack // 2
    return Plan(
        isa.lanes, vectors, taps, steps, chunk, needed, tap_stride, pixel, per_group, short_end, scratch, rows, cols
    )  # fmt: skip


def _pairs_align(p: DenseParams) -> bool:
    """Whether every pixel and tap that a tile may start at is the first of a pair of elements."""
    across = p.contiguous_row and p.strides[1] * p.c % 2 == 0 and (p.w + p.pads[1] + p.pads[3]) * p.c % 2 == 0
    return p.c // p.groups % 2 == 0 or across


def row_steps(p: DenseParams, isa: Isa) -> int:
    """How many packed steps one load of a pixel's elements serves: Arm's products take one lane of a vector."""
    whole = p.dot in isa.lane_dots and not p.group_steps
    return isa.bits // 32 if whole and plan(p, isa).steps >= isa.bits // 32 else 1


@lru_cache(maxsize=4096)
def choose_tile(p: DenseParams, isa: Isa) -> Tile:
    """The tile that fits the registers with the fewest estimated cycles."""
    shape = plan(p, isa)
    best, best_cost = Tile(1, 1), float("inf")
    for vectors in range(1, min(shape.vectors, isa.registers // 4) + 1):
        for pixels in range(1, min(shape.cols, 28) + 1):
            if _registers(p, isa, Tile(pixels, vectors)) > isa.registers:
                continue
            cost = estimate(p, isa, Tile(pixels, vectors))
            if cost < best_cost * 0.999:
                best, best_cost = Tile(pixels, vectors), cost
    return best


def _registers(p: DenseParams, isa: Isa, tile: Tile) -> int:
    """Registers that one step of the tile needs: sums, weights, and the activations that they meet."""
    sums = tile.pixels * tile.vectors * (2 if p.group_steps else 1)
    if DOTS[p.dot].narrow:
        # Half a step and the whole one before it are in one basic block, which LLVM reorders freely.
        return sums + 2 * tile.vectors + 3 + plan(p, isa).short_end * tile.pixels
    rows = tile.pixels - 1 if row_steps(p, isa) > 1 else 0
    return sums + min(tile.vectors, 4) + 1 + rows + (DOTS[p.dot].cost > 1)


def estimate(p: DenseParams, isa: Isa, tile: Tile) -> float:
    """Cycles on one core: dot products, loads, and what overlapping tiles compute twice."""
    shape, per_dot = plan(p, isa), DOTS[p.dot].cost
    blocks = -(-shape.cols // tile.pixels) * -(-shape.vectors // tile.vectors)
    dots = tile.pixels * tile.vectors * per_dot
    # Two loads start in a cycle, as two dot products do where that is the unit; a dot product has a latency of
    # about five, hence the floor.
    loads = tile.pixels / row_steps(p, isa) + tile.vectors
    # Small cores start two instructions of any kind in a cycle.
    inner = max(dots + loads if isa.shared_issue else max(dots, loads), 5 * per_dot) + 0.5
    depth = p.kernel[0] * shape.taps * shape.steps
    per_block = inner * depth + finish_cost(p, isa, tile.vectors) * tile.pixels + 20
    return blocks * per_block * shape.rows * p.groups


def finish_cost(p: DenseParams, isa: Isa, vectors: int) -> int:
    """Instructions of the epilogue of one pixel's vectors."""
    if together(p, isa, 4) < 4:
        return 6 * vectors
    fours, rest = divmod(vectors, 4)
    return 27 * fours + 15 * (rest // 2) + 11 * (rest % 2)


def together(p: DenseParams, isa: Isa, left: int) -> int:
    """How many of the ``left`` vectors of a pixel are narrowed to one vector of bytes: 4, 2 or 1."""
    fits = DOTS[p.dot].integer and p.out == "uint8" and p.o // p.groups % isa.lanes == 0
    most = min(left, isa.narrows) if fits else 1
    return 4 if most >= 4 else 2 if most >= 2 else 1


def channel_starts(o: int, lanes: int) -> np.ndarray:
    """First output channel of each vector; the last one is moved back to end at ``o``."""
    count = -(-o // lanes)
    starts = np.arange(count) * lanes
    if o >= lanes:
        starts[-1] = o - lanes
    return starts


def pack_channels(values: np.ndarray, groups: int, isa: Isa) -> np.ndarray:
    """Per-channel values [O] -> [G*OV*L] in the order of the vectors; lanes without a channel are zero."""
    per_group = values.reshape(groups, -1)
    o = per_group.shape[1]
    lanes = isa.fit(o).lanes
    index = channel_starts(o, lanes)[:, None] + np.arange(lanes)
    padded = np.concatenate([per_group, np.zeros((groups, max(0, lanes - o)), values.dtype)], axis=1)
    return np.ascontiguousarray(padded[:, index].reshape(-1))


def pack_weights(w: np.ndarray, p: DenseParams, isa: Isa) -> np.ndarray:
    """Weights [O, KH, KW, C/G] -> [G*OV, D, L*KP]; what has no weight is zero."""
    dot, shape = DOTS[p.dot], plan(p, isa)
    o, kh, _, c = w.shape
    isa = isa.fit(o // p.groups)
    w = np.pad(w.astype(dot.weight_numpy), [(0, 0)] * 3 + [(0, shape.group - c)])
    rows = w.reshape(o, kh, 1, -1) if p.contiguous_row else w  # [O, KH, taps, elements of a tap]
    rows = np.pad(rows, [(0, 0)] * 3 + [(0, shape.needed * dot.pack - rows.shape[-1])])
    rows = _in_chunks(rows.reshape(*rows.shape[:3], shape.needed, dot.pack), shape)  # [O, KH, taps, steps, KP]
    rows = rows.reshape(p.groups, o // p.groups, -1, dot.pack)  # [G, O/G, D, KP]
    per_group = o // p.groups
    index = channel_starts(per_group, isa.lanes)[:, None] + np.arange(isa.lanes)
    rows = np.pad(rows, [(0, 0), (0, max(0, isa.lanes - per_group)), (0, 0), (0, 0)])
    packed = rows[:, index]  # [G, OV, L, D, KP]
    packed = packed.transpose(0, 1, 3, 2, 4).reshape(p.groups * shape.vectors, -1, isa.lanes * dot.pack)
    return dot.laid_out(np.ascontiguousarray(packed))


def _in_chunks(rows: np.ndarray, shape: Plan) -> np.ndarray:
    """[.., needed, KP] -> [.., steps, KP]: the last chunk is moved back, its repeated steps have zero weights."""
    if shape.steps == shape.needed:
        return rows
    last = shape.steps - shape.chunk
    repeated = shape.steps - shape.needed
    tail = rows[..., shape.needed - shape.chunk :, :].copy()
    tail[..., :repeated, :] = 0
    return np.concatenate([rows[..., :last, :], tail], axis=-2)
