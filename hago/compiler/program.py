"""Lowered graph -> program: the kernel calls in their order, nothing compiled yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import HagoError
from ..files import hash_bytes
from ..kernels.common.calls import KernelCall, NodeView, stored, stored_array
from ..lower.graph import LoweredGraph
from ..tensor import TensorType
from .toolchain import Toolchain, toolchain_of

if TYPE_CHECKING:
    from ..spec import HardwareSpec

_ALIASES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}


@dataclass(frozen=True)
class ProgramStep:
    """One step of a program: a kernel call, or a view of a tensor in another shape."""

    output: tuple[str, ...]
    inputs: tuple[str | np.ndarray, ...]
    key: str | None = None  # None: an alias of the only input
    call: KernelCall | None = None


@dataclass(frozen=True)
class Program:
    """What an artifact runs: steps over named tensors with static types."""

    steps: tuple[ProgramStep, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: Mapping[str, TensorType]  # as memory holds them
    constants: Mapping[str, np.ndarray]
    declared: Mapping[str, TensorType] = field(default_factory=dict)  # of inputs and outputs, as ONNX has them


@dataclass(frozen=True)
class Refusal:
    """A node that cannot be compiled, its layer, and the reason."""

    node: str
    layer: str | None
    error: HagoError


def refusals(lowered: LoweredGraph, spec: HardwareSpec) -> list[Refusal]:
    """The nodes that `build` would refuse, found the same way but without compiling anything; empty if none."""
    found: list[Refusal] = []
    emit(lowered, toolchain_of(spec, 1), found)
    return found


def emit(lowered: LoweredGraph, toolchain: Toolchain, refused: list[Refusal] | None = None) -> Program:
    """Turns every node into kernel calls.

    Raises the error of the first node without one or, if a list is given, appends all such nodes to it.
    """
    backend = toolchain.backend
    lowered = backend.fuse(lowered)
    meant = lowered.types
    types = {name: stored(tensor) for name, tensor in meant.items()}
    constants = {name: stored_array(array) for name, array in lowered.constants.items()}
    steps: list[ProgramStep] = []
    for node in lowered.nodes:
        if node.is_onnx(*_ALIASES):
            steps.append(ProgramStep(node.outputs[:1], node.inputs[:1]))
            continue
        view = NodeView(
            node.name, node.op, node.domain, node.inputs, node.outputs, node.attrs, meant, lowered.constants, node.layer
        )
        try:
            calls = backend.emit(view, toolchain.family)
        except HagoError as error:
            if refused is None:
                raise
            refused.append(Refusal(node.name, node.layer, error))
            continue
        for call in calls:
            types.update({k: stored(t) for k, t in call.temporaries.items()})
            inputs = tuple(constants.get(i, i) if isinstance(i, str) else stored_array(i) for i in call.inputs)
            steps.append(kernel_step(call, inputs, types, toolchain))
    declared = {name: meant[name] for name in (*lowered.inputs, *lowered.outputs)}
    return Program(tuple(steps), lowered.inputs, lowered.outputs, types, constants, declared)


def kernel_step(
    call: KernelCall, inputs: tuple[str | np.ndarray, ...], types: Mapping[str, TensorType], toolchain: Toolchain
) -> ProgramStep:
    """The step that makes ``call`` on ``inputs``: names, or arrays for constants."""
    return ProgramStep(call.outputs, inputs, _key(call, inputs, types, toolchain.key), call)


def _key(call: KernelCall, inputs: Sequence[str | np.ndarray], types: Mapping[str, TensorType], where: str) -> str:
    """A hash of what the code depends on: template, parameters, toolchain, and the types of the arguments."""
    template = f"{call.template.__module__}.{call.template.__qualname__}"
    kinds = [
        (types[i].dtype, types[i].shape) if isinstance(i, str) else (i.dtype.str, i.shape)
        for i in (*inputs, *call.outputs)
    ]
    return hash_bytes(template, repr(call.params), repr(kinds), where)[:32]
