"""The rows of `opset_cases`: operator, first and last opset of this way to write it, inputs, attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from opset_cases import Held, f, ints, one, positive

NOW = 21
I64, I32, BOOL = np.int64, np.int32, np.bool_
Row = Callable[..., None]


def fill(row: Row) -> None:
    """Adds every row."""
    _elementwise(row)
    _normalization(row)
    _windows(row)
    _shapes(row)
    _indices(row)
    _resize(row)
    _rest(row)


def _elementwise(row: Row) -> None:
    x, y, flags = f(2, 3, 4), f(2, 3, 4) + 1, f(2, 3) > 0
    for op in ("Abs", "Ceil", "Erf", "Exp", "Floor", "Identity", "LeakyRelu", "Neg", "Reciprocal", "Relu", "Sigmoid",
               "Sign", "Tanh"):  # fmt: skip
        row(op, 7, NOW, x)
    for op in ("Log", "Sqrt"):
        row(op, 7, NOW, positive(2, 3))
    for op in ("Abs", "Neg", "Sign"):
        row(op, 13, NOW, np.int32([-3, 0, 5]), note="int32")
    row("Relu", 14, NOW, np.int32([-3, 0, 5]), note="int32")
    row("LeakyRelu", 7, NOW, x, alpha=0.3)
    for op in ("Add", "Sub", "Mul", "Div"):
        row(op, 7, NOW, x, Held(y))
        row(op, 7, NOW, x, f(3, 1), note="broadcast")
        row(op, 7, NOW, np.int32([-7, 8, 9]), np.int32([2, -3, 4]), note="int32")
        row(op, 14, NOW, np.uint8([7, 8, 9]), np.uint8([2, 3, 4]), note="uint8")
    for op in ("Max", "Min", "Sum", "Mean"):
        row(op, 7, NOW, x, y, x * y)
        row(op, 8, NOW, x, f(3, 1), note="broadcast")
    for op in ("Max", "Min"):
        row(op, 12, NOW, np.int32([-7, 8, 9]), np.int32([2, -3, 40]), note="int32")
    for op in ("Greater", "Less"):
        row(op, 7, NOW, x, y * 0.5)
        row(op, 9, NOW, np.int32([1, 2, 3]), np.int32([2, 2, 2]), note="int32")
    for op in ("GreaterOrEqual", "LessOrEqual"):
        row(op, 12, NOW, x, np.round(x))
    row("Equal", 7, NOW, np.int32([1, 2, 3]), np.int32([2, 2, 2]))
    row("Equal", 11, NOW, np.float32([1, 2, 3]), np.float32([2, 2, 2]))
    row("Pow", 7, NOW, positive(2, 3), one(2.5))
    row("Pow", 12, NOW, np.int32([1, -2, 3]), one(3, I32), note="int32")
    row("Pow", 12, NOW, np.float32([1, -2, 3]), one(3, I64), note="exponent int64")
    row("Mod", 10, NOW, np.int32([-7, 8, 9, -5]), np.int32([3, -3, 4, -5]))
    row("Mod", 10, NOW, np.int32([-7, 8, 9, -5]), np.int32([3, -3, 4, -5]), fmod=1)
    row("Mod", 10, NOW, x, y, fmod=1, note="float")
    row("PRelu", 7, NOW, x, Held(f(3, 1)))
    row("PRelu", 9, NOW, x, f(1, 4), note="computed")
    row("Clip", 7, 10, x, min=-0.5, max=1.5)
    row("Clip", 7, 10, x, min=-0.5)
    row("Clip", 7, 10, x)
    row("Clip", 11, NOW, x, one(-0.5), one(1.5))
    row("Clip", 11, NOW, x, None, one(1.5))
    row("Clip", 12, NOW, np.int32([-9, 0, 9]), one(-3, I32), one(4, I32), note="int32")
    row("Where", 9, NOW, flags, f(2, 3), f(1, 3))
    row("IsNaN", 9, NOW, np.float32([1, np.nan, np.inf]))
    row("IsInf", 10, NOW, np.float32([1, np.nan, np.inf, -np.inf]))
    for flags_of in ({"detect_negative": 0}, {"detect_positive": 0}, {"detect_negative": 0, "detect_positive": 0}):
        row("IsInf", 10, NOW, np.float32([1, np.nan, np.inf, -np.inf]), **flags_of)
    for dtype, to in ((np.float32, 6), (np.float32, 7), (np.float32, 9), (I32, 1), (I64, 1), (BOOL, 1), (np.uint8, 6)):
        row("Cast", 7, NOW, np.array([0, 1, 2.7, 200.5]).astype(dtype), to=to, note=f"{np.dtype(dtype)} to {to}")
    row("Dropout", 7, NOW, x)
    row("Dropout", 7, 11, x, ratio=0.3)
    row("Dropout", 12, NOW, x, one(0.3))
    row("Dropout", 12, NOW, x, one(0.3), one(False, BOOL))
    row("Dropout", 10, NOW, x, outputs=2, note="mask")


def _normalization(row: Row) -> None:
    x, four = f(2, 3, 4), f(2, 3, 2, 2)
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        row(op, 7, NOW, x, note="default")
        for axis in (0, 1, 2):
            row(op, 7, NOW, x, axis=axis)
        for axis in (-1, -2, -3):
            row(op, 11, NOW, x, axis=axis)
        row(op, 7, NOW, f(2, 3), note="default of rank 2")
    c = [Held(v) for v in (positive(3), f(3), f(3), positive(3))]
    row("BatchNormalization", 7, NOW, four, *c)
    row("BatchNormalization", 7, NOW, four, *c, epsilon=0.1, momentum=0.5)
    row("BatchNormalization", 7, 8, four, *c, spatial=1)
    row("InstanceNormalization", 7, NOW, four, Held(f(3)), Held(f(3)))
    row("GroupNormalization", 18, 20, f(2, 6, 3, 2), Held(f(3)), Held(f(3)), num_groups=3)
    row("GroupNormalization", 18, 20, f(2, 6, 3), f(2), f(2), num_groups=2, epsilon=0.1)
    row("GroupNormalization", 21, NOW, f(2, 6, 3, 2), Held(f(6)), Held(f(6)), num_groups=3)
    row("LRN", 7, NOW, f(2, 5, 2, 2), size=3, alpha=0.5, beta=0.6, bias=1.5)
    row("MeanVarianceNormalization", 9, NOW, four)
    row("MeanVarianceNormalization", 9, NOW, four, axes=[0, 1])


def _windows(row: Row) -> None:
    x = f(1, 3, 7, 6)
    row("Conv", 7, NOW, x, Held(f(4, 3, 3, 3)), Held(f(4)), pads=[1, 0, 1, 2], strides=[2, 1])
    row("Conv", 7, NOW, x, Held(f(4, 3, 3, 3)), note="no attributes")
    row("Conv", 7, NOW, x, Held(f(4, 3, 3, 3)), auto_pad="SAME_LOWER", strides=[2, 2])
    row("ConvTranspose", 7, NOW, x, Held(f(3, 2, 3, 3)), Held(f(2)), strides=[2, 2], output_padding=[1, 0])
    row("ConvTranspose", 7, NOW, x, Held(f(3, 2, 3, 3)), strides=[2, 2], output_shape=[14, 12])
    row("ConvTranspose", 7, NOW, x, Held(f(3, 2, 3, 3)), strides=[2, 2], auto_pad="SAME_UPPER")
    window = dict(kernel_shape=[3, 3], strides=[2, 2])
    for op in ("AveragePool", "MaxPool"):
        row(op, 7, NOW, x, kernel_shape=[3, 2])
        row(op, 7, NOW, x, **window, pads=[1, 1, 0, 1])
        row(op, 7, NOW, x, **window, auto_pad="SAME_UPPER")
        row(op, 7, NOW, x, **window, auto_pad="SAME_LOWER")
        row(op, 7, NOW, x, **window, auto_pad="VALID")
        row(op, 10, NOW, x, **window, ceil_mode=1)
        row(op, 10, NOW, x, **window, pads=[1, 0, 1, 1], ceil_mode=1)
    row("AveragePool", 7, NOW, x, **window, pads=[1, 1, 1, 1], count_include_pad=1)
    row("AveragePool", 10, NOW, x, **window, pads=[1, 1, 1, 1], count_include_pad=1, ceil_mode=1)
    row("AveragePool", 19, NOW, x, kernel_shape=[2, 3], dilations=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    row("MaxPool", 10, NOW, x, kernel_shape=[2, 3], dilations=[2, 2], pads=[1, 1, 1, 1])
    row("MaxPool", 8, NOW, x, **window, outputs=2, note="indices")
    row("LpPool", 7, NOW, x, **window)
    row("LpPool", 7, NOW, x, **window, p=1, pads=[1, 0, 1, 1])
    row("LpPool", 11, NOW, x, **window, p=3, auto_pad="SAME_UPPER")
    row("LpPool", 18, NOW, x, **window, ceil_mode=1)
    row("LpPool", 18, NOW, x, kernel_shape=[2, 3], dilations=[2, 2], pads=[1, 1, 1, 1])
    index = np.arange(4, dtype=I64).reshape(1, 1, 2, 2) * 5 % 16
    row("MaxUnpool", 9, NOW, f(1, 1, 2, 2), Held(index), kernel_shape=[2, 2], strides=[2, 2])


def _shapes(row: Row) -> None:
    x = f(2, 3, 4)
    row("Concat", 7, NOW, x, f(2, 1, 4), axis=1)
    row("Concat", 11, NOW, x, f(2, 3, 1), axis=-1)
    row("Flatten", 7, NOW, x)
    row("Flatten", 7, NOW, x, axis=2)
    row("Flatten", 7, NOW, x, axis=0)
    row("Flatten", 11, NOW, x, axis=-1)
    row("Reshape", 7, NOW, x, ints(0, -1, 2))

    row("Transpose", 7, NOW, x)
    row("Transpose", 7, NOW, x, perm=[1, 0, 2])
    row("Squeeze", 7, 10, f(1, 3, 1, 2))
    row("Squeeze", 7, 12, f(1, 3, 1, 2), axes=[2])
    row("Squeeze", 11, 12, f(1, 3, 1, 2), axes=[-2])
    row("Squeeze", 13, NOW, f(1, 3, 1, 2), ints(0, -2))
    row("Squeeze", 13, NOW, f(1, 3, 1, 2))
    row("Unsqueeze", 7, 12, x, axes=[0, 3])
    row("Unsqueeze", 11, 12, x, axes=[-1])
    row("Unsqueeze", 13, NOW, x, ints(-1, 1))
    row("Split", 7, 12, f(2, 6), axis=1, split=[1, 5], outputs=2)
    row("Split", 7, 12, f(4, 6), outputs=2)
    row("Split", 11, 12, f(2, 6), axis=-1, split=[1, 5], outputs=2)
    row("Split", 13, NOW, f(2, 6), ints(1, 5), axis=-1, outputs=2)
    row("Split", 13, 17, f(2, 6), axis=1, outputs=3)
    row("Split", 18, NOW, f(2, 7), axis=1, num_outputs=3, outputs=3)
    row("Slice", 7, 9, f(5, 6), axes=[0, 1], starts=[1, -4], ends=[4, -1])
    row("Slice", 7, 9, f(5, 6), starts=[1], ends=[1000])
    row("Slice", 10, NOW, f(5, 6), ints(1, -1), ints(4, -100), ints(0, 1), ints(2, -2))
    row("Slice", 10, NOW, f(5, 6), ints(1), ints(1000))
    row("Slice", 11, NOW, f(5, 6), ints(1), ints(-1), ints(-1))
    row("Tile", 7, NOW, x, ints(1, 2, 3))
    row("Expand", 8, NOW, f(3, 1), ints(2, 1, 4))
    row("Shape", 7, NOW, x)
    row("Shape", 15, NOW, x, start=-2)
    row("Size", 7, NOW, x)
    row("Constant", 7, NOW, value=f(2, 3))
    row("Constant", 12, NOW, value_floats=[1.0, 2.0])
    row("Constant", 12, NOW, value_int=3)
    row("ConstantOfShape", 9, NOW, ints(2, 3))
    row("ConstantOfShape", 9, NOW, ints(2), value=np.int32([7]))
    row("DepthToSpace", 7, NOW, f(1, 8, 2, 3), blocksize=2)
    row("DepthToSpace", 11, NOW, f(1, 8, 2, 3), blocksize=2, mode="CRD")
    row("SpaceToDepth", 7, NOW, f(1, 2, 4, 6), blocksize=2)
    for mode in ("constant", "reflect", "edge"):
        row("Pad", 7, 10, f(3, 4), pads=[1, 0, 2, 1], mode=mode)
        row("Pad", 11, NOW, f(3, 4), ints(1, 0, 2, 1), mode=mode)
    row("Pad", 7, 10, f(3, 4), pads=[1, 0, 2, 1], value=1.5)
    row("Pad", 7, 10, f(3, 4), pads=[1, -1, 2, 0])
    row("Pad", 11, NOW, f(3, 4), ints(1, -1, 2, 0), one(1.5))
    row("Pad", 18, NOW, f(3, 4), ints(2, 1), one(1.5), ints(1))
    row("Pad", 19, NOW, f(3, 4), ints(2, 1, 1, 2), mode="wrap")
    row("ReverseSequence", 10, NOW, f(4, 2, 3), Held(np.int64([1, 4])))


def _indices(row: Row) -> None:
    x = f(3, 4)
    for op in ("ArgMax", "ArgMin"):
        ties = np.float32([[1, 2, 2], [0, 0, 3]])
        row(op, 7, NOW, ties)
        row(op, 7, NOW, ties, axis=1, keepdims=0)
        row(op, 11, NOW, ties, axis=-1)
        row(op, 12, NOW, ties, axis=1, select_last_index=1)
    row("Gather", 7, NOW, x, Held(np.int64([[2, 0]])))
    row("Gather", 7, NOW, x, np.int64([3, 1]), axis=1)
    row("Gather", 11, NOW, x, Held(np.int64([-1, 0])), axis=-1)
    row("GatherElements", 11, NOW, x, Held(np.int64([[0, -1], [1, 2]])), axis=1)
    row("GatherND", 11, NOW, x, Held(np.int64([[0, 1], [2, 3]])))
    row("GatherND", 12, NOW, f(2, 3, 4), Held(np.int64([[0], [2]])), batch_dims=1)
    row("Scatter", 9, 10, x, Held(np.int64([[0, 2]])), f(1, 2), axis=1)
    for op in ("Scatter", "ScatterElements"):
        row(
            op, 9 if op == "Scatter" else 11, 10 if op == "Scatter" else NOW, x, Held(np.int64([[1, 2, 0, 1]])), f(1, 4)
        )
    row("ScatterElements", 16, NOW, x, Held(np.int64([[1, 1]])), f(1, 2), axis=1, reduction="add")
    row("ScatterElements", 18, NOW, x, Held(np.int64([[1, 1]])), f(1, 2), axis=1, reduction="max")
    row("ScatterND", 11, NOW, x, Held(np.int64([[2], [0]])), f(2, 4))
    row("ScatterND", 16, NOW, x, Held(np.int64([[2], [2]])), f(2, 4), reduction="add")
    row("ScatterND", 18, NOW, x, Held(np.int64([[2], [2]])), f(2, 4), reduction="min")
    row("OneHot", 9, NOW, np.int64([1, 0, 2]), one(3, I64), Held(np.float32([0, 1])))
    row("OneHot", 11, NOW, np.int64([1, -1, 2]), one(3, I64), Held(np.float32([5, 2])), axis=0)
    row("TopK", 7, 9, x, axis=1, k=2, outputs=2)
    row("TopK", 7, 9, x, k=3, outputs=2)
    row("TopK", 10, NOW, x, ints(2), axis=1, outputs=2)
    row("TopK", 11, NOW, x, ints(2), axis=0, largest=0, outputs=2)
    row("NonZero", 9, NOW, Held(x > 0))
    row("Compress", 9, NOW, x, Held(np.array([True, False, True])), axis=0)
    boxes = np.float32([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 2, 1, 3]]])
    row("NonMaxSuppression", 10, NOW, Held(boxes), Held(np.float32([[[0.9, 0.8, 0.7]]])), ints(3), one(0.5))
    row("CumSum", 11, NOW, x, one(1, I64))
    row("CumSum", 11, NOW, x, one(0, I32), exclusive=1, reverse=1)
    row("BitShift", 11, NOW, np.uint8([1, 8, 200]), np.uint8([1, 2, 1]), direction="LEFT")
    row("Range", 11, NOW, one(1.0), one(4.0), one(0.5))
    row("EyeLike", 9, NOW, x, k=1)
    row("Unique", 11, NOW, Held(np.float32([2, 1, 1])))


def _resize(row: Row) -> None:
    x, whole, part = f(1, 2, 3, 4), Held(np.float32([1, 1, 2, 2])), Held(np.float32([1, 1, 1.7, 2.3]))
    down, none = Held(np.float32([1, 1, 0.6, 0.5])), Held(np.zeros(0, np.float32))
    for mode in ("nearest", "linear"):
        row("Upsample", 7, 8, x, mode=mode, scales=[1.0, 1.0, 2.0, 3.0])
        row("Upsample", 7, 8, x, mode=mode, scales=[1.0, 1.0, 1.7, 2.3])
        row("Upsample", 9, 9, x, part, mode=mode)
        row("Upsample", 9, 9, x, whole, mode=mode)
        for note, scales in (("2", whole), ("1.7", part), ("0.6", down)):
            row("Resize", 10, 10, x, scales, mode=mode, note=f"{mode} {note}")
            row("Resize", 11, NOW, x, none, scales, mode=mode, note=f"{mode} {note}")
    row("Resize", 10, 10, x, whole, note="default")
    row("Resize", 13, NOW, x, None, None, ints(1, 2, 5, 7), mode="linear")
    row("Resize", 11, 12, x, none, none, ints(1, 2, 5, 7), mode="linear")


def _rest(row: Row) -> None:
    x = f(3, 4)
    for op in ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
               "ReduceSum", "ReduceSumSquare", "ReduceLogSum"):  # fmt: skip
        data = positive(2, 3, 4)
        inputs = 12 if op == "ReduceSum" else 17
        row(op, 7, NOW, data)
        row(op, 7, inputs, data, axes=[1], keepdims=0)
        row(op, 11, inputs, data, axes=[-1, 0])
        row(op, inputs + 1, NOW, data, ints(-2), keepdims=0)
        signed = data if op == "ReduceLogSum" else -data
        row(op, inputs + 1, NOW, signed, note="noop", noop_with_empty_axes=1)
        row(op, inputs + 1, NOW, data, ints(), note="empty axes", noop_with_empty_axes=1)
        row(op, inputs + 1, NOW, data, ints(), note="empty axes, all")
    row("ReduceMax", 20, NOW, np.array([[True, False], [False, False]]), ints(1), note="bool")
    row("Gemm", 7, NOW, x, Held(f(4, 5)), Held(f(5)))
    row("Gemm", 7, NOW, x, Held(f(5, 3)), Held(f(4, 1)), transA=1, transB=1, alpha=0.5, beta=2.0)
    row("Gemm", 11, NOW, x, f(4, 5), note="no C")
    row("MatMul", 7, NOW, f(2, 3, 4), f(4, 5))
    row("MatMul", 7, NOW, f(2, 3, 4), Held(f(2, 4, 1)))
    weights: dict[str, Any] = dict(hidden_size=2)
    for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        w, r, b = (Held(f(1, gates * 2, n, scale=0.5)) for n in (3, 2, 4))
        bias = Held(b.array[..., :1].repeat(2, 0).reshape(1, -1))
        outputs = 3 if op == "LSTM" else 2
        row(op, 7, NOW, f(4, 2, 3), w, r, bias, outputs=outputs, **weights)
        row(op, 14, NOW, f(2, 4, 3), w, r, bias, outputs=outputs, **weights, layout=1)
    s, zero = one(0.05), one(128, np.uint8)
    row("QuantizeLinear", 10, NOW, f(2, 3), s, zero)
    row("QuantizeLinear", 10, NOW, f(2, 3), s)
    row("QuantizeLinear", 13, NOW, f(2, 3), Held(np.float32([0.05, 0.1])), Held(np.int8([1, -2])), axis=0)
    row("DequantizeLinear", 10, NOW, np.uint8([[0, 130, 255]]), s, zero)
    row("DequantizeLinear", 10, NOW, np.uint8([[0, 130, 255]]), s)
    row("DequantizeLinear", 13, NOW, np.int8([[0, -130 + 256 - 128, 5]]), Held(np.float32([0.05])), axis=0)
    q = np.uint8([[120, 200], [7, 130]])
    row("QLinearMatMul", 10, NOW, q, s, zero, Held(q[::-1].copy()), s, zero, one(0.4), zero)
    row("DFT", 17, 19, f(2, 6, 1), axis=1)
    row("DFT", 17, 19, f(2, 6, 3, 1), note="default axis")
    row("DFT", 17, 19, f(2, 6, 1), ints_scalar(4), onesided=1)
    row("DFT", 20, NOW, f(2, 6, 3, 1), note="default axis")
    grid = f(1, 2, 3, 2, scale=0.5)
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding in ("zeros", "border", "reflection"):
            row("GridSample", 16, 19, f(1, 2, 4, 5), grid, mode=mode, padding_mode=padding)
    row("GridSample", 20, NOW, f(1, 2, 4, 5), grid, mode="linear", align_corners=1)
    rois = Held(np.float32([[0.5, 0.5, 3.2, 2.9], [0, 1, 4, 4]]))
    batch = Held(np.int64([0, 0]))
    row("RoiAlign", 10, NOW, f(1, 2, 5, 5), rois, batch, output_height=2, output_width=2, sampling_ratio=2)
    row("RoiAlign", 10, NOW, f(1, 2, 5, 5), rois, batch, output_height=2, output_width=2, mode="max")
    for where in ("half_pixel", "output_half_pixel"):
        half = dict(spatial_scale=0.7, coordinate_transformation_mode=where, sampling_ratio=2)
        row("RoiAlign", 16, NOW, f(1, 2, 5, 5), rois, batch, output_height=2, output_width=3, **half)
    row("Einsum", 12, NOW, f(2, 3), f(3, 4), equation="ij,jk->ik")


def ints_scalar(value: int) -> Held:
    return Held(np.array(value, I64))
