"""Runs the kernel calls of one node with numpy arrays, the way the built artifact would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from emulated_kernels import x86_kernel

from hago.kernels.common.calls import KernelCall, NodeView, stored, stored_array
from hago.kernels.cpu.backend import BACKEND
from hago.kernels.cpu.families import AVX2, AVX512_VNNI, Isa
from hago.kernels.cpu.jit import Jitted, jit
from hago.tensor import TensorType

ISAS = (AVX2, AVX512_VNNI)
_compiled: dict[tuple[Any, ...], Jitted] = {}


def numpy_type(dtype: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)


def physical(array: np.ndarray) -> np.ndarray:
    """As the artifact holds it: bfloat16 as its bits."""
    return stored_array(array)


def type_of(array: np.ndarray) -> TensorType:
    return TensorType(array.dtype.name, array.shape)


def view(
    op: str,
    feeds: Mapping[str, np.ndarray],
    outputs: Mapping[str, TensorType],
    attrs: Mapping[str, Any] | None = None,
    *,
    domain: str = "hago",
    constants: Sequence[str] = (),
    inputs: Sequence[str] | None = None,
) -> NodeView:
    """A node whose inputs are ``feeds`` in order; those named in ``constants`` are known at build time."""
    types = {name: type_of(array) for name, array in feeds.items()} | dict(outputs)
    return NodeView(
        name="node",
        op=op,
        domain=domain,
        inputs=tuple(feeds if inputs is None else inputs),
        outputs=tuple(outputs),
        attrs=dict(attrs or {}),
        types=types,
        constants={name: feeds[name] for name in constants},
    )


def compiled(call: KernelCall, isa: Isa, threads: int = 1) -> Jitted:
    """The kernel, as this processor can run it."""
    key = (call.template.__module__, call.template.__qualname__, repr(call.params), isa, threads)
    if key not in _compiled:
        _compiled[key] = x86_kernel(call.template, call.params, isa, threads)
    return _compiled[key]


def assembly(call: KernelCall, isa: Isa) -> str:
    """What a processor with the instruction set gets to see, whatever this one is."""
    return jit(call.template, call.params, isa).assembly()


def run(node: NodeView, feeds: Mapping[str, np.ndarray], isa: Isa = AVX512_VNNI, threads: int = 1) -> list[np.ndarray]:
    """The outputs of the node, computed by the kernels that its emitter asks for."""
    values = {name: physical(array) for name, array in feeds.items()}
    for call in BACKEND.emit(node, isa):
        types = {**node.types, **call.temporaries}
        for name in call.outputs:
            if name:
                values[name] = np.zeros(types[name].shape, stored(types[name]).dtype)
        arrays = [values[item] if isinstance(item, str) else stored_array(item) for item in call.inputs]
        compiled(call, isa, threads)(*arrays, *[values[name] for name in call.outputs if name])
    return [values[name] for name in node.outputs if name]
