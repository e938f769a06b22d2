"""Runs the kernel calls of one node for a GPU on the emulated block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from emulated_block import compile_kernels
from emulated_gpu import EmulatedCall, emulated_call
from kernel_harness import physical, type_of, view

from hago.kernels.common.calls import KernelCall, NodeView, stored, stored_array
from hago.kernels.cuda.backend import BACKEND
from hago.kernels.cuda.families import SM80, Gpu

SMALL = replace(SM80, name="nvidia-small", multiprocessors=0)
"""A GPU that any tensor keeps busy, so that threads take 16 bytes of small ones too."""

_CALLS: dict[Any, EmulatedCall] = {}


@dataclass(frozen=True)
class Case:
    """A node, what it gets, and what it must give, computed independently; ``close``: within float32's rounding."""

    node: NodeView
    feeds: Mapping[str, np.ndarray]
    expected: tuple[np.ndarray, ...]
    close: bool = False

    def check(self, gpu: Gpu, seed: int) -> None:
        results, faults = run(self.node, self.feeds, gpu, seed)
        assert not faults
        for result, wanted in zip(results, self.expected, strict=True):
            assert result.dtype == physical(wanted).dtype
            if self.close:
                np.testing.assert_allclose(result, physical(wanted), rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(result, physical(wanted))


def case(
    op: str, feeds: Mapping[str, np.ndarray], *expected: np.ndarray, domain: str = "", constants: Iterable[str] = (),
    close: bool = False, **attrs: Any,
) -> Case:  # fmt: skip
    """A case of one operator whose inputs are ``feeds`` in order."""
    outputs = {f"y{i}": type_of(one) for i, one in enumerate(expected)}
    node = view(op, feeds, outputs, attrs, domain=domain, constants=tuple(constants))
    return Case(node, feeds, expected, close)


def compile_all(cases: Iterable[Case], gpus: Iterable[Gpu]) -> None:
    """Compiles the kernels of all cases, several in one run of the compiler."""
    gpus = tuple(gpus)
    compile_kernels(
        _emulated(one, call, gpu).kernel for c in cases for gpu in gpus for one, call in _calls(c.node, gpu)
    )


def run(node: NodeView, feeds: Mapping[str, np.ndarray], gpu: Gpu, seed: int = 0) -> tuple[list[np.ndarray], list[str]]:
    """The outputs of the node, as memory holds them, and the faults that were found."""
    values = {name: physical(array) for name, array in feeds.items()}
    faults = []
    for key, call in _calls(node, gpu):
        types = {**node.types, **call.temporaries}
        made = {name: np.full(types[name].shape, 77, stored(types[name]).dtype) for name in call.outputs if name}
        inputs = [values[item] if isinstance(item, str) else stored_array(item) for item in call.inputs]
        arrays = [np.ascontiguousarray(array).reshape(array.shape) for array in inputs]
        fault = _emulated(key, call, gpu)([*arrays, *made.values()], seed)
        if fault:
            faults.append(f"{call.family} of {call.outputs}: {fault}")
        values.update(made)
    return [values[name] for name in node.outputs if name], faults


def _calls(node: NodeView, gpu: Gpu) -> list[tuple[Any, KernelCall]]:
    return [
        ((call.template.__module__, call.template.__qualname__, repr(call.params), gpu), call)
        for call in BACKEND.emit(node, gpu)
    ]


def _emulated(key: Any, call: KernelCall, gpu: Gpu) -> EmulatedCall:
    if key not in _CALLS:
        _CALLS[key] = emulated_call(call.template(call.params, gpu, 1))
    return _CALLS[key]
