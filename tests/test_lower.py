"""Lowering: the lowered graph's reference against ONNX Runtime on the same QDQ file, and its structure."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import Network, float_networks, networks, qdq_networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from qdq_graphs import Style, quantized, run_onnx, to_short

from hago.errors import ModelError, UnsupportedOpError
from hago.lower import LoweredGraph, lower, reference
from hago.lower.arithmetic import fma
from hago.lower.elementwise import affine_of_codes
from hago.lower.ops import check_node
from hago.lower.values import Params
from hago.lower.weights import two_level
from hago.precision import Precision
from hago.spec.host import read_host

VNNI = bool(read_host().features & {"avx512vnni", "avxvnni"})
SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


def checked(proto: onnx.ModelProto, spec: Any = None) -> LoweredGraph:
    """The lowered graph; every node keeps to its schema, every tensor has a type, nothing is unused."""
    graph = lower(proto, spec)
    known = {*graph.inputs, *graph.constants}
    for node in graph.nodes:
        check_node(node)
        assert all(name in known for name in node.inputs if name), f"{node.name} reads what is not made yet"
        known.update(node.outputs)
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    assert known - {""} == set(graph.types)
    read = {name for node in graph.nodes for name in node.inputs}
    assert set(graph.constants) <= read | set(graph.outputs)
    assert [o.name for o in proto.graph.output] == list(graph.outputs)
    return graph


def outputs_of(graph: LoweredGraph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The reference's outputs; every intermediate tensor has the type that the graph tells."""
    tensors = reference(graph).tensors(feeds)
    for name, type_ in graph.types.items():
        assert tensors[name].shape == type_.shape, name
        assert tensors[name].dtype.name == type_.dtype, name
    return [tensors[name] for name in graph.outputs]


def close(net: Network, most: float, share: float) -> None:
    """Outputs like ONNX Runtime's: all within ``most`` of the span, all but ``share`` within 2 %."""
    got = outputs_of(checked(net.proto), net.feeds)
    for mine, theirs in zip(got, run_onnx(net.proto, net.feeds), strict=True):
        assert mine.shape == theirs.shape
        span = max(float(np.abs(theirs).max(initial=0)), 1e-3)
        off = np.abs(mine - theirs) / span
        assert off.max(initial=0) <= most, f"{net!r}\n{mine}\n{theirs}"
        assert (off > 0.02).mean() <= share, f"{net!r}\n{mine}\n{theirs}"


@settings(max_examples=150, **SLOW)
@given(float_networks())
def test_float_networks_compute_what_onnx_runtime_computes(net: Network) -> None:
    close(net, most=1e-3, share=0)


@settings(max_examples=200, **SLOW)
@given(qdq_networks())
def test_qdq_networks_agree_with_onnx_runtime(net: Network) -> None:
    # One step more or less in one layer, at a tie of the rounding, may move a few values behind it.
    close(net, most=0.15, share=0.1)


@settings(max_examples=150, **SLOW)
@given(qdq_networks(kinds=("image",), most=0, outputs=True, around_activations=False))
def test_single_layers_agree_within_two_steps(net: Network) -> None:
    got = outputs_of(checked(net.proto), net.feeds)
    for mine, theirs in zip(got, run_onnx(net.proto, net.feeds), strict=True):
        step = max(float(np.abs(theirs).max(initial=0)), float(np.ptp(theirs)), 1e-3) / 127
        assert np.abs(mine - theirs).max(initial=0) <= 2.5 * step, repr(net)


@settings(max_examples=30, **SLOW)
@given(networks())
def test_lowering_is_deterministic_and_survives_its_file(net: Network) -> None:
    graph = checked(net.proto)
    onnx.checker.check_model(graph.proto)
    text = graph.proto.SerializeToString(deterministic=True)
    assert lower(net.proto).proto.SerializeToString(deterministic=True) == text
    read = LoweredGraph.from_proto(onnx.load_from_string(text))
    assert read.proto.SerializeToString(deterministic=True) == text
    for mine, theirs in zip(reference(read)(net.feeds), reference(graph)(net.feeds), strict=True):
        assert np.array_equal(mine, theirs, equal_nan=True)


