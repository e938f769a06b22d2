"""Whole networks for GPUs, run on the emulated block: the calls that a program makes, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from emulated_block import EmulatedKernel, compile_kernels, emulated

from hago.compiler.program import Program, ProgramStep, Refusal, emit
from hago.compiler.toolchain import toolchain_of
from hago.kernels.cuda.cuda_source import source_of
from hago.lower.graph import LoweredGraph
from hago.spec import HardwareSpec

Dimensions = tuple[int, int, int]


@dataclass(frozen=True)
class EmulatedCall:
    """A template's function for the emulated block: how it is launched, and the order of its arguments."""

    kernel: EmulatedKernel
    grid: Dimensions
    block: Dimensions
    names: tuple[str, ...]  # of the function's parameters

    def __call__(self, arrays: list[np.ndarray], seed: int = 0) -> str:
        """Runs it on the arrays of its parameters, in order. Returns "" or the fault that was found."""
        by_name = dict(zip(self.names, arrays, strict=True))
        return self.kernel(
            [by_name[name.removesuffix("_ptr")] for name in self.kernel.arguments], self.grid, self.block, seed
        )


def emulated_call(function: Any, edit: Callable[[str], str] = lambda text: text) -> EmulatedCall:
    """The function of a template, after ``edit`` of its source."""
    extents, shared = _launch(function)
    grid = tuple(extents.get(f"blockIdx.{axis}", 1) for axis in "xyz")
    block = tuple(extents.get(f"threadIdx.{axis}", 1) for axis in "xyz")
    names = tuple(parameter.name for parameter in function.params)
    return EmulatedCall(emulated(source_of(function, "kernel"), shared, edit), grid, block, names)  # type: ignore[arg-type]


class EmulatedNetwork:
    """What `hago.build` would give on a GPU of ``spec``; ``faults`` are those of the last run."""

    def __init__(
        self, lowered: LoweredGraph, spec: HardwareSpec, seed: int = 0, refused: list[Refusal] | None = None
    ) -> None:
        """``refused``: takes the nodes that have no kernel, which are errors otherwise."""
        self.toolchain = toolchain_of(spec, 1)
        self.program: Program = emit(lowered, self.toolchain, refused)
        self.seed = seed
        self.faults: list[str] = []

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs, in the model's order, as memory holds them."""
        types = self.program.types
        values = {name: np.ascontiguousarray(feeds[name], types[name].dtype) for name in self.program.inputs}
        self.faults = []
        compile_kernels(self.call(step).kernel for step in self.program.steps if step.call is not None)
        for step in self.program.steps:
            inputs = [self._value(values, item) for item in step.inputs]
            if step.call is None:
                values[step.output[0]] = inputs[0].reshape(types[step.output[0]].shape)
                continue
            made = [_poison(types[name].shape, types[name].dtype) for name in step.output]
            if fault := self.launch(step, [*inputs, *made]):
                self.faults.append(f"{step.call.family} of {step.output}: {fault}")
            values.update(zip(step.output, made, strict=True))
        return [self._value(values, name) for name in self.program.outputs]

    def launch(self, step: ProgramStep, arrays: list[np.ndarray]) -> str:
        """Runs one step's kernel on inputs and outputs. Returns "" or the fault that was found."""
        return self.call(step)(arrays, self.seed)

    def _value(self, values: dict[str, np.ndarray], item: str | np.ndarray) -> np.ndarray:
        if isinstance(item, str):
            item = values[item] if item in values else self.program.constants[item]
        return np.ascontiguousarray(item)

    def call(self, step: ProgramStep) -> EmulatedCall:
        """The kernel of one step."""
        assert step.call is not None and step.key is not None
        if step.key not in _CALLS:
            function = step.call.template(step.call.params, self.toolchain.family, 1)
            _CALLS[step.key] = emulated_call(function)
        return _CALLS[step.key]


_CALLS: dict[str, EmulatedCall] = {}


def _poison(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Memory as a kernel finds it: whatever was there before."""
    count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return np.frombuffer(bytearray(b"\xa5" * count), dtype).reshape(shape)


def _launch(function: Any) -> tuple[dict[str, int], int]:
    """The extents of blocks and threads, and the bytes of dynamic shared memory."""
    extents: dict[str, int] = {}
    shared = 0
    for statement in _statements(function.body):
        if isinstance(statement, tvm.tirx.AttrStmt) and statement.attr_key == "thread_extent":
            extents[str(statement.node.thread_tag)] = int(statement.value)
        buffers = getattr(statement, "alloc_buffers", ())
        if isinstance(statement, tvm.tirx.AllocBuffer):
            buffers = [statement.buffer]
        for buffer in buffers:
            if buffer.scope() == "shared.dyn":
                shared += int(np.prod([int(extent) for extent in buffer.shape])) * np.dtype(str(buffer.dtype)).itemsize
    return extents, shared


def _statements(statement: Any) -> Iterator[Any]:
    """The statement and all those within it."""
    yield statement
    for name in ("body", "block", "seq", "then_case", "else_case"):
        inner = getattr(statement, name, None)
        for one in () if inner is None else inner if name == "seq" else (inner,):
            yield from _statements(one)
