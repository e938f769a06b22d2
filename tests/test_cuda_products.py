"""Integer products on tensor cores, on the emulated block: every node equals its reference bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_nodes import conforms, single
from emulated_block import can_emulate
from emulated_gpu import EmulatedNetwork

from hago.compiler.program import emit, kernel_step
from hago.compiler.toolchain import toolchain_of
from hago.errors import BuildError
from hago.kernels.cuda.cuda_source import source_of
from hago.kernels.cuda.families import FAMILIES, Gpu
from hago.kernels.cuda.loads import Window
from hago.kernels.cuda.nvrtc import compile_cubin, installed_version
from hago.kernels.cuda.sass import disassemble
from hago.kernels.cuda.tile import BlockTile
from hago.kernels.cuda.tile_choice import candidates, estimate
from hago.kernels.cuda.tile_epilogue import Result
from hago.lower import LoweredGraph, reference
from hago.spec import load_spec
from hago.tensor import TensorType

pytestmark = pytest.mark.skipif(not can_emulate(), reason="g++ is not installed: no block can be emulated")

Feeds = dict[str, np.ndarray]


def qconv(
    x: tuple[int, int, int, int],
    channels: int,
    kernel: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    out: str = "uint8",
    residual: str = "",
    table: bool = False,
    zero: int = 7,
    seed: int = 0,
) -> tuple[LoweredGraph, Feeds]:
    """A convolution of random codes with the extremes among them, whose results are mostly not clamped."""
    rng = np.random.default_rng(seed)
    n, h, w, c = x
    oh, ow = (
        (size + before + behind - (k - 1) * d - 1) // s + 1
        for size, before, behind, k, d, s in zip((h, w), pads[:2], pads[2:], kernel, dilations, strides, strict=True)
    )
    return _integer(rng, x, (n, oh, ow, channels), (channels, *kernel, c), "QConv", out, residual, table, zero, {
        "strides": strides, "pads": pads, "dilations": dilations, "group": 1,
    })  # fmt: skip


def qgemm(x: tuple[int, ...], channels: int, out: str = "uint8", residual: str = "") -> tuple[LoweredGraph, Feeds]:
    """A fully connected layer."""
    rng = np.random.default_rng(1)
    return _integer(rng, x, (*x[:-1], channels), (channels, x[-1]), "QGemm", out, residual, False, 128, {})


def _integer(
    rng: np.random.Generator,
    x: Any,
    y: Any,
    w: Any,
    op: str,
    out: str,
    residual: str,
    table: bool,
    zero: int,
    attrs: Any,
) -> tuple[LoweredGraph, Feeds]:
    codes = rng.integers(0, 256, x).astype(np.uint8)
    weights = rng.integers(-127, 128, w).astype(np.int8)
    codes.flat[::7], codes.flat[3::11], weights.flat[::10], weights.flat[5::10] = 255, 0, -128, 127
    terms = int(np.prod(w[1:]))
    constants = {
        "w": weights,
        "bias": rng.integers(-2000, 2000, w[0]).astype(np.int32),
        "scale": (rng.uniform(0.5, 1.5, w[0]) * 0.004 / terms**0.5).astype(np.float32),
        "table": rng.permutation(256).astype(np.uint8),
    }
    feeds = {"x": codes}
    if residual:
        feeds["r"] = rng.integers(0, 256, y).astype(np.uint8)
        attrs |= {"r_first": residual == "first", "r_lo": 4, "r_hi": 251}
        attrs |= {"a_scale": 0.9155, "b_scale": 0.47472, "r_offset": -40.03}
    if out == "uint8":
        attrs |= {"y_zero_point": 117, "lo": 2, "hi": 250}
    else:
        attrs |= {"act_lo": -1.25, "act_hi": 1e9}
    inputs = ("x", "w", "bias", "scale", "", "table" if table else "", "r" if residual else "")
    used = {name: array for name, array in constants.items() if name in inputs}
    graph = single(op, feeds, used, inputs, TensorType(out, y), x_zero_point=zero, out=out, **attrs)
    results = reference(graph)(feeds)[0]
    assert table or out != "uint8" or ((results > 4) & (results < 250)).mean() > 0.5, "clamped codes hide what is wrong"
    return graph, feeds


CASES = {
    "one channel, gathered": lambda: qconv((1, 6, 7, 1), 8, (3, 3), (1, 1, 1, 1)),
    "stem of three channels": lambda: qconv((2, 11, 9, 3), 16, (3, 3), (0, 1, 1, 0), (2, 2), zero=0),
    "three by five channels": lambda: qconv((1, 5, 6, 3), 5, (2, 3), (1, 0, 0, 1), zero=255),
    "copies of 4 bytes": lambda: qconv((1, 7, 6, 12), 12, (3, 3), (1, 1, 1, 1)),
    "copies of 8 bytes": lambda: qconv((1, 7, 6, 24), 40, (3, 3), (1, 1, 1, 1)),
    "8 channels, dilated": lambda: qconv((1, 9, 9, 8), 24, (3, 2), (2, 1, 2, 1), (1, 2), (2, 3)),
    "16 channels, K over several steps": lambda: qconv((1, 6, 6, 16), 72, (3, 3), (1, 1, 1, 1)),
    "1x1, odd channels out": lambda: qconv((1, 5, 5, 176), 17),
    "one channel out": lambda: qconv((1, 9, 4, 32), 1),
    "residual first, table": lambda: qconv((1, 6, 5, 20), 24, (3, 3), (1, 1, 1, 1), residual="first", table=True),
    "residual second": lambda: qconv((1, 6, 5, 32), 48, (1, 1), residual="second"),
    "residual of odd channels": lambda: qconv((1, 5, 5, 16), 9, (1, 1), residual="second"),
    "float32": lambda: qconv((1, 5, 6, 16), 34, (3, 3), (1, 1, 1, 1), out="float32"),
    "float32, odd channels": lambda: qconv((1, 5, 6, 16), 7, out="float32"),
    "fully connected": lambda: qgemm((1, 200), 33),
    "fully connected, odd depth, float32": lambda: qgemm((3, 35), 10, "float32"),
    "fully connected, tokens, residual": lambda: qgemm((2, 5, 64), 32, residual="first"),
}


def qmatmul(a: tuple[int, ...], b: tuple[int, ...], out: str = "uint8", zeros: tuple[int, int] = (131, 9)) -> Any:
    """A product of two activations."""
    rng = np.random.default_rng(2)
    feeds = {name: rng.integers(0, 256, shape).astype(np.uint8) for name, shape in (("a", a), ("b", b))}
    feeds["a"].flat[::7], feeds["b"].flat[::5] = 255, 255
    y = (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
    scale = np.array([0.002 / a[-1] ** 0.5], np.float32)
    attrs: dict[str, Any] = {"act_lo": -9.0, "act_hi": 9.0}
    if out == "uint8":
        attrs = {"y_zero_point": 120, "lo": 0, "hi": 255}
    attrs |= {"a_zero_point": zeros[0], "b_zero_point": zeros[1], "out": out}
    return single("QMatMul", feeds, {"scale": scale}, ("a", "b", "scale"), TensorType(out, y), **attrs), feeds


CASES |= {
    "matmul": lambda: qmatmul((2, 3, 20, 64), (2, 3, 64, 24)),
    "matmul, odd shapes, float32": lambda: qmatmul((2, 9, 35), (2, 35, 11), "float32", (0, 255)),
    "matmul, one matrix for all batches": lambda: qmatmul((3, 5, 150), (150, 40)),
}


@pytest.mark.parametrize("case", CASES)
def test_integer_products_are_exact(case: str) -> None:
    graph, feeds = CASES[case]()
    assert conforms(graph, feeds) == 0


@pytest.mark.parametrize(
    ("spec", "case"),
    (
        ("nvidia-h100", lambda: qconv((1, 12, 11, 24), 72, (3, 3), (1, 1, 1, 1), residual="first")),
        ("nvidia-h100", lambda: qconv((1, 9, 8, 3), 64, (5, 5), (2, 2, 2, 2))),
        ("nvidia-t4", lambda: qconv((1, 12, 11, 64), 80, (3, 3), (1, 1, 1, 1), residual="second", table=True)),
    ),
)
def test_every_tile_that_may_be_timed_computes_the_same(spec: str, case: Any) -> None:
    graph, feeds = case()
    network, wanted = EmulatedNetwork(graph, load_spec(spec)), reference(graph)(feeds)[0]
    (step,) = network.program.steps
    assert step.call is not None and step.call.alternatives
    for params in (step.call.params, *step.call.alternatives):
        call = replace(step.call, params=params)
        steps = (kernel_step(call, step.inputs, network.program.types, network.toolchain),)
        network.program = replace(network.program, steps=steps)
        np.testing.assert_array_equal(network.run(feeds)[0], wanted)
        assert network.faults == []


@pytest.mark.parametrize(
    "case",
    (
        lambda: qconv((1, 4, 5, 512), 44, (3, 3), (1, 1, 1, 1), residual="first", table=True),
        lambda: qgemm((2, 4096), 17, "float32"),
    ),
)
def test_a_reduction_split_among_blocks_is_exact(case: Any) -> None:
    graph, feeds = case()
    steps = emit(graph, toolchain_of(load_spec("nvidia-a100"), 1)).steps
    assert [step.call.template.__name__ for step in steps if step.call] == ["partial_sums", "combine"]
    assert conforms(graph, feeds) == 0


@pytest.mark.parametrize("gpu", FAMILIES.values(), ids=str)
def test_tiles_fit_the_gpu_and_the_layer(gpu: Gpu) -> None:
    for rows, depth, columns, out in ((1, 27, 1000, "float32"), (49, 4608, 512, "uint8"), (802816, 64, 256, "uint8")):
        result, window = Result(rows, columns, out, "first" if out == "uint8" else ""), Window((1, 1, rows, depth))
        tiles = candidates(result, window, gpu)
        costs = [estimate(tile, result, window, gpu) for tile in tiles]
        assert 2 <= len(tiles) <= 4 and costs == sorted(costs)
        assert all(result.shared_bytes(tile) <= gpu.shared_bytes for tile in tiles)
        assert not any(tile.warpgroups for tile in tiles) or gpu.warpgroups
    assert candidates(Result(1, 1000), Window((1, 1, 1, 2048)), gpu)[0].rows == 16
    assert candidates(Result(200000, 512), Window((1, 1, 200000, 4608)), gpu)[0].rows >= 128


def half_layer(
    x: tuple[int, ...], w: tuple[int, ...], to: str, residual: bool = False, precision: str = "float16", **attrs: Any
) -> tuple[LoweredGraph, Feeds]:
    """A convolution, or a fully connected layer, in 16-bit floats."""
    rng = np.random.default_rng(3)
    dtype = np.dtype(getattr(ml_dtypes, precision) if precision == "bfloat16" else precision)
    feeds = {"x": rng.normal(size=x).astype(dtype)}
    constants = {"w": rng.normal(size=w).astype(dtype), "bias": rng.normal(size=w[0]).astype(np.float32)}
    y = (*x[:-1], w[0])
    if residual:
        feeds["r"] = rng.normal(size=y).astype(np.float32)
    op = "Gemm" if len(w) == 2 else "Conv"
    if op == "Conv":
        attrs = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1, **attrs}
    inputs = ("x", "w", "bias", *(("r",) if residual else ()))
    attrs |= {"precision": precision, "act_lo": -2.5, "act_hi": 1e9, **({"to": to} if to != "float32" else {})}
    return single(op, feeds, constants, inputs, TensorType(to, y), **attrs), feeds


HALF = {
    "conv to float32, residual": (lambda: half_layer((1, 5, 6, 24), (17, 3, 3, 24), "float32", True), 2e-6),
    "stem": (lambda: half_layer((1, 6, 7, 3), (8, 3, 3, 3), "float16"), 1e-3),
    "bfloat16": (lambda: half_layer((1, 5, 5, 16), (12, 3, 3, 16), "bfloat16", precision="bfloat16"), 8e-3),
    "fully connected, Gelu": (lambda: half_layer((5, 200), (34, 200), "float16", activation="Gelu"), 1e-3),
}


@pytest.mark.parametrize("case", HALF)
def test_half_products_have_the_error_of_their_order_of_summation(case: str) -> None:
    (graph, feeds), tolerance = HALF[case][0](), HALF[case][1]
    assert conforms(graph, feeds) < tolerance


@pytest.mark.parametrize("case", ("conv to float32, residual", "bfloat16"))
def test_warpgroups_multiply_16_bit_floats(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (graph, feeds), tolerance = HALF[case][0](), HALF[case][1]
    tile = BlockTile(64, 64, 128, 3, (4, 1), warpgroups=True)
    monkeypatch.setattr("hago.kernels.cuda.anchors.candidates", lambda *_: [tile])
    assert conforms(graph, feeds, "nvidia-h100") < tolerance


def test_turing_has_no_bfloat16() -> None:
    graph, _ = half_layer((5, 32), (8, 32), "float32", precision="bfloat16")
    with pytest.raises(BuildError, match="do not take bfloat16"):
        emit(graph, toolchain_of(load_spec("nvidia-t4"), 1))


INSTRUCTIONS = (
    ("nvidia-t4", lambda: qconv((1, 9, 9, 24), 40, (3, 3), residual="second"), "IMMA.8816.U8.S8"),
    ("nvidia-t4", lambda: qmatmul((2, 20, 64), (2, 64, 24)), "IMMA.8816.U8.U8"),
    ("nvidia-t4", lambda: half_layer((1, 6, 7, 3), (8, 3, 3, 3), "float16"), "HMMA.1688.F32"),
    ("nvidia-a100", lambda: qmatmul((2, 20, 64), (2, 64, 24)), "IMMA.16832.U8.U8"),
    ("nvidia-orin", lambda: half_layer((5, 200), (34, 200), "float32"), "HMMA.16816.F32"),
    ("nvidia-l4", lambda: half_layer((5, 64), (8, 64), "float32", precision="bfloat16"), "HMMA.16816.F32.BF16"),
    ("nvidia-h100", lambda: qgemm((3, 35), 10), "IMMA.16832.U8.S8"),
    ("nvidia-h100", lambda: half_layer((8, 28, 28, 256), (256, 3, 3, 256), "float16"), "HGMMA.64x256x16.F32"),
)


@pytest.mark.skipif(not installed_version(), reason="the extra cuda is not installed")
@pytest.mark.parametrize(
    ("spec", "case", "instruction"), INSTRUCTIONS, ids=[f"{spec} {name}" for spec, _, name in INSTRUCTIONS]
)
def test_products_take_the_tensor_cores_of_their_architecture(spec: str, case: Any, instruction: str) -> None:
    toolchain = toolchain_of(load_spec(spec), 1)
    call = emit(case()[0], toolchain).steps[0].call
    assert call is not None
    source = source_of(call.template(call.params, toolchain.family, 1), "product")
    sass = disassemble(compile_cubin(source.text, toolchain.family.arch))
    assert [name for name in sass.instructions if "MMA" in name] == [instruction]
    assert not sass.spills and sass.registers <= 255
