"""NaN, infinities, signed zeros, denormals and huge numbers through every family of float kernels.

What is right is IEEE 754's and ONNX's: NaN stays NaN through arithmetic, clamps, maxima and sums, and touches nothing
that does not depend on it. The truth is ONNX's evaluator, or numpy where that drops NaN itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import hago

F32 = np.float32
SPECIAL = F32([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 88.8, -88.8, 1.0, -1.0])
IMAGE = (2, 5, 9, 7)


def spoiled(*shape: int, seed: int = 0, share: float = 0.1) -> np.ndarray:
    """Random numbers, of which a share is special; every special one is there."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(F32)
    special = rng.choice(SPECIAL, shape)
    x = np.where(rng.random(shape) < share, special, x)
    x.reshape(-1)[: len(SPECIAL)] = SPECIAL
    return x


def build(
    nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], constants: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    held = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    kind = (
        TensorProto.BOOL
        if nodes[-1].op_type in ("IsNaN", "IsInf", "Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual")
        else TensorProto.FLOAT
    )
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", kind, None)], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def check(
    model: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    wanted: np.ndarray | None = None,
    rtol: float = 2e-5,
    atol: float = 1e-6,
) -> None:
    """The same values, NaN and infinities in the same places."""
    with np.errstate(all="ignore"):
        right: Any = ReferenceEvaluator(model).run(None, feeds)[0] if wanted is None else wanted
    got = hago.compile(model, threads=1).run(feeds)[0]
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(got, right, rtol=rtol, atol=atol)


UNARY = [
    "Relu", "Abs", "Neg", "Sign", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Exp", "Log", "Tanh", "Erf",
    "Sigmoid", "Softplus", "Softsign", "Mish", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Celu", "Selu",
    "ThresholdedRelu", "Gelu", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh", "IsNaN", "IsInf",
]  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    x = spoiled(3, 50)
    if op in ("Sin", "Cos", "Tan"):
        x[np.abs(x) > 1e6] = 2.0  # libraries differ in how they reduce such arguments
    check(build([helper.make_node(op, ["x"], ["y"])], {"x": x}), {"x": x})


def test_gelu_by_tanh() -> None:
    x = spoiled(3, 50)
    check(build([helper.make_node("Gelu", ["x"], ["y"], approximate="tanh")], {"x": x}), {"x": x})


@pytest.mark.parametrize(
    "op",
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Max",
        "Min",
        "Pow",
        "Mod",
        "PRelu",
        "Greater",
        "Less",
        "Equal",
        "GreaterOrEqual",
        "LessOrEqual",
    ],
)
@pytest.mark.parametrize("constant", ["", "a", "b"])
def test_binary(op: str, constant: str) -> None:
    pairs = np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1).astype(F32)
    feeds = {"a": np.concatenate([pairs[0], spoiled(60)]), "b": np.concatenate([pairs[1], spoiled(60, seed=1)])}
    node = helper.make_node(op, ["a", "b"], ["y"], **({"fmod": 1} if op == "Mod" else {}))
    # NaN in a constant is refused, and so is infinity among trained weights.
    most = 3.0 if op == "PRelu" else np.inf
    held = {constant: np.nan_to_num(feeds.pop(constant), nan=2.0, posinf=most, neginf=-most)} if constant else {}
    both = {**feeds, **held}
    wanted = None
    with np.errstate(all="ignore"):
        if op == "Mod":
            wanted = np.fmod(both["a"], both["b"])
        elif op == "PRelu":
            wanted = np.where(both["a"] < 0, both["a"] * both["b"], both["a"])
    check(build([node], feeds, held), feeds, wanted)


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_of_many(op: str) -> None:
    feeds = {f"x{i}": spoiled(4, 33, seed=i) for i in range(3)}
    check(build([helper.make_node(op, list(feeds), ["y"])], feeds), feeds)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 6.0), (0.0, np.inf), (-np.inf, 2.0)])
@pytest.mark.parametrize("fed", [False, True])
def test_clip(bounds: tuple[float, float], fed: bool) -> None:
    x, limits = spoiled(3, 50), {"lo": F32(bounds[0]), "hi": F32(bounds[1])}
    node = helper.make_node("Clip", ["x", "lo", "hi"], ["y"])
    feeds = {"x": x, **(limits if fed else {})}
    check(build([node], feeds, {} if fed else limits), feeds, np.clip(x, *bounds).astype(F32))


