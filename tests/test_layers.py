"""What becomes a layer, of which kind, and why some cannot be quantized."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from test_normalize import build, weights

from hago.api import quantize
from hago.model import Layer, load_model
from hago.spec import load_spec
from hago.strategy import uniform


def layers(nodes, inputs, outputs, constants=None, **options) -> dict[str, Layer]:  # type: ignore[no-untyped-def]
    return {la.name: la for la in load_model(build(nodes, inputs, outputs, constants, **options)).layers}


class TestWeighted:
    @pytest.mark.parametrize(
        "channels,out,group,kind",
        [(4, 8, 1, "conv"), (4, 8, 2, "conv"), (4, 4, 4, "depthwise_conv"), (4, 8, 4, "conv"), (1, 1, 1, "conv")],
    )
    def test_convolutions(self, channels: int, out: int, group: int, kind: str) -> None:
        nodes = [("Conv", "x w b", "c", {"group": group, "strides": [2, 2]}), ("Relu", "c", "y")]
        constants = {"w": weights(out, channels // group, 3, 3), "b": weights(out)}
        (layer,) = layers(nodes, {"x": ["N", channels, 9, 9]}, ["y"], constants).values()
        assert (layer.name, layer.kind, layer.nodes, layer.activation) == ("c", kind, ("c", "y"), "Relu")
        assert (layer.inputs, layer.output, layer.weight, layer.bias) == (("x",), "y", "w", "b")
        assert layer.weight_shape == (out, channels // group, 3, 3)
        assert layer.input_shapes == ((1, channels, 9, 9),) and layer.output_shape == (1, out, 4, 4)
        assert layer.macs == out * 4 * 4 * channels // group * 9
        assert layer.params == out * channels // group * 9 + out
        assert layer.quantizable and layer.reason is None

    def test_one_axis_yes_three_axes_no(self) -> None:
        one = layers([("Conv", "x w", "y")], {"x": [1, 2, 9]}, ["y"], {"w": weights(3, 2, 3)})["y"]
        assert one.kind == "conv" and one.quantizable
        three = layers([("Conv", "x w", "y")], {"x": [1, 2, 5, 5, 5]}, ["y"], {"w": weights(3, 2, 3, 3, 3)})["y"]
        assert three.reason == "Conv over 3 spatial axes has no integer kernel"

    def test_a_weight_from_the_outside(self) -> None:
        found = layers([("Conv", "x w", "y")], {"x": [1, 2, 5, 5], "w": [3, 2, 3, 3]}, ["y"])["y"]
        assert (found.kind, found.quantizable) == ("float", False)
        assert found.reason == "its weights are computed at run time"

    def test_transposed(self) -> None:
        found = layers([("ConvTranspose", "x w", "y")], {"x": [1, 2, 5, 5]}, ["y"], {"w": weights(2, 3, 2, 2)})["y"]
        assert found.reason == "ConvTranspose has no integer kernel"
        assert found.macs == 2 * 25 * 3 * 4

    def test_matmul_takes_its_bias_and_relu(self) -> None:
        nodes = [("MatMul", "x w", "m"), ("Add", "m b", "a"), ("Relu", "a", "y")]
        (layer,) = layers(nodes, {"x": ["N", 7, 4]}, ["y"], {"w": weights(4, 6), "b": weights(6)}).values()
        assert (layer.kind, layer.nodes, layer.weight, layer.bias) == ("fully_connected", ("m", "a", "y"), "w", "b")
        assert (layer.weight_shape, layer.macs, layer.params) == ((4, 6), 7 * 4 * 6, 30)

    def test_matmul_of_two_activations(self) -> None:
        (layer,) = layers([("MatMul", "a b", "y")], {"a": [2, 3, 4], "b": [2, 4, 5]}, ["y"]).values()
        assert (layer.kind, layer.inputs, layer.macs, layer.params) == ("matmul", ("a", "b"), 2 * 3 * 4 * 5, 0)
        assert layer.quantizable

    def test_matmul_with_odd_constants(self) -> None:
        left = layers([("MatMul", "w x", "y")], {"x": [4, 5]}, ["y"], {"w": weights(3, 4)})["y"]
        assert (left.kind, left.reason) == ("matmul", "its left operand is a constant")
        batched = layers([("MatMul", "x w", "y")], {"x": [2, 3, 4]}, ["y"], {"w": weights(2, 4, 5)})["y"]
        assert batched.reason == "its weights differ from batch to batch"

    def test_a_relu_with_another_reader_stays_alone(self) -> None:
        nodes = [("Conv", "x w", "c"), ("Relu", "c", "r"), ("Add", "c r", "y")]
        found = layers(nodes, {"x": [1, 2, 4, 4]}, ["y"], {"w": weights(2, 2, 1, 1)})
        assert found["c"].activation is None and found["r"].kind == "lookup"

    def test_a_relu_after_an_output_stays_alone(self) -> None:
        nodes = [("Conv", "x w", "c"), ("Relu", "c", "y")]
        found = layers(nodes, {"x": [1, 2, 4, 4]}, ["c", "y"], {"w": weights(2, 2, 1, 1)})
        assert list(found) == ["c", "y"]


class TestJoins:
    def test_adds_of_integer_layers_and_inputs(self) -> None:
        nodes = [
            ("Conv", "x w", "c"), ("Transpose", "c", "f"), ("Reshape", "f s", "r"), ("Add", "r x", "a"),
            ("Relu", "a", "y"),
        ]  # fmt: skip
        constants = {"w": weights(2, 2, 1, 1), "s": np.int64([1, 2, 4, 4])}
        found = layers(nodes, {"x": [1, 2, 4, 4]}, ["y"], constants)
        assert found["a"].quantizable and found["a"].nodes == ("a", "y")

    def test_an_add_beside_layer_norm_says_where_the_float_comes_from(self) -> None:
        nodes = [
            ("LayerNormalization", "x g b", "n"), ("Transpose", "n", "t", {"perm": [0, 2, 1]}), ("Add", "t x", "a"),
            ("Concat", "a x", "y", {"axis": 1}),
        ]  # fmt: skip
        found = layers(nodes, {"x": [1, 4, 4]}, ["y"], {"g": weights(4), "b": weights(4)})
        assert found["n"].reason == "LayerNormalization runs in float"
        assert found["t"].kind == "shape"
        assert found["a"].reason == "its input 't' comes from LayerNormalization 'n', which runs in float"
        assert found["y"].reason == "its input 'a' comes from Add 'a', which runs in float"

    def test_constants(self) -> None:
        nodes = [("Add", "k x", "a"), ("Sigmoid", "a", "s"), ("Mul", "s k", "y")]
        found = layers(nodes, {"x": [1, 3, 4]}, ["y"], {"k": weights(3, 4)})
        assert [(la.kind, la.inputs, la.constant, la.params) for la in found.values()] == [
            ("add", ("x",), "k", 12), ("lookup", ("a",), None, 0), ("mul", ("s",), "k", 12),
        ]  # fmt: skip
        assert all(la.quantizable for la in found.values())

    def test_swish_and_squeeze_and_excite(self) -> None:
        nodes = [
            ("Sigmoid", "x", "s"), ("Mul", "x s", "m"), ("GlobalAveragePool", "m", "p"), ("Conv", "p w", "c"),
            ("HardSigmoid", "c", "h"), ("Mul", "m h", "y"),
        ]  # fmt: skip
        found = layers(nodes, {"x": [1, 3, 4, 4]}, ["y"], {"w": weights(3, 3, 1, 1)})
        assert [la.kind for la in found.values()] == ["lookup", "mul", "global_avg_pool", "conv", "lookup", "mul"]
        assert all(la.quantizable for la in found.values())


MASK = np.tril(np.ones((6, 6))) > 0


def hiding(fill: float, shown: np.ndarray | float = 0.0) -> np.ndarray:
    return np.where(MASK, shown, fill).astype(np.float32)


class TestConstants:
    """What the values of constants forbid is a reason of the layer, so that every other strategy can be made."""

    @pytest.mark.parametrize(
        "op,constant,reason",
        [
            ("Add", hiding(-np.inf), "its constant 'k' holds infinity, which no integer can represent"),
            ("Mul", np.float32([np.inf]), "its constant 'k' holds infinity, which no integer can represent"),
            (
                "Add",
                hiding(-3.4e38),
                "its constant 'k' is a mask of 0 and -3.4e+38, beside which eight bits hold nothing",
            ),
            (
                "Add",
                hiding(-1e4),
                "its constant 'k' is a mask of 0 and -1e+04, beside which eight bits hold nothing else",
            ),
            ("Add", hiding(-3.4e38, weights(6, 6)), "of which eight bits would make the small ones zero"),
            ("Mul", hiding(-1e6, weights(6, 6)), "of which eight bits would make the small ones zero"),
            ("Add", weights(6, 6), None),
            ("Mul", hiding(1.0), None),
            ("Add", np.float32([-123.7, -116.3, -103.5, 0, 0, 0]), None),
            ("Add", np.float32([-20000.0]), None),
            ("Mul", np.float32([0.0]), None),
            ("Mul", np.float32([1e-40]), None),
        ],
    )
    def test_beside_activations(self, op: str, constant: np.ndarray, reason: str | None) -> None:
        layer = layers([(op, "x k", "y")], {"x": [1, 4, 6, 6]}, ["y"], {"k": constant})["y"]
        assert layer.quantizable == (reason is None)
        assert (reason or "") in (layer.reason or "")

    def test_every_constant_of_a_concat(self) -> None:
        constants = {"k": np.ones((1, 1, 6, 6), np.float32), "l": np.full((1, 1, 6, 6), -np.inf, np.float32)}
        layer = layers([("Concat", "x k l", "y", {"axis": 1})], {"x": [1, 4, 6, 6]}, ["y"], constants)["y"]
        assert layer.reason == "its constant 'l' holds infinity, which no integer can represent"

    def test_weights_that_leave_float32(self) -> None:
        for scale, quantizable in ((3e38, False), (1e-40, True), (0.0, True)):
            constants = {"w": np.full((4, 4, 3, 3), scale, np.float32)}
            layer = layers([("Conv", "x w", "y")], {"x": [1, 4, 6, 6]}, ["y"], constants)["y"]
            assert layer.quantizable == quantizable, scale

    @pytest.mark.parametrize("variance,quantizable", [(1.0, True), (0.0, True), (-1.0, False)])
    def test_a_normalization_without_a_variance(self, variance: float, quantizable: bool) -> None:
        rows = {k: np.ones(3, np.float32) for k in "gbm"} | {"v": np.float32([1, variance, 1])}
        layer = layers([("BatchNormalization", "x g b m v", "y")], {"x": [1, 3, 4, 4]}, ["y"], rows)["y"]
        assert layer.quantizable == quantizable
        assert quantizable or "not finite in channel 1" in (layer.reason or "")

    @pytest.mark.parametrize("fill", [-np.inf, float(np.finfo(np.float32).min), -65504.0, -1e4])
    def test_masked_attention_is_made_in_every_precision_and_hides_what_it_hid(self, fill: float) -> None:
        """A row that sees one place alone gives that place's value, however much the others hold."""
        nodes = [("MatMul", "x t", "s"), ("Add", "s mask", "m"), ("Softmax", "m", "p"), ("MatMul", "p x", "y")]
        nodes = [("MatMul", "x w", "k"), ("Transpose", "k", "t", {"perm": [0, 2, 1]}), *nodes]
        model = load_model(build(nodes, {"x": [1, 6, 6]}, ["y"], {"mask": hiding(fill), "w": weights(6, 6)}))
        spec = load_spec("x86-avx2")
        x = weights(16, 6, 6)
        for precision in ("int8", "int7"):
            made = quantize(model, uniform(model, spec, precision), x, hw=spec)
            assert any(node.op_type == "QuantizeLinear" for node in made.graph.node)
            (got,) = ReferenceEvaluator(made).run(None, {"x": x[:1]})
            np.testing.assert_allclose(got[0, 0], x[0, 0], atol=0.05)


