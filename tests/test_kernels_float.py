"""Float kernels: elementary functions and elementwise operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulated_kernels import can_emulate, kernel_of, x86_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from kernel_harness import ISAS, assembly, numpy_type, physical, run, type_of, view
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from scipy import special

from hago.kernels.common import math as vector_math
from hago.kernels.common.elements import ONNX_DTYPES
from hago.kernels.common.elementwise_ops import OPS
from hago.kernels.common.flat import primfunc
from hago.kernels.cpu.families import AVX512_VNNI, I8MM, Isa
from hago.kernels.cpu.registry import EMITTERS
from hago.kernels.cpu.vector import chunks
from hago.tensor import TensorType

FEW = settings(max_examples=25)
isas = st.sampled_from(ISAS)
seeds = st.integers(0, 2**32 - 1)
COUNT = 1 << 15


def sweep() -> np.ndarray:
    """Values of all magnitudes, densest near 0."""
    rng = np.random.default_rng(0)
    size = COUNT // 4
    parts = [np.linspace(-30, 30, size), np.linspace(-1, 1, size), np.linspace(-110, 110, size)]
    x = np.concatenate([*parts, np.exp(rng.uniform(-80, 80, size)) * rng.choice([-1, 1], size)])
    x[:4] = (0.0, -0.0, np.inf, -np.inf)
    return x.astype(np.float32)


FUNCTIONS: dict[str, tuple[Any, float, float]] = {
    # name -> float64 truth, largest relative error (ulps of 2**-23), largest absolute error
    "exp": (np.exp, 2, 2e-38),
    "log": (lambda x: np.log(x), 3, 0),
    "log1p": (np.log1p, 4, 0),
    "tanh": (np.tanh, 8, 0),
    "erf": (special.erf, 8, 0),
    "sigmoid": (special.expit, 4, 2e-38),
    "softplus": (lambda x: np.logaddexp(0, x), 5, 2e-38),
    "gelu": (lambda x: x * special.ndtr(x), 8, 2e-6),
    "gelu_tanh": (lambda x: x * special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)), 8, 2e-6),
}


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions_are_accurate(name: str, isa: Isa) -> None:
    truth, ulps, absolute = FUNCTIONS[name]
    function = getattr(vector_math, name)

    def template(params: str, isa: Isa, threads: int) -> Any:
        x = TensorType("float32", (COUNT,))
        return primfunc(
            [x], [x],
            lambda x, y: chunks(
                COUNT, isa.lanes, threads, COUNT, lambda i, w: y.store(i, function(x.load(i, w), w), w)
            ),
        )  # fmt: skip

    x = sweep()
    if name in ("log", "log1p"):
        x = np.abs(x)
    if name.startswith("gelu"):
        x = np.clip(x, -100, 100)
    y = np.zeros_like(x)
    x86_kernel(template, name, isa)(x, y)
    with np.errstate(all="ignore"):
        exact = truth(x.astype(np.float64))
        expected = exact.astype(np.float32)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    bound = ulps * 2.0**-23 * np.abs(exact[finite]) + absolute + 1e-45
    assert np.all(np.abs(y[finite] - exact[finite]) <= bound)


@pytest.mark.parametrize("op", ["Exp", "Log", "Tanh", "Erf", "Sigmoid", "Gelu", "Relu", "Softplus"])
def test_nan_goes_through(op: str) -> None:
    x = np.full(40, np.nan, np.float32)
    node = view(op, {"x": x}, {"y": type_of(x)}, domain="")
    assert np.isnan(run(node, {"x": x})[0]).all()


def reference(op: str, feeds: dict[str, np.ndarray], attrs: dict[str, Any], inputs: list[str] | None = None) -> Any:
    """The operator by ONNX's own numpy implementation."""
    node = helper.make_node(op, inputs if inputs is not None else list(feeds), ["y"], **attrs)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    graph = helper.make_graph([node], "one", infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)[0]