# --- files that ONNX Runtime quantized -----------------------------------------------------------


class Reader(CalibrationDataReader):
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def by_onnx_runtime(
    source: onnx.ModelProto,
    feeds: list[dict[str, np.ndarray]],
    folder: Path,
    per_channel: bool,
    kind: QuantType,
    *,
    reduce_range: bool = False,
) -> onnx.ModelProto:
    """The QDQ file that quantize_static makes, with shapes inferred; ``reduce_range``: weights of 7 bits."""
    onnx.save(source, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx", folder / "qdq.onnx", Reader(feeds), quant_format=QuantFormat.QDQ,
        per_channel=per_channel, activation_type=kind, weight_type=QuantType.QInt8, reduce_range=reduce_range,
        extra_options={"ActivationSymmetric": kind == QuantType.QInt8},
    )  # fmt: skip
    return onnx.shape_inference.infer_shapes(onnx.load(folder / "qdq.onnx"))


KINDS = [(True, QuantType.QUInt8), (False, QuantType.QUInt8), (True, QuantType.QInt8), (False, QuantType.QInt8)]


@pytest.mark.parametrize(("per_channel", "kind"), KINDS)
def test_files_by_quantize_static(per_channel: bool, kind: QuantType, tmp_path: Path) -> None:
    @settings(max_examples=4, derandomize=True, **SLOW)
    @given(float_networks(kinds=("image",)))
    def check(net: Network) -> None:
        qdq = by_onnx_runtime(net.proto, [net.feeds], tmp_path, per_channel, kind)
        close(Network(qdq, net.feeds, "quantize_static"), most=0.15, share=0.1)

    check()


def bottlenecks(seed: int, blocks: int = 4) -> onnx.ModelProto:
    """Residual blocks with their normalization *behind* the sum, where it cannot be folded."""
    rng = np.random.default_rng(seed)
    nodes, constants, x = [], [], "x"

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    for i in range(blocks):
        numbers = [rng.uniform(0.2, 2, 16), rng.normal(0, 0.5, 16), rng.normal(0, 1, 16), rng.uniform(0.2, 4, 16)]
        statistics = [constant(f"{label}{i}", a) for label, a in zip("gbmv", numbers, strict=True)]
        nodes.append(helper.make_node("BatchNormalization", [x, *statistics], [f"n{i}"], f"norm{i}"))
        nodes.append(helper.make_node("Relu", [f"n{i}"], [f"a{i}"], f"relu{i}"))
        w = constant(f"w{i}", rng.normal(0, 0.1, (16, 16, 3, 3)))
        nodes.append(helper.make_node("Conv", [f"a{i}", w], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]))
        summands = [f"c{i}", x] if rng.random() < 0.5 else [x, f"c{i}"]
        x = f"s{i}"
        nodes.append(helper.make_node("Add", summands, [x], f"add{i}"))
    image = (1, 16, 24, 24)
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, image)] for name in ("x", x))
    graph = helper.make_graph(nodes, "bottlenecks", inputs, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto)


