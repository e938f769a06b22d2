"""Pooling and transposed convolution with every way to tell a window's place, against sums written out in numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from opset_cases import Case, Held
from test_normalize import build

import hago
from hago.model import load_model

Array = np.ndarray


def compiled(case: Case) -> list[Array]:
    outputs: list[Array] = hago.compile(load_model(case.proto), threads=1).run(case.feeds)
    return outputs


def positions(size: int, k: int, stride: int, d: int, before: int, after: int, ceil: bool) -> list[list[int]]:
    """For every window of one axis, the positions that it covers, counted from the start of the input."""
    spread = (k - 1) * d + 1
    starts = list(range(-before, size + after - spread + 1, stride))
    following = -before + stride * len(starts)
    if ceil and starts and starts[-1] + spread < size + after and following < size:
        starts.append(following)
    return [[start + i * d for i in range(k)] for start in starts]


def pooled(
    x: Array, axes: Sequence[list[list[int]]], reduce: Callable[[list[float], int], float], pads: list[int]
) -> Array:
    """``reduce(values inside the input, how many lie inside the input or its padding)`` for every window."""
    n, spatial = len(axes), x.shape[2:]
    y = np.zeros((*x.shape[:2], *map(len, axes)))
    for at in np.ndindex(y.shape):
        cells = list(itertools.product(*(axes[i][at[2 + i]] for i in range(n))))
        inside = [c for c in cells if all(0 <= p < s for p, s in zip(c, spatial, strict=True))]
        reached = [c for c in cells if all(p < s + a for p, s, a in zip(c, spatial, pads[n:], strict=True))]
        y[at] = reduce([float(x[(*at[:2], *c)]) for c in inside], len(reached))
    return y.astype(np.float32)


REDUCTIONS: dict[str, tuple[str, dict[str, Any], Callable[[list[float], int], float]]] = {
    "max": ("MaxPool", {}, lambda v, n: max(v)),
    "average": ("AveragePool", {}, lambda v, n: sum(v) / len(v)),
    "average with padding": ("AveragePool", {"count_include_pad": 1}, lambda v, n: sum(v) / n),
    "p=1": ("LpPool", {"p": 1}, lambda v, n: sum(abs(a) for a in v)),
    "p=2": ("LpPool", {}, lambda v, n: sum(a * a for a in v) ** 0.5),
    "p=3": ("LpPool", {"p": 3}, lambda v, n: sum(abs(a) ** 3 for a in v) ** (1 / 3)),
}
PLACES: dict[str, dict[str, Any]] = {
    "plain": {"size": [7, 6], "k": [3, 2]},
    "pads": {"size": [7, 6], "k": [3, 3], "stride": [2, 2], "pads": [1, 0, 2, 1]},
    "ceil": {"size": [6, 7], "k": [3, 3], "stride": [2, 2], "ceil": True},
    "ceil with pads": {"size": [6, 7], "k": [3, 3], "stride": [2, 3], "pads": [1, 0, 1, 1], "ceil": True},
    "last window in the padding": {"size": [5, 6], "k": [2, 2], "stride": [3, 3], "pads": [0, 0, 1, 1], "ceil": True},
    "last window behind the input": {"size": [5, 3], "k": [1, 1], "stride": [3, 2], "ceil": True},
    "gaps between windows": {"size": [2, 8], "k": [1, 2], "stride": [3, 5], "pads": [0, 1, 0, 0], "ceil": True},
    "dilated": {"size": [7, 6], "k": [2, 3], "d": [3, 2], "pads": [1, 1, 1, 1]},
    "dilated ceil": {"size": [8, 6], "k": [2, 2], "d": [3, 2], "stride": [3, 2], "ceil": True},
    "one axis": {"size": [8], "k": [3], "stride": [3], "ceil": True},
    "three axes": {"size": [4, 5, 3], "k": [2, 3, 2], "stride": [2, 2, 1], "pads": [1, 0, 0, 0, 1, 0], "ceil": True},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_pools(reduction: str, place: str) -> None:
    op, attrs, reduce = REDUCTIONS[reduction]
    how = PLACES[place]
    size, k = how["size"], how["k"]
    n = len(size)
    stride, d, pads = how.get("stride", [1] * n), how.get("d", [1] * n), how.get("pads", [0] * (2 * n))
    ceil = how.get("ceil", False)
    axes = [positions(size[i], k[i], stride[i], d[i], pads[i], pads[n + i], ceil) for i in range(n)]
    x = np.random.default_rng(1).standard_normal((1, 2, *size)).astype(np.float32)
    told = {"kernel_shape": k, "strides": stride, "dilations": d, "pads": pads, "ceil_mode": int(ceil), **attrs}
    (got,) = compiled(Case(op, 21, (x,), told))
    np.testing.assert_allclose(got, pooled(x, axes, reduce, pads), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["max", "average", "average with padding", "p=2"])
def test_shapes_that_follow_from_a_pool_in_ceil_mode(reduction: str) -> None:
    """Shape inference counts windows that start behind the input; a second pool and a Reshape must not see those."""
    op, attrs, reduce = REDUCTIONS[reduction]
    size, k, stride = [8, 5], [1, 1], [3, 3]
    told = {"kernel_shape": k, "strides": stride, "ceil_mode": 1, **attrs}
    nodes = [
        (op, "x", "a", told),
        (op, "a", "b", {**told, "strides": [4, 3]}),
        ("Shape", "b", "s", {}),
        ("Reshape", "b flat", "y", {}),
        ("ConstantOfShape", "s", "z", {}),
    ]
    x = np.random.default_rng(4).standard_normal((1, 2, *size)).astype(np.float32)
    proto = build(nodes, {"x": [1, 2, *size]}, ["y", "z"], {"flat": np.array([1, 2], np.int64)}, 19)
    y = x
    for steps in (stride, [4, 3]):
        axes = [positions(y.shape[2 + i], k[i], steps[i], 1, 0, 0, True) for i in range(2)]
        y = pooled(y, axes, reduce, [0] * 4)
    got, zeros = hago.compile(load_model(proto), threads=1).run({"x": x})
    np.testing.assert_allclose(got, y.reshape(1, 2), rtol=1e-4, atol=1e-5)
    assert zeros.shape == y.shape == (1, 2, 1, 1)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_pools_that_pad_by_themselves(reduction: str, d: int, auto: str) -> None:
    op, attrs, reduce = REDUCTIONS[reduction]
    size, k, stride = [7, 6], [3, 2], [2, 2]
    pads = [0, 0, 0, 0]
    for i in range(2) if auto != "VALID" else ():
        total = max((-(-size[i] // stride[i]) - 1) * stride[i] + (k[i] - 1) * d + 1 - size[i], 0)
        small, large = total // 2, total - total // 2
        pads[i], pads[2 + i] = (small, large) if auto == "SAME_UPPER" else (large, small)
    axes = [positions(size[i], k[i], stride[i], d, pads[i], pads[2 + i], False) for i in range(2)]
    x = np.random.default_rng(2).standard_normal((1, 2, *size)).astype(np.float32)
    told = {"kernel_shape": k, "strides": stride, "dilations": [d, d], "auto_pad": auto, **attrs}
    (got,) = compiled(Case(op, 21, (x,), told))
    np.testing.assert_allclose(got, pooled(x, axes, reduce, pads), rtol=1e-4, atol=1e-5)


def scattered(x: Array, w: Array, stride: Sequence[int], d: Sequence[int], group: int, longer: Sequence[int]) -> Array:
    """Every input element times the filter, added up where it falls: a transposed convolution before it is cut."""
    n, per_in, per_out = x.ndim - 2, x.shape[1] // group, w.shape[1]
    spread = [(k - 1) * di + 1 for k, di in zip(w.shape[2:], d, strict=True)]
    full = [(s - 1) * st + sp + lo for s, st, sp, lo in zip(x.shape[2:], stride, spread, longer, strict=True)]
    y = np.zeros((x.shape[0], group * per_out, *full))
    for at in np.ndindex(*x.shape[2:]):
        for tap in np.ndindex(*w.shape[2:]):
            to = tuple(at[i] * stride[i] + tap[i] * d[i] for i in range(n))
            for g in range(group):
                inputs = slice(g * per_in, (g + 1) * per_in)
                part = x[(slice(None), inputs, *at)].astype(np.float64) @ w[(inputs, slice(None), *tap)]
                y[(slice(None), slice(g * per_out, (g + 1) * per_out), *to)] += part
    return y


TRANSPOSED: dict[str, dict[str, Any]] = {
    "output_shape even": {"stride": [2, 2], "output_shape": [12, 10]},
    "output_shape odd": {"stride": [2, 2], "output_shape": [11, 9]},
    "output_shape longer than all": {"stride": [2, 2], "output_shape": [14, 11]},
    "output_shape and SAME_UPPER": {"stride": [2, 2], "output_shape": [12, 10], "auto": "SAME_UPPER"},
    "output_shape and output_padding": {"stride": [2, 3], "output_shape": [12, 12], "output_padding": [1, 2]},
    "SAME_UPPER": {"stride": [2, 2], "auto": "SAME_UPPER"},
    "SAME_LOWER": {"stride": [2, 2], "auto": "SAME_LOWER"},
    "VALID": {"stride": [3, 1], "auto": "VALID"},
    "dilated": {"stride": [2, 1], "d": [2, 3], "pads": [1, 0, 2, 1]},
    "groups": {"stride": [2, 2], "group": 2, "pads": [1, 1, 0, 1], "output_padding": [1, 0]},
    "depthwise": {"stride": [2, 2], "group": 4},
    "one axis": {"size": [6], "k": [4], "stride": [2], "output_shape": [12]},
    "three axes": {"size": [3, 4, 2], "k": [2, 3, 3], "stride": [2, 1, 2], "output_shape": [6, 5, 4]},
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolutions(name: str) -> None:
    how = TRANSPOSED[name]
    size, k, stride, group = how.get("size", [6, 5]), how.get("k", [3, 3]), how["stride"], how.get("group", 1)
    n = len(size)
    d, longer = how.get("d", [1] * n), how.get("output_padding", [0] * n)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 4, *size)).astype(np.float32)
    w = rng.standard_normal((4, 2, *k)).astype(np.float32)
    bias = rng.standard_normal(2 * group).astype(np.float32)
    full = scattered(x, w, stride, d, group, longer)
    auto, wanted = how.get("auto", "NOTSET"), how.get("output_shape")
    if wanted is None and auto.startswith("SAME"):
        wanted = [s * st for s, st in zip(size, stride, strict=True)]
    cut = how.get("pads", [0] * (2 * n))
    for i in range(n) if wanted is not None else ():
        total = full.shape[2 + i] - wanted[i]
        if total < 0:
            full = np.pad(full, [(0, 0)] * (2 + i) + [(0, -total)] + [(0, 0)] * (n - 1 - i))
            total = 0
        small, large = total // 2, total - total // 2
        cut[i], cut[n + i] = (small, large) if auto == "SAME_UPPER" else (large, small)
    inner = tuple(slice(cut[i], full.shape[2 + i] - cut[n + i]) for i in range(n))
    expected = full[(slice(None), slice(None), *inner)] + bias.reshape(1, -1, *[1] * n)
    told = {
        "strides": stride, "dilations": d, "group": group, "auto_pad": auto, "pads": how.get("pads"),
        "output_shape": how.get("output_shape"), "output_padding": how.get("output_padding"),
    }  # fmt: skip
    attrs = {key: value for key, value in told.items() if value is not None}
    (got,) = compiled(Case("ConvTranspose", 17, (x, Held(w), Held(bias)), attrs))
    np.testing.assert_allclose(got, expected.astype(np.float32), rtol=1e-4, atol=1e-5)
