"""The fusion of elementwise operators: what is grouped, and that results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import ISAS, numpy_type, physical, run

from hago.kernels.common.calls import NodeView
from hago.kernels.cpu.backend import fuse
from hago.kernels.cpu.families import AVX512_VNNI, Isa
from hago.lower import reference
from hago.lower.graph import LoweredGraph, Node
from hago.tensor import TensorType

SHAPE = (2, 5, 33)


class Draft:
    """A lowered graph in the making; tensors take the shape SHAPE unless told otherwise."""

    def __init__(self, **inputs: tuple[str, tuple[int, ...]]) -> None:
        self.types = {name: TensorType(dtype, shape) for name, (dtype, shape) in inputs.items()}
        self.inputs = tuple(inputs)
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: Any, dtype: str = "float32") -> str:
        self.constants[name] = np.asarray(value, numpy_type(dtype))
        self.types[name] = TensorType(dtype, self.constants[name].shape)
        return name

    def add(self, op: str, *inputs: str, domain: str = "", dtype: str = "float32",
            shape: tuple[int, ...] = SHAPE, **attrs: Any) -> str:  # fmt: skip
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(Node(f"node_{name}", op, domain, inputs, (name,), attrs, layer=f"layer_{name}"))
        self.types[name] = TensorType(dtype, shape)
        return name

    def graph(self, *outputs: str) -> LoweredGraph:
        return LoweredGraph(tuple(self.nodes), self.inputs, outputs, self.types, self.constants)


def evaluate(graph: LoweredGraph, feeds: dict[str, np.ndarray], isa: Isa) -> list[np.ndarray]:
    """All nodes by their kernels."""
    types = {name: TensorType(t.dtype, t.shape) for name, t in graph.types.items()}
    values = {**feeds, **graph.constants}
    for node in graph.nodes:
        seen = NodeView(node.name, node.op, node.domain, node.inputs, node.outputs, node.attrs, types,
                        graph.constants, node.layer)  # fmt: skip
        results = run(seen, {name: values[name] for name in node.inputs if name}, isa)
        values |= dict(zip(node.outputs, results, strict=True))
    return [values[name] for name in graph.outputs]


def close(a: np.ndarray, b: np.ndarray) -> None:
    """Not bit for bit: in one loop, LLVM may contract a product and a sum."""
    wide = b.astype(np.float64)
    scale = max(1.0, float(np.abs(wide).max()))
    np.testing.assert_allclose(a.astype(np.float64), wide, rtol=1e-5, atol=1e-6 * scale)


def check(graph: LoweredGraph, feeds: dict[str, np.ndarray], nodes: int, isa: Isa = AVX512_VNNI) -> LoweredGraph:
    fused = fuse(graph)
    assert len(fused.nodes) == nodes
    for new, old, exact in zip(
        evaluate(fused, feeds, isa), evaluate(graph, feeds, isa), reference(graph)(feeds), strict=True
    ):
        close(new, old)
        close(new, physical(exact))
    for again, exact in zip(reference(fused)(feeds), reference(graph)(feeds), strict=True):
        np.testing.assert_array_equal(again, exact)
    return fused


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape or SHAPE).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_a_chain_becomes_one_node(isa: Isa) -> None:
    draft = Draft(x=("float32", SHAPE), c=("float32", (33,)))
    scaled = draft.add("Mul", "x", draft.constant("half", 0.5))
    moved = draft.add("Add", scaled, "c")
    gate = draft.add("Sigmoid", moved)
    y = draft.add("Mul", moved, gate)
    fused = check(draft.graph(y), {"x": sample(), "c": sample(33, seed=1)}, 1, isa)
    (node,) = fused.nodes
    assert (node.op, node.domain, node.layer) == ("Fused", "hago", "layer_mul3")
    assert node.inputs == ("x", "c") and node.outputs == (y,)
    assert isinstance(node.attrs["body"], onnx.GraphProto)


def test_what_is_read_elsewhere_stays() -> None:
    draft = Draft(x=("float32", SHAPE))
    relu = draft.add("Relu", "x")
    y = draft.add("Exp", draft.add("Neg", relu))
    check(draft.graph(y, relu), {"x": sample()}, 2)


def test_other_shapes_stay_apart() -> None:
    draft = Draft(x=("float32", SHAPE), v=("float32", (33,)))
    gate = draft.add("Sigmoid", "v", shape=(33,))
    y = draft.add("Mul", "x", gate)
    check(draft.graph(y), {"x": sample(), "v": sample(33)}, 2)


def test_a_lone_operator_stays_as_it_is() -> None:
    draft = Draft(x=("float32", SHAPE))
    graph = draft.graph(draft.add("Relu", "x"))
    assert fuse(graph) is graph


def test_quantize_and_dequantize_join_and_their_numbers_are_inputs() -> None:
    draft = Draft(a=("uint8", SHAPE), b=("uint8", SHAPE))
    left = draft.add("Dequantize", "a", domain="hago", scale=0.05, zero_point=120)
    right = draft.add("Dequantize", "b", domain="hago", scale=0.02, zero_point=3)
    total = draft.add("Gelu", draft.add("Add", left, right))
    y = draft.add("Quantize", total, domain="hago", dtype="uint8", scale=0.03, zero_point=7, lo=7, hi=250)
    rng = np.random.default_rng(0)
    feeds = {name: rng.integers(0, 256, SHAPE).astype(np.uint8) for name in "ab"}
    fused = check(draft.graph(y), feeds, 1)
    assert len(fused.nodes[0].inputs) == 2 + 2 * 2 + 4


def test_a_conversion_that_transposes_stays() -> None:
    draft = Draft(a=("uint8", SHAPE))
    real = draft.add("Dequantize", "a", domain="hago", scale=0.05, zero_point=120, perm=(0, 2, 1), shape=(2, 33, 5))
    y = draft.add("Relu", draft.add("Neg", real, shape=(2, 33, 5)), shape=(2, 33, 5))
    check(draft.graph(y), {"a": np.arange(330, dtype=np.uint8).reshape(SHAPE)}, 2)


def test_rounding_to_bfloat16_inside_a_group_is_kept() -> None:
    draft = Draft(x=("float32", SHAPE))
    low = draft.add("Cast", draft.add("Exp", "x"), dtype="bfloat16", to=16)
    y = draft.add("Mul", draft.add("Cast", low, to=1), draft.constant("three", 3.0))
    graph = draft.graph(y)
    fused = fuse(graph)
    assert len(fused.nodes) == 1
    feeds = {"x": sample()}
    result = evaluate(fused, feeds, AVX512_VNNI)[0]
    np.testing.assert_array_equal(result, evaluate(graph, feeds, AVX512_VNNI)[0])
    assert not np.any((result / 3).view(np.uint32) & 0x3FFF)


def test_a_mask_used_twice() -> None:
    draft = Draft(x=("float32", SHAPE))
    mask = draft.add("Greater", "x", draft.constant("zero", 0.0), dtype="bool")
    one = draft.add("Where", mask, "x", draft.constant("one", 1.0))
    two = draft.add("Where", mask, draft.constant("two", 2.0), "x")
    check(draft.graph(draft.add("Add", one, two)), {"x": sample()}, 1)


def test_a_long_chain_is_cut() -> None:
    draft = Draft(x=("float32", SHAPE))
    name = "x"
    for i in range(40):
        name = draft.add("Add", name, draft.constant(f"c{i}", float(i)))
    check(draft.graph(name), {"x": sample()}, 2)


OPERATORS = ("Add", "Mul", "Sub", "Max", "Relu", "Tanh", "Abs", "Neg")


@settings(max_examples=15)
@given(st.data(), st.integers(2, 9), st.integers(0, 2**32 - 1), st.sampled_from(ISAS))
def test_random_graphs_keep_their_results(data: Any, size: int, seed: int, isa: Isa) -> None:
    draft = Draft(x=("float32", SHAPE), r=("float32", (5, 1)))
    tensors = ["x"]
    for _ in range(size):
        op = data.draw(st.sampled_from(OPERATORS))
        inputs = [data.draw(st.sampled_from(tensors))]
        if op in ("Add", "Mul", "Sub", "Max"):
            inputs.append(data.draw(st.sampled_from([*tensors, "r"])))
        tensors.append(draft.add(op, *inputs))
    others = data.draw(st.sets(st.sampled_from(tensors[1:]), max_size=1)) - {tensors[-1]}
    graph = draft.graph(tensors[-1], *others)
    graph = graph.with_nodes(graph.nodes)
    feeds = {name: sample(*graph.types[name].shape, seed=seed) for name in graph.inputs}
    fused = fuse(graph)
    for new, old in zip(evaluate(fused, feeds, isa), evaluate(graph, feeds, isa), strict=True):
        close(new, old)
