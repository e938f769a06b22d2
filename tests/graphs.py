"""Random small networks for tests: float ONNX graphs, and their QDQ or bfloat16 forms.

    @given(networks())                      # any of them
    def test(net): net.proto, net.feeds

`networks` is a hypothesis strategy; `image_net`, `line_net` and `token_net` draw one float graph each,
`quantized` turns a float graph into QDQ. All shapes are static, opset 21, every tensor has its type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import Style, quantized, to_short

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class Network:
    """A model and one input for it. ``kind`` says what it is made of, for the failure message."""

    proto: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    kind: str

    def __repr__(self) -> str:
        return f"Network({self.kind})\n{onnx.printer.to_text(self.proto.graph)[:6000]}"


class Maker:
    """Collects the nodes of a float graph; ``shapes`` knows every tensor."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**31)))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def emit(self, op: str, inputs: list[str], shape: tuple[int, ...], **attrs: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"{name}_node", **attrs))
        self.shapes[name] = tuple(int(s) for s in shape)
        return name

    def model(self, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
        def info(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes[name])

        graph = helper.make_graph(
            self.nodes, "net", [info(n) for n in inputs], [info(n) for n in outputs], self.weights
        )
        graph.value_info.extend(info(n) for n in self.shapes if n not in inputs and n not in outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def image_net(draw: Draw, *, most: int = 6, size: int = 9, channels: int = 8) -> tuple[onnx.ModelProto, str]:
    """A convolutional network on [N, C, H, W] with branches, perhaps ending in a classifier."""
    make = Maker(draw)
    x = "x"
    n, c = draw(st.sampled_from((1, 2))), draw(st.integers(1, channels))
    make.shapes[x] = (n, c, draw(st.integers(3, size)), draw(st.integers(3, size)))
    pool = [x]
    for step in (conv, *draw(st.lists(st.sampled_from(IMAGE_STEPS), max_size=most))):
        made = step(make, draw(st.sampled_from(pool[-3:])), pool)
        if made is not None:
            pool.append(made)
    last = pool[-1] if len(pool) > 1 else make.emit("Relu", [x], make.shapes[x])
    ending = draw(st.sampled_from(("none", "pooled", "flat", "both"))) if most else "none"
    outputs = [last]
    if ending in ("pooled", "both"):
        shape = make.shapes[last]
        last = make.emit("GlobalAveragePool", [last], (*shape[:2], 1, 1))
    if ending != "none":
        shape = make.shapes[last]
        features = int(np.prod(shape[1:]))
        last = make.emit("Flatten", [last], (shape[0], features), axis=1)
        last = fully_connected(make, last)
        outputs = [last] if ending != "both" else [outputs[0], last]
    return make.model([x], list(dict.fromkeys(outputs))), f"image, {ending}"


def conv(make: Maker, x: str, pool: list[str] | None = None) -> str | None:
    """A convolution over 1 or 2 dimensions: dense, grouped, depthwise; perhaps with an activation."""
    draw, shape = make.draw, make.shapes[x]
    n, c, *spatial = shape
    group = draw(st.sampled_from([g for g in (1, 1, 2, c) if c % g == 0]))
    outputs = group * draw(st.integers(1, max(1, 12 // group)))
    kernel = [draw(st.integers(1, min(3, s))) for s in spatial]
    strides = [draw(st.sampled_from((1, 1, 2))) for _ in spatial]
    dilations = [draw(st.sampled_from((1, 1, 2))) if k > 1 else 1 for k in kernel]
    pads = [draw(st.integers(0, 2)) for _ in range(2 * len(spatial))]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    rest = len(spatial)
    out = [
        (s + pads[i] + pads[rest + i] - r) // strides[i] + 1
        for i, (s, r) in enumerate(zip(spatial, reach, strict=True))
    ]
    if min(out) < 1:
        return None
    fan_in = (c // group) * int(np.prod(kernel))
    inputs = [x, make.normal(outputs, c // group, *kernel, scale=fan_in**-0.5)]
    if draw(st.booleans()):
        inputs.append(make.normal(outputs, scale=0.3))
    y = make.emit(
        "Conv", inputs, (n, outputs, *out),
        kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads, group=group,
    )  # fmt: skip
    return activation(make, y) if draw(st.booleans()) else y


UNARY = ("Relu", "Clip", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Gelu", "Elu", "HardSigmoid", "Softplus")


def activation(make: Maker, x: str, pool: list[str] | None = None) -> str:
    """An activation function, Relu and Clip most often; x * Sigmoid(x) among them."""
    op = make.draw(st.sampled_from(("Relu", "Relu", "Clip", "Swish", *UNARY)))
    shape = make.shapes[x]
    if op == "Clip":
        bounds = make.draw(st.sampled_from(((0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 0.5), (0.1, 0.7))))
        names = ["" if b is None else make.constant(np.array(b, np.float32)) for b in bounds]
        return make.emit("Clip", [x, *names], shape)
    if op == "Swish":
        return make.emit("Mul", [x, make.emit("Sigmoid", [x], shape)], shape)
    if op == "Gelu":
        return make.emit("Gelu", [x], shape, approximate=make.draw(st.sampled_from(("none", "tanh"))))
    return make.emit(op, [x], shape)


def pooling(make: Maker, x: str, pool: list[str] | None = None) -> str | None:
    """MaxPool or AveragePool with any padding, in ceil_mode or not."""
    draw, (n, c, *spatial) = make.draw, make.shapes[x]
    kernel = [draw(st.integers(1, min(3, s))) for s in spatial]
    strides = [draw(st.integers(1, 2)) for _ in spatial]
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    ceil = draw(st.booleans())
    out = []
    for i, (size, k, s) in enumerate(zip(spatial, kernel, strides, strict=True)):
        total = size + pads[i] + pads[len(spatial) + i] - k
        count = (-(-total // s) if ceil else total // s) + 1
        if ceil and (count - 1) * s >= size + pads[i]:
            return None  # a window that starts in the padding behind: its meaning changed between opsets
        out.append(count)
    if min(out) < 1:
        return None
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": int(ceil)}
    op = draw(st.sampled_from(("MaxPool", "AveragePool")))
    if op == "AveragePool":
        attrs["count_include_pad"] = int(draw(st.booleans()) and not ceil)
    return make.emit(op, [x], (n, c, *out), **attrs)


def pair(make: Maker, x: str, pool: list[str]) -> str:
    """Add, Mul or Sub with another tensor of the same shape, with itself, or with a constant."""
    draw, shape = make.draw, make.shapes[x]
    same = [name for name in pool if make.shapes[name] == shape]
    op = draw(st.sampled_from(("Add", "Add", "Mul", "Sub")))
    kind = draw(st.sampled_from(("tensor", "tensor", "channels", "scalar")))
    if kind == "tensor":
        other = draw(st.sampled_from(same))
    elif kind == "channels":
        other = make.normal(1, shape[1], *(1,) * (len(shape) - 2), scale=0.5)
    else:
        other = make.constant(np.array(draw(st.sampled_from((0.5, 1.5, 3.0))), np.float32))
    y = make.emit(op, draw(st.permutations([x, other])) if op != "Sub" else [x, other], shape)
    return make.emit("Relu", [y], shape) if draw(st.booleans()) else y


def gate(make: Maker, x: str, pool: list[str] | None = None) -> str:
    """Squeeze and excitation: x * Sigmoid(GlobalAveragePool(x)), broadcasting over the image."""
    shape = make.shapes[x]
    small = (*shape[:2], *(1,) * (len(shape) - 2))
    pooled = make.emit("GlobalAveragePool", [x], small)
    return make.emit("Mul", [x, make.emit("Sigmoid", [pooled], small)], shape)


def concat(make: Maker, x: str, pool: list[str]) -> str:
    """Concat along the channels."""
    shape = make.shapes[x]
    fits = [name for name in pool if make.shapes[name][2:] == shape[2:] and len(make.shapes[name]) == len(shape)]
    others = make.draw(st.lists(st.sampled_from(fits), min_size=1, max_size=2))
    channels = sum(make.shapes[name][1] for name in (x, *others))
    return make.emit("Concat", [x, *others], (shape[0], channels, *shape[2:]), axis=1)


def padding(make: Maker, x: str, pool: list[str] | None = None) -> str:
    """Pad with zeros, also of the channels."""
    shape = make.shapes[x]
    pads = [0] + [make.draw(st.integers(0, 2)) for _ in shape[1:]]
    pads += [0] + [make.draw(st.integers(0, 2)) for _ in shape[1:]]
    out = [s + pads[i] + pads[len(shape) + i] for i, s in enumerate(shape)]
    return make.emit("Pad", [x, make.constant(np.array(pads, np.int64))], tuple(out))


def slicing(make: Maker, x: str, pool: list[str] | None = None) -> str:
    """Slice along some axes, with steps."""
    shape = make.shapes[x]
    axes = sorted(make.draw(st.sets(st.integers(1, len(shape) - 1), min_size=1)))
    starts = [make.draw(st.integers(0, shape[a] - 1)) for a in axes]
    steps = [make.draw(st.integers(1, 2)) for _ in axes]
    arrays = [starts, [2**31] * len(axes), axes, steps]
    out = list(shape)
    for axis, start, step in zip(axes, starts, steps, strict=True):
        out[axis] = -(-(shape[axis] - start) // step)
    return make.emit("Slice", [x, *(make.constant(np.array(a, np.int64)) for a in arrays)], tuple(out))


def batch_norm(make: Maker, x: str, pool: list[str] | None = None) -> str:
    """BatchNormalization that nothing can take in, perhaps with Relu."""
    c = make.shapes[x][1]
    statistics = [make.normal(c), make.normal(c), make.normal(c, scale=0.1)]
    variance = make.constant((make.rng.random(c) + 0.5).astype(np.float32))
    y = make.emit("BatchNormalization", [x, *statistics, variance], make.shapes[x])
    return make.emit("Relu", [y], make.shapes[y]) if make.draw(st.booleans()) else y


def upsample(make: Maker, x: str, pool: list[str] | None = None) -> str | None:
    """Nearest-neighbour Resize."""
    shape = make.shapes[x]
    if max(shape[2:]) > 10:
        return None
    mode = make.draw(st.sampled_from(("asymmetric", "half_pixel")))
    nearest = make.draw(st.sampled_from(("floor", "round_prefer_floor")))
    scales = make.constant(np.array([1.0, 1.0, *(2.0,) * (len(shape) - 2)], np.float32))
    out = (*shape[:2], *(2 * s for s in shape[2:]))
    attrs = {"mode": "nearest", "coordinate_transformation_mode": mode, "nearest_mode": nearest}
    return make.emit("Resize", [x, "", scales], out, **attrs)


def transposed(make: Maker, x: str, pool: list[str] | None = None) -> str:
    """A transpose of height and width, or to channels last and back with an activation between."""
    n, c, h, w = make.shapes[x]
    if make.draw(st.booleans()):
        return make.emit("Transpose", [x], (n, c, w, h), perm=[0, 1, 3, 2])
    y = make.emit("Transpose", [x], (n, h, w, c), perm=[0, 2, 3, 1])
    y = activation(make, y)
    return make.emit("Transpose", [y], (n, c, h, w), perm=[0, 3, 1, 2])


def softmax(make: Maker, x: str, pool: list[str] | None = None) -> str:
    return make.emit("Softmax", [x], make.shapes[x], axis=make.draw(st.sampled_from((1, -1))))


IMAGE_STEPS = (
    conv, conv, conv, conv, activation, pooling, pooling, pair, pair, pair, gate, concat, padding, slicing, batch_norm,
    upsample, transposed, softmax,
)  # fmt: skip
LINE_STEPS = (conv, conv, conv, activation, pooling, pair, gate, concat, padding, slicing, batch_norm)


def line_net(draw: Draw) -> tuple[onnx.ModelProto, str]:
    """One-dimensional convolutions on [N, C, L]."""
    make = Maker(draw)
    make.shapes["x"] = (draw(st.sampled_from((1, 2))), draw(st.integers(1, 6)), draw(st.integers(3, 16)))
    pool = ["x"]
    for step in (conv, *draw(st.lists(st.sampled_from(LINE_STEPS), max_size=5))):
        made = step(make, draw(st.sampled_from(pool[-3:])), pool)
        if made is not None:
            pool.append(made)
    last = pool[-1] if len(pool) > 1 else make.emit("Relu", ["x"], make.shapes["x"])
    return make.model(["x"], [last]), "line"


def fully_connected(make: Maker, x: str, outputs: int | None = None) -> str:
    """Gemm, or MatMul and Add, perhaps with Relu, on [..., K]."""
    draw, shape = make.draw, make.shapes[x]
    k, n = shape[-1], outputs or draw(st.integers(1, 10))
    out = (*shape[:-1], n)
    weight = (make.rng.standard_normal((k, n)) * k**-0.5).astype(np.float32)
    bias = make.normal(n, scale=0.3)
    if len(shape) == 2 and draw(st.booleans()):
        transposed_b = draw(st.booleans())
        name = make.constant(weight.T if transposed_b else weight)
        y = make.emit("Gemm", [x, name, bias], out, transB=int(transposed_b))
    else:
        y = make.emit("MatMul", [x, make.constant(weight)], out)
        if draw(st.booleans()):
            y = make.emit("Add", draw(st.permutations([y, bias])), out)
    return activation(make, y) if draw(st.booleans()) else y


def token_net(draw: Draw) -> tuple[onnx.ModelProto, str]:
    """One attention block with a feed-forward part on [N, T, D], perhaps with a classifier."""
    make = Maker(draw)
    n, t, d = draw(st.sampled_from((1, 2))), draw(st.integers(2, 6)), draw(st.sampled_from((4, 8)))
    make.shapes["x"] = (n, t, d)
    x = "x"
    if draw(st.booleans()):
        x = fully_connected(make, x, d)
    if draw(st.booleans()):
        q, k, v = (fully_connected(make, x, d) for _ in range(3))
        turned = make.emit("Transpose", [k], (n, d, t), perm=[0, 2, 1])
        scores = make.emit("MatMul", [q, turned], (n, t, t))
        scores = make.emit("Mul", [scores, make.constant(np.array(d**-0.5, np.float32))], (n, t, t))
        weights = make.emit("Softmax", [scores], (n, t, t), axis=-1)
        y = make.emit("MatMul", [weights, v], (n, t, d))
        x = make.emit("Add", [x, fully_connected(make, y, d)], (n, t, d))
    if draw(st.booleans()):
        x = make.emit("LayerNormalization", [x, make.normal(d), make.normal(d)], (n, t, d), axis=-1)
    hidden = activation(make, fully_connected(make, x, 2 * d))
    x = make.emit("Add", [fully_connected(make, hidden, d), x], (n, t, d))
    if draw(st.booleans()):
        first = make.emit("Gather", [x, make.constant(np.array(0, np.int64))], (n, d), axis=1)
        x = fully_connected(make, first)
    return make.model(["x"], [x]), "tokens"


NETS = {"image": image_net, "line": line_net, "tokens": token_net}
ALL = ("image", "image", "image", "line", "tokens")


@st.composite
def float_networks(draw: Any, *, kinds: tuple[str, ...] = ALL, most: int = 6) -> Network:
    """A float network of one of these kinds with its input; ``most`` bounds an image's layers."""
    kind = draw(st.sampled_from(kinds))
    proto, kind = image_net(draw, most=most) if kind == "image" else NETS[kind](draw)
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    return Network(proto, {"x": rng.standard_normal(shape).astype(np.float32)}, kind)


@st.composite
def styles(draw: Any, outputs: bool | None = None, around_activations: bool | None = None) -> Style:
    """How to quantize: see `Style`."""
    return Style(
        signed=draw(st.booleans()),
        weights=draw(st.sampled_from(("tensor", "channel", "channel", "group"))),
        share=draw(st.sampled_from((1.0, 1.0, 0.7))),
        bias=draw(st.sampled_from(("int32", "float"))),
        outputs=draw(st.booleans()) if outputs is None else outputs,
        around_activations=draw(st.booleans()) if around_activations is None else around_activations,
        seed=draw(st.integers(0, 2**31)),
    )


@st.composite
def networks(draw: Any) -> Network:
    """Any network: mostly QDQ, some float, some with bfloat16 layers."""
    net = draw(float_networks())
    form = draw(st.sampled_from(("qdq", "qdq", "qdq", "float", "bfloat16")))
    if form == "float":
        return net
    if form == "bfloat16":
        return Network(to_short(net.proto), net.feeds, f"{net.kind}, bfloat16")
    style = draw(styles())
    return Network(quantized(net.proto, net.feeds, style), net.feeds, f"{net.kind}, {style}")


@st.composite
def qdq_networks(draw: Any, *, kinds: tuple[str, ...] = ALL, most: int = 6, **style: bool) -> Network:
    """A QDQ network; ``most`` 0 is a single convolution. ``style`` fixes fields of its `Style`."""
    net = draw(float_networks(kinds=kinds, most=most))
    how = draw(styles(**style))
    return Network(quantized(net.proto, net.feeds, how), net.feeds, f"{net.kind}, {how}")
