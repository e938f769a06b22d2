"""Recognises functions that exporters write out as many elementwise operators.

A cone of elementwise operators from one tensor back to another computes *some* function of one number. It is
evaluated on a grid and compared with the functions that ONNX has an operator for, so that every way to write GELU
is found, and nothing that merely looks like it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import onnx_ir as ir

from .edit import Editor, attr_float, constant, dims, is_float, scalar

Array = np.ndarray
_MAX_NODES = 16
# Dense where activations usually are, sparse far out, where a clamp would show.
_GRID: Array = np.concatenate([np.linspace(-12.0, 12.0, 1999), np.linspace(-200.0, 200.0, 101)])
# Exporters round constants such as sqrt(2 / pi) to float32 or eight digits.
_TOLERANCE = 2e-6


def _erf(x: Array) -> Array:
    from math import erf

    return np.vectorize(erf, otypes=[np.float64])(x)


_UNARY: dict[str, Callable[[Array], Array]] = {
    "Tanh": np.tanh, "Erf": _erf, "Exp": np.exp, "Abs": np.abs, "Neg": np.negative, "Sqrt": np.sqrt,
    "Reciprocal": lambda x: 1.0 / x, "Relu": lambda x: np.maximum(x, 0.0),
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)), "Softplus": lambda x: np.logaddexp(0.0, x),
}  # fmt: skip
_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power,
    "Max": np.maximum, "Min": np.minimum,
}  # fmt: skip


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.clip(alpha * x + beta, 0.0, 1.0)


# name -> (operator, attributes, function); GELU: Hendrycks and Gimpel 2016, hard-swish: Howard et al. 2019.
_KNOWN: tuple[tuple[str, dict[str, object], Array], ...] = (
    ("Gelu", {"approximate": "none"}, 0.5 * _GRID * (1.0 + _erf(_GRID / sqrt(2.0)))),
    (
        "Gelu",
        {"approximate": "tanh"},
        0.5 * _GRID * (1.0 + np.tanh(sqrt(2.0 / np.pi) * (_GRID + 0.044715 * _GRID**3))),
    ),
    ("HardSwish", {}, _GRID * _hard_sigmoid(_GRID, 1.0 / 6.0, 0.5)),
    ("HardSigmoid", {"alpha": 1.0 / 6.0, "beta": 0.5}, _hard_sigmoid(_GRID, 1.0 / 6.0, 0.5)),
    ("Mish", {}, _GRID * np.tanh(np.logaddexp(0.0, _GRID))),
)


def recognise(editor: Editor) -> None:
    """One pass over the graph: activation functions, then layer normalizations."""
    for node in reversed(editor.nodes("Mul", "Div", "Clip")):
        if node.graph is not None:
            _activation(editor, node)
    for node in editor.nodes("Div", "Mul"):
        if node.graph is not None:
            _layer_norm(editor, node)


def _activation(editor: Editor, last: ir.Node) -> None:
    output = last.outputs[0]
    shape = dims(output)
    if not is_float(output) or shape is None:
        return
    for source, inside in _cones(editor, last):
        if dims(source) != shape:
            continue
        with np.errstate(all="ignore"):
            values = _run(output, source, {}, inside)
        if values is None or not np.isfinite(values).all():
            continue
        for op, attributes, wanted in _KNOWN:
            if np.all(np.abs(values - wanted) <= _TOLERANCE * (1.0 + np.abs(wanted))):
                editor.forward(output, editor.node(op, [source], last, attributes, shape=shape))
                return


def _cones(editor: Editor, last: ir.Node) -> list[tuple[ir.Value, set[ir.Node]]]:
    """Every (x, nodes) such that ``last`` is a function of x alone, elementwise, through those nodes.

    Nothing outside may read what the nodes compute in between.
    """
    found: list[tuple[ir.Value, set[ir.Node]]] = []
    inside: set[ir.Node] = set()
    frontier: set[ir.Value] = {last.outputs[0]}
    order = {n: i for i, n in enumerate(_ancestors(last))}
    while len(inside) < _MAX_NODES:
        # Add the latest node first: then all readers of its result are already inside.
        candidates = [v for v in frontier if _elementwise(v.producer()) and v.producer() in order]
        if not candidates:
            break
        value = min(candidates, key=lambda v: order[v.producer()])  # type: ignore[index]
        node = value.producer()
        assert node is not None
        if node is not last and (value.is_graph_output() or any(u.node not in inside for u in value.uses())):
            break
        inside.add(node)
        frontier.discard(value)
        frontier |= {v for v in node.inputs if v is not None and scalar(v) is None}
        if len(frontier) == 1 and len(inside) > 1:
            found.append((next(iter(frontier)), set(inside)))
    return found


def _ancestors(last: ir.Node) -> list[ir.Node]:
    """The nodes a few steps back from ``last``, each behind all of its readers among them."""
    near: set[ir.Node] = {last}
    layer = [last]
    for _ in range(_MAX_NODES):
        layer = [
            p for n in layer for v in n.inputs
            if v is not None and (p := v.producer()) is not None and p not in near and _elementwise(p)
        ]  # fmt: skip
        near.update(layer)
    ordered: list[ir.Node] = []
    done: set[ir.Node] = set()

    def visit(node: ir.Node) -> None:
        if node in done:
            return
        done.add(node)
        for user, _ in node.outputs[0].uses():
            if user in near:
                visit(user)
        ordered.append(node)

    for node in near:
        visit(node)
    return ordered


def _elementwise(node: ir.Node | None) -> bool:
    if node is None or node.domain or len(node.outputs) != 1 or not is_float(node.outputs[0]):
        return False
    op = node.op_type
    if op in _UNARY:
        return True
    if op in ("Clip", "HardSigmoid"):
        return all(v is None or scalar(v) is not None for v in node.inputs[1:])
    return op in _BINARY and len(node.inputs) == 2


def _run(value: ir.Value, source: ir.Value, done: dict[ir.Value, Array], inside: set[ir.Node]) -> Array | None:
    """The function from ``source`` to ``value`` on the grid, in float64."""
    if value is source:
        return _GRID
    if value in done:
        return done[value]
    number = scalar(value)
    if number is not None:
        return np.full_like(_GRID, number)
    node = value.producer()
    if node is None or node not in inside:
        return None
    if node.op_type == "Clip":
        first = node.inputs[0]
        inner = None if first is None else _run(first, source, done, inside)
        low, high = (scalar(v) if v is not None else None for v in (*node.inputs[1:3], None, None)[:2])
        result = None if inner is None else np.clip(inner, low, high)
    else:
        inputs = [None if v is None else _run(v, source, done, inside) for v in node.inputs]
        if any(x is None for x in inputs):
            return None
        if node.op_type == "HardSigmoid":
            result = _hard_sigmoid(inputs[0], attr_float(node, "alpha", 0.2), attr_float(node, "beta", 0.5))  # type: ignore[arg-type]
        elif node.op_type in _UNARY:
            result = _UNARY[node.op_type](inputs[0])  # type: ignore[arg-type]
        else:
            result = _BINARY[node.op_type](inputs[0], inputs[1])  # type: ignore[arg-type]
    if result is not None:
        done[value] = result
    return result


def _layer_norm(editor: Editor, node: ir.Node) -> None:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) [* gamma] [+ beta] over the last axis (Ba et al. 2016)."""
    found = _normalized(node)
    if found is None:
        return
    source, epsilon = found
    shape = dims(source)
    assert shape is not None
    last, gamma, beta = node, None, None
    after = editor.sole_consumer(node.outputs[0])
    if after is not None and after.op_type == "Mul" and after.inputs[0] is node.outputs[0]:
        row = constant(after.inputs[1])
        if row is not None and _is_row(row, shape):
            gamma, last = row, after
            after = editor.sole_consumer(last.outputs[0])
    if after is not None and after.op_type == "Add" and after.inputs[0] is last.outputs[0]:
        row = constant(after.inputs[1])
        if row is not None and _is_row(row, shape):
            beta, last = row, after
    n = shape[-1]
    scale = np.broadcast_to(np.float32(1.0) if gamma is None else gamma.reshape(-1), (n,)).astype(np.float32)
    inputs: list[ir.Value | None] = [source, editor.initializer(scale, f"{last.name}_scale")]
    if beta is not None:
        shift = np.broadcast_to(beta.reshape(-1), (n,)).astype(np.float32)
        inputs.append(editor.initializer(shift, f"{last.name}_bias"))
    new = editor.node("LayerNormalization", inputs, last, {"axis": -1, "epsilon": float(epsilon)}, shape=shape)
    editor.forward(last.outputs[0], new)


