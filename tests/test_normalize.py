"""Every rewrite keeps what the model computes: held to ONNX Runtime, unoptimized, on random inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import hago
from hago.errors import ModelError, UnsupportedOpError
from hago.model import load_model

ort = pytest.importorskip("onnxruntime")
Node = tuple[Any, ...]


def build(
    nodes: Sequence[Node],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model from (op, inputs, output(s), attributes...) tuples; names are separated by blanks."""
    made = []
    for op, reads, writes, *rest in nodes:
        attributes = rest[0] if rest else {}
        made.append(helper.make_node(op, reads.split(), writes.split(), **attributes))
        made[-1].input[:] = [i if i != "_" else "" for i in made[-1].input]
    graph = helper.make_graph(
        made,
        "test",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(o, dtype, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model


def run(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def normalized(proto: onnx.ModelProto, batch: int = 1, tolerance: float = 1e-5, scale: float = 3.0) -> list[str]:
    """Checks that the normalized model gives the same outputs; returns its operators in order."""
    model = load_model(proto, batch)
    rng = np.random.default_rng(7)
    feeds = {
        t.name: (rng.standard_normal(t.shape) * scale).astype(t.dtype)
        if np.dtype(t.dtype).kind == "f"
        else rng.integers(0, 3, t.shape).astype(t.dtype)
        for t in model.inputs
    }
    wanted, got = run(proto, feeds), run(model.proto, feeds)
    assert [o.name for o in model.proto.graph.output] == [o.name for o in proto.graph.output]
    for a, b in zip(wanted, got, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(a).max())))
    names = [n.name for n in model.proto.graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert all(t.name in {i for n in model.proto.graph.node for i in n.input} for t in model.proto.graph.initializer)
    return [n.op_type for n in model.proto.graph.node]


def weights(*shape: int, seed: int = 0, scale: float = 0.5) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def norm_constants(channels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "gamma": rng.uniform(0.5, 2, channels).astype(np.float32),
        "beta": weights(channels, seed=4),
        "mean": weights(channels, seed=5),
        "var": rng.uniform(0.1, 3, channels).astype(np.float32),
    }


BN = "gamma beta mean var"


class TestBatchNormalization:
    @pytest.mark.parametrize("bias", [False, True])
    def test_folds_into_a_convolution(self, bias: bool) -> None:
        constants = {"w": weights(6, 3, 3, 3), "b": weights(6), **norm_constants(6)}
        proto = build(
            [("Conv", "x w b" if bias else "x w", "c"), ("BatchNormalization", f"c {BN}", "y", {"epsilon": 1e-3})],
            {"x": ["N", 3, 8, 8]}, ["y"], constants,
        )  # fmt: skip
        assert normalized(proto, batch=2) == ["Conv"]

    def test_folds_into_a_grouped_transposed_convolution(self) -> None:
        constants = {"w": weights(4, 3, 3, 3), **norm_constants(6)}
        nodes = [("ConvTranspose", "x w", "c", {"group": 2}), ("BatchNormalization", f"c {BN}", "y")]
        assert normalized(build(nodes, {"x": ["N", 4, 5, 5]}, ["y"], constants)) == ["ConvTranspose"]

    def test_folds_into_gemm_and_matmul(self) -> None:
        gemm = build(
            [("Gemm", "x w b", "c"), ("BatchNormalization", f"c {BN}", "y")],
            {"x": ["N", 5]}, ["y"], {"w": weights(5, 6), "b": weights(6), **norm_constants(6)},
        )  # fmt: skip
        assert normalized(gemm, batch=3) == ["Gemm"]
        matmul = build(
            [("MatMul", "x w", "c"), ("Add", "c b", "d"), ("BatchNormalization", f"d {BN}", "y")],
            {"x": ["N", 5]}, ["y"], {"w": weights(5, 6), "b": weights(6), **norm_constants(6)},
        )  # fmt: skip
        assert normalized(matmul, batch=3) == ["MatMul", "Add"]

    def test_stays_when_the_convolution_has_another_reader(self) -> None:
        constants = {"w": weights(3, 3, 1, 1), **norm_constants(3)}
        nodes = [("Conv", "x w", "c"), ("BatchNormalization", f"c {BN}", "d"), ("Add", "c d", "y")]
        assert normalized(build(nodes, {"x": ["N", 3, 4, 4]}, ["y"], constants)) == [
            "Conv", "BatchNormalization", "Add",
        ]  # fmt: skip

    def test_stays_when_what_lies_between_is_an_output(self) -> None:
        constants = {"w": weights(3, 3, 1, 1), **norm_constants(3)}
        nodes = [("Conv", "x w", "c"), ("BatchNormalization", f"c {BN}", "y")]
        proto = build(nodes, {"x": ["N", 3, 4, 4]}, ["c", "y"], constants)
        assert normalized(proto) == ["Conv", "BatchNormalization"]

    def test_stays_in_front_of_a_convolution(self) -> None:
        constants = {"w": weights(3, 3, 3, 3), **norm_constants(3)}
        nodes = [("BatchNormalization", f"x {BN}", "c"), ("Conv", "c w", "y", {"pads": [1] * 4})]
        assert normalized(build(nodes, {"x": ["N", 3, 4, 4]}, ["y"], constants)) == ["BatchNormalization", "Conv"]

    def test_of_a_sequence_does_not_fold_into_its_product(self) -> None:
        # The channel axis of [N, L, C] is L, but the product's outputs lie along C.
        constants = {"w": weights(5, 4), **norm_constants(4)}
        nodes = [("MatMul", "x w", "c"), ("BatchNormalization", f"c {BN}", "y")]
        assert normalized(build(nodes, {"x": ["N", 4, 5]}, ["y"], constants)) == ["MatMul", "BatchNormalization"]

    def test_with_a_negative_variance_is_refused_by_name(self) -> None:
        constants = {"w": weights(3, 3, 1, 1), **norm_constants(3)}
        constants["var"] = np.float32([1, -2, 1])
        nodes = [("Conv", "x w", "c"), ("BatchNormalization", f"c {BN}", "y")]
        with pytest.raises(ModelError, match=r"NaN.*weights must be finite"):
            load_model(build(nodes, {"x": ["N", 3, 4, 4]}, ["y"], constants))

    def test_in_training_mode_is_refused(self) -> None:
        nodes = [("BatchNormalization", f"x {BN}", "y m v", {"training_mode": 1})]
        with pytest.raises(ModelError, match=r"training mode"):
            load_model(build(nodes, {"x": ["N", 3, 4, 4]}, ["y"], norm_constants(3)))


class TestAffineChains:
    def test_scales_and_shifts_fold_across_several_nodes(self) -> None:
        constants = {"w": weights(4, 3, 3, 3), "s": weights(4, 1, 1), "t": weights(1, 4, 1, 1), "k": np.float32(0.3)}
        nodes = [("Conv", "x w", "a"), ("Mul", "a s", "b"), ("Sub", "b t", "c"), ("Div", "c k", "y")]
        assert normalized(build(nodes, {"x": ["N", 3, 6, 6]}, ["y"], constants)) == ["Conv"]

    def test_a_bias_written_first_or_with_unit_axes_is_found(self) -> None:
        nodes = [("MatMul", "x w", "a"), ("Add", "b a", "y")]
        constants = {"w": weights(4, 6), "b": weights(1, 1, 6)}
        proto = build(nodes, {"x": ["N", 3, 4]}, ["y"], constants)
        assert normalized(proto) == ["MatMul", "Add"]
        (layer,) = load_model(proto).layers
        assert layer.bias is not None and load_model(proto).initializer(layer.bias).shape == (6,)

    def test_a_table_of_positions_is_no_bias(self) -> None:
        nodes = [("MatMul", "x w", "a"), ("Add", "a p", "y")]
        proto = build(nodes, {"x": ["N", 3, 4]}, ["y"], {"w": weights(4, 6), "p": weights(1, 3, 6)})
        assert normalized(proto) == ["MatMul", "Add"]
        assert [layer.kind for layer in load_model(proto).layers] == ["fully_connected", "add"]

    def test_a_shared_weight_is_scaled_for_one_reader_alone(self) -> None:
        nodes = [("Conv", "x w", "a"), ("Mul", "a k", "b"), ("Conv", "b w", "y")]
        constants = {"w": weights(3, 3, 1, 1), "k": np.float32(2.5)}
        assert normalized(build(nodes, {"x": ["N", 3, 4, 4]}, ["y"], constants)) == ["Conv", "Conv"]


class TestGemm:
    @pytest.mark.parametrize("trans_a", [0, 1])
    @pytest.mark.parametrize("trans_b", [0, 1])
    @pytest.mark.parametrize("addend", [None, (6,), (1, 6), (1,), (), (4, 1), (4, 6)])
    def test_becomes_x_times_w_transposed_plus_b(self, trans_a: int, trans_b: int, addend: tuple | None) -> None:
        constants = {"w": weights(6, 5) if trans_b else weights(5, 6)}
        if addend is not None:
            constants["c"] = weights(*addend) if addend else np.float32(0.7)
        attributes = {"alpha": 0.5, "beta": 2.0, "transA": trans_a, "transB": trans_b}
        nodes = [("Gemm", "x w" if addend is None else "x w c", "y", attributes)]
        proto = build(nodes, {"x": [5, 4] if trans_a else [4, 5]}, ["y"], constants)
        normalized(proto)
        gemm = next(n for n in load_model(proto).proto.graph.node if n.op_type == "Gemm")
        assert {a.name: a.i for a in gemm.attribute} == {"transB": 1}
        assert load_model(proto).initializer(gemm.input[1]).shape == (6, 5)

    @pytest.mark.parametrize("trans_b", [0, 1])
    def test_of_two_activations_becomes_matmul(self, trans_b: int) -> None:
        attributes = {"alpha": 0.5, "beta": 2.0, "transB": trans_b}
        inputs = {"a": [4, 5], "b": [6, 5] if trans_b else [5, 6], "c": [6]}
        assert "MatMul" in normalized(build([("Gemm", "a b c", "y", attributes)], inputs, ["y"]))


class TestWindows:
    @pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
    @pytest.mark.parametrize("size,stride,dilation", [(7, 2, 1), (8, 3, 1), (9, 1, 1)])
    def test_automatic_padding_becomes_explicit(self, auto: str, size: int, stride: int, dilation: int) -> None:
        attributes = {"auto_pad": auto, "strides": [stride, stride], "dilations": [dilation] * 2}
        proto = build(
            [("Conv", "x w", "y", attributes)], {"x": ["N", 2, size, size]}, ["y"], {"w": weights(3, 2, 3, 3)}
        )
        normalized(proto)
        (node,) = load_model(proto).proto.graph.node
        assert {a.name for a in node.attribute} == {"pads", "strides", "dilations", "group", "kernel_shape"}

    @pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
    @pytest.mark.parametrize(
        "auto,ceil", [("SAME_UPPER", 0), ("SAME_LOWER", 0), ("VALID", 0), ("NOTSET", 0), ("NOTSET", 1)]
    )
    @pytest.mark.parametrize("size,kernel,stride", [(7, 2, 2), (10, 3, 2), (8, 3, 1), (6, 2, 3), (7, 3, 3)])
    def test_pools(self, op: str, auto: str, ceil: int, size: int, kernel: int, stride: int) -> None:
        if auto.startswith("SAME"):
            stride = min(stride, kernel)  # ONNX Runtime refuses automatic padding with gaps between windows
        attributes = {"auto_pad": auto, "kernel_shape": [kernel] * 2, "strides": [stride] * 2, "ceil_mode": ceil}
        assert normalized(build([(op, "x", "y", attributes)], {"x": ["N", 2, size, size]}, ["y"])) == [op]

    @pytest.mark.parametrize("ceil", [0, 1])
    def test_an_average_that_counts_padding(self, ceil: int) -> None:
        attributes = {
            "kernel_shape": [3, 3],
            "strides": [2, 2],
            "pads": [1] * 4,
            "count_include_pad": 1,
            "ceil_mode": ceil,
        }
        for size in (7, 8):
            normalized(build([("AveragePool", "x", "y", attributes)], {"x": ["N", 2, size, size]}, ["y"], opset=19))

    def test_the_whole_image_is_a_global_pool(self) -> None:
        attributes = {"kernel_shape": [5, 4]}
        assert normalized(build([("AveragePool", "x", "y", attributes)], {"x": ["N", 2, 5, 4]}, ["y"])) == [
            "GlobalAveragePool"
        ]

    @pytest.mark.parametrize("keep", [0, 1])
    def test_a_mean_over_the_image_is_a_global_pool(self, keep: int) -> None:
        nodes = [("ReduceMean", "x", "y", {"axes": [-1, 2], "keepdims": keep})]
        ops = normalized(build(nodes, {"x": ["N", 2, 5, 4]}, ["y"]))
        assert ops == ["GlobalAveragePool", "Reshape"][: 2 - keep]

    def test_zero_padding_joins_its_convolution(self) -> None:
        nodes = [("Pad", "x p", "a"), ("Conv", "a w", "y", {"pads": [0, 1, 0, 1]})]
        constants = {"p": np.int64([0, 0, 1, 2, 0, 0, 3, 4]), "w": weights(3, 2, 3, 3)}
        assert normalized(build(nodes, {"x": ["N", 2, 5, 5]}, ["y"], constants)) == ["Conv"]

    def test_other_padding_stays(self) -> None:
        constants = {"p": np.int64([0, 0, 1, 2, 0, 0, 3, 4]), "w": weights(3, 2, 3, 3), "v": np.float32(1)}
        nodes = [("Pad", "x p v", "a"), ("Conv", "a w", "y")]
        assert normalized(build(nodes, {"x": ["N", 2, 5, 5]}, ["y"], constants)) == ["Pad", "Conv"]
        nodes = [("Pad", "x p", "a", {"mode": "reflect"}), ("Conv", "a w", "y")]
        constants["p"] = np.int64([0, 0, 1, 1, 0, 0, 1, 1])
        assert normalized(build(nodes, {"x": ["N", 2, 5, 5]}, ["y"], constants)) == ["Pad", "Conv"]


class TestClamps:
    def bounds(self, proto: onnx.ModelProto) -> tuple[float, float]:
        model = load_model(proto)
        (node,) = model.proto.graph.node
        assert node.op_type == "Clip"
        low, high = (model.initializer(i) for i in node.input[1:])
        assert low.shape == high.shape == ()
        return float(low), float(high)

    def test_relu_then_min_is_one_clip(self) -> None:
        proto = build([("Relu", "x", "a"), ("Min", "six a", "y")], {"x": ["N", 4]}, ["y"], {"six": np.float32([6])})
        assert normalized(proto) == ["Clip"]
        assert self.bounds(proto) == (0, 6)

    def test_a_missing_bound_is_none_and_so_is_the_largest_float(self) -> None:
        proto = build([("Clip", "x _ hi", "y")], {"x": ["N", 4]}, ["y"], {"hi": np.float32(2)})
        assert normalized(proto) == ["Clip"]
        assert self.bounds(proto) == (-np.inf, 2)
        lowest = np.finfo(np.float32).min
        proto = build([("Clip", "x lo hi", "y")], {"x": ["N", 4]}, ["y"], {"lo": lowest, "hi": np.float32(2)})
        assert self.bounds(proto) == (-np.inf, 2)

    def test_bounds_that_are_computed_from_constants_are_known(self) -> None:
        nodes = [("Constant", "", "lo", {"value_float": -1.0}), ("Neg", "lo", "hi"), ("Clip", "x lo hi", "y")]
        proto = build(nodes, {"x": ["N", 4]}, ["y"])
        assert normalized(proto) == ["Clip"]
        assert self.bounds(proto) == (-1, 1)

    def test_clip_at_zero_is_relu_and_clip_of_nothing_is_gone(self) -> None:
        proto = build(
            [("Clip", "x lo", "a"), ("Clip", "a", "b"), ("Abs", "b", "y")],
            {"x": ["N", 4]},
            ["y"],
            {"lo": np.float32(0)},
        )
        assert normalized(proto) == ["Relu", "Abs"]

    def test_before_opset_11_the_bounds_were_attributes(self) -> None:
        proto = build([("Clip", "x", "y", {"min": -0.5, "max": 0.25})], {"x": ["N", 4]}, ["y"], opset=9)
        assert normalized(proto) == ["Clip"]

    @settings(max_examples=40)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["Relu", "Max", "Min", "Clip"]), st.integers(-3, 3), st.integers(-3, 3)),
            min_size=1,
            max_size=4,
        )
    )
    def test_any_chain_keeps_its_function(self, chain: list[tuple[str, int, int]]) -> None:
        nodes, constants, last = [], {}, "x"
        for i, (op, a, b) in enumerate(chain):
            constants |= {f"a{i}": np.float32(a), f"b{i}": np.float32(b)}
            reads = {"Relu": last, "Clip": f"{last} a{i} b{i}"}.get(op, f"{last} a{i}")
            nodes.append((op, reads, f"t{i}"))
            last = f"t{i}"
        normalized(build([*nodes, ("Abs", last, "y")], {"x": [8, 4]}, ["y"], constants), scale=2.0)

    def test_a_clamp_moves_before_a_max_pool(self) -> None:
        nodes = [("Conv", "x w", "a"), ("MaxPool", "a", "b", {"kernel_shape": [2, 2]}), ("Relu", "b", "y")]
        proto = build(nodes, {"x": ["N", 2, 6, 6]}, ["y"], {"w": weights(3, 2, 3, 3)})
        assert normalized(proto) == ["Conv", "Relu", "MaxPool"]


