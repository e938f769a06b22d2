"""Layers in 16-bit floats that round their own results: what is merged, and that results stay."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hago.kernels.common.narrow_outputs import narrow_outputs
from hago.lower import reference
from hago.lower.graph import LoweredGraph, Node
from hago.lower.ops import check_node
from hago.tensor import TensorType

NUMPY = {"float16": np.dtype("float16"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype("float32")}
CODES = {"float32": 1, "float16": 10, "bfloat16": 16}
ROWS = (3, 8)


def gemm(name: str, x: str, y: str, precision: str) -> Node:
    attrs: dict[str, Any] = {"act_lo": -2.0, "act_hi": float("inf"), "precision": precision}
    return Node(name, "Gemm", "hago", (x, f"w_{precision}", "bias"), (y,), attrs, name)


def cast(x: str, y: str, to: str) -> Node:
    return Node(f"{y}_cast", "Cast", "", (x,), (y,), {"to": CODES[to]})


def graph(nodes: list[Node], types: dict[str, str], *outputs: str) -> LoweredGraph:
    rng = np.random.default_rng(0)
    constants = {f"w_{name}": rng.standard_normal((8, 8)).astype(dtype) for name, dtype in NUMPY.items()}
    constants["bias"] = rng.standard_normal(8).astype(np.float32)
    kinds = {name: TensorType(dtype, ROWS) for name, dtype in types.items()}
    kinds |= {name: TensorType.of(array) for name, array in constants.items()}
    made = LoweredGraph(tuple(nodes), ("x",), outputs, kinds, constants)
    return made.with_nodes(nodes)


def same(before: LoweredGraph, after: LoweredGraph, dtype: str) -> None:
    for node in after.nodes:
        check_node(node)
    x = np.random.default_rng(1).standard_normal(ROWS).astype(NUMPY[dtype])
    for old, new in zip(reference(before)({"x": x}), reference(after)({"x": x}), strict=True):
        assert old.dtype == new.dtype and np.array_equal(old, new)


@pytest.mark.parametrize("half", ("float16", "bfloat16"))
def test_a_cast_that_alone_reads_a_layer_is_merged(half: str) -> None:
    nodes = [gemm("one", "x", "a", half), cast("a", "b", half), gemm("two", "b", "c", half), cast("c", "d", "float32")]
    before = graph(nodes, {"x": half, "a": "float32", "b": half, "c": "float32", "d": "float32"}, "d")
    after = narrow_outputs(before)
    assert [node.op for node in after.nodes] == ["Gemm", "Gemm", "Cast"]
    assert after.nodes[0].outputs == ("b",) and after.nodes[0].attrs["to"] == half
    same(before, after, half)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    (
        ([gemm("one", "x", "a", "float16"), cast("a", "b", "float16"), cast("a", "c", "float32")], ("b", "c")),
        ([gemm("one", "x", "a", "float16"), cast("a", "b", "float16")], ("a", "b")),
        ([gemm("one", "x", "a", "float16"), cast("a", "b", "bfloat16")], ("b",)),
    ),
    ids=("two readers", "an output", "another type"),
)
def test_float32_that_something_else_reads_stays(nodes: list[Node], outputs: tuple[str, ...]) -> None:
    before = graph(nodes, {"x": "float16", "a": "float32", "b": "float16", "c": "float32"}, *outputs)
    assert narrow_outputs(before) is before


def test_layers_in_float32_stay() -> None:
    before = graph([gemm("one", "x", "a", "float32"), cast("a", "b", "float16")], {
        "x": "float32", "a": "float32", "b": "float16"}, "b")  # fmt: skip
    assert narrow_outputs(before) is before
