"""Kernels that only move elements, against numpy and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import ISAS, numpy_type, physical, run, type_of, view
from onnx import TensorProto, helper

from hago.errors import BuildError, UnsupportedOpError
from hago.kernels.cpu.families import Isa
from hago.tensor import TensorType

FEW = settings(max_examples=25)
isas = st.sampled_from(ISAS)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(["uint8", "float32", "int64", "bool", "bfloat16"])
sides = st.sampled_from([1, 2, 3, 5, 8, 17, 36])
shapes = st.lists(sides, min_size=1, max_size=4).map(tuple)


def values(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2 if dtype == "bool" else 256, shape).astype(numpy_type(dtype))


def check(op: str, feeds: dict[str, np.ndarray], expected: np.ndarray, isa: Isa, **given_: Any) -> None:
    constants = given_.pop("constants", ())
    domain = given_.pop("domain", "")
    node = view(op, feeds, {"y": type_of(expected)}, given_, domain=domain, constants=constants)
    np.testing.assert_array_equal(run(node, feeds, isa)[0], physical(expected))


@FEW
@given(st.data(), shapes, dtypes, seeds, isas)
def test_transpose(data: Any, shape: tuple[int, ...], dtype: str, seed: int, isa: Isa) -> None:
    perm = data.draw(st.permutations(range(len(shape))))
    x = values(shape, dtype, seed)
    check("Transpose", {"x": x}, x.transpose(perm), isa, perm=list(perm))


def test_transpose_reverses_by_default() -> None:
    x = values((3, 4, 5), "float32", 0)
    check("Transpose", {"x": x}, x.transpose(), ISAS[0])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(mode: str) -> None:
    x = values((1, 18, 4, 5), "float32", 0)
    expected = _onnxruntime("DepthToSpace", {"x": x}, blocksize=3, mode=mode)
    check("DepthToSpace", {"x": x}, expected, ISAS[1], blocksize=3, mode=mode)
    y = values((1, 2, 12, 15), "float32", 0)
    check("SpaceToDepth", {"x": y}, _onnxruntime("SpaceToDepth", {"x": y}, blocksize=3), ISAS[1], blocksize=3)


@FEW
@given(st.data(), shapes, dtypes, seeds, isas)
def test_slice(data: Any, shape: tuple[int, ...], dtype: str, seed: int, isa: Isa) -> None:
    x = values(shape, dtype, seed)
    axes = data.draw(st.lists(st.sampled_from(range(len(shape))), unique=True, min_size=1))
    starts, ends, steps, where = [], [], [], [slice(None)] * len(shape)
    for axis in axes:
        step = data.draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        size = shape[axis]
        first = data.draw(st.integers(-size, size - 1))
        at = first % size
        end = size + 5 if step > 0 else -(2**31)
        if data.draw(st.booleans()):
            end = data.draw(st.integers(at + 1, size)) if step > 0 else at - size - 1
        starts.append(first)
        ends.append(end)
        steps.append(step)
        where[axis] = slice(first, None if step < 0 and end == -(2**31) else end, step)
    bounds = {"starts": np.array(starts), "ends": np.array(ends), "axes": np.array(axes)}
    feeds = {"x": x, **bounds, "steps": np.array(steps)}
    check("Slice", feeds, x[tuple(where)], isa, constants=("starts", "ends", "axes", "steps"))


def test_slice_at_run_time_says_what_to_do() -> None:
    x = values((4,), "float32", 0)
    with pytest.raises(BuildError, match="must be a constant"):
        check("Slice", {"x": x, "starts": np.array([0]), "ends": np.array([2])}, x[:2], ISAS[0])


@FEW
@given(st.data(), shapes, dtypes, seeds, isas)
def test_split(data: Any, shape: tuple[int, ...], dtype: str, seed: int, isa: Isa) -> None:
    x = values(shape, dtype, seed)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, size - 1)), max_size=2))) if size > 1 else []
    parts = np.split(x, cuts, axis=axis)
    outputs = {f"y{i}": type_of(part) for i, part in enumerate(parts)}
    node = view("Split", {"x": x}, outputs, {"axis": axis}, domain="")
    for result, part in zip(run(node, {"x": x}, isa), parts, strict=True):
        np.testing.assert_array_equal(result, physical(part))


@FEW
@given(st.data(), shapes, dtypes, seeds, isas)
def test_expand(data: Any, shape: tuple[int, ...], dtype: str, seed: int, isa: Isa) -> None:
    narrow = tuple(data.draw(st.sampled_from([1, size])) for size in shape)
    drop = data.draw(st.integers(0, len(shape) - 1)) if narrow[0] == 1 else 0
    narrow = narrow[drop:] if all(size == 1 for size in narrow[:drop]) else narrow
    x = values(narrow, dtype, seed)
    check("Expand", {"x": x}, np.broadcast_to(x, shape), isa)


@FEW
@given(st.data(), shapes, dtypes, seeds, isas)
def test_tile(data: Any, shape: tuple[int, ...], dtype: str, seed: int, isa: Isa) -> None:
    repeats = [data.draw(st.integers(1, 3)) for _ in shape]
    x = values(shape, dtype, seed)
    feeds = {"x": x, "repeats": np.array(repeats)}
    check("Tile", feeds, np.tile(x, repeats), isa, constants=("repeats",))


@FEW
@given(st.data(), shapes, dtypes, seeds, isas)
def test_pad_with_a_value(data: Any, shape: tuple[int, ...], dtype: str, seed: int, isa: Isa) -> None:
    x = values(shape, dtype, seed)
    pads = [(data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))) for _ in shape]
    value = values((), dtype, seed + 1)
    feeds = {"x": x, "pads": np.array(pads).T.reshape(-1), "value": value}
    expected = np.pad(x.astype(np.float64), pads, constant_values=float(value)).astype(x.dtype)
    check("Pad", feeds, expected, isa, constants=("pads", "value"))


def test_pad_cuts_where_negative_and_takes_axes() -> None:
    x = values((3, 9, 6), "uint8", 0)
    feeds = {
        "x": x,
        "pads": np.array([-2, 1, 1, -3]),
        "value": np.array(7, np.uint8),
        "axes": np.array([1, -1]),
    }
    expected = np.pad(x[:, 2:, :-3], ((0, 0), (0, 1), (1, 0)), constant_values=7)
    check("Pad", feeds, expected, ISAS[1], constants=("pads", "value", "axes"))


@FEW
@given(st.data(), st.sampled_from(["reflect", "edge", "wrap"]), dtypes, seeds, isas)
def test_pad_with_the_input(data: Any, mode: str, dtype: str, seed: int, isa: Isa) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([2, 5, 17]), min_size=1, max_size=3)))
    x = values(shape, dtype, seed)
    pads = [(data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))) for _ in shape]
    feeds = {"x": x, "pads": np.array(pads).T.reshape(-1)}
    expected = np.pad(x, pads, mode=mode)  # type: ignore[call-overload]
    check("Pad", feeds, expected, isa, mode=mode, constants=("pads",))


@FEW
@given(st.data(), shapes, dtypes, st.sampled_from([np.int32, np.int64]), seeds, isas)
def test_gather(data: Any, shape: tuple[int, ...], dtype: str, kind: Any, seed: int, isa: Isa) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    indices = np.array(data.draw(st.sampled_from([0, [0, -1], [[0], [size - 1], [-size]]])), kind)
    x = values(shape, dtype, seed)
    check("Gather", {"x": x, "i": indices}, np.take(x, indices, axis=axis), isa, axis=axis)


def test_gather_never_leaves_its_tensor() -> None:
    x = values((4, 3), "float32", 0)
    node = view("Gather", {"x": x, "i": np.array([99, -99])}, {"y": TensorType("float32", (2, 3))}, domain="")
    np.testing.assert_array_equal(run(node, {"x": x, "i": np.array([99, -99])})[0], x[[3, 0]])


@FEW
@given(st.data(), shapes, dtypes, seeds, isas)
def test_concat(data: Any, shape: tuple[int, ...], dtype: str, seed: int, isa: Isa) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    feeds = {}
    for i, size in enumerate(sizes):
        own = list(shape)
        own[axis] = size
        feeds[f"x{i}"] = values(tuple(own), dtype, seed + i)
    check("Concat", feeds, np.concatenate(list(feeds.values()), axis=axis), isa, axis=axis)


@FEW
@given(st.sets(st.sampled_from([0, 1, 2])), st.sampled_from([1, 3, 70]), seeds, isas)
def test_quantized_concat_with_tables(tables: set[int], channels: int, seed: int, isa: Isa) -> None:
    rng = np.random.default_rng(seed)
    feeds = {f"x{i}": values((1, 5, 3, channels + i), "uint8", seed + i) for i in range(3)}
    parts = dict(feeds)
    for index in sorted(tables):
        feeds[f"t{index}"] = rng.integers(0, 256, 256).astype(np.uint8)
        parts[f"x{index}"] = feeds[f"t{index}"][parts[f"x{index}"]]
    expected = np.concatenate(list(parts.values()), axis=3)
    check("QConcat", feeds, expected, isa, axis=3, tables=sorted(tables), domain="hago")


def _onnxruntime(op: str, feeds: dict[str, np.ndarray], inputs: list[str] | None = None, **attrs: Any) -> np.ndarray:
    names = inputs if inputs is not None else list(feeds)
    node = helper.make_node(op, names, ["y"], **attrs)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", infos, [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


modes = st.sampled_from(
    [
        ("nearest", "asymmetric", "floor"),
        ("nearest", "half_pixel", "round_prefer_floor"),
        ("nearest", "half_pixel", "round_prefer_ceil"),
        ("nearest", "align_corners", "ceil"),
        ("linear", "half_pixel", "round_prefer_floor"),
        ("linear", "align_corners", "round_prefer_floor"),
        ("linear", "asymmetric", "round_prefer_floor"),
        ("linear", "pytorch_half_pixel", "round_prefer_floor"),
    ]
)


@FEW
@given(modes, st.sampled_from([(2.0, 2.0), (3.0, 1.0), (0.5, 1.5), (1.7, 2.3)]), st.booleans(), isas)
def test_resize_agrees_with_onnxruntime(mode: Any, scale: Any, channels_last: bool, isa: Isa) -> None:
    kind, coordinates, nearest = mode
    x = np.random.default_rng(0).standard_normal((1, 3, 6, 8)).astype(np.float32)
    attrs = {"mode": kind, "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    scales = np.array([1, 1, *scale], np.float32)
    expected = _onnxruntime("Resize", {"x": x, "scales": scales}, ["x", "", "scales"], **attrs)
    if channels_last:
        x, expected = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, expected))
        scales = scales[[0, 2, 3, 1]]
    feeds = {"x": x, "scales": scales}
    node = view(
        "Resize",
        feeds,
        {"y": type_of(expected)},
        attrs,
        domain="",
        constants=("scales",),
        inputs=["x", "", "scales"],
    )
    np.testing.assert_allclose(run(node, feeds, isa)[0], expected, rtol=1e-5, atol=1e-5)


def test_resize_in_an_unknown_mode_is_refused() -> None:
    x = np.zeros((1, 1, 4, 4), np.float32)
    feeds = {"x": x, "scales": np.array([1, 1, 2, 2], np.float32)}
    node = view("Resize", feeds, {"y": TensorType("float32", (1, 1, 8, 8))}, {"mode": "lanczos"},
                domain="", constants=("scales",), inputs=["x", "", "scales"])  # fmt: skip
    with pytest.raises(UnsupportedOpError, match="lanczos"):
        run(node, feeds)


@pytest.mark.parametrize("op", ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"])
def test_reshape_copies(op: str) -> None:
    x = values((3, 5, 7), "int64", 0)
    check(op, {"x": x}, x.reshape(15, 7), ISAS[0])
