"""Loading: what is read, what is refused and with which words, the batch, the hash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_normalize import build, run, weights

from hago.errors import ModelError, UnsupportedOpError
from hago.model import Model, expose, load_model

ort = pytest.importorskip("onnxruntime")


def small(n: Any = "N", opset: int = 17) -> onnx.ModelProto:
    nodes = [
        ("Conv", "x w b", "c", {"pads": [1] * 4}), ("Relu", "c", "r"), ("GlobalAveragePool", "r", "p"),
        ("Flatten", "p", "f"), ("Gemm", "f v", "y"),
    ]  # fmt: skip
    constants = {"w": weights(4, 3, 3, 3), "b": weights(4), "v": weights(4, 5)}
    return build(nodes, {"x": [n, 3, 8, 8]}, ["y"], constants, opset)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(small(), tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


class TestLoading:
    def test_path_bytes_proto_and_model_give_the_same(self, path: Path) -> None:
        models = [load_model(s) for s in (path, str(path), path.read_bytes(), onnx.load(path))]
        assert len({m.hash for m in models}) == 1
        assert len({m.proto.SerializeToString(deterministic=True) for m in models}) == 1
        assert load_model(models[0]) is models[0]
        assert models[0].source == str(path)

    def test_the_source_is_not_changed(self) -> None:
        proto = small()
        before = proto.SerializeToString(deterministic=True)
        load_model(proto, 2)
        assert proto.SerializeToString(deterministic=True) == before

    def test_inputs_outputs_and_shapes(self, path: Path) -> None:
        model = load_model(path, batch=3)
        assert [(t.name, t.dtype, t.shape) for t in model.inputs] == [("x", "float32", (3, 3, 8, 8))]
        assert [(t.name, t.dtype, t.shape) for t in model.outputs] == [("y", "float32", (3, 5))]
        assert model.tensor_shapes["c"] == (3, 4, 8, 8) and model.tensor_shapes["w"] == (4, 3, 3, 3)
        known = {v.name for v in [*model.proto.graph.value_info, *model.proto.graph.output]}
        assert known >= {o for n in model.proto.graph.node for o in n.output}
        onnx.checker.check_model(model.proto, full_check=True)

    def test_external_data_is_read(self, tmp_path: Path) -> None:
        onnx.save(small(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        model = load_model(tmp_path / "m.onnx")
        assert model.hash == load_model(small()).hash
        np.testing.assert_array_equal(model.initializer("w"), weights(4, 3, 3, 3))

    def test_initializers_that_are_inputs_too(self) -> None:
        proto = small()
        proto.ir_version = 3
        for t in proto.graph.initializer:
            proto.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
        assert [t.name for t in load_model(proto).inputs] == ["x"]

    def test_local_functions_are_inlined(self) -> None:
        body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
        function = helper.make_function("mine", "F", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
        proto = build([("Abs", "x", "t")], {"x": [2]}, ["y"])
        proto.graph.node.append(helper.make_node("F", ["t"], ["y"], domain="mine"))
        proto.opset_import.append(helper.make_opsetid("mine", 1))
        proto.functions.append(function)
        assert [n.op_type for n in load_model(proto).proto.graph.node] == ["Abs", "Relu", "Neg"]

    def test_nodes_without_a_name_are_called_by_their_output(self) -> None:
        proto = small()
        proto.graph.node[0].name = "stem"
        assert [n.name for n in load_model(proto).proto.graph.node] == ["stem", "r", "p", "f", "y"]
        for node in proto.graph.node:
            node.name = "same"
        assert [n.name for n in load_model(proto).proto.graph.node] == ["same", "r", "p", "f", "y"]

    def test_expose_adds_outputs(self, path: Path) -> None:
        model = load_model(path)
        proto = expose(model, ["r", "x", "c", "r", "y"])
        assert [o.name for o in proto.graph.output] == ["y", "r", "x", "c"]
        x = weights(1, 3, 8, 8)
        y, r, same, c = run(proto, {"x": x})
        assert y.shape == (1, 5)
        np.testing.assert_array_equal(same, x)
        np.testing.assert_array_equal(r, np.maximum(c, 0))
        with pytest.raises(ModelError, match="no activation tensor 'nope'"):
            expose(model, ["nope"])

    def test_unknown_names(self, path: Path) -> None:
        model = load_model(path)
        assert model.layer("c").kind == "conv"
        with pytest.raises(ModelError, match=r"no layer 'cc'[\s\S]*did you mean 'c'"):
            model.layer("cc")
        with pytest.raises(ModelError, match="no initializer 'q'"):
            model.initializer("q")


class TestHash:
    def test_does_not_depend_on_batch_or_notes(self, path: Path) -> None:
        noted = onnx.load(path)
        noted.doc_string, noted.producer_name, noted.graph.node[0].doc_string = "a", "b", "c"
        assert {load_model(path, 4).hash, load_model(noted).hash} == {load_model(path).hash}

    def test_depends_on_every_weight(self) -> None:
        other = small()
        w = numpy_helper.to_array(other.graph.initializer[0]).copy()
        w.flat[-1] += 1e-3
        other.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, other.graph.initializer[0].name))
        assert load_model(other).hash != load_model(small()).hash


class TestBatch:
    def test_a_model_at_another_batch(self, path: Path) -> None:
        one = load_model(path)
        four = load_model(one, 4)
        assert (one.batch, four.batch) == (1, 4) and four.hash == one.hash
        assert four.outputs[0].shape == (4, 5)
        assert four.macs == 4 * one.macs

    def test_a_fixed_batch_stays(self) -> None:
        assert load_model(small(6)).batch == 6
        assert load_model(small(6), 6).inputs[0].shape == (6, 3, 8, 8)
        with pytest.raises(ModelError, match=r"input 'x'.*fixed at 6 inside the model, but 2 was requested"):
            load_model(small(6), 2)

    def test_a_batch_must_be_positive(self) -> None:
        with pytest.raises(ModelError, match="at least 1, got 0"):
            load_model(small(), 0)

    def test_a_batch_hidden_in_a_reshape(self) -> None:
        nodes = [("Reshape", "x s", "a"), ("Gemm", "a v", "y")]
        proto = build(nodes, {"x": ["N", 2, 2]}, ["y"], {"s": np.int64([1, 4]), "v": weights(4, 5)})
        assert load_model(proto).outputs[0].shape == (1, 5)
        with pytest.raises(ModelError, match=r"node 'a' \(Reshape\).*\(3, 2, 2\) cannot become \(1, 4\)"):
            load_model(proto, 3)

    def test_another_dynamic_dimension_names_the_remedy(self) -> None:
        proto = build([("Relu", "x", "y")], {"x": ["N", 3, "H", "W"]}, ["y"])
        with pytest.raises(
            ModelError,
            match=r"input 'x': dimension 2 \(H\) is dynamic[\s\S]*input_shapes=\{\"x\": \(-1, 3, SIZE, SIZE\)\}",
        ):
            load_model(proto)
        model = load_model(proto, 2, input_shapes={"x": (-1, 3, 5, 7)})
        assert model.outputs[0].shape == (2, 3, 5, 7)
        assert load_model(model, 4).outputs[0].shape == (4, 3, 5, 7)

    def test_dimensions_with_the_symbol_of_the_batch_follow_it(self) -> None:
        proto = build([("Add", "x z", "y")], {"x": ["N", 3], "z": [1, 3]}, ["y"])
        assert load_model(proto, 5).outputs[0].shape == (5, 3)
        proto = build([("MatMul", "x z", "y")], {"x": ["N", 3], "z": [3, "N"]}, ["y"])
        assert load_model(proto, 5).outputs[0].shape == (5, 5)

    @pytest.mark.parametrize("shape", [(1, 3, 8), (1, 4, 8, 8), (1, 3, 8, 0)])
    def test_a_given_shape_must_fit(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ModelError, match=r"does not fit the declared \(N, 3, 8, 8\)"):
            load_model(small(), input_shapes={"x": shape})

    def test_a_shape_for_an_unknown_input(self) -> None:
        with pytest.raises(ModelError, match=r"names \['z'\][\s\S]*its inputs are \['x'\]"):
            load_model(small(), input_shapes={"z": (1,)})

    def test_an_input_of_unknown_rank(self) -> None:
        proto = small()
        proto.graph.input[0].type.tensor_type.ClearField("shape")
        with pytest.raises(ModelError, match=r"input 'x': its shape is unknown"):
            load_model(proto)
        assert load_model(proto, input_shapes={"x": (2, 3, 8, 8)}).outputs[0].shape == (2, 5)


def _nan() -> onnx.ModelProto:
    proto = small()
    w = weights(4, 3, 3, 3)
    w[0, 0, 0, :2] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    return proto


def _inf() -> onnx.ModelProto:
    proto = small()
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.float32([1, np.inf, 2, 3]), "b"))
    return proto


def _op(op: str, domain: str = "", opset: int = 17) -> onnx.ModelProto:
    proto = build([("Relu", "x", "t")], {"x": [2]}, ["y"], opset=opset)
    proto.graph.node.append(helper.make_node(op, ["t"], ["y"], name="odd", domain=domain))
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


def _scatter() -> onnx.ModelProto:
    proto = build([("Relu", "x", "t")], {"x": [2, 3, 4]}, ["y"], opset=24)
    proto.graph.node.append(helper.make_node("TensorScatter", ["t", "t"], ["y"], name="odd"))
    return proto


def _damaged_shape() -> onnx.ModelProto:
    proto = small()
    proto.graph.initializer[0].dims[0] = 5
    return proto


def _empty() -> onnx.ModelProto:
    proto = small()
    del proto.graph.node[:]
    return proto


def _cycle() -> onnx.ModelProto:
    return build([("Add", "x b", "a"), ("Relu", "a", "b"), ("Neg", "b", "y")], {"x": [2]}, ["y"])


def _shapes() -> onnx.ModelProto:
    return build([("MatMul", "x w", "y")], {"x": [2, 3]}, ["y"], {"w": weights(4, 5)})


def _opset(version: int) -> onnx.ModelProto:
    proto = small()
    proto.opset_import[0].version = version
    return proto


BAD: dict[str, tuple[Callable[[], Any], type[ModelError], str]] = {
    "no such file": (lambda: "/nowhere/m.onnx", ModelError, r"/nowhere/m.onnx: no such file"),
    "empty bytes": (lambda: b"", ModelError, r"the file is empty"),
    "noise": (lambda: b"\xff\xfe" * 50, ModelError, r"is not an ONNX model, or is truncated"),
    "text": (lambda: b"hello world, this is no model", ModelError, r"is not an ONNX model, or is truncated"),
    "truncated": (lambda: small().SerializeToString()[:-100], ModelError, r"is not an ONNX model, or is truncated"),
    "zip": (lambda: b"PK\x03\x04rest", ModelError, r"a zip archive \(a PyTorch or Keras file\?\)"),
    "pickle": (lambda: b"\x80\x02}q\x00.", ModelError, r"a Python pickle, which Hago never opens"),
    "tflite": (lambda: b"\x1c\0\0\0TFL3rest", ModelError, r"a TensorFlow Lite model"),
    "LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", ModelError, r"git lfs pull"),
    "a number": (lambda: 3, ModelError, r"must be a path, bytes, an onnx.ModelProto or a hago Model, not int"),
    "empty graph": (_empty, ModelError, r"the graph is empty"),
    "NaN": (_nan, ModelError, r"initializer 'w': 2 NaN of 108 values \(read by Conv 'c'\)"),
    "infinity": (_inf, ModelError, r"initializer 'b': 1 infinite of 4 values"),
    "unknown operator": (lambda: _op("Oddity"), UnsupportedOpError, r"'odd': operator Oddity of domain ai.onnx"),
    "unknown domain": (lambda: _op("Relu6", "my.ops"), UnsupportedOpError, r"'odd': operator Relu6 of domain my.ops"),
    "contributed": (lambda: _op("FastGelu", "com.microsoft"), UnsupportedOpError, r"FastGelu of domain com"),
    "newer operator": (lambda: _op("Gelu"), UnsupportedOpError, r"Gelu .*no such operator at opset 17"),
    "random": (lambda: _op("RandomNormalLike"), UnsupportedOpError, r"RandomNormalLike .* it is random"),
    "beyond opset 21": (_scatter, ModelError, r"TensorScatter of opset 24 cannot be expressed at opset 21"),
    "data of another size": (_damaged_shape, ModelError, r"breaks the ONNX standard|does not fit its shape"),
    "a cycle": (_cycle, ModelError, r"breaks the ONNX standard.*sorted"),
    "shapes that clash": (_shapes, ModelError, r"do not fit together"),
    "an ancient opset": (lambda: _opset(6), ModelError, r"the model's opset is 6; 7 to \d+ are supported"),
    "an opset of the future": (lambda: _opset(99), ModelError, r"the model's opset is 99"),
}  # fmt: skip


class TestBadInputs:
    @pytest.mark.parametrize("case", BAD)
    def test_each_gets_one_clear_error(self, case: str) -> None:
        make, kind, message = BAD[case]
        with pytest.raises(kind, match=message) as caught:
            load_model(make())
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    def test_a_folder_suggests_the_file_in_it(self, path: Path) -> None:
        with pytest.raises(ModelError, match=r"is a folder.*[\s\S]*did you mean .*small.onnx"):
            load_model(path.parent)

    def test_missing_external_data_names_the_file(self, tmp_path: Path) -> None:
        onnx.save(small(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        (tmp_path / "m.data").unlink()
        with pytest.raises(ModelError, match=r"external data file 'm.data' of tensor 'w' is missing"):
            load_model(tmp_path / "m.onnx")
        with pytest.raises(ModelError, match=r"in another file[\s\S]*give the path"):
            load_model((tmp_path / "m.onnx").read_bytes())

    def test_external_data_outside_the_folder_is_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(bytes(4 * 4 * 27))
        inner = tmp_path / "in"
        inner.mkdir()
        proto = small()
        tensor = proto.graph.initializer[0]
        onnx.external_data_helper.set_external_data(tensor, "../secret")
        tensor.ClearField("raw_data")
        (inner / "m.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(ModelError, match=r"external data file '../secret' of tensor 'w' cannot be used"):
            load_model(inner / "m.onnx")

    @pytest.mark.parametrize("cut", range(1, 12))
    def test_cut_anywhere(self, cut: int) -> None:
        data = small().SerializeToString()
        with pytest.raises(ModelError):
            load_model(data[: len(data) * cut // 12])

    def test_minus_infinity_in_a_mask_is_no_damage(self) -> None:
        mask = np.where(np.tri(3, dtype=bool), 0, -np.inf).astype(np.float32)
        load_model(build([("Add", "x m", "a"), ("Softmax", "a", "y")], {"x": [3, 3]}, ["y"], {"m": mask}))


class _Reader:
    """Calibration data for ONNX Runtime: a few random images."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.items = iter([{"x": weights(*shape, seed=i)} for i in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.items, None)