@pytest.mark.parametrize(
    "bits", [7, pytest.param(8, marks=pytest.mark.skipif(not VNNI, reason="ONNX Runtime saturates without VNNI"))]
)
@pytest.mark.parametrize("seed", range(6))
def test_integers_are_those_of_onnx_runtime(seed: int, bits: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(100 + seed)
    feeds = {"x": rng.standard_normal((1, 16, 24, 24), np.float32)}
    qdq = by_onnx_runtime(
        bottlenecks(seed), [feeds], tmp_path, bool(seed % 2), QuantType.QUInt8, reduce_range=bits == 7
    )
    (theirs,) = run_onnx(qdq, feeds, optimized=True)
    assert np.array_equal(outputs_of(checked(qdq), feeds)[0], theirs)


@settings(max_examples=200)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.floats(2**-9, 2**4, width=32),
    st.floats(2**-9, 2**4, width=32),
)  # fmt: skip
def test_a_scaled_and_shifted_code_is_what_floats_make_of_it(
    seed: int, x_zero: int, y_zero: int, x_scale: float, y_scale: float
) -> None:
    rng = np.random.default_rng(seed)
    x, y = Params(np.float32(x_scale), x_zero), Params(np.float32(y_scale), y_zero)
    factor = (rng.uniform(-3, 3, 40) * y_scale / x_scale).astype(np.float32)
    offset = (rng.uniform(-300, 300, 40) * y_scale).astype(np.float32)
    mul, add = affine_of_codes(x, factor, offset, y)
    real = fma(np.arange(256, dtype=np.float32), mul[:, None], add[:, None])
    wanted = y.quantize(x.reals() * factor[:, None] + offset[:, None])
    assert np.array_equal(np.rint(np.clip(real, 0, 255)), wanted)