def test_where_keeps_what_it_does_not_choose_out() -> None:
    feeds = {"c": spoiled(4, 33) > 0, "a": spoiled(4, 33), "b": spoiled(4, 33, seed=1)}
    check(build([helper.make_node("Where", ["c", "a", "b"], ["y"])], feeds), feeds)


def test_fused_chain() -> None:
    x = spoiled(4, 33)
    ops = ["Exp", "Relu", "Neg", "Sigmoid", "Softplus"]
    nodes = [helper.make_node(op, [f"t{i}" if i else "x"], [f"t{i + 1}" if i < 4 else "y"]) for i, op in enumerate(ops)]
    check(build(nodes, {"x": x}), {"x": x})


AFTER: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda y: y, "Relu": lambda y: np.maximum(y, F32(0)), "Clip": lambda y: np.clip(y, F32(0), F32(6)),
}  # fmt: skip


def with_activation(node: onnx.NodeProto, after: str) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    if not after:
        node.output[0] = "y"
        return [node], {}
    names = ["t", *(["lo", "hi"] if after == "Clip" else [])]
    return [node, helper.make_node(after, names, ["y"])], {"lo": F32(0), "hi": F32(6)} if after == "Clip" else {}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("kind", ["dense", "depthwise", "pointwise", "grouped"])
def test_convolution(kind: str, after: str) -> None:
    rng = np.random.default_rng(2)
    group, shape = {
        "dense": (1, (10, 8, 3, 3)),
        "depthwise": (8, (8, 1, 3, 3)),
        "pointwise": (1, (10, 8, 1, 1)),
        "grouped": (2, (6, 4, 3, 3)),
    }[kind]
    w = rng.standard_normal(shape).astype(F32)
    x = rng.standard_normal((1, 8, 9, 9)).astype(F32)
    x[0, 1, 4, 4], x[0, 3, 0, 0], x[0, 5, 8, 8] = np.nan, np.inf, -np.inf
    node = helper.make_node("Conv", ["x", "w"], ["t"], pads=[1] * 4 if shape[-1] == 3 else [0] * 4, group=group)
    nodes, bounds = with_activation(node, after)
    check(build(nodes, {"x": x}, {"w": w, **bounds}), {"x": x}, atol=1e-4)


@pytest.mark.parametrize("after", AFTER)
def test_fully_connected_and_products(after: str) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((5, 12)).astype(F32), rng.standard_normal((12, 9)).astype(F32)
    a[1, 2], a[2, 3], a[3, 4], a[3, 5] = np.nan, np.inf, np.inf, -np.inf
    for op, held in (("Gemm", True), ("MatMul", True), ("MatMul", False)):
        nodes, bounds = with_activation(helper.make_node(op, ["a", "b"], ["t"]), after)
        feeds = {"a": a} if held else {"a": a, "b": b}
        with np.errstate(all="ignore"):
            check(build(nodes, feeds, {**({"b": b} if held else {}), **bounds}), feeds, AFTER[after](a @ b), atol=1e-4)


def pooled(x: np.ndarray, kernel: int, stride: int, pad: int) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
    view = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    return view.max(axis=(4, 5))


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 1, 2)])
@pytest.mark.parametrize("channels", [1, 5, 40])
def test_max_pool(kernel: int, stride: int, pad: int, channels: int) -> None:
    x = spoiled(2, channels, 11, 11, share=0.03)
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
    check(build([node], {"x": x}), {"x": x}, pooled(x, kernel, stride, pad))


def test_global_pools() -> None:
    x = spoiled(3, 40, 6, 6, share=0.01)
    with np.errstate(all="ignore"):
        wanted = {
            "GlobalMaxPool": x.max(axis=(2, 3), keepdims=True),
            "GlobalAveragePool": x.mean(axis=(2, 3), keepdims=True),
        }
    for op, right in wanted.items():
        check(build([helper.make_node(op, ["x"], ["y"])], {"x": x}), {"x": x}, right)