class TestQuantizedModels:
    @pytest.mark.parametrize("per_channel", [False, True])
    def test_a_qdq_model_keeps_its_structure(self, tmp_path: Path, per_channel: bool) -> None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        onnx.save(small(1), tmp_path / "f.onnx")
        quantize_static(
            tmp_path / "f.onnx", tmp_path / "q.onnx", _Reader((1, 3, 8, 8)), quant_format=QuantFormat.QDQ,
            per_channel=per_channel, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        source = onnx.load(tmp_path / "q.onnx")
        model = load_model(source)
        assert model.is_quantized and not load_model(small()).is_quantized

        def count(proto: onnx.ModelProto, op: str) -> int:
            return sum(n.op_type == op for n in proto.graph.node)

        for op in ("QuantizeLinear", "DequantizeLinear"):
            assert count(model.proto, op) == count(source, op)
        x = {"x": weights(1, 3, 8, 8, seed=9)}
        np.testing.assert_allclose(run(model.proto, x)[0], run(source, x)[0], rtol=1e-5, atol=1e-5)
        assert [(la.kind, la.inputs[0]) for la in model.layers if la.kind == "conv"] == [("conv", "x")]
        assert {la.reason for la in model.layers if la.kind != "shape"} == {"the model is quantized already"}
        gemm = next(n for n in model.proto.graph.node if n.op_type == "Gemm")
        assert {a.name: a.i for a in gemm.attribute}["transB"] == 1

    def test_bfloat16_weights_stay_as_they_are_stored(self) -> None:
        w = weights(3, 2, 1, 1)
        proto = build([("Cast", "h", "w", {"to": 1}), ("Conv", "x w", "y")], {"x": [1, 2, 4, 4]}, ["y"], opset=21)
        proto.graph.initializer.append(helper.make_tensor("h", TensorProto.BFLOAT16, w.shape, w.flatten()))
        model = load_model(proto)
        assert [n.op_type for n in model.proto.graph.node] == ["Cast", "Conv"]
        assert [(la.kind, la.weight) for la in model.layers] == [("conv", "h")]

    @pytest.mark.parametrize("computes", [True, False])
    def test_float16_weights_stay_as_they_are_stored_where_the_input_is_float16_too(self, computes: bool) -> None:
        w = weights(3, 2, 1, 1).astype(np.float16)
        nodes = [("Cast", "h", "w", {"to": 1}), ("Conv", "i w" if computes else "x w", "y")]
        bounds = {"lo": np.float32(-65504), "hi": np.float32(65504)} if computes else {}
        if computes:
            nodes = [("Clip", "x lo hi", "s"), ("Cast", "s", "c", {"to": 10}), ("Cast", "c", "i", {"to": 1}), *nodes]
        model = load_model(build(nodes, {"x": [1, 2, 4, 4]}, ["y"], {"h": w, **bounds}, opset=21))
        assert model.is_quantized == computes
        kinds = ["Clip", "Cast", "Cast", "Cast", "Conv"] if computes else ["Conv"]
        assert [n.op_type for n in model.proto.graph.node] == kinds
        assert [(la.kind, la.inputs, la.weight) for la in model.layers] == [("conv", ("x",), "h" if computes else "w")]


@pytest.mark.shared_models
class TestSharedModels:
    @pytest.fixture(
        params=[
            "ad_toycar_ae", "cifar10_resnet20", "cifar10_resnet56", "cifar10_resnet8", "imagenet_squeezenet1_1",
            "kws_dscnn", "kws_kwt1", "tin200_mobilenetv2", "tin200_resnet50v2_s3", "vww_mobilenetv1_025",
        ]
    )  # fmt: skip
    def folder(self, request: pytest.FixtureRequest, shared_models: Path) -> Path:
        return shared_models / request.param

    def test_same_outputs_and_the_noted_costs(self, folder: Path) -> None:
        noted = json.loads((folder / "bundle.json").read_text())
        source = onnx.load(folder / "model.onnx")
        model = load_model(folder / "model.onnx", batch=2)
        assert model.macs == 2 * noted["macs"]
        assert abs(model.params - noted["params"]) <= 0.01 * noted["params"]
        feeds = {t.name: weights(*t.shape, seed=3, scale=1.0) for t in model.inputs}
        for wanted, got in zip(run(source, feeds), run(model.proto, feeds), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-6 * float(np.abs(wanted).max()))

    def test_layers(self, folder: Path) -> None:
        noted = json.loads((folder / "bundle.json").read_text())
        model = load_model(folder / "model.onnx")
        heavy = sum(noted["ops"].get(op, 0) for op in ("Conv", "Gemm", "MatMul"))
        kinds = ("conv", "depthwise_conv", "fully_connected", "matmul")
        found = [la for la in model.layers if la.kind in kinds]
        assert len(found) == heavy and all(la.quantizable for la in found)
        covered = [n for la in model.layers for n in la.nodes]
        assert sorted(covered) == sorted(n.name for n in model.proto.graph.node)
        source_names = {n.name or n.output[0] for n in onnx.load(folder / "model.onnx").graph.node}
        assert {la.name for la in model.layers} <= source_names

    def test_of_a_transformer(self, shared_models: Path) -> None:
        model: Model = load_model(shared_models / "kws_kwt1" / "model.onnx")
        kinds = [la.op_type for la in model.layers]
        assert kinds.count("Gelu") == 12 and kinds.count("LayerNormalization") == 24

    def test_of_pre_activation_networks(self, shared_models: Path, load_bundle: ModuleType) -> None:
        model = load_model(shared_models / "tin200_resnet50v2_s3" / "model.onnx")
        assert sum(la.kind == "scale_shift" for la in model.layers) == 15
        assert all(
            la.activation == "Relu" for la in model.layers if la.kind == "scale_shift" and la.name != "batchnorm0"
        )
