"""Products in float32 for GPUs: on the emulated block, and what NVRTC makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_nodes import conforms, needs_compiler, needs_cuda, one_node, sass_of
from emulated_gpu import emulated_call

from hago.kernels.common.anchor import bounds
from hago.kernels.cuda import float_anchors
from hago.kernels.cuda.families import FAMILIES, SM80
from hago.kernels.cuda.fma import FmaParams, fma
from hago.kernels.cuda.fma_choice import TILES, choose_tiles
from hago.kernels.cuda.fma_loads import FmaTile
from hago.kernels.cuda.loads import Window
from hago.kernels.cuda.thread_epilogue import FloatEpilogue


def conv(
    x: tuple[int, int, int, int], outputs: int, kernel: tuple[int, int], residual: tuple[int, ...] = (), **window: Any
) -> Any:
    rng = np.random.default_rng(5)
    inputs: dict[str, Any] = {"x": rng.standard_normal(x).astype(np.float32)}
    inputs["w"] = rng.standard_normal((outputs, *kernel, x[3])).astype(np.float32)
    inputs["bias"] = rng.standard_normal(outputs).astype(np.float32)
    inputs["r"] = rng.standard_normal((*residual, outputs)).astype(np.float32) if residual else None
    attrs = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1, **window}
    return one_node("Conv", inputs, {**attrs, "act_lo": -3.0, "act_hi": 6.0, "precision": "float32"})


def gemm(x: tuple[int, ...], outputs: int, activation: str, residual: bool = False) -> Any:
    rng = np.random.default_rng(5)
    inputs: dict[str, Any] = {"x": rng.standard_normal(x).astype(np.float32)}
    inputs["w"] = (rng.standard_normal((outputs, x[-1])) / 4).astype(np.float32)
    inputs["bias"] = rng.standard_normal(outputs).astype(np.float32)
    inputs["r"] = rng.standard_normal((*x[:-1], outputs)).astype(np.float32) if residual else None
    attrs = {"act_lo": -np.inf, "act_hi": np.inf, "precision": "float32"}
    return one_node("Gemm", inputs, {**attrs, **({"activation": activation} if activation else {})})


def matmul(a: tuple[int, ...], b: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(5)
    inputs = {"a": rng.standard_normal(a).astype(np.float32), "b": rng.standard_normal(b).astype(np.float32)}
    return one_node("MatMul", inputs, {}, ("a", "b"), domain="")


SEEDS = range(3)
SMALL, WIDE_ROWS, LARGE = TILES[3], TILES[2], TILES[0]
CASES = {
    "3x3, three channels, stride 2": (conv((2, 9, 9, 3), 10, (3, 3), pads=(1, 1, 1, 1), strides=(2, 2)), SMALL),
    "3x3, K ends within a step": (conv((1, 7, 6, 12), 70, (3, 3), (1, 7, 6), pads=(1, 1, 1, 1)), WIDE_ROWS),
    "taps far apart, unequal pads": (conv((1, 8, 7, 8), 16, (2, 3), pads=(0, 2, 1, 1), dilations=(2, 2)), TILES[5]),
    "1x1 over several blocks": (conv((1, 12, 12, 32), 132, (1, 1)), LARGE),
    "a product with gelu": (gemm((2, 5, 20), 24, "Gelu_tanh"), TILES[4]),
    "a product with a residual": (gemm((3, 7), 5, "", residual=True), TILES[1]),
    "batches that broadcast": (matmul((2, 1, 5, 20), (3, 20, 6)), SMALL),
    "3x3 in parts of K": (conv((1, 4, 5, 12), 20, (3, 3), (1, 4, 5), pads=(1, 1, 1, 1)), TILES[4], 3),
    "batches in parts, of which one is empty": (matmul((2, 1, 5, 66), (3, 66, 6)), TILES[5], 4),
    "a vector and batches": (matmul((20,), (2, 20, 8)), SMALL),
}


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_products_are_close_to_their_reference(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (graph, feeds), tile, *several = CASES[case]
    parts = several[0] if several else 1
    monkeypatch.setattr(float_anchors, "choose_tiles", lambda *given: (parts, [tile]))
    assert conforms(graph, feeds) < 2e-6


@needs_compiler
@pytest.mark.parametrize("barrier", (0, 1))
def test_a_barrier_that_is_deleted_shows(barrier: int) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((40, 72), (72, 64)))
    shape = FmaParams(Window((1, 1, 40, 72)), 64, 64, FloatEpilogue(), SMALL, a.shape, b.shape, (40, 64))

    def without(text: str) -> str:
        before, between, behind = text.split("__syncthreads();")
        return f"{before}__syncthreads();{between}{behind}" if barrier else f"{before}{between}__syncthreads();{behind}"

    kernel = emulated_call(fma(shape, SM80), without)
    for seed in SEEDS:
        y = np.zeros((40, 64), np.float32)
        fault = kernel([a, b, np.zeros(64, np.float32), bounds(-np.inf, np.inf), y], seed)
        assert fault or (np.abs(y - a @ b) > 1e-3).sum() > 100


ROWS = Window((1, 1, 4096, 512))


def params(tile: FmaTile) -> FmaParams:
    return FmaParams(ROWS, 512, 512, FloatEpilogue(True), tile, (4096, 512), (512, 512), (4096, 512))


@needs_cuda
@pytest.mark.parametrize("arch", ("sm_75", "sm_90a"))
@pytest.mark.parametrize("tile", (LARGE, WIDE_ROWS), ids=str)
def test_multiply_adds_read_shared_memory_in_fours(tile: FmaTile, arch: str) -> None:
    sass = sass_of(fma(params(tile), SM80), arch)
    assert sass.count("FFMA") >= tile.depth * tile.high * tile.wide
    assert not sass.spills and sass.registers * tile.threads <= 65536 // (1 if tile is LARGE else 3)
    reads = [name for name in sass.instructions if name.split(".")[0] == "LDS"]
    assert all("128" in name for name in reads), reads


@pytest.mark.parametrize("gpu", FAMILIES.values(), ids=lambda gpu: gpu.name)
def test_large_products_get_large_tiles_and_small_ones_fill_the_gpu(gpu: Any) -> None:
    (one, (large, *_)), (several, (small, *_)) = (
        choose_tiles(Window((1, 1, rows, 4096)), 1024, 1, gpu) for rows in (1 << 16, 16)
    )
    assert large.rows * large.columns >= 64 * 128 and one == 1
    assert small.rows <= 32 and several * (1024 // small.columns) > gpu.multiprocessors
    assert {tile.threads % 32 for tile in TILES} == {0}
