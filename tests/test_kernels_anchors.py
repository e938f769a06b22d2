"""Dense, depthwise and matmul kernels against plain numpy: bit for bit in integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from emulated_kernels import can_emulate, kernel_of
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hago.kernels.common.anchor import bounds, zeros
from hago.kernels.common.calls import Template
from hago.kernels.cpu import tiles
from hago.kernels.cpu.dense import DenseParams, Tile, choose_tile, dense, pack_channels, pack_weights, plan
from hago.kernels.cpu.depthwise import (
    DepthwiseParams,
    depthwise,
    pack_depthwise_channels,
    pack_depthwise_halves,
    pack_depthwise_weights,
)
from hago.kernels.cpu.depthwise_bytes import depthwise_bytes, pack_bytes_weights, taps_fit_int16
from hago.kernels.cpu.dot import DOTS, pairs_fit_int16
from hago.kernels.cpu.families import AMX, AVX2, AVX512_BF16, AVX512_VNNI, AVX_VNNI, DOTPROD, I8MM, NEON, Isa
from hago.kernels.cpu.float16 import doubled, halved, pack_halves
from hago.kernels.cpu.jit import missing
from hago.kernels.cpu.matmul import MatMulParams, matmul
from hago.kernels.cpu.pairs import best_pairs, choose_pairs, paired
from hago.kernels.cpu.tiles import best_tiles, tiled
from hago.lower.arithmetic import weighted_sum

_X86 = (AVX2, AVX_VNNI, AVX512_VNNI)
_FLOAT = (AVX2, AVX512_VNNI)
_INTEGER = [(isa, dot) for isa in _X86 for dot in (("vnni",) if isa.exact_dot == "vnni" else ("maddubs", "maddwd"))]
_ARM = {NEON: ("smull", "smull7", "mlal16"), DOTPROD: ("sdot",), I8MM: ("usdot", "usmmla")}
_emulated = [
    pytest.mark.aarch64,
    pytest.mark.skipif(not can_emulate(), reason="no emulated AArch64 machine (scripts/aarch64_sysroot.py makes it)"),
]
_ARM_INTEGER = [pytest.param(isa, dot, marks=_emulated) for isa, dots in _ARM.items() for dot in dots]
_ARM_GROUPS = [item for item in _ARM_INTEGER if not DOTS[item.values[1]].pairs]  # type: ignore[index]
_ARM_MATMUL = [
    pytest.param(isa, dot, marks=_emulated)
    for isa, dot in ((NEON, "mlal16"), (DOTPROD, "sdot"), (I8MM, "usdot"), (NEON, "fma"))
]
_ARM_DEPTHWISE = [
    pytest.param(isa, dot, marks=_emulated)
    for isa, dot in ((NEON, "mlal16"), (NEON, "smull"), (NEON, "smull7"), (DOTPROD, "sdot"), (I8MM, "usdot"))
]
_MATMUL = [(isa, dot) for isa, dot in _INTEGER if dot != "maddubs"] + [(isa, "fma") for isa in _FLOAT]
_quick = settings(max_examples=12, suppress_health_check=list(HealthCheck), derandomize=True)

pytestmark = pytest.mark.skipif(bool(missing(AVX2)), reason="these kernels need an x86 processor with AVX2")


def convolve(x: np.ndarray, w: np.ndarray, p: DenseParams, fill: int) -> np.ndarray:
    """Direct convolution in float64 (exact for integers): x [N,H,W,C], w [O,KH,KW,C/G]."""
    top, left, bottom, right = p.pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    acc = np.zeros((p.n, p.oh, p.ow, p.o))
    og, cg = p.o // p.groups, p.c // p.groups
    for i in range(p.kernel[0]):
        for j in range(p.kernel[1]):
            y, z = i * p.dilations[0], j * p.dilations[1]
            rows = slice(y, y + (p.oh - 1) * p.strides[0] + 1, p.strides[0])
            cols = slice(z, z + (p.ow - 1) * p.strides[1] + 1, p.strides[1])
            part = padded[:, rows, cols]
            for g in range(p.groups):
                taps = w[g * og : (g + 1) * og, i, j].T.astype(np.float64)
                acc[..., g * og : (g + 1) * og] += part[..., g * cg : (g + 1) * cg] @ taps
    return acc


def requantized(acc: np.ndarray, scale: np.ndarray, zero: int, lo: int, hi: int) -> np.ndarray:
    real = acc.astype(np.int32).astype(np.float32) * scale.astype(np.float32)
    return (np.clip(np.rint(real), lo - zero, hi - zero) + zero).astype(np.uint8)


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    h = draw(st.integers(max(1, reach[0] - pads[0] - pads[2]), 12))
    w = draw(st.integers(max(1, reach[1] - pads[1] - pads[3]), 12))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    n = draw(st.integers(1, 2))
    return {
        "n": n,
        "h": h,
        "w": w,
        "kernel": kernel,
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
    }


def values(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int, extreme: bool) -> np.ndarray:
    """Random integers in [low, high], or only the two ends of it."""
    return rng.choice([low, high], shape) if extreme else rng.integers(low, high + 1, shape)


def template_of(dot: str) -> Template:
    found = DOTS[dot]
    return tiled if found.tiles else paired if found.pairs else halved if found.half else dense


def _summand(kind: str) -> str:
    return kind if kind in ("first", "second") else ""


def check_integers(isa: Isa, p: DenseParams, seed: int, extreme: bool) -> None:
    rng = np.random.default_rng(seed)
    limit = 64 if p.dot in ("maddubs", "smull7") else 127
    x = values(rng, (p.n, p.h, p.w, p.c), 0, 255, extreme).astype(np.uint8)
    w = values(rng, (p.o, *p.kernel, p.c // p.groups), -limit, limit, extreme).astype(np.int8)
    zx, zy, lo, hi = (int(v) for v in (rng.integers(256), 11, 3, 250))
    bias = rng.integers(-5000, 5000, p.o)
    scale = (rng.uniform(0.5, 2, p.o) / (90 * np.sqrt(w[0].size * 5000))).astype(np.float32)
    acc = convolve(x, w, p, zx) + bias - zx * w.astype(np.int64).sum((1, 2, 3))
    y1 = requantized(acc, scale, zy, lo, hi)
    packed = pack_weights(w, p, isa)
    assert p.dot != "maddubs" or pairs_fit_int16(packed)
    # The kernel's dot product reads codes less the shift, and the bias makes up for it.
    corrected = (bias - (zx - DOTS[p.dot].shift) * w.astype(np.int64).sum((1, 2, 3))).astype(np.int32)
    args = [x, packed, pack_channels(corrected, p.groups, isa), pack_channels(scale, p.groups, isa)]
    if p.out == "float32":
        want = acc.astype(np.int32).astype(np.float32) * scale
        args += [zeros(zx), bounds(-np.inf, np.inf)]
    elif p.residual:
        r = rng.integers(0, 256, acc.shape).astype(np.uint8)
        numbers = 0.91550, 0.47472, -40.03, 0, 255  # a_scale, b_scale, offset, lo, hi
        want = weighted_sum(*((r, y1) if p.residual == "first" else (y1, r)), *numbers)
        args += [zeros(zx, zy), bounds(lo - zy, hi - zy, (*numbers[3:], *numbers[:3])), r]
    else:
        want = y1
        args += [zeros(zx, zy), bounds(lo - zy, hi - zy)]
    got = np.zeros(want.shape, want.dtype)
    kernel_of(template_of(p.dot), p, isa)(*args, got)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("isa", "dot"), [*_INTEGER, *_ARM_INTEGER], ids=lambda v: getattr(v, "name", v))
@_quick
@given(
    geometry=geometries(),
    groups=st.sampled_from([1, 1, 2, 3]),
    c=st.integers(1, 9),
    o=st.sampled_from([1, 3, 5, 8, 16, 19]),
    kind=st.sampled_from(["uint8", "float32", "first", "second"]),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_integer_convolution_is_bit_exact(
    isa: Isa,
    dot: str,
    geometry: dict[str, Any],
    groups: int,
    c: int,
    o: int,
    kind: str,
    seed: int,
    extreme: bool,
) -> None:
    out = "float32" if kind == "float32" else "uint8"
    p = DenseParams(dot, out, c=c * groups, o=o * groups, groups=groups, residual=_summand(kind), **geometry)
    assume(not DOTS[dot].pairs or plan(p, isa).cols > 1)
    check_integers(isa, p, seed, extreme)


@pytest.mark.parametrize("dot", [pytest.param(dot, marks=_emulated) for dot in ("smull", "smull7")])
@pytest.mark.parametrize(
    ("w", "c", "kernel", "stride", "left", "right"),
    [
        (10, 1, 4, 2, 1, 1),  # pairs reach into the next pixel, from padding into the first and from the last
        (9, 1, 2, 2, 2, 1),
        (11, 1, 9, 4, 1, 0),
        (7, 5, 3, 2, 1, 0),
        (8, 3, 3, 2, 0, 0),
        (32, 3, 3, 1, 1, 1),  # four pixels of three colours at once
        (9, 3, 3, 1, 1, 1),
    ],
)
def test_pairs_of_odd_channels_are_bit_exact(
    dot: str, w: int, c: int, kernel: int, stride: int, left: int, right: int
) -> None:
    p = DenseParams(dot, "uint8", 2, 9, w, c, 20, (3, kernel), (1, stride), (1, left, 1, right))
    check_integers(NEON, p, 3, False)


@settings(_quick, max_examples=40)
@given(
    geometry=geometries(),
    groups=st.sampled_from([1, 1, 1, 2]),
    c=st.sampled_from([1, 3, 4, 16, 17, 36, 64, 65, 72, 130]),
    o=st.sampled_from([16, 19, 32, 40, 64, 70]),
    kind=st.sampled_from(["uint8", "float32", "first", "second"]),
    sums=st.sampled_from(tiles.SUMS),
    rows=st.integers(1, 16),
    across=st.booleans(),
    near=st.sampled_from([1024, 3000, 1 << 20]),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_tiles_of_every_shape_are_bit_exact(
    geometry: dict[str, Any],
    groups: int,
    c: int,
    o: int,
    kind: str,
    sums: tuple[int, int],
    rows: int,
    across: bool,
    near: int,
    seed: int,
    extreme: bool,
) -> None:
    out = "float32" if kind == "float32" else "uint8"
    shape = {"c": c * groups, "o": o * groups, "groups": groups, "residual": _summand(kind), **geometry}
    p = DenseParams("tile-u8s8", out, **shape)
    legal = [block for block, _ in tiles.candidates(p, AMX)]
    wanted = [block for block in legal if (block.pixel_tiles, block.channel_tiles) == sums and block.across == across]
    block = min(wanted or legal, key=lambda block: abs(block.rows - rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "choose_block", lambda p, isa: (block, 0.0))
        patch.setattr(tiles, "_NEAR_BYTES", near)  # small: the reduction in slices
        check_integers(AMX, p, seed, extreme)


@pytest.mark.parametrize(("c", "h", "o"), [(3, 9, 20), (16, 9, 32), (40, 14, 64), (96, 7, 33)])
def test_bfloat16_on_tiles_is_close(c: int, h: int, o: int) -> None:
    check_bfloat16(DenseParams("tile-bf16", "float32", 1, h, h, c, o, (3, 3), (1, 1), (1, 1, 1, 1)), AMX)


def test_tiles_are_taken_where_they_are_faster() -> None:
    wide = DenseParams("vnni", "uint8", 1, 28, 28, 256, 256, (3, 3), (1, 1), (1, 1, 1, 1))
    assert best_tiles(wide, AMX) == "tile-u8s8" and best_tiles(replace(wide, dot="bf16"), AMX) == "tile-bf16"
    assert best_tiles(wide, AVX512_BF16) == "vnni"
    for other in (
        replace(wide, o=10),  # narrower than a tile
        replace(wide, c=3, o=16),  # hardly a sum
        replace(wide, group_steps=8),
        replace(wide, dot="fma"),
    ):
        assert best_tiles(other, AMX) == other.dot


def test_what_computed_before_gets_its_tiles_back() -> None:
    p = DenseParams("tile-u8s8", "uint8", 1, 28, 28, 64, 64)
    text = str(tiled(p, AMX, 2))
    assert text.count("ldtilecfg") == 2 and text.count("sttilecfg") == 1
    assert text.index("T.parallel") < text.index("sttilecfg") < text.index("ldtilecfg") < text.index("tdpbusd")


def test_pairs_are_taken_where_they_are_faster() -> None:
    wide = DenseParams("usdot", "uint8", 1, 28, 28, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1))
    assert best_pairs(wide, I8MM) == "usmmla" and best_pairs(replace(wide, dot="bfdot"), I8MM) == "bfmmla"
    for other in (
        replace(wide, o=3),  # narrower than a vector
        replace(wide, h=1, w=1, kernel=(1, 1), pads=(0, 0, 0, 0)),  # one pixel
        replace(wide, c=12, kernel=(1, 1), pads=(0, 0, 0, 0)),  # half of every second step, and a copy
        replace(wide, group_steps=8),
        replace(wide, dot="fma"),
    ):
        assert best_pairs(other, I8MM) == other.dot
    assert best_pairs(replace(wide, dot="sdot"), DOTPROD) == "sdot"
    for o in (4, 8, 48, 256):
        for w in (2, 7, 14, 112):
            tile, _ = choose_pairs(replace(wide, dot="usmmla", w=w, o=o), I8MM)
            assert tile.pixels % 2 == 0 and tile.pixels * tile.vectors + 2 < I8MM.registers


@pytest.mark.parametrize(("isa", "dot"), _INTEGER, ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("tile", [Tile(1, 1), Tile(3, 2), Tile(5, 1), Tile(2, 3)])
def test_every_tile_gives_the_same_integers(isa: Isa, dot: str, tile: Tile) -> None:
    p = DenseParams(dot, "uint8", 1, 7, 9, 8, 40, (3, 3), (1, 1), (1, 1, 1, 1), tile=tile)
    check_integers(isa, p, 1, False)


@pytest.mark.parametrize(("isa", "dot"), _INTEGER, ids=lambda v: getattr(v, "name", v))
def test_a_row_per_thread_gives_the_same_integers(isa: Isa, dot: str) -> None:
    p = DenseParams(dot, "uint8", 1, 24, 24, 16, 48, (3, 3), (1, 1), (1, 1, 1, 1))
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, 24, 24, 16)).astype(np.uint8)
    w = rng.integers(-60, 61, (48, 3, 3, 16)).astype(np.int8)
    args = [x, pack_weights(w, p, isa), pack_channels(np.zeros(48, np.int32), 1, isa)]
    args += [pack_channels(np.full(48, 1e-4, np.float32), 1, isa), zeros(0, 128), bounds(-128, 127)]
    one, two = np.zeros((1, 24, 24, 48), np.uint8), np.zeros((1, 24, 24, 48), np.uint8)
    kernel_of(dense, p, isa, 1)(*args, one)
    kernel_of(dense, p, isa, 2)(*args, two)
    assert one.std() > 0
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("isa", "dot"), [*_INTEGER, *_ARM_DEPTHWISE], ids=lambda v: getattr(v, "name", v))
@_quick
@given(
    geometry=geometries(),
    c=st.sampled_from([4, 5, 8, 16, 21, 40, 64, 72, 131]),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_integer_depthwise_is_bit_exact(
    isa: Isa, dot: str, geometry: dict[str, Any], c: int, seed: int, extreme: bool
) -> None:
    if DOTS[dot].narrow:
        c = max(c, 8)
    p = DepthwiseParams(dot, "uint8", c=c, **geometry)
    rng = np.random.default_rng(seed)
    limit = 64 if dot == "maddubs" else 63 if dot == "smull7" else 127
    x = values(rng, (p.n, p.h, p.w, c), 0, 255, extreme).astype(np.uint8)
    w = values(rng, (c, *p.kernel), -limit, limit, extreme).astype(np.int8)
    zx, zy = int(rng.integers(256)), 17
    bias = rng.integers(-3000, 3000, c)
    scale = (rng.uniform(0.5, 2, c) / (90 * np.sqrt(w[0].size * 5000))).astype(np.float32)
    as_dense = DenseParams(dot, "uint8", c=c, o=c, groups=c, **geometry)
    per_channel = w.astype(np.int64).sum((1, 2))
    acc = convolve(x, w[..., None], as_dense, zx) + bias - zx * per_channel
    corrected = (bias - (zx - DOTS[dot].shift) * per_channel).astype(np.int32)
    lo, hi = (0, 255) if seed % 2 else (5, 201)
    want = requantized(acc, scale, zy, lo, hi)
    narrow = DOTS[dot].narrow
    pack, template = (pack_bytes_weights, depthwise_bytes) if narrow else (pack_depthwise_weights, depthwise)
    args = [x, pack(w, p, isa), pack_depthwise_channels(corrected, p, isa)]
    assert not narrow or taps_fit_int16(args[1], DOTS[dot].terms)
    args += [pack_depthwise_channels(scale, p, isa), zeros(zx, zy), bounds(lo - zy, hi - zy)]
    got = np.zeros(want.shape, np.uint8)
    kernel_of(template, p, isa)(*args, got)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("isa", _FLOAT, ids=lambda isa: isa.name)
@_quick
@given(
    geometry=geometries(),
    c=st.sampled_from([3, 4, 16, 21]),
    o=st.sampled_from([2, 9, 16, 33]),
    residual=st.booleans(),
)
def test_float_convolution_is_close(isa: Isa, geometry: dict[str, Any], c: int, o: int, residual: bool) -> None:
    p = DenseParams("fma", "float32", c=c, o=o, residual="second" if residual else "", **geometry)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((p.n, p.h, p.w, c)).astype(np.float32)
    w = rng.standard_normal((o, *p.kernel, c)).astype(np.float32)
    b = rng.standard_normal(o).astype(np.float32)
    want = convolve(x, w, p, 0) + b
    args = [x, pack_weights(w, p, isa), pack_channels(b, 1, isa), bounds(-3, 6)]
    if residual:
        args.append(rng.standard_normal(want.shape).astype(np.float32))
        want = want + args[-1]
    got = np.zeros(want.shape, np.float32)
    kernel_of(dense, p, isa)(*args, got)
    np.testing.assert_allclose(got, np.clip(want, -3, 6), rtol=1e-5, atol=1e-4)
    thin = DepthwiseParams("fma", "float32", c=max(c, 4), **geometry)
    x = rng.standard_normal((p.n, p.h, p.w, thin.c)).astype(np.float32)
    w = rng.standard_normal((thin.c, *p.kernel)).astype(np.float32)
    as_dense = replace(p, c=thin.c, o=thin.c, groups=thin.c)
    want = np.clip(convolve(x, w[..., None], as_dense, 0), 0, 6)
    none = pack_depthwise_channels(np.zeros(thin.c, np.float32), thin, isa)
    got = np.zeros(want.shape, np.float32)
    kernel_of(depthwise, thin, isa)(x, pack_depthwise_weights(w, thin, isa), none, bounds(0, 6), got)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("c", [3, 16])
def test_bfloat16_convolution_is_close(c: int) -> None:
    check_bfloat16(DenseParams("bf16", "float32", 1, 9, 9, c, 20, (3, 3), (1, 1), (1, 1, 1, 1)), AVX512_BF16)


@pytest.mark.parametrize("dot", [pytest.param(dot, marks=_emulated) for dot in ("bfdot", "bfmmla")])
@_quick
@given(
    geometry=geometries(),
    groups=st.sampled_from([1, 1, 2, 3]),
    c=st.integers(1, 18),
    o=st.sampled_from([1, 3, 5, 8, 16, 19]),
    residual=st.booleans(),
)
def test_bfloat16_convolution_of_arm_is_close(
    dot: str, geometry: dict[str, Any], groups: int, c: int, o: int, residual: bool
) -> None:
    summand = "second" if residual else ""
    p = DenseParams(dot, "float32", c=c * groups, o=o * groups, groups=groups, residual=summand, **geometry)
    assume(not DOTS[dot].pairs or plan(p, I8MM).cols > 1)
    check_bfloat16(p, I8MM)


@pytest.mark.parametrize("isa", [pytest.param(isa, marks=_emulated) for isa in (DOTPROD, I8MM)], ids=lambda v: v.name)
@_quick
@given(
    geometry=geometries(),
    groups=st.sampled_from([1, 1, 2, 3]),
    c=st.sampled_from([1, 3, 8, 20, 33, 70]),
    o=st.sampled_from([1, 3, 5, 8, 16, 19]),
    residual=st.booleans(),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_float16_convolution_is_close(
    isa: Isa, geometry: dict[str, Any], groups: int, c: int, o: int, residual: bool, size: float
) -> None:
    summand = "second" if residual else ""
    p = DenseParams("half", "float32", c=c * groups, o=o * groups, groups=groups, residual=summand, **geometry)
    rng = np.random.default_rng(0)
    x = np.clip(size * rng.standard_normal((p.n, p.h, p.w, p.c)), -65504, 65504).astype(np.float16)
    w = rng.standard_normal((p.o, *p.kernel, c)).astype(np.float16)
    b = rng.standard_normal(p.o).astype(np.float32)
    want = convolve(x.astype(np.float32), w.astype(np.float32), p, 0) + b
    packed, factors = pack_halves(w, p, isa)
    args = [x, packed, *(pack_channels(v, p.groups, doubled(isa)) for v in (b, factors)), bounds(-np.inf, np.inf)]
    if residual:
        args.append(rng.standard_normal(want.shape).astype(np.float32))
        want = want + args[-1]
    got = np.zeros(want.shape, np.float32)
    kernel_of(halved, p, isa)(*args, got)
    sizes = convolve(np.abs(x).astype(np.float32), np.abs(w).astype(np.float32), p, 0)
    assert (np.abs(got - want) < float16_error(sizes, factors, w[0].size) + 1e-6 * np.abs(want)).all()


def float16_error(sizes: np.ndarray, factors: np.ndarray, terms: int) -> np.ndarray:
    """Every addition rounds to 11 bits, or to the finest step that float16 has."""
    return 2**-9 * sizes + 2**-24 * factors * terms


@pytest.mark.parametrize("isa", [pytest.param(isa, marks=_emulated) for isa in (DOTPROD, I8MM)], ids=lambda v: v.name)
@_quick
@given(geometry=geometries(), c=st.sampled_from([4, 5, 8, 16, 21]), size=st.sampled_from([1e-3, 1.0, 1e4]))
def test_float16_depthwise_is_close(isa: Isa, geometry: dict[str, Any], c: int, size: float) -> None:
    check_float16_depthwise(isa, geometry, c, size)


@pytest.mark.aarch64
@pytest.mark.skipif(not can_emulate(), reason="no emulated AArch64 machine (scripts/aarch64_sysroot.py makes it)")
def test_float16_depthwise_of_the_largest_kernel_is_close() -> None:
    geometry = {"n": 1, "h": 11, "w": 10, "kernel": (8, 8), "pads": (4, 4, 3, 3)}
    for size in (1.0, 1e5):
        check_float16_depthwise(DOTPROD, geometry, 16, size)


def check_float16_depthwise(isa: Isa, geometry: dict[str, Any], c: int, size: float) -> None:
    p = DepthwiseParams("half", "float32", c=c, **geometry)
    rng = np.random.default_rng(0)
    x = np.clip(size * rng.standard_normal((p.n, p.h, p.w, c)), -65504, 65504).astype(np.float16)
    w = rng.standard_normal((c, *p.kernel)).astype(np.float16)
    b = rng.standard_normal(c).astype(np.float32)
    as_dense = DenseParams("half", "float32", c=c, o=c, groups=c, **geometry)
    want, sizes = (
        convolve(f(x).astype(np.float32), f(w)[..., None].astype(np.float32), as_dense, 0) for f in (np.array, np.abs)
    )
    packed, factors = pack_depthwise_halves(w, p, isa)
    args = [x, packed, *(pack_depthwise_channels(v, p, isa) for v in (b, factors)), bounds(-2 * size, 9 * size)]
    got = np.zeros(want.shape, np.float32)
    kernel_of(depthwise, p, isa)(*args, got)
    want = np.clip(want + b, -2 * size, 9 * size)
    assert (np.abs(got - want) < float16_error(sizes, factors, w[0].size) + 1e-6 * np.abs(want)).all()


@pytest.mark.aarch64
@pytest.mark.skipif(not can_emulate(), reason="no emulated AArch64 machine (scripts/aarch64_sysroot.py makes it)")
def test_the_largest_float16_values_do_not_overflow() -> None:
    x = np.full((1, 4, 4, 40), 65504, np.float16)
    w = np.full((8, 3, 3, 40), 1000, np.float16)
    p = DenseParams("half", "float32", 1, 4, 4, 40, 8, (3, 3))
    packed, factors = pack_halves(w, p, DOTPROD)
    args = [pack_channels(v, 1, doubled(DOTPROD)) for v in (np.zeros(8, np.float32), factors)]
    got = np.zeros((1, 2, 2, 8), np.float32)
    kernel_of(halved, p, DOTPROD)(x, packed, *args, bounds(-np.inf, np.inf), got)
    np.testing.assert_allclose(got, 65504.0 * 1000 * 360, rtol=1e-2)


def check_bfloat16(p: DenseParams, isa: Isa) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((p.n, p.h, p.w, p.c)).astype(ml_dtypes.bfloat16)
    w = rng.standard_normal((p.o, *p.kernel, p.c // p.groups)).astype(ml_dtypes.bfloat16)
    b = rng.standard_normal(p.o).astype(np.float32)
    want = convolve(x.astype(np.float32), w.astype(np.float32), p, 0) + b
    got = np.zeros(want.shape, np.float32)
    args = [x.view(np.uint16), pack_weights(w.view(np.uint16), p, isa), pack_channels(b, p.groups, isa)]
    args.append(bounds(-np.inf, np.inf))
    if p.residual:
        args.append(rng.standard_normal(want.shape).astype(np.float32))
        want = want + args[-1]
    kernel_of(template_of(p.dot), p, isa)(*args, got)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.sqrt(p.c))


@pytest.mark.parametrize(("isa", "dot"), [*_MATMUL, *_ARM_MATMUL], ids=lambda v: getattr(v, "name", v))
@_quick
@given(
    batch=st.integers(1, 3),
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    shared=st.booleans(),
    seed=st.integers(0, 99),
)
def test_matmul_of_activations(
    isa: Isa, dot: str, batch: int, shape: tuple[int, int, int], shared: bool, seed: int
) -> None:
    m, k, n = shape
    integer = DOTS[dot].integer
    a_shape, b_shape = (batch, m, k), (1 if shared else batch, k, n)
    out = "uint8" if integer else "float32"
    several = batch > 1
    p = MatMulParams(dot, out, batch, m, k, n, several, several and not shared, a_shape, b_shape, (batch, m, n))
    rng = np.random.default_rng(seed)
    if not integer:
        a, b = (rng.standard_normal(s).astype(np.float32) for s in (a_shape, b_shape))
        got = np.zeros((batch, m, n), np.float32)
        kernel_of(matmul, p, isa)(a, b, bounds(-np.inf, np.inf), got)
        np.testing.assert_allclose(got, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4)
        return
    a, b = (rng.integers(0, 256, s).astype(np.uint8) for s in (a_shape, b_shape))
    za, zb, zy = (int(v) for v in rng.integers(0, 256, 3))
    scale = np.float32(1 / (100 * np.sqrt(k) * 60))
    acc = (a.astype(np.int64) - za) @ (b.astype(np.int64) - zb)
    want = requantized(acc, np.asarray(scale), zy, 0, 255)
    got = np.zeros(want.shape, np.uint8)
    kernel_of(matmul, p, isa)(a, b, np.array([scale]), zeros(za, zy, zb), bounds(-zy, 255 - zy), got)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("isa", "dot"), [*_INTEGER, *_ARM_GROUPS], ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_two_level_scales_are_bit_exact(isa: Isa, dot: str, kernel: tuple[int, int]) -> None:
    size, c, o = 8, 24, 20
    steps = size // DOTS[dot].pack
    p = DenseParams(dot, "float32", 1, 6, 6, c, o, kernel, pads=(1, 1, 1, 1), group_steps=steps)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, 6, 6, c)).astype(np.uint8)
    w = rng.integers(-60, 61, (o, *kernel, c)).astype(np.int8)
    m = rng.integers(1, 16, (o, c // size)).astype(np.int32)
    effective = w.astype(np.int64) * np.repeat(m, size, axis=1)[:, None, None, :]
    want = convolve(x, effective, replace(p, group_steps=0), 0).astype(np.float32)
    lanes = isa.fit(o).lanes
    columns = np.stack([pack_channels(np.ascontiguousarray(col), 1, isa) for col in m.T])
    multiplier = np.tile(columns.reshape(len(columns), -1, lanes).transpose(1, 0, 2), (1, kernel[0] * kernel[1], 1))
    bias = (DOTS[dot].shift * effective.sum((1, 2, 3))).astype(np.int32)
    args = [x, pack_weights(w, p, isa), pack_channels(bias, 1, isa)]
    args += [pack_channels(np.ones(o, np.float32), 1, isa), zeros(0), bounds(-np.inf, np.inf), multiplier]
    got = np.zeros(want.shape, np.float32)
    kernel_of(dense, p, isa)(*(np.ascontiguousarray(a) for a in args), got)
    np.testing.assert_array_equal(got, want)


def test_the_chosen_tile_fits_the_registers() -> None:
    for isa in (AVX2, AVX512_VNNI):
        for o in (8, 16, 48, 256):
            for w in (1, 7, 14, 28, 112):
                tile = choose_tile(DenseParams("vnni", "uint8", 1, w, w, 64, o, (3, 3), pads=(1, 1, 1, 1)), isa)
                assert 1 <= tile.pixels * tile.vectors + 2 <= isa.registers


@given(st.lists(st.integers(-128, 127), min_size=2, max_size=8).filter(lambda v: len(v) % 2 == 0))
def test_pairs_fit_int16_is_exact(weights: list[int]) -> None:
    packed = np.array(weights, np.int8)
    pairs = [(weights[i], weights[i + 1]) for i in range(0, len(weights), 2)]
    sums = [a * x + b * y for x, y in pairs for a in (0, 255) for b in (0, 255)]
    assert pairs_fit_int16(packed) == all(-32768 <= s <= 32767 for s in sums)