@pytest.mark.shared_models
@pytest.mark.parametrize(
    ("name", "per_channel", "kind", "nodes"),
    [
        ("cifar10_resnet8", True, QuantType.QUInt8, {"QConv": 9, "QGemm": 1}),
        ("cifar10_resnet8", False, QuantType.QInt8, {"QConv": 9, "QGemm": 1}),
        ("kws_dscnn", True, QuantType.QInt8, {"QConv": 9, "QAvgPool": 1, "QGemm": 1}),
        ("vww_mobilenetv1_025", True, QuantType.QUInt8, {"QConv": 27, "QGlobalAvgPool": 1, "QGemm": 1}),
        pytest.param("kws_kwt1", False, QuantType.QInt8, {"QGemm": 74, "QMatMul": 24}, marks=pytest.mark.slow),
    ],
)
def test_real_models_give_the_same_classes(
    name: str, per_channel: bool, kind: QuantType, nodes: dict[str, int],
    shared_models: Path, load_bundle: ModuleType, tmp_path: Path,
) -> None:  # fmt: skip
    bundle = load_bundle.load(str(shared_models / name))
    source = onnx.load(bundle["model"])
    batch = 16
    for info in (*source.graph.input, *source.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = batch
    source = onnx.shape_inference.infer_shapes(source)
    entry = source.graph.input[0].name
    feeds = [{entry: np.asarray(bundle["calib"][i : i + batch])} for i in (0, batch)]
    qdq = by_onnx_runtime(source, feeds, tmp_path, per_channel, kind)
    graph = checked(qdq)
    counted = Counter(node.op for node in graph.nodes)
    assert {op: counted[op] for op in nodes} == nodes
    assert not counted["Conv"] and not counted["Gemm"]
    run, same, total = reference(graph), 0, 0
    for start in range(0, 3 * batch, batch):
        x = {entry: np.asarray(bundle["x"][start : start + batch])}
        same += int((run(x)[0].argmax(-1) == run_onnx(qdq, x)[0].argmax(-1)).sum())
        total += batch
    assert same >= 0.99 * total


# --- structure -----------------------------------------------------------------------------------


def model(
    nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], x: tuple[int, ...], outputs: dict[str, Any],
    x_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:  # fmt: skip
    """A model with the input x; ``outputs`` name -> shape (float32)."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", x_type, x)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def node(op: str, inputs: str, output: str, **attrs: Any) -> onnx.NodeProto:
    """A node named after its output; ``inputs`` are separated by spaces, ``_`` is an absent one."""
    return helper.make_node(op, ["" if i == "_" else i for i in inputs.split()], output.split(), output, **attrs)


RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.3).astype(np.float32)


def feed(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


def ops(graph: LoweredGraph) -> list[str]:
    return [n.op for n in graph.nodes]


@cache
def vgg(end: int = 3) -> onnx.ModelProto:
    """Conv, Relu, MaxPool, Flatten, Gemm on [1, 3, 8, 8]."""
    nodes = [
        node("Conv", "x w1 b1", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("Gemm", "f w2 b2", "y", transB=1),
    ]
    arrays = {"w1": weights(4, 3, 3, 3), "b1": weights(4), "w2": weights(end, 64), "b2": weights(end)}
    return model(nodes, arrays, (1, 3, 8, 8), {"y": (1, end)})


def test_a_network_has_one_permutation_and_the_classifier_follows_it() -> None:
    feeds = feed(1, 3, 8, 8)
    qdq = quantized(vgg(), feeds, Style(outputs=True))
    graph = checked(qdq)
    assert ops(graph) == ["Quantize", "QConv", "QMaxPool", "Reshape", "QGemm", "Dequantize"]
    assert graph.nodes[0].attrs["perm"] == (0, 2, 3, 1)
    np.testing.assert_allclose(outputs_of(graph, feeds)[0], run_onnx(qdq, feeds)[0], atol=0.02)
    graph = checked(vgg())
    assert ops(graph) == ["Transpose", "Conv", "MaxPool", "Reshape", "Gemm"]
    np.testing.assert_allclose(outputs_of(graph, feeds)[0], run_onnx(vgg(), feeds)[0], rtol=1e-4, atol=1e-5)


def test_relu_is_in_the_bounds_of_the_codes() -> None:
    feeds = feed(1, 3, 8, 8)
    conv = lower(quantized(vgg(), feeds, Style(signed=True))).nodes[1]
    # int8 symmetric: the codes' zero point 0 is 128 after the shift, and Relu starts there.
    assert (conv.attrs["x_zero_point"], conv.attrs["y_zero_point"]) == (128, 128)
    assert (conv.attrs["lo"], conv.attrs["hi"]) == (128, 255)


def test_unit_dimensions_cost_no_transpose() -> None:
    nodes = [
        node("Conv", "x w", "c", strides=[2, 2]),
        node("GlobalAveragePool", "c", "g"),
        node("Reshape", "g shape", "y"),
    ]
    arrays = {"w": weights(5, 1, 3, 3), "shape": np.array([0, -1], np.int64)}
    graph = checked(model(nodes, arrays, (2, 1, 9, 9), {"y": (2, 5)}))
    assert ops(graph) == ["Reshape", "Conv", "GlobalAvgPool", "Reshape"]


def test_one_dimensional_convolutions_have_height_one() -> None:
    proto = model(
        [node("Conv", "x w", "y", strides=[2], pads=[1, 0])], {"w": weights(4, 3, 5)}, (1, 3, 12), {"y": (1, 4, 5)}
    )
    graph = checked(proto)
    conv = next(n for n in graph.nodes if n.op == "Conv")
    assert graph.types[conv.inputs[0]].shape == (1, 1, 12, 3)
    assert conv.attrs["pads"] == (0, 1, 0, 0) and conv.attrs["strides"] == (1, 2)
    feeds = feed(1, 3, 12)
    np.testing.assert_allclose(outputs_of(graph, feeds)[0], run_onnx(proto, feeds)[0], rtol=1e-4, atol=1e-5)


def test_same_padding_is_resolved() -> None:
    for auto in ("SAME_UPPER", "SAME_LOWER"):
        nodes = [node("Conv", "x w", "y", auto_pad=auto, strides=[2, 2])]
        proto = model(nodes, {"w": weights(2, 3, 3, 3)}, (1, 3, 6, 7), {"y": (1, 2, 3, 4)})
        conv = next(n for n in lower(proto).nodes if n.op == "Conv")
        assert conv.attrs["pads"] == ((0, 1, 1, 1) if auto == "SAME_UPPER" else (1, 1, 0, 1))
        feeds = feed(1, 3, 6, 7)
        np.testing.assert_allclose(
            outputs_of(checked(proto), feeds)[0], run_onnx(proto, feeds)[0], rtol=1e-4, atol=1e-5
        )


def branches() -> onnx.ModelProto:
    """A convolution whose result another convolution and, in float, a Softmax read."""
    nodes = [
        node("Conv", "x w1", "a"),
        node("Relu", "a", "r"),
        node("Conv", "r w2", "y"),
        node("Softmax", "r", "z", axis=1),
    ]
    arrays = {"w1": weights(4, 3, 1, 1), "w2": weights(4, 4, 1, 1)}
    return model(nodes, arrays, (1, 3, 4, 4), {"y": (1, 4, 4, 4), "z": (1, 4, 4, 4)})


def test_a_result_that_is_also_read_in_float_stays_float() -> None:
    feeds = feed(1, 3, 4, 4)
    qdq = quantized(branches(), feeds, Style())
    graph = checked(qdq)
    first = next(n for n in graph.nodes if n.op == "QConv")
    assert first.attrs["out"] == "float32" and first.attrs["act_lo"] == 0
    assert Counter(ops(graph))["Quantize"] == 2
    for mine, theirs in zip(outputs_of(graph, feeds), run_onnx(qdq, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.01)


def quantizer(
    name: str, out: str, scale: float, zero: int, dtype: Any = np.uint8
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """QuantizeLinear and DequantizeLinear of one tensor."""
    arrays = {f"{out}_s": np.array(scale, np.float32), f"{out}_z": np.array(zero, dtype)}
    nodes = [
        node("QuantizeLinear", f"{name} {out}_s {out}_z", f"{out}_q"),
        node("DequantizeLinear", f"{out}_q {out}_s {out}_z", out),
    ]
    return nodes, arrays


def test_a_function_between_two_quantizers_is_one_exact_table() -> None:
    before, a = quantizer("x", "i", 0.05, 100)
    after, b = quantizer("s", "y", 1 / 255, 0)
    middle = [node("Sigmoid", "i", "t"), node("Mul", "i t", "s")]
    proto = model([*before, *middle, *after], a | b, (256,), {"y": (256,)})
    graph = checked(proto)
    assert ops(graph) == ["Quantize", "QLookup", "Dequantize"]
    every = {"x": ((np.arange(256) - 100) * np.float32(0.05)).astype(np.float32)}
    assert np.abs(outputs_of(graph, every)[0] - run_onnx(proto, every)[0]).max() <= 1.01 / 255


def test_a_function_that_is_read_in_float_is_a_float_table_or_the_function() -> None:
    before, a = quantizer("x", "i", 0.05, 100)
    for op, expected in (("Tanh", "QLookup"), ("Relu", "Relu")):
        graph = checked(model([*before, node(op, "i", "y")], a, (256,), {"y": (256,)}))
        assert ops(graph)[-1] == expected
        assert graph.types["y"].dtype == "float32"


def test_requantizing_is_a_table_or_nothing() -> None:
    first, a = quantizer("x", "i", 0.05, 100)
    for scale, zero, expected in (
        (0.05, 100, ["Quantize", "Dequantize"]),
        (0.1, 3, ["Quantize", "QLookup", "Dequantize"]),
    ):
        second, b = quantizer("i", "y", scale, zero)
        proto = model([*first, *second], a | b, (64,), {"y": (64,)})
        graph = checked(proto)
        assert ops(graph) == expected
        assert np.array_equal(outputs_of(graph, feed(64))[0], run_onnx(proto, feed(64))[0])


def test_concat_passes_tables_only_where_parameters_differ() -> None:
    first, a = quantizer("x", "i", 0.05, 100)
    second, b = quantizer("i", "j", 0.1, 50)
    last, c = quantizer("k", "y", 0.05, 100)
    proto = model(
        [*first, *second, node("Concat", "i j i", "k", axis=1), *last], a | b | c, (1, 2, 3, 3), {"y": (1, 6, 3, 3)}
    )
    graph = checked(proto)
    concat = next(n for n in graph.nodes if n.op == "QConcat")
    assert concat.attrs["tables"] == (1,) and len(concat.inputs) == 4
    feeds = feed(1, 2, 3, 3)
    assert np.array_equal(outputs_of(graph, feeds)[0], run_onnx(proto, feeds)[0])


def fully_connected(codes: np.ndarray, zero: Any, scale: float = 0.01) -> onnx.ModelProto:
    """A quantized x times stored weight codes [3, 4]."""
    first, a = quantizer("x", "i", 0.05, 100)
    arrays = {"w": codes, "ws": np.array(scale, np.float32), "wz": np.array(zero, codes.dtype)}
    nodes = [*first, node("DequantizeLinear", "w ws wz", "wd"), node("Gemm", "i wd", "y", transB=1, alpha=0.5)]
    return model(nodes, a | arrays, (2, 4), {"y": (2, 3)})


@pytest.mark.parametrize(
    ("dtype", "zero", "expected"),
    [(np.int8, 0, "QGemm"), (np.uint8, 128, "QGemm"), (np.uint8, 120, "Gemm"), (np.int8, 1, "Gemm")],
)
def test_weights_off_centre_stay_in_float(dtype: Any, zero: int, expected: str) -> None:
    codes = RNG.integers(0, 256, (3, 4)).astype(np.uint8).view(dtype)
    proto = fully_connected(codes, zero)
    graph = checked(proto)
    assert expected in ops(graph)
    np.testing.assert_allclose(outputs_of(graph, feed(2, 4))[0], run_onnx(proto, feed(2, 4))[0], rtol=1e-5, atol=1e-6)


def test_a_bias_too_large_for_its_scale_gets_a_coarser_channel() -> None:
    first, a = quantizer("x", "i", 0.05, 100)
    codes = np.array([[100, -7], [1, 0], [0, 0]], np.int8)
    arrays = {
        "w": codes, "ws": np.array([0.01, 1e-12, 0.0], np.float32), "wz": np.zeros(3, np.int8),
        "b": np.array([0.5, 2.0, -3.0], np.float32),
    }  # fmt: skip
    nodes = [*first, node("DequantizeLinear", "w ws wz", "wd", axis=0), node("Gemm", "i wd b", "y", transB=1)]
    proto = model(nodes, a | arrays, (2, 2), {"y": (2, 3)})
    graph = checked(proto)
    gemm = next(n for n in graph.nodes if n.op == "QGemm")
    assert np.abs(graph.constants[gemm.inputs[2]]).max() <= 2**30
    np.testing.assert_allclose(outputs_of(graph, feed(2, 2))[0], run_onnx(proto, feed(2, 2))[0], rtol=1e-4, atol=1e-5)


def test_two_level_scales_are_found_again() -> None:
    rng = np.random.default_rng(3)
    channel = (rng.random(50) * 0.01 + 1e-5).astype(np.float32)
    mult = rng.integers(1, 16, (50, 6))
    product = channel[:, None] * mult.astype(np.float32)
    found = two_level(product, channel)
    assert found is not None and np.array_equal(found[0], channel) and np.array_equal(found[1], mult)
    found = two_level(product)
    assert found is not None
    np.testing.assert_allclose(found[0][:, None] * found[1], product, rtol=1e-6)
    assert two_level(rng.random((4, 6)).astype(np.float32)) is None


def test_grouped_weights_become_integers_with_multipliers() -> None:
    nodes = [node("Conv", "x w b", "c"), node("Relu", "c", "y")]
    source = model(nodes, {"w": weights(4, 6, 3, 3), "b": weights(4)}, (1, 6, 5, 5), {"y": (1, 4, 3, 3)})
    feeds = feed(1, 6, 5, 5)
    qdq = quantized(source, feeds, Style(weights="group", outputs=True))
    graph = checked(qdq)
    conv = next(n for n in graph.nodes if n.op == "QConv")
    assert conv.attrs["group_size"] == 2 and graph.types[conv.inputs[4]].shape == (4, 3)
    step = next(n for n in graph.nodes if n.op == "Dequantize").attrs["scale"]
    assert np.abs(outputs_of(graph, feeds)[0] - run_onnx(qdq, feeds)[0]).max() <= 1.01 * step


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_layers_in_short_floats_read_them(precision: str) -> None:
    feeds, proto = feed(1, 3, 8, 8), to_short(vgg(), precision)
    graph = checked(proto)
    halves = [n for n in graph.nodes if n.op in ("Conv", "Gemm")]
    assert [n.attrs["precision"] for n in halves] == [precision, precision]
    assert all(graph.types[n.inputs[i]].dtype == precision for n in halves for i in (0, 1))
    np.testing.assert_allclose(outputs_of(graph, feeds)[0], run_onnx(proto, feeds)[0], rtol=1e-3, atol=1e-3)


def test_what_the_hardware_does_not_offer_stays_in_float() -> None:
    def choices(kind: str) -> list[SimpleNamespace]:
        offered = ["float32"] + ["int8"] * (kind != "conv")
        return [SimpleNamespace(precision=name, numbers=Precision.named(name)) for name in offered]

    feeds = feed(1, 3, 8, 8)
    qdq = quantized(vgg(), feeds, Style())
    graph = checked(qdq, SimpleNamespace(choices=choices))
    assert "QConv" not in ops(graph) and {"Conv", "QGemm"} <= set(ops(graph))
    np.testing.assert_allclose(outputs_of(graph, feeds)[0], run_onnx(qdq, feeds)[0], rtol=1e-3, atol=1e-3)
    graph = checked(to_short(vgg()), SimpleNamespace(choices=choices))
    assert [n.attrs["precision"] for n in graph.nodes if n.op == "Conv"] == ["float32"]


def test_every_kernel_tells_its_layer() -> None:
    graph = lower(quantized(vgg(), feed(1, 3, 8, 8), Style()))
    assert [n.layer for n in graph.nodes if n.is_hago("QConv", "QMaxPool", "QGemm")] == ["c", "p", "y"]
    graph = lower(quantized(branches(), feed(1, 3, 4, 4), Style()))
    assert all(n.layer for n in graph.nodes if n.outputs[0] not in graph.outputs)
    assert [n.layer for n in LoweredGraph.from_proto(graph.proto).nodes] == [n.layer for n in graph.nodes]


def test_int8_codes_seen_from_outside_are_int8() -> None:
    before, a = quantizer("x", "i", 0.05, 3, np.int8)
    proto = model([*before, node("Cast", "i_q", "y", to=TensorProto.FLOAT)], a, (64,), {"y": (64,)})
    assert np.array_equal(outputs_of(checked(proto), feed(64))[0], run_onnx(proto, feed(64))[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_inputs_may_be_codes(dtype: Any) -> None:
    arrays = {"s": np.array(0.05, np.float32), "z": np.array(7, dtype), "w": weights(2, 3, 1, 1)}
    nodes = [node("DequantizeLinear", "x s z", "i"), node("MaxPool", "i", "p", kernel_shape=[2, 2])]
    nodes.append(node("Conv", "p w", "y"))
    kind = TensorProto.UINT8 if dtype == np.uint8 else TensorProto.INT8
    proto = model(nodes, arrays, (1, 3, 4, 4), {"y": (1, 2, 3, 3)}, kind)
    graph = checked(proto)
    assert "QMaxPool" in ops(graph)
    feeds = {"x": np.random.default_rng(2).integers(0, 256, (1, 3, 4, 4)).astype(np.uint8).view(dtype)}
    np.testing.assert_allclose(outputs_of(graph, feeds)[0], run_onnx(proto, feeds)[0], rtol=1e-4, atol=1e-5)


def test_float_weights_behind_a_quantizer_are_integers() -> None:
    before, a = quantizer("x", "i", 0.05, 100)
    arrays = {"w": weights(3, 4), "ws": np.array([0.01, 0.02, 0.005], np.float32), "wz": np.zeros(3, np.int8)}
    nodes = [
        *before,
        node("QuantizeLinear", "w ws wz", "wq", axis=0),
        node("DequantizeLinear", "wq ws wz", "wd", axis=0),
        node("Gemm", "i wd", "y", transB=1),
    ]
    proto = model(nodes, a | arrays, (2, 4), {"y": (2, 3)})
    graph = checked(proto)
    assert ops(graph) == ["Quantize", "QGemm"]
    np.testing.assert_allclose(outputs_of(graph, feed(2, 4))[0], run_onnx(proto, feed(2, 4))[0], rtol=1e-5, atol=1e-6)


def test_a_scale_of_zero_is_left_to_the_standard_operators() -> None:
    before, a = quantizer("x", "y", 0.0, 100)
    assert ops(checked(model(before, a, (4,), {"y": (4,)}))) == ["QuantizeLinear", "DequantizeLinear"]


def test_resizing_to_nearest_neighbours_gathers() -> None:
    before, a = quantizer("x", "i", 0.05, 100)
    arrays = {"s": np.array([1, 1, 2, 3], np.float32), "w": weights(4, 3, 1, 1)}
    nodes = [*before, node("Resize", "i _ s", "r", mode="nearest", coordinate_transformation_mode="asymmetric")]
    proto = model([*nodes, node("Conv", "r w", "y")], a | arrays, (1, 3, 4, 5), {"y": (1, 4, 8, 15)})
    graph = checked(proto)
    assert Counter(ops(graph))["Gather"] == 2 and "Resize" not in ops(graph)
    feeds = feed(1, 3, 4, 5)
    np.testing.assert_allclose(outputs_of(graph, feeds)[0], run_onnx(proto, feeds)[0], rtol=1e-4, atol=1e-5)


def test_channels_last_models_lose_their_transposes() -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "c"),
        node("Transpose", "c", "y", perm=[0, 2, 3, 1]),
    ]
    proto = model(nodes, {"w": weights(4, 3, 1, 1)}, (1, 5, 5, 3), {"y": (1, 5, 5, 4)})
    graph = checked(proto)
    assert ops(graph) == ["Conv"]
    feeds = feed(1, 5, 5, 3)
    np.testing.assert_allclose(outputs_of(graph, feeds)[0], run_onnx(proto, feeds)[0], rtol=1e-4, atol=1e-5)


def test_outputs_may_be_inputs_or_each_other() -> None:
    nodes = [node("Relu", "x", "a"), node("Identity", "a", "b"), node("Identity", "x", "c")]
    graph = checked(model(nodes, {}, (4,), {"a": (4,), "b": (4,), "c": (4,)}))
    feeds = feed(4)
    a, b, c = outputs_of(graph, feeds)
    assert np.array_equal(a, np.maximum(feeds["x"], 0)) and np.array_equal(a, b) and np.array_equal(c, feeds["x"])


def test_unknown_operators_stay_as_they_are() -> None:
    graph = checked(model([node("CumSum", "x axis", "y")], {"axis": np.array(1, np.int64)}, (2, 3), {"y": (2, 3)}))
    assert ops(graph) == ["CumSum"] and graph.nodes[0].domain == ""


def test_a_tensor_without_static_shape_is_refused() -> None:
    proto = model([node("Relu", "x", "y")], {}, (2, 3), {"y": (2, 3)})
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    with pytest.raises(ModelError, match="static shape") as error:
        lower(proto)
    assert error.value.where == "tensor 'x'" and "load_model" in str(error.value.hint)


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph([node("Relu", "x", "t")], "b", [], [helper.make_tensor_value_info("t", 1, (2,))])
    nodes = [node("If", "c", "y", then_branch=branch, else_branch=branch)]
    with pytest.raises(UnsupportedOpError, match="control flow"):
        lower(model(nodes, {"c": np.array(True)}, (2,), {"y": (2,)}))
