"""Products of 4-bit numbers on GPUs, and the proof that codes have no more bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cuda_nodes import conforms, needs_compiler, needs_cuda, one_node, sass_of

from hago.compiler.program import emit
from hago.compiler.toolchain import toolchain_of
from hago.kernels.common.code_bits import largest_codes, mark_four_bits
from hago.kernels.cuda.conv import ConvParams, conv, pack_nibbles
from hago.kernels.cuda.families import SM75, SM80, SM89, Gpu
from hago.lower.graph import LoweredGraph, Node
from hago.spec import load_spec
from hago.tensor import TensorType

Shape = tuple[int, int, int, int]


def convolution(
    x: Shape, channels: int, kernel: int, *, highest: int = 15, zero: int = 3, lowest_weight: int = -8, seed: int = 0
) -> tuple[LoweredGraph, dict[str, np.ndarray]]:
    """Quantize, then a convolution by weights of 4 bits; the codes reach 0 and ``highest``."""
    rng = np.random.default_rng(seed)
    real = rng.uniform(-2, 6, x).astype(np.float32)
    weights = rng.integers(lowest_weight, 8, (channels, kernel, kernel, x[3])).astype(np.int8)
    weights.flat[0], weights.flat[-1] = lowest_weight, 7
    terms = kernel * kernel * x[3]
    inputs = {
        "x": rng.integers(0, highest + 1, x).astype(np.uint8),
        "w": weights,
        "bias": rng.integers(-99, 99, channels).astype(np.int32),
        "scale": (rng.uniform(0.5, 1.5, channels) / terms**0.5).astype(np.float32),
    }
    attrs = {
        "strides": (1, 1), "pads": (kernel // 2,) * 4, "dilations": (1, 1), "group": 1, "x_zero_point": zero,
        "out": "uint8", "y_zero_point": 128, "lo": 0, "hi": 255,
    }  # fmt: skip
    graph, _ = one_node("QConv", inputs, attrs)
    quantize = Node("quantize", "Quantize", "hago", ("real",), ("x",), {
        "scale": 0.5, "zero_point": zero, "lo": 0, "hi": highest})  # fmt: skip
    types = {**graph.types, "real": TensorType("float32", x)}
    return replace(graph, nodes=(quantize, *graph.nodes), inputs=("real",), types=types), {"real": real}


def operands(graph: LoweredGraph, spec: str) -> list[str]:
    program = emit(graph, toolchain_of(load_spec(spec), 1))
    return [s.call.params.operands for s in program.steps if s.call and isinstance(s.call.params, ConvParams)]


@needs_compiler
@pytest.mark.parametrize(
    ("x", "channels", "kernel", "zero"),
    (((1, 5, 6, 3), 8, 3, 3), ((2, 4, 4, 24), 40, 1, 0), ((1, 3, 3, 64), 33, 3, 15)),
    ids=str,
)
def test_products_of_four_bits_are_exact(x: Shape, channels: int, kernel: int, zero: int) -> None:
    graph, feeds = convolution(x, channels, kernel, zero=zero)
    assert operands(graph, "nvidia-a100") == ["u4s4"]
    conforms(graph, feeds)


@pytest.mark.parametrize(
    ("spec", "change", "expected"),
    (
        ("nvidia-t4", {}, "u4s4"),
        ("nvidia-l4", {}, "u4s4"),
        ("nvidia-h100", {}, "u8s8"),  # its tensor cores have no 4-bit numbers
        ("nvidia-a100", {"highest": 16}, "u8s8"),
        ("nvidia-a100", {"zero": 16}, "u8s8"),
        ("nvidia-a100", {"lowest_weight": -9}, "u8s8"),
    ),
    ids=str,
)
def test_no_more_than_four_bits_are_given_to_four_bit_products(
    spec: str, change: dict[str, int], expected: str
) -> None:
    graph, _ = convolution((1, 4, 4, 16), 16, 3, **change)
    assert operands(graph, spec) == [expected]


def test_what_is_moved_or_looked_up_keeps_its_bits() -> None:
    graph, _ = convolution((1, 4, 4, 16), 16, 3, highest=7)
    table = np.arange(256, dtype=np.uint8) % 16
    nodes = (
        graph.nodes[0],
        Node("pool", "QMaxPool", "hago", ("x",), ("p",), {
            "kernel_shape": (1, 1), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}),
        Node("lookup", "QLookup", "hago", ("p", "table"), ("l",), {}),
        Node("concat", "QConcat", "hago", ("l", "p"), ("c",), {"axis": 3, "tables": ()}),
        Node("unknown", "Relu", "", ("c",), ("y",), {}),
    )  # fmt: skip
    codes = TensorType("uint8", (1, 4, 4, 16))
    types = {**graph.types, "p": codes, "l": codes, "c": TensorType("uint8", (1, 4, 4, 32)), "y": codes}
    moved = replace(graph, nodes=nodes, types=types, constants={**graph.constants, "table": table})
    assert largest_codes(moved) == {"x": 7, "p": 7, "l": 15, "c": 15, "y": 255}
    assert mark_four_bits(graph).nodes[1].attrs["bits"] == 4


def test_packed_numbers_are_found_where_fragments_expect_them() -> None:
    weights = np.random.default_rng(0).integers(-8, 8, (3, 70)).astype(np.int8)
    packed = pack_nibbles(weights).view(np.uint8)
    assert packed.shape == (3, 64)
    padded = np.pad(weights, ((0, 0), (0, 58)))
    for k in range(128):
        byte = packed[:, k // 64 * 32 + k % 32]
        nibble = (byte >> 4 if k % 64 >= 32 else byte & 15).astype(np.int8)
        assert np.array_equal(np.where(nibble > 7, nibble - 16, nibble), padded[:, k])


@needs_cuda
@pytest.mark.parametrize(("gpu", "instruction"), ((SM75, "IMMA.8832"), (SM80, "IMMA.16864"), (SM89, "IMMA.16864")))
def test_tensor_cores_multiply_four_bits(gpu: Gpu, instruction: str) -> None:
    graph, _ = convolution((1, 14, 14, 128), 128, 3)
    spec = {"nvidia-sm75": "nvidia-t4", "nvidia-sm80": "nvidia-a100", "nvidia-sm89": "nvidia-l4"}[gpu.name]
    (step,) = [s for s in emit(graph, toolchain_of(load_spec(spec), 1)).steps if s.call and s.call.template is conv]
    assert step.call is not None
    sass = sass_of(conv(step.call.params, gpu), gpu.arch)
    found = {name for name in sass.instructions if "MMA" in name}
    assert found and all(name.startswith(instruction) and ".U4.S4" in name for name in found) and not sass.spills
