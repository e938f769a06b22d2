"""Any standard ONNX operator without a kernel, on any target: TVM's own ONNX frontend and lowering, node by node.

Correct, not fast: TVM's default loops are neither tiled nor packed. A target may cut a function of TVM's into several
kernels (`Cut`), with temporaries between them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from ...errors import UnsupportedOpError
from ...files import hash_bytes
from ...tensor import TensorType
from .calls import NodeView
from .fused import single_body
from .movement import plan_copy
from .plans import Plan

_OPSET = 21
_REMEMBERED = 512

# What TVM's frontend gets wrong, or rejects with an unclear message: operator -> when, and why it is refused.
_REFUSED: Mapping[str, tuple[Callable[[NodeView], bool], str]] = {
    "MaxPool": (
        lambda node: len([o for o in node.outputs if o]) > 1,
        "with the positions of the maxima is not compiled",
    ),
    "RoiAlign": (lambda node: node.attrs.get("mode") == "max", "in the mode 'max' is not compiled"),
}

_LOWERING = (
    relax.transform.DecomposeOpsForInference,
    relax.transform.CanonicalizeBindings,
    relax.backend.DispatchSortScan,
    relax.transform.LegalizeOps,
    relax.transform.AnnotateTIROpPattern,
    relax.transform.FoldConstant,
    relax.transform.FuseOps,
    relax.transform.FuseTIR,
    relax.transform.DeadCodeElimination,
)


@dataclass(frozen=True)
class Fallback:
    """One kernel of TVM's lowering of a node; ``digest`` is the hash of its function's text."""

    op: str
    name: str
    digest: str


@dataclass(frozen=True)
class Kernel:
    """A part of a function of TVM's. Its arguments are ``inputs`` and then ``outputs``: positions among the arguments
    of the function, and behind those, among the temporaries."""

    function: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Kernels:
    """A function of TVM's as kernels that are called one after the other."""

    kernels: tuple[Kernel, ...]
    temporaries: tuple[TensorType, ...] = ()


Cut = Callable[[Any, int], Kernels]
"""Receives a function and the number of its inputs, which stand before its outputs."""


def whole(function: Any, inputs: int) -> Kernels:
    """The function as one kernel."""
    count = len(function.params)
    return Kernels((Kernel(function, tuple(range(inputs)), tuple(range(inputs, count))),))


@dataclass(frozen=True)
class _Call:
    """One call of a lowered node: value numbers or arrays in, value numbers out."""

    params: Fallback
    inputs: tuple[int | np.ndarray, ...]
    outputs: tuple[int, ...]
    types: tuple[TensorType, ...]


@dataclass(frozen=True)
class _Lowered:
    """A lowered node. Values 0 to ``count`` - 1 are its run-time inputs; ``results`` are its outputs."""

    count: int
    calls: tuple[_Call, ...]
    results: tuple[int | np.ndarray, ...]


_functions: dict[str, Any] = {}
_lowered: dict[str, _Lowered] = {}


def function_of(params: Fallback) -> Any:
    """The function that `plan_fallback` found."""
    return _functions[params.digest]


def plan_fallback(node: NodeView, target: str, cut: Cut = whole) -> list[Plan]:
    """The kernels that TVM lowers the node to, with temporaries between them; ``cut`` is that of ``target``.

    Raises UnsupportedOpError for an operator of another domain, or one that TVM does not know either.
    """
    if node.domain not in ("", "ai.onnx"):
        raise UnsupportedOpError(
            f"operator {node.op!r} of domain {node.domain!r} is unknown",
            where=f"node {node.name!r}",
            hint="only standard ONNX operators can be compiled; rewrite the model without it",
        )
    applies, why = _REFUSED.get(node.op, (None, ""))
    if applies is not None and applies(node):
        raise UnsupportedOpError(
            f"operator {node.op!r} {why}",
            where=f"node {node.name!r}",
            hint="export the model with other operators, or take this part out of it",
        )
    names = [name for name in dict.fromkeys(node.inputs) if name]
    given = {name: node.constant(name) for name in names}
    runtime = [name for name in names if given[name] is None]
    known = {name: np.asarray(value) for name, value in given.items() if value is not None}
    key = f"{target}:{_key(node, names, known)}"
    if key not in _lowered:
        if len(_lowered) >= _REMEMBERED:
            _lowered.clear()
        _lowered[key] = _lower(node, runtime, known, cut)
    return _plans(node, runtime, _lowered[key])