def gelu_forms() -> dict[str, tuple[list[Node], dict[str, Any]]]:
    erf = {"r": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
    tanh = {"k": np.float32(0.044715), "s": np.float32(np.sqrt(2 / np.pi)), "three": np.float32(3), **erf}
    return {
        "erf, half last": (
            [
                ("Div", "x r", "a"), ("Erf", "a", "b"), ("Add", "b one", "c"), ("Mul", "x c", "d"),
                ("Mul", "d half", "g"),
            ],
            erf,
        ),
        "erf, half first": (
            [
                ("Mul", "x half", "h"), ("Div", "x r", "a"), ("Erf", "a", "b"), ("Add", "one b", "c"),
                ("Mul", "c h", "g"),
            ],
            erf,
        ),
        "tanh with Pow": (
            [
                ("Pow", "x three", "p"), ("Mul", "p k", "q"), ("Add", "x q", "t"), ("Mul", "t s", "u"),
                ("Tanh", "u", "v"), ("Add", "v one", "w"), ("Mul", "x half", "h"), ("Mul", "h w", "g"),
            ],
            tanh,
        ),
        "tanh with products": (
            [
                ("Mul", "x x", "p2"), ("Mul", "p2 x", "p"), ("Mul", "k p", "q"), ("Add", "q x", "t"),
                ("Mul", "s t", "u"), ("Tanh", "u", "v"), ("Add", "v one", "w"), ("Mul", "x w", "h"),
                ("Mul", "h half", "g"),
            ],
            tanh,
        ),
    }  # fmt: skip


class TestActivations:
    @pytest.mark.parametrize("form", gelu_forms())
    def test_gelu(self, form: str) -> None:
        nodes, constants = gelu_forms()[form]
        proto = build([*nodes, ("Neg", "g", "y")], {"x": ["N", 64]}, ["y"], constants)
        assert normalized(proto) == ["Gelu", "Neg"]
        gelu = load_model(proto).proto.graph.node[0]
        assert helper.get_attribute_value(gelu.attribute[0]).decode() == ("tanh" if "tanh" in form else "none")
        assert gelu.output[0] == "g"

    def test_gelu_at_the_output_of_a_linear_layer(self) -> None:
        nodes, constants = gelu_forms()["erf, half last"]
        proto = build([("MatMul", "i w", "x"), *nodes], {"i": ["N", 8]}, ["g"], {"w": weights(8, 4), **constants})
        assert normalized(proto) == ["MatMul", "Gelu"]

    def test_something_close_to_gelu_is_left_alone(self) -> None:
        nodes, constants = gelu_forms()["erf, half last"]
        constants = {**constants, "r": np.float32(1.5)}
        assert "Gelu" not in normalized(build(nodes, {"x": ["N", 64]}, ["g"], constants))

    def test_gelu_whose_inside_is_read_elsewhere_is_left_alone(self) -> None:
        nodes, constants = gelu_forms()["erf, half last"]
        assert "Gelu" not in normalized(build([*nodes, ("Add", "g b", "y")], {"x": ["N", 64]}, ["y"], constants))

    def test_hard_swish(self) -> None:
        constants = {"three": np.float32(3), "six": np.float32(6), "zero": np.float32(0)}
        for last in ([("Mul", "x b", "c"), ("Div", "c six", "y")], [("Div", "b six", "c"), ("Mul", "c x", "y")]):
            nodes = [("Add", "x three", "a"), ("Clip", "a zero six", "b"), *last]
            assert normalized(build(nodes, {"x": ["N", 64]}, ["y"], constants)) == ["HardSwish"]

    def test_hard_swish_from_a_hard_sigmoid_node(self) -> None:
        nodes = [("HardSigmoid", "x", "a", {"alpha": 1 / 6, "beta": 0.5}), ("Mul", "x a", "y")]
        assert normalized(build(nodes, {"x": ["N", 64]}, ["y"])) == ["HardSwish"]

    def test_hard_sigmoid(self) -> None:
        constants = {"three": np.float32(3), "six": np.float32(6), "zero": np.float32(0)}
        nodes = [("Add", "x three", "a"), ("Clip", "a zero six", "b"), ("Div", "b six", "y")]
        assert normalized(build(nodes, {"x": ["N", 64]}, ["y"], constants)) == ["HardSigmoid"]

    def test_swish_stays_sigmoid_and_mul(self) -> None:
        assert normalized(build([("Sigmoid", "x", "a"), ("Mul", "x a", "y")], {"x": ["N", 64]}, ["y"])) == [
            "Sigmoid",
            "Mul",
        ]


class TestLayerNorm:
    CONSTANTS: ClassVar[dict[str, Any]] = {
        "two": np.float32(2), "eps": np.float32(1e-5), "g": weights(8, seed=1), "b": weights(8, seed=2),
    }  # fmt: skip

    def nodes(self, square: str, divide: str) -> list[Node]:
        mean = {"axes": [-1]}
        return [
            ("ReduceMean", "x", "m", mean), ("Sub", "x m", "d"),
            ("Pow", "d two", "q") if square == "pow" else ("Mul", "d d", "q"),
            ("ReduceMean", "q", "v", mean), ("Add", "v eps", "e"), ("Sqrt", "e", "s"),
            *([("Div", "d s", "n")] if divide == "div" else [("Reciprocal", "s", "r"), ("Mul", "d r", "n")]),
        ]  # fmt: skip

    @pytest.mark.parametrize("square", ["pow", "mul"])
    @pytest.mark.parametrize("divide", ["div", "reciprocal"])
    def test_written_out_is_recognised(self, square: str, divide: str) -> None:
        nodes = [*self.nodes(square, divide), ("Mul", "n g", "t"), ("Add", "t b", "y")]
        assert normalized(build(nodes, {"x": ["N", 5, 8]}, ["y"], self.CONSTANTS)) == ["LayerNormalization"]

    def test_without_scale_and_shift(self) -> None:
        proto = build(self.nodes("pow", "div"), {"x": ["N", 5, 8]}, ["n"], self.CONSTANTS)
        assert normalized(proto) == ["LayerNormalization"]

    def test_over_another_axis_is_left_alone(self) -> None:
        nodes = [(n[0], n[1], n[2], {"axes": [1]}) if n[0] == "ReduceMean" else n for n in self.nodes("pow", "div")]
        assert "LayerNormalization" not in normalized(build(nodes, {"x": ["N", 5, 8]}, ["n"], self.CONSTANTS))


class TestConstants:
    def test_a_shape_of_a_static_tensor_is_computed(self) -> None:
        nodes = [
            ("Shape", "x", "s"), ("Gather", "s zero", "n"), ("Unsqueeze", "n ax", "nu"),
            ("Concat", "nu minus", "t", {"axis": 0}), ("Reshape", "x t", "y"),
        ]  # fmt: skip
        constants = {"zero": np.int64(0), "ax": np.int64([0]), "minus": np.int64([-1])}
        proto = build(nodes, {"x": ["N", 3, 4]}, ["y"], constants)
        assert normalized(proto, batch=3) == ["Reshape"]

    def test_weights_as_constant_nodes_become_initializers(self) -> None:
        w = numpy_helper.from_array(weights(3, 2, 1, 1), "w")
        proto = build([("Constant", "", "w", {"value": w}), ("Conv", "x w", "y")], {"x": ["N", 2, 4, 4]}, ["y"])
        assert normalized(proto) == ["Conv"]
        (layer,) = load_model(proto).layers
        assert (layer.kind, layer.weight) == ("conv", "w")

    def test_weights_that_are_computed_become_initializers(self) -> None:
        nodes = [("Transpose", "w", "wt", {"perm": [1, 0]}), ("MatMul", "x wt", "y")]
        assert normalized(build(nodes, {"x": ["N", 4]}, ["y"], {"w": weights(6, 4)})) == ["MatMul"]

    def test_identity_dropout_and_no_operations_go(self) -> None:
        nodes = [
            ("Identity", "x", "a"), ("Dropout", "a", "b"), ("Transpose", "b", "c", {"perm": [0, 1, 2]}),
            ("Cast", "c", "d", {"to": 1}), ("Reshape", "d t", "e"), ("Mul", "e one", "f"), ("Add", "f zero", "g"),
            ("Relu", "g", "h"), ("Identity", "h", "y"),
        ]  # fmt: skip
        constants = {"t": np.int64([0, 3, 4]), "one": np.float32(1), "zero": np.float32([0])}
        assert normalized(build(nodes, {"x": [2, 3, 4]}, ["y"], constants)) == ["Relu"]

    def test_an_output_that_is_an_input_keeps_its_identity(self) -> None:
        proto = build([("Identity", "x", "y"), ("Relu", "x", "z")], {"x": [2]}, ["y", "z"])
        assert Counter(normalized(proto)) == {"Identity": 1, "Relu": 1}

    def test_two_outputs_of_one_tensor_keep_both_names(self) -> None:
        proto = build([("Relu", "x", "y"), ("Identity", "y", "z"), ("Identity", "y", "w")], {"x": [2]}, ["y", "z", "w"])
        assert Counter(normalized(proto)) == {"Identity": 2, "Relu": 1}

    def test_a_huge_expansion_is_not_stored(self) -> None:
        nodes = [("Expand", "c s", "e"), ("ReduceSum", "e", "r", {"keepdims": 0}), ("Add", "x r", "y")]
        proto = build(nodes, {"x": [2]}, ["y"], {"c": np.float32([1]), "s": np.int64([3000, 3000])})
        assert load_model(proto).proto.ByteSize() < 10_000

    def test_a_decided_branch_is_taken(self) -> None:
        def branch(op: str) -> onnx.GraphProto:
            out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
            k = numpy_helper.from_array(np.float32(2), "k")
            return helper.make_graph([helper.make_node(op, ["a", "k"], ["o"])], op, [], [out], [k])

        nodes = [
            ("Relu", "x", "a"), ("Shape", "a", "s"), ("Gather", "s one", "n"), ("Equal", "n four", "c"),
            ("If", "c", "b", {"then_branch": branch("Mul"), "else_branch": branch("Add")}), ("Neg", "b", "y"),
        ]  # fmt: skip
        constants = {"one": np.int64(1), "four": np.int64(4)}
        assert normalized(build(nodes, {"x": ["N", 4]}, ["y"], constants)) == ["Relu", "Mul", "Neg"]
        assert normalized(build(nodes, {"x": ["N", 5]}, ["y"], constants)) == ["Relu", "Add", "Neg"]

    def test_an_open_branch_is_refused(self) -> None:
        out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
        body = helper.make_graph([helper.make_node("Relu", ["x"], ["o"])], "b", [], [out])
        nodes = [
            ("ReduceSum", "x", "s", {"keepdims": 0}), ("Greater", "s zero", "c"),
            ("If", "c", "y", {"then_branch": body, "else_branch": body}),
        ]  # fmt: skip
        with pytest.raises(UnsupportedOpError, match=r"If.*known only at run time"):
            load_model(build(nodes, {"x": [4]}, ["y"], {"zero": np.float32(0)}))

    def test_a_shape_that_depends_on_data_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"'n' of NonZero.*not known before the model runs"):
            load_model(build([("NonZero", "x", "n"), ("Cast", "n", "y", {"to": 1})], {"x": [4]}, ["y"]))


