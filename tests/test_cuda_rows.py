"""Reductions, softmax and layer normalization for GPUs, on the emulated block, against numpy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_nodes import conforms, single
from emulated_block import can_emulate
from emulated_gpu import EmulatedNetwork, emulated_call

from hago.compiler.program import emit
from hago.compiler.toolchain import toolchain_of
from hago.kernels.common.normalizations import Softmax
from hago.kernels.common.reductions import KINDS, ArgExtreme, Reduce
from hago.kernels.cuda.cuda_source import source_of
from hago.kernels.cuda.families import SM75, SM80, SM90, Gpu
from hago.kernels.cuda.nvrtc import compile_cubin, installed_version
from hago.kernels.cuda.reduce import arg_extreme, reduction
from hago.kernels.cuda.rowwise import divide
from hago.kernels.cuda.sass import disassemble
from hago.kernels.cuda.softmax import softmax
from hago.lower import LoweredGraph
from hago.spec import load_spec
from hago.tensor import TensorType

needs_compiler = pytest.mark.skipif(not can_emulate(), reason="g++ is not installed: no block can be emulated")
SPEC = load_spec("nvidia-a100")
SEEDS = (0, 1, 2)

REDUCTIONS = {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceL1": lambda x, **k: np.abs(x).sum(**k),
    "ReduceL2": lambda x, **k: np.sqrt((x * x).sum(**k)),
    "ReduceSumSquare": lambda x, **k: (x * x).sum(**k),
}


def sample(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 5).astype(np.float32)


def results(graph: LoweredGraph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The graph's first output, in each order of threads, without a fault."""
    found = []
    for seed in SEEDS:
        network = EmulatedNetwork(graph, SPEC, seed)
        found.append(network.run(feeds)[0])
        assert network.faults == []
    return found


def reduce_node(op: str, x: np.ndarray, axes: tuple[int, ...]) -> tuple[LoweredGraph, np.ndarray]:
    """A reduction, and its result in float64 (integers: exactly)."""
    wide = x.astype(np.float64) if x.dtype == np.float32 else x
    expected = REDUCTIONS[op](wide, axis=axes, keepdims=True)
    y = TensorType(x.dtype.name, expected.shape)
    return single(op, {"x": x}, {"axes": np.array(axes)}, ("x", "axes"), y, domain="", keepdims=1), expected


# Rows of a part of a warp, of a warp, of warps, and longer than registers; columns alone and in teams; axes apart.
SHAPES = [
    ((3, 7), (1,)), ((5, 96), (1,)), ((2, 2052), (1,)), ((1, 9001), (1,)), ((70, 3), (0,)), ((2, 40, 36), (1,)),
    ((3, 5, 6, 4), (1, 3)), ((1, 5), (0,)),
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize(("shape", "axes"), SHAPES, ids=str)
def test_means(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x = sample(shape) + np.float32(1)
    graph, expected = reduce_node("ReduceMean", x, axes)
    for found in results(graph, {"x": x}):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("op", sorted(set(REDUCTIONS) - {"ReduceMean"}))
def test_every_reduction(op: str) -> None:
    x = sample((2, 66, 3, 2))
    graph, expected = reduce_node(op, x, (1, 3))
    scale = np.abs(x).astype(np.float64).sum()
    for found in results(graph, {"x": x}):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7 * scale)
    assert set(REDUCTIONS) == set(KINDS)


@needs_compiler
@pytest.mark.parametrize(("op", "dtype"), [("ReduceSum", "int64"), ("ReduceMax", "int32"), ("ReduceMin", "uint8"),
                                           ("ReduceMax", "int8")])  # fmt: skip
def test_integers(op: str, dtype: str) -> None:
    x = np.random.default_rng(0).integers(*((0, 256) if dtype == "uint8" else (-128, 128)), (3, 80)).astype(dtype)
    graph, expected = reduce_node(op, x, (1,))
    for found in results(graph, {"x": x}):
        np.testing.assert_array_equal(found, expected)


@needs_compiler
@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_an_extreme_of_a_nan_is_one(op: str) -> None:
    x = sample((3, 80))
    x[1, 77] = np.nan
    x[2] = np.inf if op == "ReduceMin" else -np.inf
    graph, expected = reduce_node(op, x, (1,))
    for found in results(graph, {"x": x}):
        np.testing.assert_array_equal(found, expected.astype(np.float32))


@needs_compiler
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("op", "dtype", "shape", "axis"), [
    ("ArgMax", "float32", (3, 300), 1), ("ArgMin", "uint8", (3, 80), 1), ("ArgMax", "int32", (2, 40, 5), 1),
])  # fmt: skip
def test_arg_extremes(op: str, dtype: str, shape: tuple[int, ...], axis: int, last: bool) -> None:
    # Few values, so that there are equals.
    x = np.random.default_rng(0).integers(0, 5, shape).astype(dtype)
    expected = getattr(np, op.lower())(np.flip(x, axis) if last else x, axis=axis)
    expected = shape[axis] - 1 - expected if last else expected
    y = TensorType("int64", expected.shape)
    graph = single(op, {"x": x}, {}, ("x",), y, domain="", axis=axis, keepdims=0, select_last_index=int(last))
    for found in results(graph, {"x": x}):
        np.testing.assert_array_equal(found, expected)


