"""Kernels cut into chunks for several threads give what one thread gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_harness import compiled, run, type_of, view

from hago.kernels.cpu.families import AVX512_VNNI
from hago.kernels.cpu.registry import EMITTERS
from hago.kernels.cpu.vector import PARALLEL_FROM
from hago.tensor import TensorType

SHAPE = (1, 131, 73, 67)
REAL = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
BYTES = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
POOL = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
CASES: list[tuple[str, str, dict[str, np.ndarray], tuple[int, ...], dict[str, Any], tuple[str, ...]]] = [
    ("", "Relu", {"x": REAL}, SHAPE, {}, ()),
    ("", "Mul", {"x": REAL, "v": REAL[:, :1, :1]}, SHAPE, {}, ()),
    ("", "Softmax", {"x": REAL}, SHAPE, {}, ()),
    ("", "Softmax", {"x": REAL.reshape(131, 73, 67)}, (131, 73, 67), {"axis": 1}, ()),
    ("", "LayerNormalization", {"x": REAL, "s": REAL[0, 0, 0]}, SHAPE, {}, ()),
    ("", "ReduceMean", {"x": REAL, "a": np.array([3])}, SHAPE[:3], {"keepdims": 0}, ("a",)),
    ("", "Transpose", {"x": REAL}, (1, 73, 67, 131), {"perm": [0, 2, 3, 1]}, ()),
    ("", "Transpose", {"x": REAL}, (73, 131, 1, 67), {"perm": [2, 1, 0, 3]}, ()),
    ("", "Slice", {"x": REAL, "s": np.array([1]), "e": np.array([66]), "a": np.array([3])}, (1, 131, 73, 65), {},
     ("s", "e", "a")),
    ("", "Gather", {"x": REAL[0], "i": np.arange(130, -1, -1)}, SHAPE[1:], {}, ()),
    ("", "Pad", {"x": REAL, "p": np.array([0, 1, 1, 1, 0, 0, 1, 1])}, (1, 132, 75, 69), {}, ("p",)),
    ("", "Concat", {"x": REAL, "z": REAL}, (1, 131, 73, 134), {"axis": 3}, ()),
    ("hago", "MaxPool", {"x": REAL}, SHAPE, POOL, ()),
    ("hago", "AvgPool", {"x": REAL}, SHAPE, POOL, ()),
    ("hago", "GlobalAvgPool", {"x": REAL.reshape(73, 131, 67, 1)}, (73, 1, 1, 1), {}, ()),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1])
@pytest.mark.parametrize("threads", [2, 3])
def test_chunks_change_nothing(case: Any, threads: int) -> None:
    domain, op, feeds, shape, attrs, constants = case
    assert REAL.size > PARALLEL_FROM
    inputs = ["x", "p", ""] if op == "Pad" else None
    node = view(
        op, feeds, {"y": TensorType("float32", shape)}, attrs, domain=domain, constants=constants, inputs=inputs
    )
    alone = run(node, feeds)[0]
    np.testing.assert_array_equal(run(node, feeds, threads=threads)[0], alone)


@pytest.mark.parametrize("threads", [2, 3])
def test_conversions_in_chunks(threads: int) -> None:
    attrs = {"scale": 0.02, "zero_point": 120, "perm": [0, 2, 3, 1]}
    y = {"y": TensorType("uint8", (1, 73, 67, 131))}
    node = view("Quantize", {"x": REAL}, y, attrs)
    np.testing.assert_array_equal(run(node, {"x": REAL}, threads=threads)[0], run(node, {"x": REAL})[0])
    node = view("Dequantize", {"x": BYTES}, {"y": TensorType("float32", (1, 73, 67, 131))}, attrs)
    np.testing.assert_array_equal(run(node, {"x": BYTES}, threads=threads)[0], run(node, {"x": BYTES})[0])


def test_small_work_stays_in_one_thread() -> None:
    x = REAL[:, :4]
    node = view("Relu", {"x": x}, {"y": type_of(x)}, domain="")
    (call,) = EMITTERS["", "Relu"](node, AVX512_VNNI)
    assert "parallel" not in compiled(call, AVX512_VNNI, 2).primfunc.script()
    node = view("Relu", {"x": REAL}, {"y": type_of(REAL)}, domain="")
    (call,) = EMITTERS["", "Relu"](node, AVX512_VNNI)
    assert "parallel" in compiled(call, AVX512_VNNI, 2).primfunc.script()
