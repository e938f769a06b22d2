"""Kernels for GPUs that move elements, on the emulated block, against numpy and ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from cuda_harness import SMALL, Case, case, compile_all
from emulated_block import can_emulate
from emulated_gpu import EmulatedNetwork, emulated_call
from kernel_harness import numpy_type
from onnx import TensorProto, helper, numpy_helper
from test_kernels_movement import _onnxruntime as onnxruntime

from hago.compiler.conformance import Conformance
from hago.kernels.cuda.backend import BACKEND
from hago.kernels.cuda.families import SM80
from hago.lower import LoweredGraph, lower
from hago.model import load_model
from hago.spec import load_spec

pytestmark = pytest.mark.skipif(not can_emulate(), reason="there is no compiler of C++")
GPUS = {"few bytes a thread": SM80, "many bytes a thread": SMALL}


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2 if dtype == "bool" else 256, shape).astype(numpy_type(dtype))


def slices() -> dict[str, Case]:
    def sliced(x: np.ndarray, *where: tuple[int, int, int, int]) -> Case:
        axes, starts, ends, steps = (np.array(column) for column in zip(*where, strict=True))
        index = [slice(None)] * x.ndim
        for axis, start, end, step in where:
            index[axis] = slice(start, None if end < -1000 else end, step)
        feeds = {"x": x, "starts": starts, "ends": ends, "axes": axes, "steps": steps}
        return case("Slice", feeds, x[tuple(index)], constants=("starts", "ends", "axes", "steps"))

    return {
        "slice of whole words": sliced(values((3, 5, 32), "uint8"), (1, 1, 4, 2)),
        "slice of single bytes": sliced(values((3, 5, 7), "bool"), (1, 1, 4, 1), (2, 2, 7, 1)),
        "slice backwards": sliced(values((2, 5, 6), "float32"), (1, -1, -9999, -2), (2, -2, -9999, -3)),
    }


def transposes() -> dict[str, Case]:
    def turned(shape: tuple[int, ...], perm: tuple[int, ...], dtype: str) -> Case:
        x = values(shape, dtype)
        return case("Transpose", {"x": x}, x.transpose(perm), perm=list(perm))

    d2s = values((1, 18, 4, 5), "float32")
    s2d = values((1, 2, 12, 15), "float32")
    found = {
        "transpose in tiles of bytes": turned((2, 37, 70), (0, 2, 1), "uint8"),
        "transpose in tiles of pairs": turned((9, 3, 40), (2, 1, 0), "bfloat16"),
        "transpose in tiles of words": turned((3, 33, 2, 31), (3, 0, 2, 1), "float32"),
        "transpose in tiles of longs": turned((34, 12), (1, 0), "int64"),
        "transpose of rows": turned((2, 5, 3, 16), (0, 2, 1, 3), "uint8"),
        "transpose of few": turned((2, 3, 5, 7), (0, 2, 3, 1), "float32"),
        "space to depth": case(
            "SpaceToDepth", {"x": s2d}, onnxruntime("SpaceToDepth", {"x": s2d}, blocksize=3), blocksize=3
        ),
    }
    for mode in ("DCR", "CRD"):
        expected = onnxruntime("DepthToSpace", {"x": d2s}, blocksize=3, mode=mode)
        found[f"depth to space {mode}"] = case("DepthToSpace", {"x": d2s}, expected, blocksize=3, mode=mode)
    return found


def pads() -> dict[str, Case]:
    def padded(x: np.ndarray, widths: list[tuple[int, int]], mode: str = "constant") -> Case:
        feeds = {"x": x, "pads": np.array(widths).T.reshape(-1)}
        if mode != "constant":
            return case("Pad", feeds, np.pad(x, widths, mode=mode), mode=mode, constants=("pads",))  # type: ignore[call-overload]
        feeds["value"] = np.array(7, x.dtype)
        expected = np.pad(x, [(max(a, 0), max(b, 0)) for a, b in widths], constant_values=7)
        crop = tuple(slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(widths, expected.shape, strict=True))
        return case("Pad", feeds, expected[crop], constants=("pads", "value"))

    found = {
        "pad around whole words": padded(values((1, 5, 4, 16), "uint8"), [(0, 0), (1, 2), (3, 0), (0, 0)]),
        "pad around elements": padded(values((2, 5, 3), "float32"), [(0, 1), (2, 0), (1, 2)]),
        "pad that crops": padded(values((3, 9, 6), "int64"), [(0, 0), (-2, 1), (1, -3)]),
    }
    for mode in ("reflect", "edge", "wrap"):
        found[f"pad {mode}"] = padded(values((2, 5, 6), "uint8"), [(0, 0), (3, 2), (1, 4)], mode)
    return found


def rest() -> dict[str, Case]:
    x = values((4, 6, 8), "uint8")
    odd = values((4, 6, 7), "float32")
    parts = np.split(odd, [2], axis=2)
    tensor, index = values((5, 6, 4), "float32"), np.array([[0, -1], [3, 99]])
    flat = values((4, 7), "bfloat16")
    found = {
        "split": case("Split", {"x": odd}, *parts, axis=2),
        "tile": case("Tile", {"x": x, "r": np.array([1, 2, 3])}, np.tile(x, (1, 2, 3)), constants=("r",)),
        "tile of rows": case("Tile", {"x": x, "r": np.array([1, 2, 1])}, np.tile(x, (1, 2, 1)), constants=("r",)),
        "expand": case("Expand", {"x": odd[:, :1]}, np.broadcast_to(odd[:, :1], (2, 4, 6, 7))),
        "expand of one": case("Expand", {"x": x[:, :, :1]}, np.broadcast_to(x[:, :, :1], (4, 6, 9))),
        "gather": case("Gather", {"x": tensor, "i": index}, tensor[:, np.clip(index, -6, 5)], axis=1),
        "gather of elements": case("Gather", {"x": flat, "i": index[:1]}, flat[:, np.clip(index[:1], -7, 6)], axis=1),
        "copy": case("Identity", {"x": odd[:1, :1]}, odd[:1, :1]),
    }
    wide = [values((1, 5, 3, size), "uint8", size) for size in (16, 4, 7, 32)]
    found["concat"] = case("Concat", {f"x{i}": x for i, x in enumerate(wide)}, np.concatenate(wide, 3), axis=3)
    broad = [values((3, 2, size), "uint8", size) for size in (16, 48)]
    halves = [values((size, 6), "float16", size) for size in (3, 4)]
    found["concat of halves"] = case(
        "Concat", {f"x{i}": x for i, x in enumerate(halves)}, np.concatenate(halves), axis=0
    )
    table = np.random.default_rng(1).integers(0, 256, (2, 256)).astype(np.uint8)
    feeds = {f"x{i}": x for i, x in enumerate(wide)} | {"t0": table[0], "t2": table[1]}
    looked = np.concatenate([table[0][broad[0]], broad[1]], 2)
    given = {"x0": broad[0], "x1": broad[1], "t": table[0]}
    found["concat with tables, of words"] = case("QConcat", given, looked, domain="hago", axis=2, tables=[0])
    expected = np.concatenate([table[0][wide[0]], wide[1], table[1][wide[2]], wide[3]], 3)
    found["concat with tables"] = case("QConcat", feeds, expected, domain="hago", axis=3, tables=[0, 2])
    return found


def resizes() -> dict[str, Case]:
    def resized(shape: tuple[int, ...], sizes: tuple[int, ...], close: bool = True, **attrs: object) -> Case:
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        feeds = {"x": x, "sizes": np.array(sizes)}
        if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
            feeds["roi"] = np.array([0, 0, -0.2, 0.1, 1, 1, 0.9, 1.3], np.float32)
        expected = onnxruntime("Resize", feeds, inputs=["x", "roi" if "roi" in feeds else "", "", "sizes"], **attrs)
        made = case("Resize", feeds, expected, close=close, constants=[n for n in feeds if n != "x"], **attrs)
        names = ("x", "roi" if "roi" in feeds else "", "", "sizes")
        return replace(made, node=replace(made.node, inputs=names))

    crop = "tf_crop_and_resize"
    return {
        "resize nearest": resized((1, 2, 4, 5), (1, 2, 8, 10), close=False, mode="nearest"),
        "resize linear": resized((1, 2, 5, 7), (1, 2, 9, 4), mode="linear"),
        "resize linear, channels last": resized((1, 5, 7, 8), (1, 9, 4, 8), mode="linear"),
        "resize cubic": resized((1, 2, 5, 7), (1, 2, 9, 4), mode="cubic"),
        "resize with a region": resized(
            (1, 2, 5, 7), (1, 2, 6, 6), mode="linear", coordinate_transformation_mode=crop, extrapolation_value=3.5
        ),
    }


CASES = {**slices(), **transposes(), **pads(), **rest(), **resizes()}


@cache
def compiled() -> None:
    compile_all(CASES.values(), GPUS.values())


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", CASES)
def test_elements_arrive_where_they_belong(name: str, gpu: str) -> None:
    compiled()
    for seed in range(3):
        CASES[name].check(GPUS[gpu], seed)


def test_the_barrier_of_a_transposition_is_needed() -> None:
    found = CASES["transpose in tiles of words"]
    call = BACKEND.emit(found.node, SM80)[0]
    broken = emulated_call(call.template(call.params, SM80, 1), lambda text: text.replace("__syncthreads();", ""))
    (wanted,) = found.expected
    y = np.zeros(wanted.shape, wanted.dtype)
    assert broken([found.feeds["x"].view(np.uint32), y.view(np.uint32)]) == ""
    assert (y != wanted).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_network_stays_on_the_gpu(seed: int) -> None:
    spec = load_spec("nvidia-a100")
    lowered = lower(load_model(moves()).proto, spec)
    networks = []

    def make(graph: LoweredGraph) -> EmulatedNetwork:
        networks.append(EmulatedNetwork(graph, spec, seed))
        return networks[-1]

    x = np.random.default_rng(0).normal(size=(1, 8, 6, 6)).astype(np.float32)
    conformity = Conformance(lowered, spec, make=make).check({"x": x})
    assert not networks[-1].faults and not conformity.wrong and conformity.error < 1e-6


def moves() -> onnx.ModelProto:
    """A network of most kinds of movement, and of elementwise operators between them."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("Slice", ["turned", "start", "end", "axis"], ["cut"]),
        helper.make_node("Sigmoid", ["cut"], ["gate"]),
        helper.make_node("Mul", ["cut", "gate"], ["gated"]),
        helper.make_node("Concat", ["gated", "cut"], ["joined"], axis=3),
        helper.make_node("Resize", ["joined", "", "scales"], ["large"], mode="linear"),
        helper.make_node("Pad", ["large", "pads"], ["padded"]),
        helper.make_node("Sin", ["padded"], ["wave"]),
        helper.make_node("Gather", ["wave", "rows"], ["some"], axis=1),
        helper.make_node("TopK", ["some", "k"], ["most", "where"], axis=1),
        helper.make_node("Cast", ["most"], ["y"], to=TensorProto.FLOAT16),
    ]
    held = {
        "start": np.array([1]), "end": np.array([5]), "axis": np.array([1]), "k": np.array([2]),
        "scales": np.array([1, 2, 2, 1], np.float32), "pads": np.array([0, 1, 0, 0, 0, 0, 1, 0]),
        "rows": np.array([3, 0, 2, -1]),
    }  # fmt: skip
    outputs = [("y", TensorProto.FLOAT16), ("where", TensorProto.INT64)]
    graph = helper.make_graph(
        nodes,
        "moves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 6, 6])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
