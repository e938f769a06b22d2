"""Which quantities the outputs of a model hold: found in graphs as exporters write them, and by magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hago.measure.metrics import fit, get_metric
from hago.measure.outputs import ModelOutputs
from hago.model import Model, load_model

RNG = np.random.default_rng(0)


def model(nodes: Sequence[Any], output: tuple[str, Sequence[int]], **weights: np.ndarray) -> Model:
    """A model of x [1, 6, 8, 8] from nodes (op, inputs, outputs, attributes)."""
    built = [helper.make_node(op, inputs, outputs, **attributes) for op, inputs, outputs, attributes in nodes]
    graph = helper.make_graph(
        built,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6, 8, 8])],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, list(output[1]))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(proto)
    return load_model(proto)


def conv(out: int) -> np.ndarray:
    return RNG.normal(size=(out, 6, 1, 1)).astype(np.float32)


def shape(*sizes: int) -> np.ndarray:
    return np.array(sizes, np.int64)


HEADS = [
    ("Conv", ["x", "wb"], ["cb"], {}),
    ("Reshape", ["cb", "sb"], ["rb"], {}),
    ("Mul", ["rb", "px"], ["boxes"], {}),
    ("Conv", ["x", "wc"], ["cc"], {}),
    ("Reshape", ["cc", "sc"], ["rc"], {}),
    ("Sigmoid", ["rc"], ["scores"], {}),
]
JOINED = [*HEADS, ("Concat", ["boxes", "scores"], ["out"], {"axis": 1})]
WEIGHTS = {
    "wb": conv(4), "wc": conv(5), "sb": shape(1, 4, 64), "sc": shape(1, 5, 64), "px": np.float32(640),
}  # fmt: skip


def later(*nodes: Any) -> list[Any]:
    """The joined heads with something behind them."""
    return [*HEADS, ("Concat", ["boxes", "scores"], ["j"], {"axis": 1}), *nodes]


def of_level(i: int, size: int) -> list[Any]:
    """One level of a detector with anchors: [1, cells, 4 + 1 + 5], the boxes and the scores by other operators."""
    return [
        ("MaxPool", ["x"], [f"p{i}"], {"kernel_shape": [size, size], "strides": [size, size]}),
        ("Conv", [f"p{i}", "wb"], [f"b{i}"], {}),
        ("Transpose", [f"b{i}"], [f"tb{i}"], {"perm": [0, 2, 3, 1]}),
        ("Mul", [f"tb{i}", "px"], [f"mb{i}"], {}),
        ("Conv", [f"p{i}", "wc"], [f"c{i}"], {}),
        ("Transpose", [f"c{i}"], [f"tc{i}"], {"perm": [0, 2, 3, 1]}),
        ("Sigmoid", [f"tc{i}"], [f"sc{i}"], {}),
        ("Concat", [f"mb{i}", f"sc{i}"], [f"l{i}"], {"axis": -1}),
        ("Reshape", [f"l{i}", "flat"], [f"f{i}"], {}),
    ]


def only_boxes(i: int, size: int) -> list[Any]:
    return [
        *of_level(i, size)[:3],
        ("Reshape", [f"tb{i}", "four"], [f"f{i}"], {}),
    ]


LEVELS = {"flat": shape(1, -1, 9), "four": shape(1, -1, 4)}
TOGETHER = ("Concat", ["f1", "f2"], ["out"], {"axis": 1})
CASES: dict[str, tuple[list[Any], list[int], list[str]]] = {
    "rows of one output": (JOINED, [1, 9, 64], ["out[:, 0:4]", "out[:, 4:9]"]),
    "columns": (
        later(("Transpose", ["j"], ["out"], {"perm": [0, 2, 1]})), [1, 64, 9], ["out[:, :, 0:4]", "out[:, :, 4:9]"],
    ),
    "flattened": (
        later(("Flatten", ["j"], ["out"], {"axis": 1})), [1, 576], ["out[:, 0:256]", "out[:, 256:576]"],
    ),
    "with an axis more": (
        later(("Unsqueeze", ["j", "one"], ["out"], {})), [1, 1, 9, 64], ["out[:, :, 0:4]", "out[:, :, 4:9]"],
    ),
    "mapped one by one": (
        later(("Mul", ["j", "px"], ["m"], {}), ("Clip", ["m"], ["out"], {})), [1, 9, 64],
        ["out[:, 0:4]", "out[:, 4:9]"],
    ),
    "scattered": (later(("Reshape", ["j", "odd"], ["out"], {})), [1, 18, 32], ["out[:, 0:8]", "out[:, 8:18]"]),
    "levels that join the same": (
        [*of_level(1, 1), *of_level(2, 2), TOGETHER], [1, 80, 9], ["out[:, :, 0:4]", "out[:, :, 4:9]"],
    ),
    "levels of one quantity": ([*only_boxes(1, 1), *only_boxes(2, 2), TOGETHER], [1, 80, 4], ["out"]),
    "no join": ([*HEADS[:5], ("Sigmoid", ["rc"], ["out"], {})], [1, 5, 64], ["out"]),
    "computed after the join": (
        later(("ReduceMax", ["j", "last"], ["out"], {"keepdims": 0})), [1, 9], ["out"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "sizes", "parts"), CASES.values(), ids=CASES.keys())
def test_blocks_are_found_where_the_graph_joins_them(nodes: list[Any], sizes: list[int], parts: list[str]) -> None:
    more = {"one": shape(1), "odd": shape(1, 18, 32), "last": shape(2), **LEVELS}
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    weights = {name: value for name, value in (WEIGHTS | more).items() if name in used}
    found = ModelOutputs.of(model(nodes, ("out", sizes), **weights))
    assert [part.name for part in found.parts] == parts
    values = RNG.normal(size=sizes)
    rows = [part.of([values]) for part in found.parts]
    assert sum(row.size for row in rows) == values.size  # each value is in one part
    for part, row in zip(found.parts, rows, strict=True):
        np.testing.assert_array_equal(row.ravel(), eval_index(values, part.name).ravel())


def eval_index(values: np.ndarray, name: str) -> np.ndarray:
    """What the name of a part says, as numpy reads it."""
    if "[" not in name:
        return values
    places = name[name.index("[") + 1 : -1].split(", ")
    return values[tuple(slice(*(int(end) if end else None for end in place.split(":"))) for place in places)]


@pytest.mark.parametrize(("scale", "parts"), [(3.0, ["out"]), (300.0, ["out[:, 0:4]", "out[:, 4:9]"])])
def test_neighbours_of_one_kind_are_distinguished_by_magnitude(scale: float, parts: list[str]) -> None:
    raw = [*HEADS[:2], *HEADS[3:5], ("Concat", ["rb", "rc"], ["out"], {"axis": 1})]
    weights = {name: WEIGHTS[name] for name in ("wb", "wc", "sb", "sc")}
    values = RNG.normal(size=(6, 9, 64))
    values[:, :4] *= scale
    found = ModelOutputs.of(model(raw, ("out", [1, 9, 64]), **weights), lambda: [values])
    assert [part.name for part in found.parts] == parts


def test_what_is_wrong_with_scores_does_not_vanish_in_boxes() -> None:
    joined = model(JOINED, ("out", [1, 9, 64]), **WEIGHTS)
    boxes, scores = RNG.uniform(0, 640, (50, 4, 64)), RNG.uniform(0, 1, (50, 5, 64))
    floats, found = np.concatenate([boxes, scores], 1), np.concatenate([boxes, 1 - scores], 1)
    pooled = np.einsum("nij,nij->n", floats, found) / np.linalg.norm(floats, axis=(1, 2)) ** 2
    assert pooled.min() > 0.9999  # as one vector all is well
    metric = fit(get_metric("cosine"), ModelOutputs.of(joined, lambda: [floats]), lambda: None)
    wanted = [np.dot(a.ravel(), b.ravel()) / np.linalg.norm(a) / np.linalg.norm(b)
              for a, b in zip(scores, 1 - scores, strict=True)]  # fmt: skip
    np.testing.assert_allclose(metric.per_sample([found], None, [floats]), wanted)
    named = fit(get_metric("cosine:out[:, 0:4]"), ModelOutputs.of(joined, lambda: [floats]), lambda: None)
    np.testing.assert_allclose(named.per_sample([found], None, [floats]), 1.0)
    whole = fit(get_metric("cosine:out"), ModelOutputs.of(joined, lambda: [floats]), lambda: None)
    np.testing.assert_allclose(whole.per_sample([found], None, [floats]), wanted)
