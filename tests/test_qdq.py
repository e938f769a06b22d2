"""QDQ models: where the pairs stand, what they hold, and that ONNX Runtime and OpenVINO run them."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from qdq_graphs import session
from quantize_nets import Net, classifier, conv1d, zoo

from hago.calibrate import calibrate
from hago.data import make_samples
from hago.errors import StrategyError
from hago.methods import RANGES
from hago.model import Model, expose, load_model
from hago.qdq import Quantizer, observed_tensors, quantize_model
from hago.qdq.bias import BIAS_LIMIT
from hago.scheme import PER_CHANNEL, PER_TENSOR, Granularity
from hago.spec import load_spec
from hago.strategy import Choice, Strategy, granularities, uniform

ort = pytest.importorskip("onnxruntime")

SPEC = load_spec("x86-avx512-bf16")
GROUP32 = Granularity("per_group", 32)
NETS = {"classifier": classifier, "zoo": zoo, "conv1d": conv1d}


class Ranges:
    """min and max over some inputs, in the form of a Calibration."""

    def __init__(self, model: Model, batches: list[np.ndarray]) -> None:
        self.tensors = observed_tensors(model)
        proto = expose(model, [t for t in self.tensors if t != model.inputs[0].name])
        session = ort.InferenceSession(proto.SerializeToString())
        names = [o.name for o in session.get_outputs()]
        self.seen: dict[str, tuple[float, float]] = {}
        for x in batches:
            values = dict(zip(names, session.run(None, {model.inputs[0].name: x}), strict=True))
            for name, value in {**values, model.inputs[0].name: x}.items():
                lo, hi = self.seen.get(name, (0.0, 0.0))
                self.seen[name] = (min(lo, float(value.min())), max(hi, float(value.max())))

    def range(self, tensor, method, scheme):
        lo, hi = self.seen[tensor]
        return (lo, hi) if method is not RANGES["percentile"] else (lo / 2, hi / 2)


def batches(model: Model, count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(model.inputs[0].shape).astype(np.float32) for _ in range(count)]


_KEPT: dict[str, tuple[Model, Ranges]] = {}


def prepared(name: str) -> tuple[Model, Ranges]:
    if name not in _KEPT:
        model = load_model(NETS[name]())
        _KEPT[name] = model, Ranges(model, batches(model, 8))
    return _KEPT[name]


def run(proto: onnx.ModelProto, xs: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Outputs for each input: what the file says, on any processor."""
    opened = session(proto)
    return [opened.run(None, {opened.get_inputs()[0].name: x}) for x in xs]


def sqnr(reference: np.ndarray, found: np.ndarray) -> float:
    """Signal to quantization noise in dB."""
    return float(10 * np.log10(np.square(reference).sum() / max(np.square(reference - found).sum(), 1e-30)))


