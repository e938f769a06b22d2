"""Removes operators that do nothing and brings others to a canonical form."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from .edit import Editor, attr_ints, constant, dims, is_float, scalar

FLOAT_MAX = float(np.finfo(np.float32).max)
_CLAMPS = ("Relu", "Clip", "Max", "Min")
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_ABSORBS = ("Conv", "Gemm", "MatMul", "Add", "Mul", "BatchNormalization")


def simplify(editor: Editor) -> None:
    """One pass of every rule below over the graph."""
    for node in editor.nodes():
        if node.graph is None or node.domain:
            continue
        _drop_if_nothing(editor, node)
        if node.graph is not None:
            _arithmetic(editor, node)
        if node.graph is not None and node.op_type in _CLAMPS:
            _clamp(editor, node)
        if node.graph is not None and node.op_type == "MaxPool":
            _clamp_before_pool(editor, node)


def _drop_if_nothing(editor: Editor, node: ir.Node) -> None:
    if not node.inputs or node.inputs[0] is None:
        return
    source, output = node.inputs[0], node.outputs[0]
    op = node.op_type
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return
    same = dims(source) is not None and dims(source) == dims(output)
    nothing = False
    if op == "Concat":
        _join_what_holds_elements(editor, node)
    if op in ("Identity", "Dropout"):
        nothing = True
    elif op in ("Concat", "Sum", "Max", "Min", "Mean"):
        nothing = len(node.inputs) == 1
    elif op == "Cast":
        nothing = source.dtype is not None and source.dtype == node.attributes["to"].as_int()
    elif op in (*_RESHAPES, "Expand", "Tile"):
        nothing = same
        if not nothing and op in _RESHAPES:
            _merge_reshapes(editor, node)
            return
    elif op == "Transpose":
        shape = dims(source)
        perm = attr_ints(node, "perm") or (tuple(reversed(range(len(shape)))) if shape is not None else ())
        nothing = same and shape is not None and _keeps_order(perm, shape)
        if not nothing:
            _merge_transposes(editor, node, perm)
            return
    elif op == "Slice":
        steps = constant(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
        nothing = same and steps is not None and bool((steps > 0).all())
    elif op == "Pad":
        pads = constant(node.inputs[1])
        nothing = pads is not None and not pads.any()
    elif op in ("MaxPool", "AveragePool"):
        kernel, strides, pads_ = (attr_ints(node, a) for a in ("kernel_shape", "strides", "pads"))
        nothing = same and set(kernel or ()) == {1} and set(strides or (1,)) == {1} and not any(pads_ or ())
    if nothing:
        editor.forward(output, source)


def _join_what_holds_elements(editor: Editor, node: ir.Node) -> None:
    kept = [value for value in node.inputs if 0 not in (dims(value) or ())]
    if kept and len(kept) < len(node.inputs):
        for index, value in enumerate(kept):
            editor.set_input(node, index, value)
        node.resize_inputs(len(kept))
        editor.changed += 1


def _merge_reshapes(editor: Editor, node: ir.Node) -> None:
    """Two in a row, or one behind a Transpose that moves only axes of size 1, become one Reshape."""
    source, result = node.inputs[0], dims(node.outputs[0])
    first = source.producer() if source is not None else None
    if source is None or first is None or first.domain or result is None:
        return
    shape = dims(first.inputs[0])
    moved = first.op_type == "Transpose" and shape is not None and _keeps_order(attr_ints(first, "perm"), shape)
    if first.op_type not in _RESHAPES and not moved:
        return
    if editor.sole_consumer(source) is not node:
        return
    target = editor.initializer(np.array(result, np.int64), f"{node.name}_shape")
    new = editor.node("Reshape", [first.inputs[0], target], node, shape=result)
    new.type = node.outputs[0].type
    editor.forward(node.outputs[0], new)


def _keeps_order(perm: tuple[int, ...] | None, shape: tuple[int, ...]) -> bool:
    """Whether a permutation leaves the elements in their order in memory."""
    perm = perm or tuple(reversed(range(len(shape))))
    kept = [p for p in perm if shape[p] != 1]
    return kept == sorted(kept)


def _merge_transposes(editor: Editor, node: ir.Node, perm: tuple[int, ...]) -> None:
    first = node.inputs[0].producer() if node.inputs[0] is not None else None
    if first is None or first.op_type != "Transpose" or first.domain:
        return
    earlier = attr_ints(first, "perm") or tuple(reversed(range(len(perm))))
    if len(earlier) != len(perm) or editor.sole_consumer(first.outputs[0]) is not node:
        return
    editor.set_attributes(node, perm=tuple(earlier[p] for p in perm))
    editor.set_input(node, 0, first.inputs[0])


def _arithmetic(editor: Editor, node: ir.Node) -> None:
    """x - c to x + (-c), x / c to x * (1 / c), constants second, n-ary Sum to Add, powers to products."""
    op, output = node.op_type, node.outputs[0]
    if not is_float(output):
        return
    shape = dims(output)
    if op == "Sum" and len(node.inputs) >= 2:
        total = node.inputs[0]
        for i, term in enumerate(node.inputs[1:], start=1):
            last = i == len(node.inputs) - 1
            total = editor.node("Add", [total, term], node, name=None if last else f"{node.name}_{i}")
        assert total is not None
        editor.forward(output, total)
        return
    if op == "Pow":
        _power(editor, node)
        return
    if op == "PRelu":
        slope = scalar(node.inputs[1])
        if slope is not None:
            new = editor.node("LeakyRelu", [node.inputs[0]], node, {"alpha": float(slope)}, shape=shape)
            editor.forward(output, new)
        return
    if op not in ("Add", "Mul", "Sub", "Div"):
        return
    left, right = node.inputs
    if op in ("Add", "Mul") and constant(left) is not None and constant(right) is None:
        editor.set_input(node, 0, right)
        editor.set_input(node, 1, left)
        left, right = right, left
    array = constant(right)
    if array is None or left is None:
        return
    if op in ("Sub", "Div"):
        with np.errstate(all="ignore"):
            other = -array if op == "Sub" else (1.0 / array.astype(np.float64)).astype(np.float32)
        if np.isfinite(other).all():
            value = editor.initializer(other.astype(np.float32), f"{node.name}_constant")
            new = editor.node("Add" if op == "Sub" else "Mul", [left, value], node, shape=shape)
            editor.forward(output, new)
        return
    neutral = 0.0 if op == "Add" else 1.0
    if shape is not None and dims(left) == shape and bool((array == neutral).all()):
        editor.forward(output, left)


def _power(editor: Editor, node: ir.Node) -> None:
    exponent, base, output = scalar(node.inputs[1]), node.inputs[0], node.outputs[0]
    if not is_float(base) or base is None or dims(base) != dims(output):
        return
    if exponent == 1.0:
        editor.forward(output, base)
    elif exponent == 2.0:
        editor.forward(output, editor.node("Mul", [base, base], node, shape=dims(output)))
    elif exponent == 0.5:
        editor.forward(output, editor.node("Sqrt", [base], node, shape=dims(output)))


def bounds(node: ir.Node | None) -> tuple[float, float] | None:
    """The bounds of a clamp with constants: Relu, Clip, or Max/Min of a tensor and a number."""
    if node is None or node.domain or not is_float(node.outputs[0]):
        return None
    op = node.op_type
    if op == "Relu":
        return 0.0, math.inf
    if op == "Clip":
        low, high = -math.inf, math.inf
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            value = scalar(node.inputs[1])
            if value is None:
                return None
            low = value
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            value = scalar(node.inputs[2])
            if value is None:
                return None
            high = value
        # Exporters write the largest number if there is no bound.
        return -math.inf if low <= -FLOAT_MAX else low, math.inf if high >= FLOAT_MAX else high
    if op in ("Max", "Min") and len(node.inputs) == 2 and dims(node.inputs[_fed(node)]) == dims(node.outputs[0]):
        value = scalar(node.inputs[1 - _fed(node)])
        if value is not None and np.isfinite(value):
            return (value, math.inf) if op == "Max" else (-math.inf, value)
    return None


def _fed(node: ir.Node) -> int:
    """The input, of two, that is not constant."""
    return 1 if constant(node.inputs[0]) is not None else 0


def _clamp(editor: Editor, node: ir.Node) -> None:
    """Turns a clamp into Relu or a Clip with both bounds, and merges two in a row."""
    limits = bounds(node)
    if limits is None:
        return
    low, high = limits
    source = node.inputs[_fed(node) if node.op_type in ("Max", "Min") else 0]
    assert source is not None
    before = source.producer()
    inner = bounds(before)
    ordered = inner is not None and low <= high and inner[0] <= inner[1]
    if ordered and inner is not None and before is not None and editor.sole_consumer(source) is node:
        # clip(clip(x, a, b), c, d) is a clip to [clip(a, c, d), clip(b, c, d)].
        low, high = (min(max(b, low), high) for b in inner)
        source = before.inputs[_fed(before) if before.op_type in ("Max", "Min") else 0]
        assert source is not None
    if (low, high) == (-math.inf, math.inf):
        editor.forward(node.outputs[0], source)
        return
    op = "Relu" if (low, high) == (0.0, math.inf) else "Clip"
    if op == node.op_type and source is node.inputs[0] and (op == "Relu" or _written(node, low, high)):
        return
    inputs: list[ir.Value | None] = [source]
    if op == "Clip":
        inputs += [
            editor.initializer(np.array(b, np.float32), f"{node.name}_{n}") for b, n in ((low, "min"), (high, "max"))
        ]
    editor.forward(node.outputs[0], editor.node(op, inputs, node, shape=dims(node.outputs[0])))


def _written(node: ir.Node, low: float, high: float) -> bool:
    """Whether a Clip already has both bounds as scalars."""
    held = [constant(v) for v in node.inputs[1:]]
    return [None if b is None or b.ndim else float(b) for b in held] == [low, high]


def _clamp_before_pool(editor: Editor, node: ir.Node) -> None:
    """max_pool then clamp is clamp then max_pool; before the pool, the clamp joins the layer that feeds it."""
    source = node.inputs[0]
    clamp = editor.sole_consumer(node.outputs[0])
    if source is None or clamp is None or clamp.op_type not in ("Relu", "Clip") or bounds(clamp) is None:
        return
    feeder = source.producer()
    if feeder is None or feeder.op_type not in _ABSORBS or editor.sole_consumer(source) is not node:
        return
    name, op, limits = clamp.name, clamp.op_type, list(clamp.inputs[1:])
    editor.forward(clamp.outputs[0], node.outputs[0])
    moved = editor.node(op, [source, *limits], node, name=f"{name}_early", shape=dims(source))
    editor.set_input(node, 0, moved)
