"""Float ONNX graphs into QDQ ones and short floats, for tests: simple, and independent of the product's code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ANCHORS = frozenset({"Conv", "Gemm", "MatMul"})
# Their outputs have the parameters of their input.
CARRIERS = frozenset({"MaxPool", "Flatten", "Reshape", "Transpose", "Slice", "Pad", "Resize", "Gather"})
OTHERS = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Concat",
        "AveragePool",
        "GlobalAveragePool",
        "BatchNormalization",
        "Sigmoid",
        "Tanh",
        "HardSwish",
        "LeakyRelu",
        "Gelu",
        "Elu",
        "HardSigmoid",
        "Softplus",
        "Relu",
        "Clip",
    ]
)
FOLDED = frozenset({"Relu", "Clip"})


@dataclass(frozen=True)
class Style:
    """signed: int8 symmetric activations, else uint8 asymmetric. weights: "tensor", "channel" or "group".
    share: the part of the operators that is quantized. bias: "int32" or "float". outputs: pairs at the
    graph's outputs too. around_activations: pairs also between an operator and the Relu behind it.
    """

    signed: bool = False
    weights: str = "channel"
    share: float = 1.0
    bias: str = "int32"
    outputs: bool = False
    around_activations: bool = False
    seed: int = 0


def session(proto: onnx.ModelProto, *, optimized: bool = False) -> ort.InferenceSession:
    """ONNX Runtime on one thread.

    Without optimizations it computes a QDQ graph as it is written, in floats. With them it computes in integers, and
    8-bit weights saturate on a processor without VNNI.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_onnx(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], *, optimized: bool = False) -> list[np.ndarray]:
    """The outputs by ONNX Runtime (`session`)."""
    return session(proto, optimized=optimized).run(None, feeds)