class TestOther:
    def test_split_becomes_slices(self) -> None:
        nodes = [("Split", "x", "a b c", {"axis": -1}), ("Mul", "a c", "y"), ("Neg", "b", "z")]
        ops = normalized(build(nodes, {"x": ["N", 2, 9]}, ["y", "z"]))
        assert Counter(ops) == {"Slice": 3, "Mul": 1, "Neg": 1}

    def test_sums_and_powers(self) -> None:
        nodes = [("Sum", "x x k", "a"), ("Pow", "a two", "b"), ("Pow", "b half", "y")]
        constants = {"k": np.float32([1]), "two": np.float32(2), "half": np.float32(0.5)}
        assert normalized(build(nodes, {"x": [3, 4]}, ["y"], constants)) == ["Add", "Add", "Mul", "Sqrt"]

    def test_transposes_merge(self) -> None:
        nodes = [
            ("Transpose", "x", "a", {"perm": [0, 2, 1]}),
            ("Transpose", "a", "b", {"perm": [0, 2, 1]}),
            ("Relu", "b", "y"),
        ]
        assert normalized(build(nodes, {"x": [2, 3, 4]}, ["y"])) == ["Relu"]
        nodes[1] = ("Transpose", "a", "b", {"perm": [1, 0, 2]})
        assert normalized(build(nodes, {"x": [2, 3, 4]}, ["y"])) == ["Transpose", "Relu"]

    def test_reshapes_merge_and_so_does_a_transpose_of_unit_axes(self) -> None:
        nodes = [
            ("Flatten", "x", "a"), ("Unsqueeze", "a one", "b"), ("Transpose", "b", "c", {"perm": [1, 0, 2]}),
            ("Reshape", "c s", "y"),
        ]  # fmt: skip
        constants = {"one": np.int64([1]), "s": np.int64([-1, 3])}
        proto = build(nodes, {"x": ["N", 3, 4]}, ["y"], constants)
        assert normalized(proto) == ["Reshape"]
        assert normalized(proto, batch=2) == ["Reshape"]

    def test_a_reshape_that_is_read_twice_stays(self) -> None:
        nodes = [("Flatten", "x", "a"), ("Unsqueeze", "a one", "b"), ("Neg", "a", "z"), ("Relu", "b", "y")]
        ops = normalized(build(nodes, {"x": ["N", 3, 4]}, ["y", "z"], {"one": np.int64([1])}))
        assert Counter(ops) == {"Flatten": 1, "Unsqueeze": 1, "Neg": 1, "Relu": 1}

    @pytest.mark.parametrize("sizes,keep", [(None, 0), (None, 1), (4, 1), ([2, 7], 1)])
    def test_a_split_to_a_sequence_becomes_slices(self, sizes: Any, keep: int) -> None:
        constants = {"i": np.int64(-1), "j": np.int64(0)}
        if sizes is not None:
            constants["s"] = np.int64(sizes)
        nodes = [
            ("SplitToSequence", "x" if sizes is None else "x s", "q", {"axis": -1, "keepdims": keep}),
            ("SequenceAt", "q i", "a"), ("SequenceAt", "q j", "b"), ("Neg", "a", "y"), ("Relu", "b", "z"),
        ]  # fmt: skip
        ops = Counter(normalized(build(nodes, {"x": ["N", 2, 9]}, ["y", "z"], constants)))
        assert ops["Slice"] == 2 and not ops["SplitToSequence"]

    def test_a_place_in_a_sequence_that_is_computed_is_refused(self) -> None:
        nodes = [
            ("SplitToSequence", "x", "q", {"axis": 0}), ("ArgMax", "x", "i", {"keepdims": 0}),
            ("SequenceAt", "q i", "y"),
        ]  # fmt: skip
        with pytest.raises(UnsupportedOpError, match=r"SplitToSequence .* works on a sequence"):
            load_model(build(nodes, {"x": [4]}, ["y"]))

    def test_a_group_normalization_has_the_shape_of_its_input(self) -> None:
        nodes = [("GroupNormalization", "x g b", "n", {"num_groups": 2}), ("Flatten", "n", "f"), ("Gemm", "f w", "y")]
        constants = {"g": weights(4), "b": weights(4), "w": weights(12, 5)}
        proto = build(nodes, {"x": ["N", 4, 3]}, ["y"], constants, opset=21)
        assert normalized(proto, batch=2) == ["GroupNormalization", "Flatten", "Gemm"]

    def test_a_prelu_with_one_slope_is_a_leaky_relu(self) -> None:
        assert normalized(build([("PRelu", "x k", "y")], {"x": [3, 4]}, ["y"], {"k": np.float32([0.1])})) == [
            "LeakyRelu"
        ]

    def test_a_weight_read_twice_is_stored_for_each(self) -> None:
        nodes = [("MatMul", "x w", "a"), ("Relu", "a", "b"), ("MatMul", "b w", "y")]
        proto = build(nodes, {"x": ["N", 4]}, ["y"], {"w": weights(4, 4)})
        normalized(proto)
        first, second = load_model(proto).layers
        assert first.weight == "w" and second.weight not in (None, "w")

    @pytest.mark.parametrize("opset", [11, 12, 13, 15, 18, 20, 21, 22])
    def test_any_opset_is_reported_at_21(self, opset: int) -> None:
        axes = {"axes": [1]} if opset < 13 else {}
        nodes = [
            ("Conv", "x w", "c", {"pads": [1] * 4}), ("Softmax", "c", "s", {"axis": 1}),
            ("ReduceMax", "s", "m", {"keepdims": 1}), ("Mul", "s m", "p"), ("Flatten", "p", "f"),
            ("Unsqueeze", "f" if opset < 13 else "f ax", "y", axes),
        ]  # fmt: skip
        proto = build(nodes, {"x": ["N", 2, 1, 1]}, ["y"], {"w": weights(3, 2, 3, 3), "ax": np.int64([1])}, opset=opset)
        normalized(proto)
        model = load_model(proto)
        assert [o.version for o in model.proto.opset_import] == [21]
        assert model.layers[0].name == "c"

    def test_half_precision_is_read_as_float32(self) -> None:
        constants = {"w": weights(3, 2, 1, 1).astype(np.float16), "k": np.float16(3)}
        nodes = [("Conv", "x w", "a"), ("Add", "a k", "b"), ("Relu", "b", "y")]
        proto = build(nodes, {"x": ["N", 2, 4, 4]}, ["y"], constants, dtype=TensorProto.FLOAT16)
        model = load_model(proto)
        # Inputs and outputs are what the model declares.
        assert [(t.name, t.dtype) for t in [*model.inputs, *model.outputs]] == [("x", "float16"), ("y", "float16")]
        assert [n.op_type for n in model.proto.graph.node] == ["Cast", "Conv", "Relu", "Cast"]
        assert not model.is_quantized
        x = weights(1, 2, 4, 4).astype(np.float16)
        w = constants["w"].astype(np.float32).reshape(3, 2)
        wanted = np.maximum(np.einsum("oc,nchw->nohw", w, x.astype(np.float32)) + 3, 0)
        np.testing.assert_allclose(run(model.proto, {"x": x})[0], wanted.astype(np.float16), rtol=1e-3)
        np.testing.assert_allclose(
            hago.compile(proto, threads=1).run({"x": x})[0], wanted.astype(np.float16), rtol=1e-3
        )

    def test_half_precision_between_casts_is_read_as_float32(self) -> None:
        nodes = [("Cast", "x", "h", {"to": 10}), ("Conv", "h w", "c"), ("Cast", "c", "y", {"to": 1})]
        proto = build(nodes, {"x": ["N", 2, 4, 4]}, ["y"], {"w": weights(3, 2, 1, 1).astype(np.float16)})
        assert [n.op_type for n in load_model(proto).proto.graph.node] == ["Conv"]

    def test_double_precision_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"input 'x'.*double"):
            load_model(build([("Relu", "x", "y")], {"x": [2]}, ["y"], dtype=TensorProto.DOUBLE))
        nodes = [("Cast", "x", "a", {"to": 11}), ("Exp", "a", "b"), ("Cast", "b", "y", {"to": 1})]
        with pytest.raises(ModelError, match=r"'a' of Cast.*computed in double"):
            load_model(build(nodes, {"x": [2]}, ["y"]))


