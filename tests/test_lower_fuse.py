"""Fusing: never another result, and fewer nodes where it should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from graphs import Network, networks
from hypothesis import given, settings

from hago.lower import DOMAIN, LoweredGraph, Node, TensorType, reference
from hago.lower.fuse import fuse
from hago.lower.handlers import HANDLERS
from hago.lower.layout_rules import channels_last
from hago.lower.ops import check_node
from hago.lower.source import SourceGraph
from hago.lower.translate import Translator


@settings(max_examples=150)
@given(networks())
def test_fusing_changes_no_result(net: Network) -> None:
    source = SourceGraph(net.proto)
    plain = channels_last(Translator(source, HANDLERS, None).run(), source.outputs)
    fused = fuse(plain)
    assert len(fused.nodes) <= len(plain.nodes)
    for node in fused.nodes:
        check_node(node)
    exact = not any(n.is_hago("Conv", "Gemm") for n in fused.nodes)
    for got, expected in zip(reference(fused)(net.feeds), reference(plain)(net.feeds), strict=True):
        if exact:
            assert np.array_equal(got, expected, equal_nan=True)
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


RNG = np.random.default_rng(0)
SHAPE = (1, 3, 3, 4)
QCONV = {
    "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1, "x_zero_point": 9,
    "out": "uint8", "y_zero_point": 100, "lo": 0, "hi": 255,
}  # fmt: skip
QADD = {"a_scale": 0.73, "b_scale": 0.34, "offset": -70.0, "lo": 20, "hi": 255}
CONV = {
    "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1, "act_lo": -math.inf,
    "act_hi": math.inf, "precision": "float32",
}  # fmt: skip
GEMM = {"act_lo": -math.inf, "act_hi": math.inf, "precision": "float32"}


def graph(nodes: list[Node], outputs: tuple[str, ...] = ("y",), inputs: tuple[str, ...] = ("x",)) -> LoweredGraph:
    """A graph on NHWC images of 4 channels; tensors with names that begin in q are uint8."""
    constants = {
        "w": RNG.integers(-128, 128, (4, 1, 1, 4), dtype=np.int8), "b": np.zeros(4, np.int32),
        "s": np.array([0.01], np.float32), "wf": RNG.standard_normal((4, 1, 1, 4), np.float32),
        "wg": RNG.standard_normal((4, 4), np.float32), "bf": np.zeros(4, np.float32),
        "relu": np.maximum(np.arange(256), 100).astype(np.uint8), "swap": RNG.permutation(256).astype(np.uint8),
        "real": RNG.random(256, dtype=np.float32), "one": np.array(1.0, np.float32),
    }  # fmt: skip
    names = {name for node in nodes for name in (*node.inputs, *node.outputs) if name} - set(constants)
    types = {name: TensorType("uint8" if name[0] == "q" else "float32", SHAPE) for name in names}
    types |= {name: TensorType.of(array) for name, array in constants.items()}
    made = LoweredGraph((), inputs, outputs, types, constants)
    return made.with_nodes(nodes)


def q(op: str, inputs: str, output: str, **attrs: Any) -> Node:
    parts = tuple("" if i == "_" else i for i in inputs.split())
    return Node(f"{output}_node", op, DOMAIN, parts, (output,), attrs, layer=f"{output}_layer")


def std(op: str, inputs: str, output: str, **attrs: Any) -> Node:
    return Node(f"{output}_node", op, "", tuple(inputs.split()), (output,), attrs)


def fused(before: LoweredGraph) -> list[str]:
    """The operators after fusing; the results stay the same."""
    after = fuse(before)
    rng = np.random.default_rng(1)
    feeds = {
        name: rng.integers(0, 256, SHAPE, dtype=np.uint8)
        if before.types[name].dtype == "uint8"
        else rng.standard_normal(SHAPE, np.float32)
        for name in before.inputs
    }
    for got, expected in zip(reference(after)(feeds), reference(before)(feeds), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    return [n.op for n in after.nodes]


CONVOLUTION = q("QConv", "qx w b s", "qc", **QCONV)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_residual_addition_goes_into_the_convolution(swapped: bool) -> None:
    add = q("QAdd", "qr qc" if swapped else "qc qr", "qy", **QADD)
    before = graph([CONVOLUTION, add], ("qy",), ("qx", "qr"))
    assert fused(before) == ["QConv"]
    node = fuse(before).nodes[0]
    assert node.inputs[6] == "qr" and node.layer == "qc_layer" and node.attrs["r_lo"] == 20
    assert node.attrs["r_first"] == swapped


def test_a_residual_addition_stays_where_the_convolution_is_read_twice() -> None:
    nodes = [CONVOLUTION, q("QAdd", "qc qr", "qy", **QADD)]
    assert fused(graph(nodes, ("qy", "qc"), ("qx", "qr"))) == ["QConv", "QAdd"]
    nodes.append(q("QLookup", "qc swap", "qz"))
    assert fused(graph(nodes, ("qy", "qz"), ("qx", "qr"))) == ["QConv", "QAdd", "QLookup"]


def test_of_two_convolutions_the_later_one_takes_the_addition() -> None:
    other = q("QConv", "qx w b s", "qd", **QCONV)
    before = graph([CONVOLUTION, other, q("QAdd", "qc qd", "qy", **QADD)], ("qy",), ("qx",))
    assert fused(before) == ["QConv", "QConv"]
    assert fuse(before).nodes[1].inputs[6] == "qc"


def test_a_table_that_clamps_becomes_bounds() -> None:
    before = graph([CONVOLUTION, q("QLookup", "qc relu", "qy")], ("qy",), ("qx",))
    assert fused(before) == ["QConv"]
    assert (fuse(before).nodes[0].attrs["lo"], len(fuse(before).nodes[0].inputs)) == (100, 4)


def test_any_other_table_becomes_the_convolutions() -> None:
    before = graph([CONVOLUTION, q("QLookup", "qc swap", "qy")], ("qy",), ("qx",))
    assert fused(before) == ["QConv"]
    assert fuse(before).nodes[0].inputs[4:] == ("", "swap")
    # A float table is no epilogue.
    before = graph([CONVOLUTION, q("QLookup", "qc real", "y")], ("y",), ("qx",))
    assert fused(before) == ["QConv", "QLookup"]


def test_tables_compose() -> None:
    nodes = [q("QLookup", "qx swap", "qa"), q("QLookup", "qa relu", "qb"), q("QLookup", "qb real", "y")]
    assert fused(graph(nodes, ("y",), ("qx",))) == ["QLookup"]


def test_relu_goes_into_the_quantization() -> None:
    quantize = q("Quantize", "r", "qy", scale=0.01, zero_point=30, lo=0, hi=255)
    before = graph([std("Relu", "x", "r"), quantize], ("qy",))
    assert fused(before) == ["Quantize"] and fuse(before).nodes[0].attrs["lo"] == 30
    before = graph([std("Clip", "x one", "r"), quantize], ("qy",))
    assert fused(before) == ["Quantize"] and fuse(before).nodes[0].attrs["lo"] == 130
    before = graph([std("Relu", "x", "r"), quantize], ("qy", "r"))
    assert fused(before) == ["Relu", "Quantize"]


def test_float_additions_and_clamps_go_into_the_convolution() -> None:
    conv = q("Conv", "x wf bf", "c", **CONV)
    add = std("Add", "x c", "a")
    before = graph([conv, add, std("Relu", "a", "y")])
    assert fused(before) == ["Conv"]
    assert fuse(before).nodes[0].attrs["act_lo"] == 0 and fuse(before).nodes[0].inputs[3] == "x"
    clamped = q("Conv", "x wf bf", "c", **CONV | {"act_lo": 0.0})
    assert fused(graph([clamped, add, std("Relu", "a", "y")])) == ["Conv", "Add", "Relu"]


def test_gelu_goes_into_the_product() -> None:
    gemm = q("Gemm", "x wg bf", "g", **GEMM)
    for approximate, name in (("none", "Gelu"), ("tanh", "Gelu_tanh")):
        before = graph([gemm, std("Gelu", "g", "y", approximate=approximate)])
        assert fused(before) == ["Gemm"]
        assert fuse(before).nodes[0].attrs["activation"] == name
