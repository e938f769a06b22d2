"""PyTorch modules, by way of ONNX (needs ``pip install 'hago[torch]'``)."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx

from ..errors import MissingExtraError, ModelError
from .model import Model, load_model
from .normalize import InputShapes
from .torch_check import hold_to, outputs_of

if TYPE_CHECKING:
    import torch

_SCOPES = "pkg.torch.onnx.name_scopes"
# Operators that are a submodule with weights, and so have just its name.
_NAMESAKES = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization")


def from_torch(
    module: torch.nn.Module,
    example_inputs: Any,
    *,
    input_names: Sequence[str] | None = None,
    batch: int = 1,
    opset: int = 21,
    input_shapes: InputShapes | None = None,
) -> Model:
    """Exports a module in evaluation mode and loads it; the module is left unchanged.

    ``example_inputs`` is what ``module.forward`` takes: a tensor, a tuple of tensors, or a mapping of
    keyword arguments. The first dimension of every tensor that has the same size there as the first one
    is the batch; if the module does not allow another batch, the example's stays.
    Layers are named after submodules ("layer1.0.conv1") if the exporter records which they came from.

    The import is compared with the module on the example inputs.

    Raises MissingExtraError without torch or onnxscript, ModelError if the module cannot be exported, or if the
    import does not compute what the module does.
    """
    for package in ("torch", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "torch", "hago.from_torch")
    import torch

    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"from_torch takes a torch.nn.Module, not {type(module).__name__}")
    args, kwargs = _arguments(example_inputs)
    was_training = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            wanted = outputs_of(module, args, kwargs)
            proto = _export(module, args, kwargs, input_names, opset)
    finally:
        for part, training in was_training.items():
            part.training = training
    proto.graph.name = type(module).__name__
    _name_after_modules(proto)
    hold_to(load_model(proto, _batch(args, kwargs)), args, kwargs, wanted)
    return load_model(proto, batch, input_shapes=input_shapes)


def _batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The first dimension of the first tensor among the example inputs."""
    import torch
    from torch.utils import _pytree as pytree

    tensors = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor) and v.ndim]
    if not tensors:
        raise ModelError("example_inputs holds no tensor with a batch dimension")
    return int(tensors[0].shape[0])


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import torch

    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Sequence) and not isinstance(example_inputs, str):
        return tuple(example_inputs), {}
    raise ModelError(
        f"example_inputs must be a tensor, a tuple of tensors or a mapping, not {type(example_inputs).__name__}"
    )


def _export(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    names: Sequence[str] | None,
    opset: int,
) -> onnx.ModelProto:
    import torch

    size = _batch(args, kwargs)

    def batched(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == size

    def doubled(value: Any) -> Any:
        # torch.export takes a dimension of 1 for a constant: show it two samples.
        return torch.cat([value, value]) if size == 1 and batched(value) else value

    free = (tuple(map(doubled, args)), {k: doubled(v) for k, v in kwargs.items()}, True)
    attempts = [free, (args, kwargs, False)]
    reason: Exception | None = None
    for some_args, some_kwargs, dynamic in attempts:
        flags = [batched(v) for v in [*args, *kwargs.values()]]
        try:
            return _export_once(module, some_args, some_kwargs, flags if dynamic else None, names, opset)
        except Exception as error:
            reason = reason or error
    assert reason is not None
    raise ModelError(
        f"PyTorch could not export it to ONNX: {' '.join(str(reason).split())[:400]}",
        where=type(module).__name__,
        hint="try torch.onnx.export yourself, and give hago the file that it writes",
    ) from reason


def _export_once(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batched: list[bool] | None,
    names: Sequence[str] | None,
    opset: int,
) -> onnx.ModelProto:
    import torch

    shapes: Any = None
    if batched is not None:
        axis = torch.export.Dim("batch")
        axes = [{0: axis} if b else None for b in batched]
        shapes = dict(zip(kwargs, axes, strict=True)) if kwargs else tuple(axes)
    program = torch.onnx.export(
        module, args, kwargs=kwargs, dynamo=True, dynamic_shapes=shapes, input_names=names,
        opset_version=opset, verbose=False, optimize=False,
    )  # fmt: skip
    assert program is not None
    return program.model_proto


def _name_after_modules(proto: onnx.ModelProto) -> None:
    """Names nodes after the submodule they came from, and drops the exporter's notes (paths, stack traces)."""
    taken: set[str] = set()
    for node in proto.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), None)
        path = _module_path(scopes)
        if path is not None:
            plain = node.op_type in _NAMESAKES and path and path not in taken
            hint = path if plain else f"{path}.{node.op_type}" if path else node.op_type
            name, i = hint, 0
            while name in taken:
                i += 1
                name = f"{hint}_{i}"
            node.name = name
            taken.add(name)
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]


def _module_path(scopes: str | None) -> str | None:
    """The last module path of "['', 'layer1', 'layer1.0', 'conv2d']"; None if there is none."""
    if scopes is None:
        return None
    try:
        parts = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return None
    return str(parts[-2]) if isinstance(parts, list) and len(parts) >= 2 else None


@contextlib.contextmanager
def _quiet() -> Any:
    """Silences the exporter, which prints and logs its progress."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