def run_all(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of a float graph, by ONNX Runtime."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    known = {o.name for o in proto.graph.output}
    exposed.graph.output.extend(v for v in proto.graph.value_info if v.name not in known)
    names = [o.name for o in exposed.graph.output]
    return dict(zip(names, run_onnx(exposed, feeds), strict=True)) | feeds


class _Quantizer:
    def __init__(self, proto: onnx.ModelProto, feeds: dict[str, np.ndarray], style: Style) -> None:
        self.source, self.style = proto.graph, style
        self.tensors = run_all(proto, feeds)
        self.arrays = {t.name: numpy_helper.to_array(t) for t in self.source.initializer}
        self.rng = np.random.default_rng(style.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, onnx.TensorProto] = {}
        self.pairs: dict[str, str] = {}
        self.params: dict[str, tuple[np.float32, int]] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.source.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {o.name for o in self.source.output}

    def add(self, name: str, array: np.ndarray) -> str:
        self.made[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def params_of(self, name: str) -> tuple[np.float32, int]:
        if name not in self.params:
            values = self.tensors[name] if name in self.tensors else self.arrays[name]
            low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
            if self.style.signed:
                self.params[name] = np.float32(max(-low, high, 1e-3) / 127), 0
            else:
                scale = np.float32(max(high - low, 1e-3) / 255)
                self.params[name] = scale, int(np.clip(round(-low / float(scale)), 0, 255))
        return self.params[name]

    def pair(self, name: str) -> str:
        """The dequantized form of an activation (or of a constant operand)."""
        if name not in self.pairs:
            scale, zero = self.params_of(name)
            dtype = np.int8 if self.style.signed else np.uint8
            parts = [self.add(f"{name}_scale", np.array(scale)), self.add(f"{name}_zero", np.array(zero, dtype))]
            if name in self.arrays:
                info = np.iinfo(dtype)
                codes = np.clip(np.rint(self.arrays[name] / scale) + zero, info.min, info.max).astype(dtype)
                stored = self.add(f"{name}_codes", codes)
            else:
                stored = f"{name}_q"
                self.nodes.append(helper.make_node("QuantizeLinear", [name, *parts], [stored], f"{name}_quantize"))
            self.pairs[name] = f"{name}_dq"
            self.nodes.append(
                helper.make_node("DequantizeLinear", [stored, *parts], [f"{name}_dq"], f"{name}_dequantize")
            )
        return self.pairs[name]

    def weight(self, name: str, out_axis: int, in_axis: int) -> tuple[str, np.ndarray]:
        """The dequantized weight, and its scale per output channel [O] (or [1])."""
        array = self.arrays[name]
        others = tuple(a for a in range(array.ndim) if a != out_axis)
        top = np.maximum(np.abs(array).max(axis=others), 1e-6)
        grouped = self.style.weights == "group" and array.shape[in_axis] > 1
        scale = (top / (127 * (4 if grouped else 1))).astype(np.float32)
        if self.style.weights == "tensor":
            scale = scale.max(keepdims=True)
        attrs: dict[str, int] = {}
        shape = [1] * array.ndim
        if scale.size > 1 or self.style.weights != "tensor":
            shape[out_axis] = array.shape[out_axis]
            attrs["axis"] = out_axis
        full = np.broadcast_to(scale.reshape(shape), array.shape).copy()
        stored_scale = scale if "axis" in attrs else scale.reshape(())
        if grouped:
            block = 2
            groups = -(-array.shape[in_axis] // block)
            sizes = list(array.shape)
            sizes[in_axis] = groups
            mult = np.zeros(sizes, np.float32)
            for g in range(groups):
                part = np.take(array, range(g * block, min((g + 1) * block, array.shape[in_axis])), in_axis)
                most = np.abs(part).max(axis=others) / (127 * scale)
                level = np.clip(np.ceil(most), 1, 15).reshape(shape)
                index = [slice(None)] * array.ndim
                index[in_axis] = slice(g, g + 1)
                mult[tuple(index)] = level
            stored_scale = (scale.reshape(shape) * mult).astype(np.float32)
            full = np.repeat(stored_scale, block, in_axis).take(range(array.shape[in_axis]), in_axis)
            attrs = {"axis": in_axis, "block_size": block}
        codes = np.clip(np.rint(array / full), -127, 127).astype(np.int8)
        inputs = [self.add(f"{name}_w", codes), self.add(f"{name}_wscale", stored_scale)]
        inputs.append(self.add(f"{name}_wzero", np.zeros(stored_scale.shape, np.int8)))
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], f"{name}_dequantize", **attrs))
        return f"{name}_dq", scale

    def bias(self, name: str, x: str, scale: np.ndarray) -> str:
        if self.style.bias == "float":
            return name
        array = self.arrays[name]
        step = (scale * self.params_of(x)[0]).astype(np.float32)
        codes = np.clip(np.rint(array / step), -(2**31) + 1, 2**31 - 1).astype(np.int32)
        one = step.size == 1
        inputs = [self.add(f"{name}_b", codes), self.add(f"{name}_bscale", step.reshape(()) if one else step)]
        attrs = {} if one else {"axis": 0}
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], f"{name}_dequantize", **attrs))
        return f"{name}_dq"

    def anchor(self, node: onnx.NodeProto) -> list[str]:
        x, w, *rest = node.input
        if w not in self.arrays:
            return [self.pair(x), self.pair(w)]
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        out_axis = 0 if node.op_type == "Conv" or transposed else 1
        inputs = [self.pair(x)]
        weight, scale = self.weight(w, out_axis, 1 - out_axis)
        inputs.append(weight)
        inputs += [self.bias(b, x, scale) for b in rest]
        if node.op_type == "MatMul":
            self.matmul_bias(node, x, scale)
        return inputs

    def matmul_bias(self, node: onnx.NodeProto, x: str, scale: np.ndarray) -> None:
        """Quantizes the constant of the Add behind a MatMul like a bias, as that Add is handled later."""
        readers = self.readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in self.outputs:
            return
        other = next((n for n in readers[0].input if n in self.arrays), None)
        if other is not None and self.arrays[other].ndim == 1:
            self.biases[readers[0].name] = (other, self.bias(other, x, scale))

    biases: dict[str, tuple[str, str]]

    def run(self) -> list[onnx.NodeProto]:
        self.biases = {}
        makers = {o: node.op_type for node in self.source.node for o in node.output}
        for node in self.source.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            if node.name in self.biases:
                old, new = self.biases[node.name]
                inputs = [new if name == old else name for name in node.input]
            else:
                inputs = self.inputs_of(node, makers)
            del copy.input[:]
            copy.input.extend(inputs)
            entry = copy.metadata_props.add()
            entry.key, entry.value = "hago.layer", node.name
            self.nodes.append(copy)
        return self.nodes

    def inputs_of(self, node: onnx.NodeProto, makers: dict[str, str]) -> list[str]:
        op, inputs = node.op_type, list(node.input)
        if op not in ANCHORS | CARRIERS | OTHERS or self.rng.random() > self.style.share:
            return inputs
        folds = makers.get(inputs[0], "") in ANCHORS | {"Add", "Sub", "Mul", "BatchNormalization"}
        if op in FOLDED and folds and not self.style.around_activations:
            return inputs
        if op in ANCHORS:
            return self.anchor(node)
        if op in CARRIERS:
            self.params[node.output[0]] = self.params_of(inputs[0])
            return [self.pair(inputs[0]), *inputs[1:]]
        if op in ("Add", "Sub", "Mul", "Concat"):
            return [self.pair(name) for name in inputs]
        return [self.pair(inputs[0]), *inputs[1:]]


