"""The convolution for GPUs: bit for bit on an emulated block, and what NVRTC makes of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from cuda_conv import kernel_of, make_case, run
from emulated_block import can_emulate

from hago.errors import MissingExtraError
from hago.kernels.cuda.conv import Conv, Tile, conv
from hago.kernels.cuda.nvrtc import compile_cubin, compiler_version
from hago.kernels.cuda.sass import disassemble
from hago.kernels.cuda.source import source_of

needs_compiler = pytest.mark.skipif(not can_emulate(), reason="g++ is not installed: no block can be emulated")

SMALL = Tile(32, 32, 64, 3, (2, 2))
TILES = (SMALL, Tile(64, 64, 64, 4, (2, 2)), Tile(64, 32, 128, 2, (4, 1)), Tile(16, 64, 128, 3, (1, 4)))
PLAIN = Conv((1, 6, 7, 32), 48, (3, 3), (1, 1), (1, 1, 1, 1), SMALL)
SHAPES = {
    "3x3 with a residual": replace(PLAIN, residual=True),
    "3x3, stride 2, 16 channels": Conv((2, 9, 9, 16), 80, (3, 3), (2, 2), (1, 1, 1, 1), SMALL),
    "1x1, K no multiple of a step": Conv((1, 5, 5, 176), 64, (1, 1), (1, 1), (0, 0, 0, 0), SMALL),
    "unequal pads, strides and taps": Conv((1, 8, 5, 32), 32, (3, 2), (2, 1), (0, 1, 2, 0), SMALL),
    "one pixel": Conv((1, 1, 1, 64), 16, (1, 1), (1, 1), (0, 0, 0, 0), SMALL),
}


@needs_compiler
@pytest.mark.parametrize("signed", (False, True))
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_and_codes_are_exact_in_every_order_of_threads(shape: str, signed: bool) -> None:
    params = replace(SHAPES[shape], signed=signed)
    kernel, case = kernel_of(params), make_case(params)
    assert [run(params, case, kernel, seed) for seed in range(3)] == [("", 0)] * 3


@needs_compiler
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile_computes_the_same(tile: Tile) -> None:
    params = Conv((1, 9, 9, 64), 80, (3, 3), (1, 1), (1, 1, 1, 1), tile)
    kernel, case = kernel_of(params), make_case(params)
    assert [run(params, case, kernel, seed) for seed in range(3)] == [("", 0)] * 3


def _without(which: int) -> Callable[[str], str]:
    """Takes out the barrier of that number."""

    def edit(kernel: str) -> str:
        places = [found.span() for found in re.finditer(r"__syncthreads\(\);", kernel)]
        start, end = places[which]
        return kernel[:start] + kernel[end:]

    return edit


FAULTY = Conv((1, 9, 9, 64), 64, (3, 3), (1, 1), (1, 1, 1, 1), Tile(64, 64, 64, 2, (2, 2)))


@needs_compiler
@pytest.mark.parametrize("barrier", range(3))
def test_a_barrier_that_is_deleted_shows(barrier: int) -> None:
    case = make_case(FAULTY)
    assert kernel_text().count("__syncthreads();") == 3
    broken = kernel_of(FAULTY, _without(barrier))
    assert any(run(FAULTY, case, broken, seed) != ("", 0) for seed in range(3))


@needs_compiler
@pytest.mark.parametrize(
    "change",
    (
        (r"hago::wait_copies<0>\(\);", ""),
        (r"\(\(int\)threadIdx\.x\) & 15", "((int)threadIdx.x) & 7"),
        ("hago::mma_u8s8", "hago::mma_s8s8"),
    ),
    ids=("copies not waited for", "wrong row of a fragment", "wrong type"),
)
def test_a_wrong_kernel_shows(change: tuple[str, str]) -> None:
    case = make_case(FAULTY)

    def edit(kernel: str) -> str:
        changed, count = re.subn(*change, kernel)
        assert count, f"{change[0]} is not in the kernel"
        return changed

    broken = kernel_of(FAULTY, edit)
    assert any(run(FAULTY, case, broken, seed) != ("", 0) for seed in range(3))


def kernel_text() -> str:
    return source_of(conv(FAULTY), "conv", "sm_80").kernel


def test_channels_that_no_copy_fits_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        replace(PLAIN, channels=20)


def test_a_tile_that_warps_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        Tile(24, 32, 64, 3, (2, 2))


@pytest.mark.parametrize("arch", ("sm_80", "sm_87", "sm_89", "sm_90"))
def test_tensor_cores_are_used_and_nothing_is_spilled(arch: str) -> None:
    tile = Tile(128, 128, 64, 4, (2, 4))
    params = Conv((8, 28, 28, 128), 128, (3, 3), (1, 1), (1, 1, 1, 1), tile)
    try:
        compiler_version()
    except MissingExtraError as error:
        pytest.skip(f"the extra cuda is not installed: {error.what}")
    sass = disassemble(compile_cubin(source_of(conv(params), "conv", arch).text, arch))
    assert sass.instructions.get("IMMA.16832.U8.S8", 0) == 2 * 4 * 4  # steps of 32 bytes, fragments down and across
    assert not sass.spills and sass.registers <= 255
