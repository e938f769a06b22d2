"""Compares an imported PyTorch module with the module itself, on its example inputs.

Exporters silently drop what ONNX has no attribute for (a pool's ``divisor_override``).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ..errors import ModelError

if TYPE_CHECKING:
    import torch

    from .model import Model

_TOLERANCE = {"float16": 0.03, "bfloat16": 0.1}  # relative to the largest value; float32's is below
_FLOAT32 = 2e-3
_FEW = 0.01  # share of an output's integers that may differ: a last bit can decide which of two values is larger


def outputs_of(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The module's outputs for copies of these inputs, flattened. Raises ModelError if it fails."""
    import torch
    from torch.utils import _pytree as pytree

    def copied(value: Any) -> Any:
        return value.detach().clone() if isinstance(value, torch.Tensor) else value

    args, kwargs = pytree.tree_map(copied, (tuple(args), dict(kwargs)))
    try:
        with torch.no_grad():
            results = module(*args, **kwargs)
    except Exception as error:
        raise ModelError(
            f"the module fails on its example inputs: {' '.join(str(error).split())[:300]}",
            where=type(module).__name__,
            hint="give example_inputs that module(...) takes",
        ) from error
    return [leaf.detach().cpu() for leaf in pytree.tree_leaves(results) if isinstance(leaf, torch.Tensor)]


def hold_to(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any], wanted: Sequence[torch.Tensor]) -> None:
    """Raises ModelError unless ``model``, at the batch of the example inputs, returns what the module returned."""
    where = model.source
    if len(model.outputs) != len(wanted):
        raise ModelError(
            f"the import has {len(model.outputs)} outputs, the module gives {len(wanted)} tensors",
            where=where,
            hint="return each tensor from forward once, in a tuple",
        )
    feeds = _feeds(model, args, kwargs)
    if feeds is None:
        return
    for info, got, tensor in zip(model.outputs, _run(model.proto, feeds), wanted, strict=True):
        name = str(tensor.dtype).removeprefix("torch.")
        expected = tensor.float().numpy() if name == "bfloat16" else tensor.numpy()
        difference = _difference(got, expected, _TOLERANCE.get(name, _FLOAT32))
        if difference is not None:
            raise ModelError(
                f"output {info.name!r} of the import is not that of the module: on the example inputs {difference}",
                where=where,
                hint="PyTorch's exporter leaves out what ONNX has no attribute for (divisor_override of a pool, say), "
                "or the module is random: write that part with other operators",
            )


def _feeds(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Input name -> array; None if the exporter made inputs of anything but the tensors."""
    import torch
    from torch.utils import _pytree as pytree

    leaves = [leaf for leaf in pytree.tree_leaves((tuple(args), dict(kwargs))) if isinstance(leaf, torch.Tensor)]
    named = {k: v for k, v in kwargs.items() if isinstance(v, torch.Tensor)}
    if not args and set(named) == {info.name for info in model.inputs}:
        leaves = [named[info.name] for info in model.inputs]
    arrays = [leaf.detach().cpu() for leaf in leaves]
    if [tuple(a.shape) for a in arrays] != [info.shape for info in model.inputs]:
        return None
    return {
        info.name: np.ascontiguousarray((a.float() if a.is_floating_point() else a).numpy()).astype(info.dtype)
        for info, a in zip(model.inputs, arrays, strict=True)
    }


def _run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs by ONNX Runtime, which is fast, if it is installed, else by ONNX's own evaluator."""
    if importlib.util.find_spec("onnxruntime") is not None and proto.ByteSize() < 2**31:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return [np.asarray(array) for array in session.run(None, feeds)]
        except Exception:  # an operator or type that it does not support
            pass
    results: Any = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)
    return [np.asarray(array) for array in results]


def _difference(got: np.ndarray, wanted: np.ndarray, tolerance: float) -> str | None:
    """How two arrays differ beyond rounding, or None."""
    if got.shape != wanted.shape:
        return f"its shape is {got.shape}, not {wanted.shape}"
    if not wanted.size:
        return None
    if not np.issubdtype(wanted.dtype, np.floating):
        count = int((got != wanted).sum())
        return None if count <= max(1, _FEW * wanted.size) else f"{count} of {wanted.size} values differ"
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "they are infinite or NaN at other places"
    off = float(np.abs(a - b)[finite].max(initial=0.0))
    largest = float(np.abs(b[finite]).max(initial=0.0))
    return (
        None
        if off <= tolerance * max(largest, 1e-3)
        else f"they differ by up to {off:.3g} (values reach {largest:.3g})"
    )