def _key(node: NodeView, names: Sequence[str], known: Mapping[str, np.ndarray]) -> str:
    """What the lowering depends on: operator, attributes, types, and the values of constants."""
    number = {name: f"i{i}" for i, name in enumerate(names)}
    wiring = ([number.get(name, "") for name in node.inputs], [bool(name) for name in node.outputs])
    attributes = sorted((name, _text(value)) for name, value in node.attrs.items())
    types = [node.type(name) for name in (*names, *filter(None, node.outputs))]
    arrays = [np.ascontiguousarray(value).tobytes() if name in known else b"" for name, value in known.items()]
    which = [name in known for name in names]
    return hash_bytes(node.op, repr(wiring), repr(attributes), repr(types), repr(which), *arrays)


def _text(value: Any) -> str:
    return value.tobytes().hex() if isinstance(value, np.ndarray) else repr(value)


def _lower(node: NodeView, runtime: Sequence[str], known: Mapping[str, np.ndarray], cut: Cut) -> _Lowered:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = from_onnx(_model(node, runtime, known))
        with tvm.target.Target("llvm"):
            module = tvm.transform.Sequential([make() for make in _LOWERING])(module)
        return _read(node.op, module, cut)
    except UnsupportedOpError as error:
        raise UnsupportedOpError(error.what, where=f"node {node.name!r}", hint=error.hint) from error
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[-1] if lines else type(error).__name__
        if "not supported for frontend" in reason:
            reason = "neither Hago nor TVM has a kernel for it"
        raise UnsupportedOpError(
            f"operator {node.op!r} cannot be compiled: {reason}",
            where=f"node {node.name!r}",
            hint="export the model with other operators, or take this part out of it",
        ) from error


