"""What a kernel is: a template, its parameters, and the call that a node of the lowered graph becomes.

A *family* is one file of this folder: a frozen dataclass of parameters, and a template, a function
``(params, isa, threads) -> PrimFunc``. The PrimFunc takes its input buffers and then its output
buffers (destination-passing style), all row-major and static. ``threads`` is the number of chunks
that a parallel loop is cut into; with 1 there is no parallel loop at all.
An *emitter* turns one node of the lowered graph into the `KernelCall`s that compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Isa:
    """What a template must know of an instruction set; ``bits`` is the vector width.

    x86: vnni, bf16, vbmi, amx. Arm: dotprod (sdot), i8mm (usdot, usmmla), bf16, fp16 (fmla .8h).
    """

    name: str
    bits: int
    registers: int
    vnni: bool = False
    bf16: bool = False
    vbmi: bool = False
    amx: bool = False
    arm: bool = False
    dotprod: bool = False
    i8mm: bool = False
    fp16: bool = False

    @property
    def lanes(self) -> int:
        """32-bit lanes in one vector."""
        return self.bits // 32

    def fit(self, channels: int) -> Isa:
        """The same instructions on the widest vectors (not under 128 bits) that ``channels`` lanes fill."""
        bits = self.bits
        while bits > 128 and bits // 32 > channels:
            bits //= 2
        return replace(self, bits=bits)


AVX2 = Isa("x86-avx2", 256, 16)
AVX_VNNI = Isa("x86-avx-vnni", 256, 16, vnni=True)
AVX512_VNNI = Isa("x86-avx512-vnni", 512, 32, vnni=True)
AVX512_BF16 = Isa("x86-avx512-bf16", 512, 32, vnni=True, bf16=True, vbmi=True)
AMX = Isa("x86-amx", 512, 32, vnni=True, bf16=True, vbmi=True, amx=True)
NEON = Isa("arm-neon", 128, 32, arm=True)
DOTPROD = Isa("arm-dotprod", 128, 32, arm=True, dotprod=True, fp16=True)
I8MM = Isa("arm-i8mm", 128, 32, bf16=True, arm=True, dotprod=True, i8mm=True, fp16=True)
ISAS: Mapping[str, Isa] = {
    isa.name: isa for isa in (AVX2, AVX_VNNI, AVX512_VNNI, AVX512_BF16, AMX, NEON, DOTPROD, I8MM)
}


@dataclass(frozen=True)
class TensorType:
    """Element type (numpy's name, or "bfloat16") and static shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)


def stored(tensor: TensorType) -> TensorType:
    """The type in memory: bfloat16 is held as its bits, for TVM's own code generation does not keep it."""
    return replace(tensor, dtype="uint16") if tensor.dtype == "bfloat16" else tensor


def stored_array(array: np.ndarray) -> np.ndarray:
    """The array as memory holds it, see `stored`."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


Template = Callable[[Any, Isa, int], Any]


@dataclass(frozen=True)
class KernelCall:
    """One call of one kernel.

    ``params`` is a frozen dataclass whose ``repr`` tells everything that the code depends on: it is
    the cache key. ``inputs`` are names of tensors, or arrays that become constants of the artifact
    (packed weights, scales). ``outputs`` name tensors; those that are not tensors of the lowered
    graph are temporaries, whose type stands in ``temporaries``.
    """

    family: str
    params: Any
    template: Template
    inputs: tuple[str | np.ndarray, ...]
    outputs: tuple[str, ...]
    layer: str | None = None
    temporaries: Mapping[str, TensorType] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeView:
    """A node of the lowered graph as an emitter sees it: with ONNX's types, not those of memory (`stored`)."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    types: Mapping[str, TensorType]
    constants: Mapping[str, np.ndarray]
    layer: str | None = None

    def type(self, name: str) -> TensorType:
        return self.types[name]

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a constant input, or None where it is computed at run time."""
        return self.constants.get(name)


Emitter = Callable[[NodeView, Isa], Sequence[KernelCall]]
EMITTERS: dict[tuple[str, str], Emitter] = {}


def emits(domain: str, *ops: str) -> Callable[[Emitter], Emitter]:
    """Registers the decorated function as the emitter of those operators."""

    def register(function: Emitter) -> Emitter:
        for op in ops:
            EMITTERS[domain, op] = function
        return function

    return register