class TestOthers:
    def test_pools(self) -> None:
        nodes = [
            ("MaxPool", "x", "m", {"kernel_shape": [2, 2]}), ("AveragePool", "m", "a", {"kernel_shape": [2, 2]}),
            ("Relu", "a", "r"), ("GlobalAveragePool", "r", "y"),
        ]  # fmt: skip
        found = layers(nodes, {"x": [1, 3, 9, 9]}, ["y"])
        assert [(la.kind, la.activation) for la in found.values()] == [
            ("max_pool", None), ("avg_pool", "Relu"), ("global_avg_pool", None),
        ]  # fmt: skip

    def test_a_batch_normalization_left_over_is_a_scale_and_shift(self) -> None:
        rows = {k: np.abs(weights(3, seed=i)) for i, k in enumerate("gbmv")}
        nodes = [("BatchNormalization", "x g b m v", "n"), ("Relu", "n", "y")]
        (layer,) = layers(nodes, {"x": [1, 3, 4, 4]}, ["y"], rows).values()
        assert (layer.kind, layer.activation, layer.params, layer.quantizable) == ("scale_shift", "Relu", 12, True)

    @pytest.mark.parametrize("mode,quantizable", [("nearest", True), ("linear", False)])
    def test_resize(self, mode: str, quantizable: bool) -> None:
        nodes = [("Resize", "x _ s", "y", {"mode": mode})]
        found = layers(nodes, {"x": [1, 3, 4, 4]}, ["y"], {"s": np.float32([1, 1, 2, 2])})["y"]
        assert (found.kind, found.quantizable) == ("resize", quantizable)

    def test_padding_with_zeros_moves_data_and_other_padding_does_not(self) -> None:
        pads = np.int64([0, 0, 1, 1, 0, 0, 1, 1])
        for value, kind in ((0.0, "shape"), (1.0, "float")):
            constants = {"p": pads, "v": np.float32(value)}
            assert layers([("Pad", "x p v", "y")], {"x": [1, 2, 4, 4]}, ["y"], constants)["y"].kind == kind

    @pytest.mark.parametrize("stored,kind", [(7, "shape"), (8, "float")])
    def test_padding_with_a_quantized_zero_moves_data_too(self, stored: int, kind: str) -> None:
        constants = {"p": np.int64([1, 1]), "q": np.uint8(stored), "s": np.float32(0.5), "z": np.uint8(7)}
        nodes = [("DequantizeLinear", "q s z", "v"), ("Pad", "x p v", "y")]
        assert layers(nodes, {"x": [4]}, ["y"], constants)["y"].kind == kind

    def test_tables_and_integers(self) -> None:
        nodes = [("Cast", "x", "i", {"to": TensorProto.INT64}), ("Gather", "t i", "e"), ("Add", "e e", "y")]
        found = layers(nodes, {"x": [1, 3]}, ["y"], {"t": weights(10, 4)})
        assert found["i"].reason == "it makes int64 numbers, not float32"
        assert found["e"].reason == "an embedding table is read in float32"
        assert found["y"].reason == "its input 'e' comes from Gather 'e', which runs in float"

    def test_every_node_is_marked_with_its_layer(self) -> None:
        nodes = [("MatMul", "x w", "m"), ("Add", "m b", "a"), ("Clip", "a lo hi", "c"), ("Softmax", "c", "y")]
        constants = {"w": weights(4, 6), "b": weights(6), "lo": np.float32(-1), "hi": np.float32(1)}
        model = load_model(build(nodes, {"x": ["N", 7, 4]}, ["y"], constants))
        marks = {n.name: {p.key: p.value for p in n.metadata_props} for n in model.proto.graph.node}
        assert marks == {n: {"hago.layer": la.name} for la in model.layers for n in la.nodes}
        assert [la.name for la in model.layers] == ["m", "y"]
        onnx.checker.check_model(model.proto)