def _model(node: NodeView, runtime: Sequence[str], known: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A model of only this node, with inputs i0, i1 ... and outputs o0, o1 ..."""
    number = {name: f"i{i}" for i, name in enumerate(dict.fromkeys(n for n in node.inputs if n))}
    attrs = {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attrs.items()
    }
    outputs = [f"o{i}" if name else "" for i, name in enumerate(node.outputs)]
    item = helper.make_node(node.op, [number.get(n, "") for n in node.inputs], outputs, "node", **attrs)
    graph = helper.make_graph(
        [item],
        "one",
        [_info(number[name], node.type(name)) for name in runtime],
        [_info(f"o{i}", node.type(name)) for i, name in enumerate(node.outputs) if name],
        [numpy_helper.from_array(np.require(value, requirements="C"), number[name]) for name, value in known.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


def _info(name: str, tensor: TensorType) -> onnx.ValueInfoProto:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(name, code, tensor.shape)


def _read(op: str, module: tvm.IRModule, cut: Cut) -> _Lowered:
    """The bindings of ``main`` as calls. Raises UnsupportedOpError for anything but calls of PrimFuncs."""
    main = module["main"]
    values: dict[Any, Any] = {parameter: i for i, parameter in enumerate(main.params)}
    count = len(values)
    total = count
    calls: list[_Call] = []

    def resolve(expression: Any) -> Any:
        """A value number, an array, or a tuple of them."""
        if isinstance(expression, tvm.ir.GenericConst):
            return expression.value.numpy()
        if isinstance(expression, tvm.ir.Tuple):
            return tuple(resolve(item) for item in expression.fields)
        if isinstance(expression, tvm.ir.TupleGetItem):
            return resolve(expression.tuple_value)[expression.index]
        return values[expression]

    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        value: Any = getattr(binding, "value", None)
        if value is None:
            raise UnsupportedOpError(f"operator {op!r} has shapes known only at run time")
        if not isinstance(value, tvm.ir.Call):
            values[binding.var] = resolve(value)
            continue
        if value.op.name != "relax.call_tir":
            raise UnsupportedOpError(
                f"operator {op!r} needs {value.op.name}, which TVM does not lower to loops",
                hint="export the model with other operators, or take this part out of it",
            )
        function, outputs = module[value.args[0]], _types(value.ty_args[0])
        numbers = tuple(range(total, total + len(outputs)))
        arguments = [*resolve(value.args[1]), *numbers]
        kernels = cut(function, len(arguments) - len(numbers))
        arguments += range(total + len(outputs), total + len(outputs) + len(kernels.temporaries))
        types = dict(zip(range(total, total + len(arguments)), (*outputs, *kernels.temporaries), strict=False))
        total += len(types)
        for kernel in kernels.kernels:
            digest = hash_bytes(kernel.function.script())
            _functions[digest] = kernel.function
            made = tuple(arguments[i] for i in kernel.outputs)
            params = Fallback(op, value.args[0].name_hint, digest)
            inputs = tuple(arguments[i] for i in kernel.inputs)
            calls.append(_Call(params, inputs, made, tuple(types[n] for n in made)))
        values[binding.var] = numbers if len(numbers) > 1 else numbers[0]
    result = resolve(main.body.body)
    return _Lowered(count, tuple(calls), result if isinstance(result, tuple) else (result,))


def _types(kind: Any) -> tuple[TensorType, ...]:
    fields = kind.fields if hasattr(kind, "fields") else [kind]
    return tuple(TensorType(str(f.dtype), tuple(int(size) for size in f.shape)) for f in fields)


def _plans(node: NodeView, runtime: Sequence[str], lowered: _Lowered) -> list[Plan]:
    """The kernels with the names of this node's tensors, and copies of results that none writes to an output."""
    names: dict[int, str] = dict(enumerate(runtime))
    types = {n: t for call in lowered.calls for n, t in zip(call.outputs, call.types, strict=True)}
    copied: list[tuple[int | np.ndarray, str]] = []
    for result, output in zip(lowered.results, node.outputs, strict=False):
        if not output:
            continue
        if isinstance(result, int) and result not in names and types[result] == node.type(output):
            names[result] = output
        else:
            copied.append((result, output))
    found: list[Plan] = []
    for call in lowered.calls:
        temporaries = {}
        for number, tensor in zip(call.outputs, call.types, strict=True):
            if number not in names:
                names[number] = f"{node.outputs[0]}:{number}"
                temporaries[names[number]] = tensor
        inputs = tuple(item if isinstance(item, np.ndarray) else names[item] for item in call.inputs)
        outputs = tuple(names[number] for number in call.outputs)
        found.append(Plan("fallback", call.params, inputs, outputs, temporaries))
    for result, output in copied:
        if isinstance(result, np.ndarray):
            array = result.astype(node.type(output).dtype)
            found += _copy(node, array, TensorType(array.dtype.name, array.shape), output)
        else:
            tensor = types[result] if result in types else node.type(names[result])
            found += _copy(node, names[result], tensor, output)
    return found


def _copy(node: NodeView, source: str | np.ndarray, tensor: TensorType, output: str) -> list[Plan]:
    """A copy of a tensor or a constant to an output; a cast if TVM's type differs from ONNX's."""
    wanted = node.type(output)
    cast = tensor.dtype != wanted.dtype
    if tensor.size != wanted.size or (cast and tensor.shape != wanted.shape):
        raise UnsupportedOpError(
            f"TVM makes a result of shape {list(tensor.shape)} of {node.op!r}, not {list(wanted.shape)}",
            where=f"node {node.name!r}",
        )
    name = source if isinstance(source, str) else f"{output}:constant"
    view = replace(node, inputs=(name,), outputs=(output,), attrs={}, types={**node.types, name: tensor})
    if cast:
        code = helper.np_dtype_to_tensor_dtype(np.dtype(wanted.dtype))
        params, sources = single_body(replace(view, op="Cast", attrs={"to": code}))
        return [Plan("elementwise", params, sources, (output,))]
    return [replace(plan, inputs=(source,)) for plan in plan_copy(view)]