UNARY = [
    ("Abs", {}), ("Neg", {}), ("Relu", {}), ("Sigmoid", {}), ("Tanh", {}), ("Exp", {}), ("Erf", {}),
    ("Floor", {}), ("Ceil", {}), ("Round", {}), ("Sign", {}), ("Reciprocal", {}), ("Softplus", {}), ("Softsign", {}),
    ("HardSwish", {}), ("HardSigmoid", {"alpha": 0.3}), ("LeakyRelu", {"alpha": 0.2}), ("Elu", {"alpha": 1.5}),
    ("Celu", {"alpha": 2.0}), ("Selu", {}), ("ThresholdedRelu", {"alpha": 0.5}), ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}), ("Mish", {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attrs"), UNARY, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v)))
def test_unary_operators_agree_with_onnx(op: str, attrs: dict[str, Any]) -> None:
    x = np.concatenate([np.linspace(-9, 9, 211), [0.5, 1.5, 2.5, -0.5]]).astype(np.float32)
    node = view(op, {"x": x}, {"y": type_of(x)}, attrs, domain="")
    np.testing.assert_allclose(run(node, {"x": x})[0], reference(op, {"x": x}, attrs), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("op", ["Sqrt", "Log"])
def test_operators_of_positive_numbers(op: str) -> None:
    x = np.linspace(0.001, 50, 100).astype(np.float32)
    node = view(op, {"x": x}, {"y": type_of(x)}, domain="")
    np.testing.assert_allclose(run(node, {"x": x})[0], reference(op, {"x": x}, {}), rtol=1e-6, atol=1e-6)


shapes = mutually_broadcastable_shapes(num_shapes=2, min_dims=0, max_dims=4, max_side=19)


@FEW
@given(shapes, st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min"]),
       st.sampled_from(["float32", "int32", "int64", "float64"]), seeds, isas)  # fmt: skip
def test_binary_operators_broadcast(pair: Any, op: str, dtype: str, seed: int, isa: Isa) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(1, 50, shape).astype(dtype) for shape in pair.input_shapes)
    feeds = {"a": np.asarray(a - 25).astype(dtype), "b": b}
    expected = reference(op, feeds, {})
    if op == "Div" and dtype.startswith("int"):
        expected = np.trunc(feeds["a"] / b).astype(dtype)
    node = view(op, feeds, {"y": TensorType(dtype, pair.result_shape)}, domain="")
    np.testing.assert_allclose(run(node, feeds, isa)[0], expected, rtol=1e-7)


@FEW
@given(shapes, st.sampled_from(["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"]),
       st.sampled_from(["float32", "int64", "uint8"]), seeds, isas)  # fmt: skip
def test_comparisons(pair: Any, op: str, dtype: str, seed: int, isa: Isa) -> None:
    rng = np.random.default_rng(seed)
    feeds = {
        name: np.asarray(rng.integers(0, 3, s)).astype(dtype) for name, s in zip("ab", pair.input_shapes, strict=True)
    }
    node = view(op, feeds, {"y": TensorType("bool", pair.result_shape)}, domain="")
    np.testing.assert_array_equal(run(node, feeds, isa)[0], reference(op, feeds, {}))


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str) -> None:
    rng = np.random.default_rng(0)
    feeds = {"a": rng.random((5, 33)) < 0.5, "b": rng.random((1, 33)) < 0.5}
    node = view(op, feeds, {"y": TensorType("bool", (5, 33))}, domain="")
    np.testing.assert_array_equal(run(node, feeds)[0], reference(op, feeds, {}))
    node = view("Not", {"a": feeds["a"]}, {"y": TensorType("bool", (5, 33))}, domain="")
    np.testing.assert_array_equal(run(node, {"a": feeds["a"]})[0], ~feeds["a"])


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
def test_where_and_clip(dtype: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 99, (7, 21)).astype(dtype), rng.integers(0, 99, (21,)).astype(dtype)
    feeds = {"c": rng.random((7, 1)) < 0.5, "a": a, "b": b}
    node = view("Where", feeds, {"y": type_of(a)}, domain="")
    np.testing.assert_array_equal(run(node, feeds)[0], np.where(feeds["c"], a, b))
    bounds = {"x": a, "lo": np.array(10, dtype), "hi": np.array(60, dtype)}
    node = view("Clip", bounds, {"y": type_of(a)}, domain="", constants=("lo", "hi"))
    np.testing.assert_array_equal(run(node, bounds)[0], np.clip(a, 10, 60))
    node = view("Clip", bounds, {"y": type_of(a)}, domain="", constants=("hi",), inputs=["x", "", "hi"])
    np.testing.assert_array_equal(run(node, bounds)[0], np.minimum(a, np.array(60, dtype)))


CASTS = ["float32", "float64", "int32", "int64", "uint8", "int8", "bool", "float16", "bfloat16"]


@pytest.mark.parametrize(
    ("source", "target"),
    [(a, b) for a in CASTS for b in CASTS if a != b and {a, b} & {"float32", "bool", "bfloat16"}],
)
def test_cast(source: str, target: str) -> None:
    values = np.array([0, 1, 2, 100, 3.5 if "float" in source else 3, 1.00390625] * 9)
    x = values.astype(numpy_type(source))
    codes = {name: code for code, name in ONNX_DTYPES.items()}
    expected = x.astype(numpy_type(target))
    node = view("Cast", {"x": x}, {"y": type_of(expected)}, {"to": codes[target]}, domain="")
    np.testing.assert_array_equal(run(node, {"x": x})[0], physical(expected))


def test_bfloat16_rounds_ties_to_even_and_keeps_nan_and_inf() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0x7F800001, 0xFF800000] * 5, np.uint32)
    x = bits.view(np.float32)
    node = view("Cast", {"x": x}, {"y": TensorType("bfloat16", x.shape)}, {"to": 16}, domain="")
    result = run(node, {"x": x})[0].view(numpy_type("bfloat16")).astype(np.float32)
    with np.errstate(invalid="ignore"):
        expected = x.astype(numpy_type("bfloat16")).astype(np.float32)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.aarch64