_OPS = [
    "Conv",
    "BatchNormalization",
    "Relu",
    "Clip",
    "MulC",
    "AddC",
    "Sigmoid",
    "AddSkip",
    "MaxPool",
    "Identity",
    "SubC",
]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(_OPS), min_size=2, max_size=10), st.integers(0, 2**31), st.booleans())
def test_any_small_network_keeps_its_function(ops: list[str], seed: int, expose_middle: bool) -> None:
    rng = np.random.default_rng(seed)
    nodes: list[Node] = []
    constants: dict[str, Any] = {}
    tensors = ["x"]
    for i, op in enumerate(ops):
        last, out = tensors[-1], f"t{i}"
        c = {f"c{i}": rng.standard_normal((4, 1, 1)[: rng.integers(0, 2) * 3]).astype(np.float32)}
        if op == "Conv":
            constants[f"w{i}"] = (rng.standard_normal((4, 4, 3, 3)) * 0.2).astype(np.float32)
            nodes.append(("Conv", f"{last} w{i}", out, {"pads": [1] * 4}))
        elif op == "BatchNormalization":
            constants |= {f"{k}{i}": v for k, v in norm_constants(4).items()}
            nodes.append((op, f"{last} gamma{i} beta{i} mean{i} var{i}", out))
        elif op == "Clip":
            constants |= {f"lo{i}": np.float32(-1), f"hi{i}": np.float32(rng.uniform(0, 3))}
            nodes.append((op, f"{last} lo{i} hi{i}", out))
        elif op.endswith("C"):
            constants |= c
            nodes.append((op[:-1], f"{last} c{i}", out))
        elif op == "AddSkip":
            nodes.append(("Add", f"{last} {tensors[rng.integers(len(tensors))]}", out))
        elif op == "MaxPool":
            nodes.append((op, last, out, {"kernel_shape": [3, 3], "pads": [1] * 4}))
        else:
            nodes.append((op, last, out))
        tensors.append(out)
    outputs = [tensors[len(tensors) // 2], tensors[-1]] if expose_middle else [tensors[-1]]
    normalized(build(nodes, {"x": ["N", 4, 5, 5]}, list(dict.fromkeys(outputs)), constants), batch=2, tolerance=1e-4)