def _is_row(array: Array, shape: tuple[int, ...]) -> bool:
    full = (1,) * max(len(shape) - array.ndim, 0) + array.shape
    return len(full) == len(shape) and full[-1] in (1, shape[-1]) and all(d == 1 for d in full[:-1])


def _normalized(node: ir.Node) -> tuple[ir.Value, float] | None:
    """The tensor that ``node`` normalizes over its last axis, and epsilon; None if it does not."""
    centred, deviation = node.inputs
    if node.op_type == "Mul":
        pair = [(a, b) for a, b in ((centred, deviation), (deviation, centred)) if _made_by(b, "Reciprocal")]
        if not pair:
            return None
        centred, inverse = pair[0]
        deviation = inverse.producer().inputs[0]  # type: ignore[union-attr]
    root = _made_by(deviation, "Sqrt")
    total = _made_by(root.inputs[0], "Add") if root is not None else None
    if total is None or centred is None:
        return None
    epsilon, variance = scalar(total.inputs[1]), total.inputs[0]
    if epsilon is None or epsilon <= 0 or variance is None:
        return None
    square = _mean_over_last(variance)
    difference = _made_by(centred, "Sub")
    if square is None or difference is None:
        return None
    source, mean = difference.inputs
    if source is None or mean is None or _mean_over_last(mean) is not source:
        return None
    product = _made_by(square, "Mul")
    if product is not None:
        # Some exporters subtract twice: once for the variance, once for the result.
        if product.inputs[0] is not product.inputs[1] or not _same_difference(product.inputs[0], difference):
            return None
    else:
        power = _made_by(square, "Pow")
        if power is None or scalar(power.inputs[1]) != 2.0 or not _same_difference(power.inputs[0], difference):
            return None
    return source, epsilon


def _same_difference(value: ir.Value | None, difference: ir.Node) -> bool:
    other = _made_by(value, "Sub")
    return other is not None and (other is difference or list(other.inputs) == list(difference.inputs))


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain == "" else None


def _mean_over_last(value: ir.Value) -> ir.Value | None:
    """The tensor whose mean over the last axis (kept) is ``value``."""
    node = _made_by(value, "ReduceMean")
    if node is None or len(node.inputs) < 2:
        return None
    axes, shape = constant(node.inputs[1]), dims(node.inputs[0])
    if axes is None or shape is None or axes.size != 1 or int(axes.reshape(-1)[0]) % len(shape) != len(shape) - 1:
        return None
    return node.inputs[0] if dims(value) == (*shape[:-1], 1) else None


__all__ = ["recognise"]