class View:
    """Look-ups in a QDQ model for the assertions."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto, graph = proto, proto.graph
        self.makers = {o: n for n in graph.node for o in n.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.nodes = {n.name: n for n in graph.node}
        self.ops = Counter(n.op_type for n in graph.node)

    def quantizers(self, tensor: str) -> list[onnx.NodeProto]:
        return [n for n in self.readers.get(tensor, []) if n.op_type == "QuantizeLinear"]

    def dequantizer(self, node: str, index: int) -> onnx.NodeProto:
        found = self.makers[self.nodes[node].input[index]]
        assert found.op_type == "DequantizeLinear", found
        return found

    def parameters(self, pair: onnx.NodeProto) -> tuple[float, int]:
        return float(self.constants[pair.input[1]]), int(self.constants[pair.input[2]])


def attributes(node: onnx.NodeProto) -> dict[str, int]:
    return {a.name: a.i for a in node.attribute}


def qdq(name: str, strategy: Strategy | None = None, spec=SPEC) -> View:
    model, ranges = prepared(name)
    return View(Quantizer(model, ranges, spec).qdq(strategy or uniform(model, spec)))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    ("precision", "granularity", "least_db"),
    [
        ("int8", PER_CHANNEL, 22),
        ("int8", PER_TENSOR, 18),
        ("int8", GROUP32, 22),
        ("bfloat16", PER_CHANNEL, 40),
    ],
)
def test_outputs_stay_close_to_float(name, precision, granularity, least_db):
    model, ranges = prepared(name)
    proto = quantize_model(model, uniform(model, SPEC, precision, granularity), ranges, SPEC)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 21)]
    xs = batches(model, 8, seed=1)
    for index, _ in enumerate(model.outputs):
        floats, found = (np.stack([y[index] for y in run(p, xs)]) for p in (model.proto, proto))
        assert sqnr(floats, found) > least_db


def test_classes_agree_with_float():
    model, ranges = prepared("classifier")
    xs = batches(model, 300, seed=2)
    proto = quantize_model(model, uniform(model, SPEC), ranges, SPEC)
    floats, found = (np.concatenate([y[0] for y in run(p, xs)]) for p in (model.proto, proto))
    centred = floats.mean(axis=0)  # random networks lean to one class: look at what changes
    agreement = ((floats - centred).argmax(1) == (found - centred).argmax(1)).mean()
    assert agreement > 0.93


@pytest.mark.parametrize("spec", ["x86-avx2", "arm-cortex-a76", "arm-neoverse-v1", "nvidia-t4", "integer-only"])
def test_each_hardware_gets_its_own_integers(spec):
    hardware = load_spec(spec)
    model, ranges = prepared("classifier")
    precision = "int7" if spec == "x86-avx2" else "int8"
    strategy = Strategy(
        model.hash,
        spec,
        {**uniform(model, hardware, "int8").choices, **uniform(model, hardware, precision).choices},
    )
    view = qdq("classifier", strategy, hardware)
    pair = view.quantizers("stem_relu_out")[0]
    scale, zero_point = view.parameters(pair)
    activation = hardware.find("conv", precision).activation
    assert view.constants[pair.input[2]].dtype == activation.dtype
    hi = ranges.seen["stem_relu_out"][1]
    if activation.symmetric:
        assert zero_point == 0 and scale == pytest.approx(hi / 127, rel=1e-5)
    else:  # after a Relu the whole range serves positive values
        assert zero_point == (-128 if activation.signed else 0) and scale == pytest.approx(hi / 255, rel=1e-5)
    weights = view.constants[view.dequantizer("left", 1).input[0]]
    assert weights.dtype == np.int8 and np.abs(weights).max() == (63 if precision == "int7" else 127)
    xs = batches(model, 4, seed=1)
    floats, found = (np.stack([y[0] for y in run(p, xs)]) for p in (model.proto, view.proto))
    assert sqnr(floats, found) > 18


def test_float16_layers_are_cast():
    hardware = load_spec("arm-cortex-a76")
    model, _ = prepared("classifier")
    view = qdq("classifier", uniform(model, hardware, "float16"), hardware)
    cast = view.makers[view.nodes["left"].input[1]]
    assert view.constants[cast.input[0]].dtype == np.float16
    x = batches(model, 1)
    assert np.isfinite(run(view.proto, x)[0][0]).all()
    huge = [x[0] * np.float32(1e7)]
    assert np.isfinite(run(view.proto, huge)[0][0]).all()  # where float16 ends, it saturates


def test_what_is_clipped_already_needs_no_saturation():
    hardware = load_spec("arm-cortex-a76")
    model, _ = prepared("zoo")
    view = qdq("zoo", uniform(model, hardware, "float16"), hardware)
    read = {name: view.makers[view.makers[view.nodes[name].input[0]].input[0]] for name in ("depthwise", "grouped")}
    assert read["depthwise"].input[0] == "maxpool_out_saturated" and read["grouped"].input[0] == "depthwise_clip_out"


def test_a_tensor_has_one_pair_for_all_its_integer_readers():
    view = qdq("classifier")
    assert view.ops["QuantizeLinear"] == 8
    assert len(view.quantizers("stem_relu_out")) == 1
    assert view.nodes["left"].input[0] == view.nodes["shortcut"].input[0] != "stem_relu_out"
    assert view.makers[view.nodes["left_relu"].input[0]].op_type == "Conv"
    assert not view.quantizers("left_out")  # nothing between a layer and its activation
    model, _ = prepared("classifier")
    assert not view.quantizers(model.outputs[0].name)


def test_float_readers_read_the_float_tensor():
    model, _ = prepared("classifier")
    view = qdq("classifier", Strategy(model.hash, SPEC.name, {"left": Choice("int8")}))
    assert view.ops["QuantizeLinear"] == 1 and view.ops["DequantizeLinear"] == 3
    assert view.nodes["shortcut"].input[0] == "stem_relu_out"
    assert view.nodes["left"].input[0] == "stem_relu_out_dequantized"
    assert list(view.nodes["stem"].input) == ["image", "stem_w", "stem_b"]
    assert "left_w" not in view.constants and "right_w" in view.constants


def test_a_strategy_of_floats_changes_nothing():
    model, _ = prepared("zoo")
    view = qdq("zoo", Strategy(model.hash, SPEC.name))
    assert [n.op_type for n in view.proto.graph.node] == [n.op_type for n in model.proto.graph.node]
    xs = batches(model, 2)
    for a, b in zip(run(model.proto, xs), run(view.proto, xs), strict=True):
        assert all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


def test_pooling_and_movement_pass_integers_through():
    view = qdq("zoo")
    same = {
        "maxpool": ("stem_relu_out", "maxpool_out"),
        "resize": ("avgpool_out", "resize_out"),
        "reshape and transpose": ("avgpool_out", "reshape_out", "transpose_out"),
        "slices of q, k, v": ("qkv_add_out", "slice_q_out", "slice_k_out", "turn_out", "slice_v_out"),
    }
    for name, tensors in same.items():
        found = [[view.parameters(p) for p in view.quantizers(t)] for t in tensors]
        assert all(len(f) == 1 for f in found) and len({f[0] for f in found}) == 1, (name, found)


def test_movement_between_floats_stays_in_float():
    model, _ = prepared("zoo")
    only = Strategy(model.hash, SPEC.name, {"scores": Choice("int8")})
    view = qdq("zoo", only)
    assert {n.input[0] for n in view.proto.graph.node if n.op_type == "QuantizeLinear"} == {
        "slice_q_out",
        "turn_out",
    }
    # An integer maker on the other side lets both slices carry integers; the float v stays as it was.
    view = qdq("zoo", only.with_("qkv", Choice("int8")))
    assert len(view.quantizers("qkv_add_out")) == 1 and not view.quantizers("slice_v_out")
    assert view.nodes["slice_v"].input[0] == "qkv_add_out" != view.nodes["slice_q"].input[0]


def test_a_concat_of_integers_only_copies():
    view = qdq("zoo")
    pairs = [view.quantizers(t)[0] for t in ("branch1_relu_out", "branch2_relu_out", "concat_out")]
    assert len({view.parameters(p) for p in pairs}) == 1
    model, ranges = prepared("zoo")
    # With a float reader the output has no integers to agree with: each input keeps its own range.
    view = qdq("zoo", uniform(model, SPEC).with_("squeeze", Choice()))
    scales = [view.parameters(view.quantizers(t)[0])[0] for t in ("branch1_relu_out", "branch2_relu_out")]
    assert scales == pytest.approx([ranges.seen[f"branch{i}_relu_out"][1] / 255 for i in (1, 2)])


def test_folded_clips_bound_the_range():
    model, ranges = prepared("zoo")
    wide = SimpleNamespace(tensors=ranges.tensors, range=lambda tensor, calibrator, scheme: (-10.0, 10.0))
    view = View(quantize_model(model, uniform(model, SPEC), wide, SPEC))
    assert view.parameters(view.quantizers("depthwise_clip_out")[0]) == (pytest.approx(6 / 255), 0)
    assert view.parameters(view.quantizers("stem_relu_out")[0]) == (pytest.approx(10 / 255), 0)
    scale, zero_point = view.parameters(view.quantizers("grouped_out")[0])
    assert scale == pytest.approx(20 / 255) and zero_point in (127, 128)


def test_the_first_integer_reader_chooses_the_calibrator():
    model, ranges = prepared("classifier")
    both = uniform(model, SPEC).with_("left", Choice("int8", calibrator="percentile"))
    view = qdq("classifier", both)
    full = ranges.seen["stem_relu_out"][1] / 255
    assert view.parameters(view.quantizers("stem_relu_out")[0])[0] == pytest.approx(full / 2)
    view = qdq("classifier", both.with_("left", Choice()))
    assert view.parameters(view.quantizers("stem_relu_out")[0])[0] == pytest.approx(full)


@pytest.mark.parametrize("granularity", [PER_TENSOR, PER_CHANNEL, GROUP32])
@pytest.mark.parametrize(("layer", "node"), [("right", "right"), ("fc", "fc"), ("mix", "mix"), ("second", "second")])
def test_weights_and_biases_hold_what_the_convention_says(granularity, layer, node):
    name = "zoo" if layer == "mix" else "conv1d" if layer == "second" else "classifier"
    model, _ = prepared(name)
    view = qdq(name, uniform(model, SPEC, granularity=granularity))
    info = model.layer(layer)
    w, b = model.initializer(info.weight), model.initializer(info.bias)
    turned = info.op_type == "MatMul"  # [K, N]
    weight = view.makers[view.nodes[node].input[1]]
    if granularity == GROUP32 and w.shape[0 if turned else 1] > 32:
        assert attributes(weight if not turned else view.makers[weight.input[0]])["block_size"] == 32
    if weight.op_type == "Transpose":
        weight = view.makers[weight.input[0]]
        w = w.T
        turned = False
    codes, scale, zero = (view.constants[i] for i in weight.input)
    assert codes.dtype == np.int8 and scale.dtype == np.float32 and not zero.any() and zero.shape == scale.shape
    block = attributes(weight).get("block_size")
    spread = scale
    if block:
        spread = np.repeat(scale, block, 1)
        steps = scale.astype(np.float64) / (scale.max(axis=1, keepdims=True).astype(np.float64) / 15)
        assert np.array_equal(steps, np.rint(steps)) and steps.min() >= 1 and steps.max() == 15
    elif scale.ndim:
        axis = attributes(weight)["axis"]
        assert axis == (1 if turned else 0) and scale.shape == (w.shape[axis],)
        spread = scale.reshape([-1 if a == axis else 1 for a in range(w.ndim)])
    assert np.all(np.abs(codes * spread.astype(np.float64) - w) <= spread * 0.50001)
    bias_node = view.makers[
        view.nodes[f"{node}_add"].input[1] if info.op_type == "MatMul" else view.nodes[node].input[2]
    ]
    q, s_b, zero = (view.constants[i] for i in bias_node.input)
    s_x = view.parameters(view.dequantizer(node, 0))[0]
    level = scale if not block else (scale.max(axis=tuple(range(1, scale.ndim))) / np.float32(15)).astype(np.float32)
    assert q.dtype == zero.dtype == np.int32 and not zero.any()
    assert np.array_equal(s_b, np.float32(s_x) * level)
    assert np.array_equal(q, np.rint(b / s_b.astype(np.float64)))


def test_constants_beside_activations_become_integers():
    view = qdq("zoo")
    position = view.dequantizer("embed", 1)
    assert view.constants[position.input[0]].dtype == np.uint8 and view.constants[position.input[0]].shape == (16, 32)
    factor = view.dequantizer("scaled", 1)
    scale, zero_point = view.parameters(factor)
    code = int(view.constants[factor.input[0]])
    assert scale * (code - zero_point) == pytest.approx(32**-0.5, rel=1e-6)


def test_the_bounds_of_a_folded_clip_stay_as_they_are():
    model, ranges = prepared("zoo")
    assert model.layer("merge").activation == "Clip"
    for precision in ("int8", "bfloat16"):
        view = qdq("zoo", uniform(model, SPEC, precision))
        assert list(view.nodes["merge_clip"].input[1:]) == ["lowest", "highest"]
    view = qdq("zoo")
    assert ranges.seen["merge_clip_out"] == (-1, 4)
    assert view.parameters(view.quantizers("merge_clip_out")[0])[0] == pytest.approx(5 / 255)


def test_bfloat16_weights_are_stored_short():
    model, _ = prepared("classifier")
    view = qdq("classifier", uniform(model, SPEC, "bfloat16"))
    assert view.ops["QuantizeLinear"] == 0
    node = view.nodes["left"]
    assert view.nodes["shortcut"].input[0] == node.input[0]  # one cast for all readers
    to_float, short = view.makers[node.input[0]], view.makers[view.makers[node.input[0]].input[0]]
    assert attributes(short)["to"] == TensorProto.BFLOAT16 and attributes(to_float)["to"] == TensorProto.FLOAT
    weight = view.makers[node.input[1]].input[0]
    stored = next(t for t in view.proto.graph.initializer if t.name == weight)
    assert stored.data_type == TensorProto.BFLOAT16 and "left_w" not in view.constants
    assert node.input[2] == "left_b"


def test_new_nodes_know_their_layer_and_every_tensor_its_type():
    model, _ = prepared("zoo")
    for granularity in (PER_CHANNEL, GROUP32):
        proto = qdq("zoo", uniform(model, SPEC, granularity=granularity)).proto
        layers = {layer.name for layer in model.layers}
        assert len({n.name for n in proto.graph.node}) == len(proto.graph.node)
        for node in proto.graph.node:
            assert {p.key: p.value for p in node.metadata_props}["hago.layer"] in layers
        typed = {v.name: v for v in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]}
        bare = onnx.ModelProto()
        bare.CopyFrom(proto)
        del bare.graph.value_info[:]
        for value in onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True).graph.value_info:
            assert typed[value.name].type == value.type, value.name
        assert {o for n in proto.graph.node for o in n.output if o} <= typed.keys()


def test_the_same_strategy_gives_the_same_bytes_and_leaves_the_model_alone():
    model, ranges = prepared("zoo")
    before = model.proto.SerializeToString(deterministic=True)
    quantizer = Quantizer(model, ranges, SPEC)
    first, second = uniform(model, SPEC), uniform(model, SPEC, granularity=GROUP32)
    made = [quantizer.qdq(s).SerializeToString(deterministic=True) for s in (first, second, first)]
    assert made[0] == made[2] != made[1]
    assert made[1] == quantize_model(model, second, ranges, SPEC).SerializeToString(deterministic=True)
    assert model.proto.SerializeToString(deterministic=True) == before


def test_dead_channels_with_large_biases_neither_clip_nor_poison():
    net = Net()
    x = net.input("x", [1, 32, 4, 4])
    w = net.rng.standard_normal((8, 32, 1, 1)).astype(np.float32)
    w[0], w[1] = 0, 1e-12
    b = np.array([3, 700, *np.linspace(-1, 1, 6)], np.float32)
    y = net.op("Conv", x, net.constant("w", w), net.constant("b", b), name="conv")
    model = load_model(net.proto((y, [1, 8, 4, 4])))
    ranges = Ranges(model, batches(model, 2))
    for granularity in (PER_TENSOR, PER_CHANNEL, GROUP32):
        view = View(quantize_model(model, uniform(model, SPEC, granularity=granularity), ranges, SPEC))
        found = run(view.proto, batches(model, 1))[0][0]
        floats = run(model.proto, batches(model, 1))[0][0]
        assert np.allclose(found[0, :2], floats[0, :2], rtol=1e-4)
        assert sqnr(floats[0, 2:], found[0, 2:]) > 25
        codes = view.constants[view.dequantizer("conv", 2).input[0]]
        assert np.abs(codes.astype(np.int64)).max() <= BIAS_LIMIT


def test_new_names_avoid_those_of_the_model():
    net = Net()
    x = net.input("w_scale", [1, 4, 6, 6])
    y = net.op("Relu", net.op("Conv", x, net.random("w", 4, 4, 3, 3), name="w_dequantized"), name="w_quantized")
    model = load_model(net.proto((net.op("Conv", y, net.random("v", 2, 4, 3, 3), name="b"), [1, 2, 2, 2])))
    proto = quantize_model(model, uniform(model, SPEC), Ranges(model, batches(model, 2)), SPEC)
    onnx.checker.check_model(proto, full_check=True)
    assert {t.name for t in proto.graph.initializer}.isdisjoint(n.name for n in proto.graph.node)
    run(proto, batches(model, 1))


def test_groups_without_bias_run_in_onnx_runtime():
    net = Net()
    x = net.conv(net.input("x", [1, 64, 5, 5]), "a", (64, 64, 3, 3), bias=False, pads=[1] * 4)
    x = net.conv(x, "b", (64, 64, 1, 1), bias=False)
    x = net.op(
        "Transpose",
        net.op("Reshape", x, net.constant("s", np.array([1, 64, 25])), name="r"),
        name="t",
        perm=[0, 2, 1],
    )
    x = net.op("MatMul", net.op("MatMul", x, net.random("m1", 64, 64), name="c"), net.random("m2", 64, 8), name="d")
    model = load_model(net.proto((x, [1, 25, 8])))
    proto = quantize_model(model, uniform(model, SPEC, granularity=GROUP32), Ranges(model, batches(model, 4)), SPEC)
    xs = batches(model, 2, seed=1)
    floats, found = (np.stack([y[0] for y in run(p, xs)]) for p in (model.proto, proto))
    assert sqnr(floats, found) > 30


@given(st.data())
@settings(max_examples=25)
def test_any_mixture_runs_and_stays_close(data):
    name = data.draw(st.sampled_from(["zoo", "classifier", "conv1d"]))
    model, ranges = prepared(name)
    choices = {}
    for layer in model.layers:
        if layer.quantizable:
            ways = SPEC.choices(layer.kind)
            way = data.draw(st.sampled_from([*ways, ways[0]]))
            fitting = granularities(layer, way)
            granularity = data.draw(st.sampled_from(fitting)) if fitting else PER_CHANNEL
            choices[layer.name] = Choice(way.precision, granularity)
    proto = _QUANTIZERS.setdefault(name, Quantizer(model, ranges, SPEC)).qdq(Strategy(model.hash, SPEC.name, choices))
    onnx.checker.check_model(proto, full_check=True)
    xs = batches(model, 2, seed=1)
    for index, _ in enumerate(model.outputs):
        floats, found = (np.stack([y[index] for y in run(p, xs)]) for p in (model.proto, proto))
        assert sqnr(floats, found) > 12


_QUANTIZERS: dict[str, Quantizer] = {}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    ("precision", "granularity"), [("int8", PER_CHANNEL), ("int8", GROUP32), ("bfloat16", PER_CHANNEL)]
)
def test_openvino_reads_the_file(name, precision, granularity):
    openvino = pytest.importorskip("openvino")
    model, _ = prepared(name)
    proto = qdq(name, uniform(model, SPEC, precision, granularity)).proto
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(proto.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    x = batches(model, 1, seed=1)[0]
    found, floats = compiled([x])[0], run(model.proto, [x])[0][0]
    assert sqnr(floats, found) > 15


def test_mistakes_are_named():
    model, ranges = prepared("classifier")
    with pytest.raises(StrategyError, match="no layer 'lefd'\n  hint: did you mean 'left'"):
        qdq("classifier", Strategy(model.hash, SPEC.name, {"lefd": Choice("int8")}))
    with pytest.raises(StrategyError, match="layer flatten: cannot run in int8: it only moves data"):
        qdq("classifier", Strategy(model.hash, SPEC.name, {"flatten": Choice("int8")}))
    with pytest.raises(StrategyError, match="layer left: groups of 32 do not divide the 16 input channels"):
        qdq("classifier", Strategy(model.hash, SPEC.name, {"left": Choice("int8", GROUP32)}))
    empty = SimpleNamespace(tensors=(), range=ranges.range)
    with pytest.raises(StrategyError, match="tensor image: no range was calibrated for this tensor"):
        quantize_model(model, uniform(model, SPEC), empty, SPEC)
    turing = load_spec("nvidia-t4")
    with pytest.raises(StrategyError, match="int4"):
        qdq("classifier", Strategy(model.hash, "nvidia-t4", {"left": Choice("int4")}), turing)


def test_observed_tensors_cover_what_may_be_quantized():
    model, _ = prepared("zoo")
    observed = observed_tensors(model)
    assert {"image", "stem_relu_out", "maxpool_out", "concat_out", "qkv_add_out", "softmax_out"} <= set(observed)
    assert not {"stem_out", "stem_w", "position", "sizes"} & set(observed) and len(set(observed)) == len(observed)


@pytest.mark.shared_models
@pytest.mark.parametrize(
    ("bundle", "precision", "granularity", "least"),
    [
        ("cifar10_resnet8", "int8", PER_CHANNEL, 0.97),
        ("cifar10_resnet8", "int8", PER_TENSOR, 0.95),
        ("cifar10_resnet8", "bfloat16", PER_CHANNEL, 0.99),
        ("cifar10_resnet20", "int8", GROUP32, 0.97),
        ("kws_dscnn", "int8", PER_CHANNEL, 0.95),
        ("vww_mobilenetv1_025", "int8", PER_CHANNEL, 0.95),
        ("kws_kwt1", "int8", PER_CHANNEL, 0.93),
    ],
)
def test_real_models_keep_their_classes(shared_models, load_bundle, bundle, precision, granularity, least):
    loaded = load_bundle.load(str(shared_models / bundle))
    count, calibrating = 200, 32
    model = load_model(loaded["model"], batch=1)
    name = model.inputs[0].name
    wanted = [t for t in observed_tensors(model) if t != name]
    probe = ort.InferenceSession(expose(model, wanted).SerializeToString())
    names = [o.name for o in probe.get_outputs()]
    calibration = calibrate(
        observed_tensors(model),
        make_samples(loaded["calib"][:calibrating], model.inputs),
        lambda feeds: {**feeds, **dict(zip(names, probe.run(None, feeds), strict=True))},
        batch=1,
    )
    proto = quantize_model(model, uniform(model, SPEC, precision, granularity), calibration, SPEC)
    onnx.checker.check_model(proto)
    xs = list(loaded["x"][:count][:, None])
    floats, found = (np.concatenate([y[0] for y in run(p, xs)]) for p in (model.proto, proto))
    assert (floats.argmax(1) == found.argmax(1)).mean() >= least
