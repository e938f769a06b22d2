"""The operators of `float_graphs`: each adds one node, or nothing where a tensor does not suit it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from float_graphs import Maker, Operator, Tensor

_CONTINUOUS = ("Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Erf", "Softplus", "Softsign", "Elu", "Selu", "LeakyRelu",
               "HardSigmoid", "Celu", "Sin", "Cos", "Atan", "Identity")  # fmt: skip
_MOVING = ("Relu", "Abs", "Neg", "Identity")
_SINCE = {"Celu": 12, "HardSwish": 14, "Mish": 18, "Gelu": 20}
_EDGE_ATTRS: dict[str, dict[str, float]] = {"LeakyRelu": {"alpha": 0.3}, "Elu": {"alpha": 1.5}, "Celu": {"alpha": 0.7}}


def unary(m: Maker, x: Tensor) -> None:
    op = m.among(*_CONTINUOUS, *(o for o, since in _SINCE.items() if m.opset >= since))
    if m.opset < _SINCE.get(op, 0):
        return
    attrs = _EDGE_ATTRS.get(op, {}) if m.chance(0.5) else {}
    m.keep(m.emit(op, [x.name], **attrs)[0], x.shape, x.moved and op in _MOVING)


def positive(m: Maker, x: Tensor) -> None:
    (square,) = m.emit("Mul", [x.name, x.name])
    (above,) = m.emit("Add", [square, m.constant(np.float32(0.5))])
    m.keep(m.emit(m.among("Sqrt", "Log", "Reciprocal"), [above])[0], x.shape)


def rounding(m: Maker, x: Tensor) -> None:
    if x.moved:
        m.keep(m.emit(m.among("Floor", "Ceil", "Round", "Sign"), [x.name])[0], x.shape)


def clip(m: Maker, x: Tensor) -> None:
    low, high = m.constant(np.float32(-0.5)), m.constant(np.float32(m.among(0.7, 6)))
    inputs = m.among([x.name, low, high], [x.name, low], [x.name, "", high], [x.name])
    m.keep(m.emit("Clip", inputs)[0], x.shape, x.moved)


def binary(m: Maker, x: Tensor) -> None:
    other, moved = m.operand(x)
    op = m.among("Add", "Sub", "Mul", "Max", "Min", "Add", "Mul")
    pair = [x.name, other] if m.chance(0.7) else [other, x.name]
    m.keep(m.emit(op, pair)[0], x.shape, x.moved and moved and op in ("Max", "Min"))


def divide(m: Maker, x: Tensor) -> None:
    shape = [d if m.chance(0.5) else 1 for d in x.shape]
    m.keep(m.emit("Div", [x.name, m.constant(np.abs(m.values(shape, 1.0)) + np.float32(0.5))])[0], x.shape)


def power(m: Maker, x: Tensor) -> None:
    (size,) = m.emit("Abs", [x.name])
    m.keep(m.emit("Pow", [size, m.constant(np.float32(m.among(1, 2, 0.5, 3, 1.7)))])[0], x.shape)


def prelu(m: Maker, x: Tensor) -> None:
    slope = [d if m.chance(0.5) else 1 for d in x.shape[1:]]
    m.keep(m.emit("PRelu", [x.name, m.constant(m.values(slope, 1.0))])[0], x.shape)


def where(m: Maker, x: Tensor) -> None:
    if not x.moved:
        return
    (truth,) = m.emit(m.among("Greater", "Less", "Equal"), [x.name, m.constant(np.float32(0.1))])
    if m.chance(0.3):
        (truth,) = m.emit("Not", [truth])
    other, _ = m.operand(x)
    m.keep(m.emit("Where", [truth, x.name, other])[0], x.shape)


def cast(m: Maker, x: Tensor) -> None:
    if x.moved and np.abs(m.feeds["x0"]).max() < 1e6:
        (whole,) = m.emit("Cast", [x.name], to=m.among(6, 7))
        m.keep(m.emit("Cast", [whole], to=1)[0], x.shape)


def variadic(m: Maker, x: Tensor) -> None:
    others = [m.operand(x)[0] for _ in range(m.number(0, 2))]
    m.keep(m.emit(m.among("Sum", "Mean", "Max", "Min"), [x.name, *others])[0], x.shape)


def softmax(m: Maker, x: Tensor) -> None:
    axis = m.among(None, *range(-len(x.shape), len(x.shape)))
    m.keep(m.emit(m.among("Softmax", "Softmax", "LogSoftmax"), [x.name], axis=axis)[0], x.shape)


def reduce(m: Maker, x: Tensor) -> None:
    rank, op = len(x.shape), m.among("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2",
                                     "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd")  # fmt: skip
    axes = sorted(m.rng.choice(rank, m.number(1, rank), replace=False).tolist())
    keep = m.among(None, 0, 1)
    told = [a - rank if m.chance(0.3) else a for a in axes]
    if m.chance(0.1):
        axes, told = list(range(rank)), []
    as_input = m.opset >= (13 if op == "ReduceSum" else 18)
    inputs = [x.name, m.ints(*told)] if as_input and told else [x.name]
    shape = [1 if i in axes else d for i, d in enumerate(x.shape) if keep != 0 or i not in axes]
    m.keep(m.emit(op, inputs, keepdims=keep, axes=told if told and not as_input else None)[0], shape)


def arg_extreme(m: Maker, x: Tensor) -> None:
    if x.moved:
        axis, keep = m.number(-len(x.shape), len(x.shape) - 1), m.among(None, 0)
        attrs = {"select_last_index": m.among(0, 1)} if m.opset >= 12 else {}
        (at,) = m.emit(m.among("ArgMax", "ArgMin"), [x.name], axis=axis, keepdims=keep, **attrs)
        shape = list(x.shape)
        shape[axis] = 1
        if keep == 0:
            del shape[axis]
        m.keep(m.emit("Cast", [at], to=1)[0], shape)


def top_k(m: Maker, x: Tensor) -> None:
    axis = m.number(0, len(x.shape) - 1)
    if x.moved:
        k = m.number(1, x.shape[axis])
        first, _ = m.emit("TopK", [x.name, m.ints(k)], 2, axis=axis, largest=m.among(0, 1))
        m.keep(first, [k if i == axis else d for i, d in enumerate(x.shape)], True)


def cumulative(m: Maker, x: Tensor) -> None:
    axis = m.constant(np.array(m.number(0, len(x.shape) - 1), np.int64))
    m.keep(m.emit("CumSum", [x.name, axis], exclusive=m.among(0, 1), reverse=m.among(0, 1))[0], x.shape)


def reshape(m: Maker, x: Tensor) -> None:
    size = math.prod(x.shape)
    shape = m.among(
        [size], [1, size], [x.shape[0], size // x.shape[0]], [*x.shape, 1], [1, *x.shape], list(x.shape[::-1])
    )
    told = list(shape)
    if m.chance(0.5):
        told[m.number(0, len(told) - 1)] = -1
    m.keep(m.emit("Reshape", [x.name, m.ints(*told)])[0], shape, x.moved)


def flatten(m: Maker, x: Tensor) -> None:
    axis = m.number(0, len(x.shape))
    m.keep(m.emit("Flatten", [x.name], axis=axis)[0], [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])], x.moved)


def squeeze(m: Maker, x: Tensor) -> None:
    ones = [i for i, d in enumerate(x.shape) if d == 1]
    old = m.opset < 13
    if ones and m.chance(0.5):
        shape = [d for i, d in enumerate(x.shape) if i not in ones]
        name = m.emit("Squeeze", [x.name] if old else [x.name, m.ints(*ones)], axes=ones if old else None)[0]
    else:
        axis = m.number(0, len(x.shape))
        shape = [*x.shape[:axis], 1, *x.shape[axis:]]
        name = m.emit("Unsqueeze", [x.name] if old else [x.name, m.ints(axis)], axes=[axis] if old else None)[0]
    if shape and len(shape) < 7:
        m.keep(name, shape, x.moved)


def transpose(m: Maker, x: Tensor) -> None:
    perm = m.rng.permutation(len(x.shape)).tolist()
    told = perm if m.chance(0.9) else None
    if told is None:
        perm = perm[:0] + list(range(len(x.shape)))[::-1]
    m.keep(m.emit("Transpose", [x.name], perm=told)[0], [x.shape[p] for p in perm], x.moved)


def cut(m: Maker, x: Tensor) -> None:
    axis = m.number(0, len(x.shape) - 1)
    size = x.shape[axis]
    start, step = m.number(0, size - 1), m.among(1, 1, 2, -1, -2)
    end = m.among(size, 1000, m.number(start + 1, size)) if step > 0 else m.among(-1000, -size - 1)
    length = len(range(size)[slice(start, min(end, size), step)]) if step > 0 else len(range(start, -1, step))
    first = start - size if m.chance(0.3) else start
    named = m.among(axis, axis - len(x.shape))
    name = m.emit("Slice", [x.name, m.ints(first), m.ints(end), m.ints(named), m.ints(step)])[0]
    m.keep(name, [length if i == axis else d for i, d in enumerate(x.shape)], x.moved)


def concat(m: Maker, x: Tensor) -> None:
    axis = m.number(-len(x.shape), len(x.shape) - 1)
    at = axis % len(x.shape)

    def fits(t: Tensor) -> bool:
        return len(t.shape) == len(x.shape) and all(
            a == b or i == at for i, (a, b) in enumerate(zip(t.shape, x.shape, strict=False))
        )

    others = [t for t in m.tensors if fits(t)]
    parts = [x, *(others[m.number(0, len(others) - 1)] for _ in range(m.number(0, 2)))]
    shape = list(x.shape)
    shape[at] = sum(t.shape[at] for t in parts)
    m.keep(m.emit("Concat", [t.name for t in parts], axis=axis)[0], shape, all(t.moved for t in parts))


def split(m: Maker, x: Tensor) -> None:
    axis = m.number(0, len(x.shape) - 1)
    if x.shape[axis] < 2:
        return
    first = m.number(1, x.shape[axis] - 1)
    sizes, old = [first, x.shape[axis] - first], m.opset < 13
    names = m.emit("Split", [x.name] if old else [x.name, m.ints(*sizes)], 2, axis=axis, split=sizes if old else None)
    for name, size in zip(names, sizes, strict=True):
        m.keep(name, [size if i == axis else d for i, d in enumerate(x.shape)], x.moved)


def gather(m: Maker, x: Tensor) -> None:
    axis = m.number(0, len(x.shape) - 1)
    shape = m.among([], [1], [3], [2, 2])
    index = m.rng.integers(-x.shape[axis], x.shape[axis], shape)
    name = m.emit("Gather", [x.name, m.constant(np.array(index, np.int64))], axis=axis)[0]
    result = [*x.shape[:axis], *shape, *x.shape[axis + 1 :]]
    if result:
        m.keep(name, result, x.moved)


def expand(m: Maker, x: Tensor) -> None:
    repeats = [m.among(1, 1, 2, 3) for _ in x.shape]
    if m.chance(0.5):
        m.keep(
            m.emit("Tile", [x.name, m.ints(*repeats)])[0],
            [d * r for d, r in zip(x.shape, repeats, strict=False)],
            x.moved,
        )
        return
    shape = [r if d == 1 else d for d, r in zip(x.shape, repeats, strict=False)]
    m.keep(m.emit("Expand", [x.name, m.ints(*shape)])[0], shape, x.moved)


def pad(m: Maker, x: Tensor) -> None:
    mode = m.among("constant", "constant", "reflect", "edge")
    most = [min(2, d - 1) if mode == "reflect" else 2 for d in x.shape]
    low, high = ([m.number(0, n) if m.chance(0.5) else 0 for n in most] for _ in range(2))
    inputs = [x.name, m.ints(*low, *high)]
    if mode == "constant" and m.chance(0.5):
        inputs.append(m.constant(np.float32(m.among(0, 1.5))))
    m.keep(m.emit("Pad", inputs, mode=mode)[0], [d + a + b for d, a, b in zip(x.shape, low, high, strict=False)], False)


def depth_space(m: Maker, x: Tensor) -> None:
    if len(x.shape) != 4:
        return
    n, c, h, w = x.shape
    if c % 4 == 0 and m.chance(0.5):
        m.keep(
            m.emit("DepthToSpace", [x.name], blocksize=2, mode=m.among("DCR", "CRD"))[0],
            (n, c // 4, 2 * h, 2 * w),
            x.moved,
        )
    elif h % 2 == 0 and w % 2 == 0:
        m.keep(m.emit("SpaceToDepth", [x.name], blocksize=2)[0], (n, 4 * c, h // 2, w // 2), x.moved)


def matmul(m: Maker, x: Tensor) -> None:
    if len(x.shape) < 2:
        return
    n = m.number(1, 9)
    batch = [] if m.chance(0.6) else list(x.shape[:-2])
    right = m.weight(*batch, x.shape[-1], n)
    m.keep(m.emit("MatMul", [x.name, right])[0], [*x.shape[:-1], n])


def product(m: Maker, x: Tensor) -> None:
    if len(x.shape) < 2:
        return
    perm = [*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2]
    (turned,) = m.emit("Transpose", [x.name], perm=perm)
    m.keep(m.emit("MatMul", [x.name, turned])[0], [*x.shape[:-1], x.shape[-2]])


def gemm(m: Maker, x: Tensor) -> None:
    if len(x.shape) != 2:
        return
    n, turned, flipped = m.number(1, 9), m.among(0, 1), m.among(0, 0, 1)
    rows, k = x.shape[::-1] if flipped else x.shape
    right = m.weight(n, k) if turned else m.weight(k, n)
    addend = [] if m.chance(0.3) else [m.constant(m.values(m.among((n,), (1, n), (rows, n), (rows, 1), ()), 1.0))]
    numbers = {"alpha": 0.5, "beta": m.among(1.0, 2.0)} if m.chance(0.4) else {}
    m.keep(m.emit("Gemm", [x.name, right, *addend], transA=flipped, transB=turned, **numbers)[0], (rows, n))


def normalize(m: Maker, x: Tensor) -> None:
    rank = len(x.shape)
    if rank < 2:
        return
    c = x.shape[1]
    positive = m.constant(np.abs(m.values([c], 1.0)) + np.float32(0.2))
    kind = m.among("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "LRN")
    if kind == "BatchNormalization":
        inputs = [x.name, positive, m.weight(c), m.weight(c), positive]
        m.keep(m.emit(kind, inputs, epsilon=1e-3)[0], x.shape)
    elif kind == "InstanceNormalization" and rank > 2 and math.prod(x.shape[2:]) > 1:
        m.keep(m.emit(kind, [x.name, positive, m.weight(c)], epsilon=0.01)[0], x.shape)
    elif kind == "LayerNormalization" and m.opset >= 17 and math.prod(x.shape[rank - 1 :]) > 1:
        axis = m.number(1, rank - 1)
        scale = m.weight(*x.shape[axis:])
        inputs = [x.name, scale, *([m.weight(*x.shape[axis:])] if m.chance(0.7) else [])]
        m.keep(m.emit(kind, inputs, axis=m.among(axis, axis - rank), epsilon=0.01)[0], x.shape)
    elif kind == "GroupNormalization" and m.opset >= 18 and rank > 2 and math.prod(x.shape[2:]) > 1:
        groups = m.among(*(g for g in range(1, c + 1) if c % g == 0))
        size = c if m.opset >= 21 else groups
        m.keep(m.emit(kind, [x.name, m.weight(size), m.weight(size)], num_groups=groups, epsilon=0.01)[0], x.shape)
    elif kind == "LRN" and rank == 4:
        m.keep(m.emit(kind, [x.name], size=m.among(1, 3, 5), alpha=0.1, bias=2.0)[0], x.shape)


def _window(m: Maker, size: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """Kernel, strides, dilations and pads that fit an image."""
    kernel = [m.number(1, min(3, s)) for s in size]
    strides = [m.number(1, 3) for _ in size]
    dilations = [m.among(1, 1, 2) for _ in size]
    pads = [m.number(0, k - 1) for k in (*kernel, *kernel)] if m.chance(0.6) else [0] * (2 * len(size))
    n = len(size)
    fits = all(
        (k - 1) * d + 1 <= s + pads[i] + pads[n + i]
        for i, (k, d, s) in enumerate(zip(kernel, dilations, size, strict=False))
    )
    return (kernel, strides, dilations, pads) if fits else None


def convolve(m: Maker, x: Tensor) -> None:
    if not 3 <= len(x.shape) <= 5 or (window := _window(m, x.shape[2:])) is None:
        return
    kernel, strides, dilations, pads = window
    c = x.shape[1]
    group = m.among(1, 1, c, *(g for g in (2, 4) if c % g == 0))
    out = group * m.number(1, max(1, 12 // group))
    size = [(s + a + b - (k - 1) * d - 1) // st + 1 for s, a, b, k, d, st in zip(
        x.shape[2:], pads, pads[len(kernel):], kernel, dilations, strides, strict=False)]  # fmt: skip
    inputs = [x.name, m.weight(out, c // group, *kernel), *([m.weight(out)] if m.chance(0.6) else [])]
    auto = m.among("SAME_UPPER", "SAME_LOWER") if set(dilations) == {1} and m.chance(0.2) else None
    if auto:
        size = [-(-s // st) for s, st in zip(x.shape[2:], strides, strict=False)]
    told = {} if auto else {"pads": pads, "dilations": dilations}
    name = m.emit("Conv", inputs, group=group, strides=strides, auto_pad=auto, **told)[0]
    m.keep(name, (x.shape[0], out, *size))


def deconvolve(m: Maker, x: Tensor) -> None:
    if not 3 <= len(x.shape) <= 5 or (window := _window(m, x.shape[2:])) is None:
        return
    kernel, strides, dilations, pads = window
    c, n = x.shape[1], len(kernel)
    group, out = m.among(1, 1, c), m.number(1, 3)
    extra = [m.number(0, max(s, d) - 1) if m.chance(0.3) else 0 for s, d in zip(strides, dilations, strict=False)]
    full = [
        (s - 1) * st + (k - 1) * d + 1 + e
        for s, st, k, d, e in zip(x.shape[2:], strides, kernel, dilations, extra, strict=False)
    ]
    size = [f - pads[i] - pads[n + i] for i, f in enumerate(full)]
    if min(size) < 1:
        return
    told: dict[str, list[int]] = {"pads": pads}
    if m.chance(0.3):
        size = [max(1, f - m.number(0, 2)) for f in full]
        told = {"output_shape": size}
    inputs = [x.name, m.weight(c, out, *kernel), *([m.weight(out * group)] if m.chance(0.5) else [])]
    name = m.emit(
        "ConvTranspose", inputs, group=group, strides=strides, dilations=dilations, output_padding=extra, **told
    )[0]
    m.keep(name, (x.shape[0], out * group, *size))


def pool(m: Maker, x: Tensor) -> None:
    if not 3 <= len(x.shape) <= 5 or (window := _window(m, x.shape[2:])) is None:
        return
    kernel, strides, dilations, pads = window
    op, n = m.among("MaxPool", "AveragePool", "LpPool"), len(kernel)
    newest = {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[op]
    ceil = m.among(None, 1) if m.opset >= (18 if op == "LpPool" else 10) else None
    dilations = dilations if m.opset >= newest and op != "LpPool" else [1] * n
    size = []
    for i, s in enumerate(x.shape[2:]):
        length = s + pads[i] + pads[n + i] - (kernel[i] - 1) * dilations[i] - 1
        count = (-(-length // strides[i]) if ceil else length // strides[i]) + 1
        size.append(count - 1 if ceil and (count - 1) * strides[i] >= s + pads[i] else count)
    attrs = (
        {"count_include_pad": m.among(None, 1)}
        if op == "AveragePool"
        else {"p": m.among(1, 2, 3)}
        if op == "LpPool"
        else {}
    )
    told = None if set(dilations) == {1} else dilations
    name = m.emit(
        op, [x.name], kernel_shape=kernel, strides=strides, pads=pads, dilations=told, ceil_mode=ceil, **attrs
    )[0]
    m.keep(name, (*x.shape[:2], *size), False)


def global_pool(m: Maker, x: Tensor) -> None:
    if len(x.shape) >= 3:
        name = m.emit(m.among("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), [x.name])[0]
        m.keep(name, (*x.shape[:2], *[1] * (len(x.shape) - 2)))


def resize(m: Maker, x: Tensor) -> None:
    if len(x.shape) != 4:
        return
    mode = m.among("nearest", "linear", "cubic")
    where = m.among("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    rounds = {"nearest_mode": m.among("floor", "round_prefer_floor")} if mode == "nearest" else {}
    none = m.constant(np.zeros(0, np.float32)) if m.opset < 13 else ""
    if m.chance(0.5):
        scales = [1.0, 1.0, *(m.among(2.0, 0.5, 1.5, 3.0) for _ in range(2))]
        size = [int(d * s) for d, s in zip(x.shape, scales, strict=False)]
        inputs = [x.name, none, m.constant(np.float32(scales))]
    else:
        size = [*x.shape[:2], m.number(1, 9), m.number(1, 9)]
        inputs = [x.name, none, none, m.ints(*size)]
    if min(size) > 0:
        m.keep(m.emit("Resize", inputs, mode=mode, coordinate_transformation_mode=where, **rounds)[0], size)


def einsum(m: Maker, x: Tensor) -> None:
    if m.opset >= 12 and len(x.shape) == 3:
        n = m.number(1, 5)
        m.keep(m.emit("Einsum", [x.name, m.weight(x.shape[2], n)], equation="abc,cd->abd")[0], (*x.shape[:2], n))


OPERATORS: tuple[Operator, ...] = (
    unary, unary, unary, positive, rounding, clip, binary, binary, binary, divide, power, prelu, where, cast, variadic,
    softmax, reduce, reduce, arg_extreme, top_k, cumulative, reshape, reshape, flatten, squeeze, transpose, transpose,
    cut, cut, concat, concat, split, gather, expand, pad, depth_space, matmul, matmul, product, gemm, gemm, normalize,
    normalize, convolve, convolve, convolve, convolve, deconvolve, pool, pool, pool, global_pool, resize, resize,
    einsum,
)  # fmt: skip
