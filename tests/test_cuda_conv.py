"""The convolution for GPUs: bit for bit on an emulated block, and what NVRTC makes of it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from cuda_conv import convolution, kernel_of, make_case, run
from emulated_block import can_emulate

from hago.kernels.cuda.conv import conv
from hago.kernels.cuda.cuda_source import source_of
from hago.kernels.cuda.families import SM80
from hago.kernels.cuda.nvrtc import compile_cubin, installed_version
from hago.kernels.cuda.sass import disassemble
from hago.kernels.cuda.tile import BlockTile

needs_compiler = pytest.mark.skipif(not can_emulate(), reason="g++ is not installed: no block can be emulated")

SMALL = BlockTile(32, 32, 64, 3, (2, 2))
GROUPS = BlockTile(64, 64, 128, 3, (4, 1), warpgroups=True)
TILES = (
    SMALL,
    GROUPS,
    replace(GROUPS, rows=128, warps=(8, 1), columns=128, stages=4),
    BlockTile(64, 64, 64, 4, (2, 2)),
    BlockTile(64, 32, 128, 2, (4, 1)),
    BlockTile(16, 64, 128, 3, (1, 4)),
)

SAME = (1, 1, 1, 1)
"""Pads of a 3x3 convolution that keep the image's size."""

SHAPES = {
    "3x3 with a residual": convolution((1, 6, 7, 32), 48, SMALL, (3, 3), pads=SAME, residual="first"),
    "3x3, stride 2, 16 channels": convolution((2, 9, 9, 16), 80, SMALL, (3, 3), (2, 2), SAME),
    "1x1, K no multiple of a step": convolution((1, 5, 5, 176), 64, SMALL),
    "unequal pads, strides and taps": convolution((1, 8, 5, 32), 32, SMALL, (3, 2), (2, 1), (0, 1, 2, 0)),
    "one pixel": convolution((1, 1, 1, 64), 16, SMALL),
}


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_and_codes_are_exact_in_every_order_of_threads(shape: str) -> None:
    params = SHAPES[shape]
    kernel, case = kernel_of(params), make_case(params)
    assert [run(params, case, kernel, seed) for seed in range(3)] == [("", 0)] * 3


@needs_compiler
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile_computes_the_same(tile: BlockTile) -> None:
    params = convolution((1, 9, 9, 64), 80, tile, (3, 3), pads=SAME)
    kernel, case = kernel_of(params), make_case(params)
    assert [run(params, case, kernel, seed) for seed in range(3)] == [("", 0)] * 3


_WARPS = BlockTile(64, 64, 64, 2, (2, 2))
ENGINES = {
    "warps": convolution((1, 9, 9, 64), 64, _WARPS, (3, 3), pads=SAME),
    "warpgroups": convolution((1, 9, 9, 64), 64, GROUPS, (3, 3), pads=SAME),
    "with a residual": convolution((1, 9, 9, 64), 64, _WARPS, (3, 3), pads=SAME, residual="first"),
}
BARRIERS = {"warps": 3, "warpgroups": 3, "with a residual": 2}
CHANGES = {
    "copies not waited for": ("warps", r"hago::wait_copies<0>\(\);", ""),
    "wrong row of a fragment": ("warps", r"\(\(int\)threadIdx\.x\) & 15", "((int)threadIdx.x) & 7"),
    "wrong type": ("warps", "hago::mma_u8s8", "hago::mma_s8s8"),
    "products not waited for": ("warpgroups", r"hago::wait_wgmma<[01]>\(\);", ""),
    "stage overwritten while it is read": ("warpgroups", r"hago::wait_wgmma<1>\(\);", "hago::wait_wgmma<3>();"),
    "wrong place along k": ("warpgroups", r"\(uint64_t\)4ULL", "(uint64_t)2ULL"),
}


@needs_compiler
@pytest.mark.parametrize(
    ("engine", "barrier"), [(engine, i) for engine, count in BARRIERS.items() for i in range(count)]
)
def test_a_barrier_that_is_deleted_shows(engine: str, barrier: int) -> None:
    params = ENGINES[engine]
    case = make_case(params)

    def edit(kernel: str) -> str:
        places = [found.span() for found in re.finditer(r"__syncthreads\(\);", kernel)]
        assert len(places) == BARRIERS[engine]
        start, end = places[barrier]
        return kernel[:start] + kernel[end:]

    broken = kernel_of(params, edit)
    assert any(run(params, case, broken, seed) != ("", 0) for seed in range(3))


@needs_compiler
@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_kernel_shows(change: str) -> None:
    engine, pattern, replacement = CHANGES[change]
    params = ENGINES[engine]
    case = make_case(params)

    def edit(kernel: str) -> str:
        changed, count = re.subn(pattern, replacement, kernel)
        assert count, f"{pattern} is not in the kernel"
        return changed

    broken = kernel_of(params, edit)
    assert any(run(params, case, broken, seed) != ("", 0) for seed in range(5))


def test_tensors_that_offsets_cannot_reach_are_refused() -> None:
    with pytest.raises(ValueError, match="not addressed"):
        convolution((4096, 224, 224, 16), 32, SMALL)


@pytest.mark.parametrize(
    ("change", "words"),
    (
        ({"rows": 24}, "multiples of 16"),
        ({"depth": 32}, "64 or 128 bytes"),
        ({"stages": 1}, "at least 2 stages"),
        ({"warpgroups": True}, "a warpgroup multiplies 64 rows"),
    ),
    ids=str,
)
def test_a_tile_that_warps_cannot_share_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    ("arch", "tile", "instruction", "count"),
    (
        # Products of one step: 32 bytes at a time, by fragments down and across; on sm_75 four for each.
        ("sm_75", BlockTile(64, 64, 64, 4, (2, 2)), "IMMA.8816.U8.S8", 2 * 2 * 4 * 4),
        *(
            (arch, BlockTile(128, 128, 64, 4, (2, 4)), "IMMA.16832.U8.S8", 2 * 4 * 4)
            for arch in ("sm_80", "sm_87", "sm_89")
        ),
        ("sm_90", BlockTile(128, 128, 64, 4, (2, 4)), "IMMA.16832.U8.S8", 2 * 4 * 4),
        ("sm_90a", BlockTile(128, 256, 128, 4, (8, 1), warpgroups=True), "IGMMA.64x256x32.U8.S8", 4),
    ),
    ids=str,
)
def test_tensor_cores_are_used_and_nothing_is_spilled(arch: str, tile: BlockTile, instruction: str, count: int) -> None:
    params = convolution((8, 28, 28, 128), 256, tile, (3, 3), pads=SAME)
    if not installed_version():
        pytest.skip("the extra cuda is not installed")
    sass = disassemble(compile_cubin(source_of(conv(params, SM80), "conv").text, arch))
    found = {name: many for name, many in sass.instructions.items() if "MMA" in name}
    assert found == {instruction: count}
    assert not sass.spills and sass.registers <= 255