def quantized(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], style: Style) -> onnx.ModelProto:
    """The QDQ form of a float graph with ranges from one input."""
    quantizer = _Quantizer(proto, feeds, style)
    nodes = quantizer.run()
    outputs = list(proto.graph.output)
    rename: dict[str, str] = {}
    if style.outputs:
        for info in outputs:
            if info.name not in feeds:
                rename[info.name] = f"{info.name}_real"
    for name, new in rename.items():
        for node in nodes:
            node.input[:] = [new if i == name else i for i in node.input]
            node.output[:] = [new if o == name else o for o in node.output]
        quantizer.tensors[new] = quantizer.tensors[name]
        quantizer.params.pop(new, None)
        if name in quantizer.params:
            quantizer.params[new] = quantizer.params[name]
        before = len(nodes)
        pair = quantizer.pair(new)
        if len(nodes) > before:
            nodes[-1].output[0] = name
        else:
            nodes.append(helper.make_node("Identity", [pair], [name], f"{name}_identity"))
    return _finished(proto, nodes, list(quantizer.made.values()))


def _finished(proto: onnx.ModelProto, nodes: list[onnx.NodeProto], made: list[onnx.TensorProto]) -> onnx.ModelProto:
    read = {i for node in nodes for i in node.input}
    kept = [t for t in (*proto.graph.initializer, *made) if t.name in read]
    graph = helper.make_graph(_sorted(nodes), "net", proto.graph.input, proto.graph.output, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _sorted(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes in an order in which every tensor is made before it is read."""
    makers = {o: i for i, node in enumerate(nodes) for o in node.output}
    done: set[int] = set()
    order: list[onnx.NodeProto] = []

    def visit(index: int) -> None:
        if index not in done:
            done.add(index)
            for name in nodes[index].input:
                if name in makers:
                    visit(makers[name])
            order.append(nodes[index])

    for index in range(len(nodes)):
        visit(index)
    return order


def to_short(proto: onnx.ModelProto, precision: str = "bfloat16") -> onnx.ModelProto:
    """All anchors with a constant weight in a short float: the input and the weight cast there and back."""
    kind = TensorProto.BFLOAT16 if precision == "bfloat16" else TensorProto.FLOAT16
    arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    made: dict[str, onnx.TensorProto] = {}
    cast: set[str] = set()
    for node in proto.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type in ANCHORS and node.input[1] in arrays:
            for index, name in enumerate(node.input[:2]):
                copy.input[index] = f"{name}_wide"
                if name in cast:
                    continue
                cast.add(name)
                if name in arrays:
                    half = arrays[name].astype(helper.tensor_dtype_to_np_dtype(kind))
                    made[name] = helper.make_tensor(f"{name}_half", kind, half.shape, half.tobytes(), raw=True)
                else:
                    nodes.append(helper.make_node("Cast", [name], [f"{name}_half"], to=kind))
                nodes.append(helper.make_node("Cast", [f"{name}_half"], [f"{name}_wide"], to=TensorProto.FLOAT))
        nodes.append(copy)
    for index, node in enumerate(nodes):
        node.name = node.name or f"cast_{index}"
    return _finished(proto, nodes, list(made.values()))