@needs_compiler
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((5, 7), 1), ((3, 1000), 1), ((1, 9001), 1), ((2, 35, 6), 1)], ids=str)
def test_softmax(shape: tuple[int, ...], axis: int, log: bool) -> None:
    x = sample(shape)
    less = x.astype(np.float64) - x.max(axis=axis, keepdims=True)
    total = np.exp(less).sum(axis=axis, keepdims=True)
    expected = less - np.log(total) if log else np.exp(less) / total
    y = TensorType("float32", shape)
    graph = single("LogSoftmax" if log else "Softmax", {"x": x}, {}, ("x",), y, domain="", axis=axis)
    for found in results(graph, {"x": x}):
        np.testing.assert_allclose(found, expected, rtol=3e-6, atol=3e-7 * (1 + 20 * log))


@needs_compiler
def test_softmax_of_masked_scores() -> None:
    x = sample((4, 99))
    x[:, 50:] = -np.inf
    for found in results(single("Softmax", {"x": x}, {}, ("x",), TensorType("float32", x.shape), domain=""), {"x": x}):
        assert np.all(found[:, 50:] == 0)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


@needs_compiler
@pytest.mark.parametrize(("shape", "biased"), [((3, 5, 10), True), ((2, 768), True), ((1, 8300), False)], ids=str)
def test_layer_normalization(shape: tuple[int, ...], biased: bool) -> None:
    x, n = sample(shape) + np.float32(3), shape[-1]
    constants = {"scale": sample((n,), 1)} | ({"bias": sample((n,), 2)} if biased else {})
    wide = x.astype(np.float64)
    mean = wide.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(((wide - mean) ** 2).mean(axis=-1, keepdims=True) + 1e-3)
    expected = (wide - mean) * inverse * constants["scale"] + constants.get("bias", 0)
    y = TensorType("float32", shape)
    inputs = ("x", *constants)
    graph = single("LayerNormalization", {"x": x}, constants, inputs, y, domain="", axis=-1, epsilon=1e-3)
    for found in results(graph, {"x": x}):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


@needs_compiler
def test_nodes_conform_to_their_references() -> None:
    x = sample((4, 100))
    y = TensorType("float32", (4, 100))
    assert conforms(single("Softmax", {"x": x}, {}, ("x",), y, domain="", axis=-1), {"x": x}) < 1e-6
    constants = {"scale": sample((100,), 1), "bias": sample((100,), 2)}
    graph = single("LayerNormalization", {"x": x}, constants, ("x", "scale", "bias"), y, domain="", axis=-1)
    assert conforms(graph, {"x": x}) < 1e-5


def barriers_deleted(graph: LoweredGraph, feeds: dict[str, np.ndarray]) -> int:
    """Wrong elements of the only kernel of a graph where its barriers are deleted, summed over orders of threads."""
    toolchain = toolchain_of(SPEC, 1)
    (step,) = emit(graph, toolchain).steps
    assert step.call is not None
    function = step.call.template(step.call.params, toolchain.family, 1)
    right, broken = emulated_call(function), emulated_call(function, lambda text: text.replace("__syncthreads();", ""))
    wrong = 0
    for seed in SEEDS:
        outputs: list[Any] = []
        for call in (right, broken):
            y = graph.types["y"]
            outputs.append(np.zeros(y.shape, y.dtype))
            call([*[feeds[name] for name in graph.inputs], outputs[-1]], seed)
        wrong += int((~np.isclose(*outputs)).sum())
    return wrong


@needs_compiler
@pytest.mark.parametrize(("shape", "axes"), [((2, 2052), (1,)), ((2, 40, 36), (1,))], ids=str)
def test_a_deleted_barrier_shows(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x = sample(shape) + np.float32(1)
    assert barriers_deleted(reduce_node("ReduceMean", x, axes)[0], {"x": x}) > 0


@pytest.mark.parametrize("rows", [1, 3, 197, 2364, 100_000])
@pytest.mark.parametrize("n", [1, 7, 197, 768, 1000, 9001])
@pytest.mark.parametrize("inner", [1, 2, 49])
def test_blocks_are_of_whole_warps_and_rows_of_one_team(rows: int, n: int, inner: int) -> None:
    d = divide(SM80, rows, n, inner, "float32")
    threads = d.size * d.teams
    assert threads % 32 == 0 and threads <= 256 and d.size & (d.size - 1) == 0
    assert n % d.lanes == 0 and d.steps * d.size * d.lanes >= n
    if d.rows == 1 and n >= 1000 and inner == 1:
        assert d.size == 256  # one row is shared by a whole block


KERNELS: dict[str, Callable[[Gpu], Any]] = {
    "softmax": lambda gpu: softmax(Softmax((1, 1000), 1, 1000, 1, False), gpu, 1),
    "columns": lambda gpu: reduction(Reduce("ReduceMax", "float32", (3, 50, 40), (3, 40), 3, 50, 40), gpu, 1),
    "index": lambda gpu: arg_extreme(ArgExtreme("uint8", (4, 1024), (4,), 4, 1024, 1, False, False), gpu, 1),
}
WIDE = {"softmax", "index"}


@pytest.mark.skipif(not installed_version(), reason="the extra cuda is not installed")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("gpu", [SM75, SM80, SM90], ids=lambda gpu: gpu.arch)
def test_rows_are_read_16_bytes_at_once_and_stay_in_registers(gpu: Gpu, kernel: str) -> None:
    sass = disassemble(compile_cubin(source_of(KERNELS[kernel](gpu), "kernel").text, gpu.arch))
    assert not sass.spills and sass.registers <= 64
    loads = [name for name in sass.instructions if name.startswith("LDG")]
    assert all((".128" in name) == (kernel in WIDE) for name in loads), loads
    assert (sass.count("SHFL") > 0) == (kernel != "columns")