def test_average_pool() -> None:
    x = spoiled(2, 20, 8, 8, share=0.03)
    with np.errstate(all="ignore"):
        wanted = x.reshape(2, 20, 4, 2, 4, 2).mean(axis=(3, 5))
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    check(build([node], {"x": x}), {"x": x}, wanted)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMax": np.max, "ReduceMin": np.min, "ReduceSum": np.sum, "ReduceMean": np.mean, "ReduceProd": np.prod,
    "ReduceL1": lambda x, axis: np.sum(np.abs(x), axis=axis),
    "ReduceL2": lambda x, axis: np.sqrt(np.sum(x * x, axis=axis)),
    "ReduceSumSquare": lambda x, axis: np.sum(x * x, axis=axis),
    "ReduceLogSum": lambda x, axis: np.log(np.sum(x, axis=axis)),
}  # fmt: skip


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_reductions(op: str, axes: tuple[int, ...]) -> None:
    x = spoiled(4, 30, 37, share=0.005)
    node = helper.make_node(op, ["x", "axes"], ["y"], keepdims=0)
    with np.errstate(all="ignore"):
        wanted = REDUCTIONS[op](x, axis=axes).astype(F32)
    check(build([node], {"x": x}, {"axes": np.array(axes, np.int64)}), {"x": x}, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [1, 2])
def test_softmax(op: str, axis: int) -> None:
    x = spoiled(4, 30, 37, share=0.005)
    x[3, :, :], x[2, 4, :] = 1.0, -np.inf
    x[3, 2, 5], x[3, 7, 9] = -np.inf, 3e38
    with np.errstate(all="ignore"):
        shifted = x - x.max(axis=axis, keepdims=True)
        total = np.exp(shifted).sum(axis=axis, keepdims=True)
        wanted = np.exp(shifted) / total if op == "Softmax" else shifted - np.log(total)
    check(build([helper.make_node(op, ["x"], ["y"], axis=axis)], {"x": x}), {"x": x}, wanted, atol=1e-5)


def test_layer_normalization_keeps_the_rows_apart() -> None:
    x = np.random.default_rng(0).standard_normal((6, 32)).astype(F32)
    x[1, 3], x[3, 5] = np.nan, np.inf
    w, b = np.ones(32, F32), np.zeros(32, F32)
    with np.errstate(all="ignore"):
        centred = x - x.mean(axis=1, keepdims=True)
        wanted = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + F32(1e-5))
    node = helper.make_node("LayerNormalization", ["x", "w", "b"], ["y"], axis=-1)
    check(build([node], {"x": x}, {"w": w, "b": b}), {"x": x}, wanted, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize(mode: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 5, 6, 6)).astype(F32)
    x[0, 0, 2, 2], x[0, 1, 3, 3], x[0, 2, 0, 0] = np.nan, np.inf, -np.inf
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode=mode)
    model = build([node], {"x": x}, {"s": F32([1, 1, 2, 2])})
    got = hago.compile(model, threads=1).run({"x": x})[0]
    clean = np.where(np.isfinite(x), x, F32(0))
    with np.errstate(all="ignore"):
        right: Any = ReferenceEvaluator(model).run(None, {"x": clean})[0]
    spread: Any = ReferenceEvaluator(model).run(None, {"x": (~np.isfinite(x)).astype(F32)})[0]
    np.testing.assert_allclose(got[spread == 0], right[spread == 0], atol=1e-5)
    assert not np.isfinite(got[spread > 0]).any()


def test_moves() -> None:
    x = spoiled(2, 5, 9)
    for node, constants in (
        (helper.make_node("Transpose", ["x"], ["y"], perm=[2, 0, 1]), {}),
        (helper.make_node("Pad", ["x", "p"], ["y"], mode="reflect"), {"p": np.int64([0, 1, 2, 0, 1, 2])}),
        (helper.make_node("Concat", ["x", "x"], ["y"], axis=1), {}),
        (helper.make_node("Gather", ["x", "i"], ["y"], axis=1), {"i": np.int64([4, 0, 1])}),
    ):
        check(build([node], {"x": x}, constants), {"x": x}, rtol=0, atol=0)


def test_one_bad_pixel_stays_one_in_a_network() -> None:
    """Convolution, clamp, pools and a classifier: the sample with NaN gives NaN, its neighbour is untouched."""
    rng = np.random.default_rng(4)
    w, f = rng.standard_normal((16, 3, 3, 3)).astype(F32), rng.standard_normal((16, 10)).astype(F32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]), helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "f"], ["g"]), helper.make_node("Softmax", ["g"], ["y"]),
    ]  # fmt: skip
    x = rng.standard_normal((2, 3, 8, 8)).astype(F32)
    model = build(nodes, {"x": x}, {"w": w, "f": f})
    right: Any = ReferenceEvaluator(model).run(None, {"x": x})[0]
    x[1, 0, 3, 3] = np.nan
    got = hago.compile(model, threads=1).run({"x": x})[0]
    np.testing.assert_allclose(got[0], right[0], rtol=1e-4)
    assert np.isnan(got[1]).all()