@pytest.mark.skipif(not can_emulate(), reason="no emulated AArch64 machine (scripts/aarch64_sysroot.py makes it)")
@pytest.mark.parametrize("count", [7, 64, 20011])
def test_arm_rounds_to_bfloat16_by_itself(count: int) -> None:
    x = np.random.default_rng(0).integers(0, 2**32, count, np.uint32).view(np.float32)  # NaN and denormals among them
    node = view("Cast", {"x": x}, {"y": TensorType("bfloat16", x.shape)}, {"to": 16}, domain="")
    (call,) = EMITTERS["", "Cast"](node, I8MM)
    found = np.zeros(count, np.uint16)
    kernel_of(call.template, call.params, I8MM)(x, found)
    with np.errstate(invalid="ignore"):
        wanted = x.astype(numpy_type("bfloat16"))
    np.testing.assert_array_equal(found.view(numpy_type("bfloat16")).astype(np.float32), wanted.astype(np.float32))


@pytest.mark.parametrize("power", [0.5, 2.0, 3.0, -1.0, 0.0, 1.7])
def test_power_of_a_known_exponent(power: float) -> None:
    x = np.linspace(0.1, 5, 77).astype(np.float32)
    feeds = {"x": x, "p": np.array(power, np.float32)}
    node = view("Pow", feeds, {"y": type_of(x)}, domain="", constants=("p",))
    np.testing.assert_allclose(run(node, feeds)[0], x.astype(np.float64) ** power, rtol=1e-6)


def test_integer_powers_and_divisions() -> None:
    x = np.arange(-20, 20)
    for exponent in (2, 0, 5):
        feeds = {"x": x, "p": np.array(exponent)}
        node = view("Pow", feeds, {"y": type_of(x)}, domain="", constants=("p",))
        np.testing.assert_array_equal(run(node, feeds)[0], x**exponent)
    for op, expected in (("Div", np.trunc(x / 3)), ("Mod", x % 3)):
        feeds = {"x": x, "d": np.full(40, 3)}
        node = view(op, feeds, {"y": type_of(x)}, domain="")
        np.testing.assert_array_equal(run(node, feeds)[0], expected)
    run(node, {"x": x, "d": np.zeros(40, np.int64)})  # does not stop the program


def test_elementwise_is_vectorised_and_fused_in_one_loop() -> None:
    x = np.zeros((1, 64, 64), np.float32)
    node = view("Relu", {"x": x}, {"y": type_of(x)}, domain="")
    code = assembly(EMITTERS["", "Relu"](node, AVX512_VNNI)[0], AVX512_VNNI)
    assert "vmaxps" in code and "%zmm" in code


def test_every_operator_of_the_table_has_an_emitter() -> None:
    assert all(("", op) in EMITTERS for op in OPS if not op.endswith("Linear"))
