"""Program -> VM executable: the instructions that allocate memory and call one kernel after another.

The instructions are emitted directly. Relax's passes would produce the same list, but take tens of
milliseconds to find what is already known: every type is static, every call is a kernel.

Tensors between the kernels share a few blocks of memory, which are planned here; outputs get separate memory,
since they outlive the call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm.relax.exec_builder import ExecBuilder
from tvm_ffi import Shape

from ..kernels.common.calls import item_bytes
from ..tensor import TensorType
from .compile import symbol
from .program import Program

_ALIGN = 64  # bytes: a cache line, and the widest vector


def executable(program: Program, *, hold: bool = False, **data: bytes) -> Any:
    """An executable whose ``main`` runs the program; ``hago_NAME`` returns the bytes of ``data[NAME]``.

    With ``hold``, a function ``held`` runs it, too, and returns the blocks of memory between the kernels after the
    outputs: whoever records its launches, to replay them, must keep these.
    """
    builder = ExecBuilder()
    constants: dict[Any, int] = {}
    for name in ("main", "held") if hold else ("main",):
        with builder.function(name, len(program.inputs), [_identifier(name) for name in program.inputs]):
            _Writer(builder, program, constants).run(hold=name == "held")
    for name, content in data.items():
        with builder.function(f"hago_{name}", 0, []):
            builder.emit_call("vm.builtin.copy", [tvm.runtime.tensor(np.frombuffer(content, np.uint8))], builder.r(0))
            builder.emit_ret(builder.r(0))
    return builder.get()


@dataclass(frozen=True)
class MemoryPlan:
    """The blocks of memory (``sizes``, bytes), and the block of each tensor.

    ``roots`` gives, for every tensor that a step makes, the tensor whose memory it is: itself, unless it is an alias.
    """

    sizes: tuple[int, ...]
    blocks: Mapping[str, int]
    roots: Mapping[str, str]


def plan_memory(program: Program) -> MemoryPlan:
    """Gives every tensor between the kernels a block that no other live tensor uses.

    Kernels take tensors that start where their block starts, so a block holds one tensor at a time. Outputs,
    inputs and constants are elsewhere.
    """
    roots: dict[str, str] = {}
    last: dict[str, int] = {}  # tensor of a kernel -> the last step that needs it
    for i, step in enumerate(program.steps):
        used = [roots.get(item, item) for item in step.inputs if isinstance(item, str)]
        last.update({root: i for root in used if root in last})
        for name in step.output:
            if step.key is None and used:
                roots[name] = used[0]
            else:
                roots[name], last[name] = name, i
    outputs = {roots.get(name, name) for name in program.outputs}
    sizes: list[int] = []
    blocks: dict[str, int] = {}
    free: list[int] = []
    for i, step in enumerate(program.steps):
        made = [name for name in step.output if roots[name] == name and name not in outputs]
        for name in made:
            size = _nbytes(program.types[name])
            if free:  # the smallest that is large enough, or else the largest, which then grows
                block = min(free, key=lambda b: (sizes[b] < size, abs(sizes[b] - size)))
                free.remove(block)
                sizes[block] = max(sizes[block], size)
            else:
                block = len(sizes)
                sizes.append(size)
            blocks[name] = block
        needed = {roots.get(item, item) for item in step.inputs if isinstance(item, str)} | set(made)
        free += [blocks[name] for name in sorted(needed) if name in blocks and last[name] == i]
    return MemoryPlan(tuple(sizes), blocks, roots)


class _Writer:
    """Emits one function that runs the program; ``constants`` are those of the whole executable."""

    def __init__(self, builder: ExecBuilder, program: Program, constants: dict[Any, int]) -> None:
        self.builder, self.program = builder, program
        self.plan = plan_memory(program)
        self.blocks: list[int] = []
        self.at: dict[str, int] = {name: builder.r(i) for i, name in enumerate(program.inputs)}
        self._registers = len(program.inputs)
        self._constants = constants

    def run(self, hold: bool) -> None:
        """Emits all of it; with ``hold``, the blocks of memory are returned after the outputs."""
        program, builder = self.program, self.builder
        self.device, self.scope = builder.imm(0), self._object("global")
        self.bytes = self._object(tvm.DataType("uint8"))
        for name in program.inputs:
            self._check(name)
        self.blocks = [self._storage(size) for size in self.plan.sizes]
        for step in program.steps:
            if step.key is None:
                self._alias(step.output[0], step.inputs[0])
                continue
            for name in step.output:
                self._allocate(name)
            arguments = [self._value(item) for item in step.inputs] + [self.at[name] for name in step.output]
            builder.emit_call(symbol(step.key), arguments)
        results = self._outputs()
        if hold:
            results += [self._bytes_of(*block) for block in zip(self.blocks, self.plan.sizes, strict=True)]
        result = self._register()
        builder.emit_call("vm.builtin.make_tuple", results, result)
        builder.emit_ret(result)

    def _check(self, name: str) -> None:
        """Checks what the caller passes, once: kernels rely on shapes and types."""
        kind = self.program.types[name]
        about = self._object(f"input {name!r} must be {kind.dtype} of shape {list(kind.shape)}")
        rank = self.builder.imm(len(kind.shape))
        self.builder.emit_call("vm.builtin.check_tensor_info", [self.at[name], rank, self._dtype(kind), about])
        equals = [code for size in kind.shape for code in (self.builder.imm(0), self.builder.imm(size))]
        arguments = [self.at[name], self.builder.void_arg(), rank, *equals, about]
        self.builder.emit_call("vm.builtin.match_shape", arguments)

    def _allocate(self, name: str) -> None:
        block = self.plan.blocks.get(name)
        storage = self._storage(_nbytes(self.program.types[name])) if block is None else self.blocks[block]
        self._tensor(name, storage)

    def _alias(self, name: str, source: str | np.ndarray) -> None:
        block = self.plan.blocks.get(self.plan.roots[name])
        if block is not None:
            self._tensor(name, self.blocks[block])
            return
        register, shape = self._register(), self._object(Shape(self.program.types[name].shape))
        self.builder.emit_call("vm.builtin.reshape", [self._value(source), shape], register)
        self.at[name] = register

    def _tensor(self, name: str, storage: int) -> None:
        kind = self.program.types[name]
        self.at[name] = self._register()
        self._view(storage, kind.shape, self._dtype(kind), self.at[name])

    def _bytes_of(self, storage: int, size: int) -> int:
        """A block as a tensor."""
        register = self._register()
        self._view(storage, (max(size, 1),), self.bytes, register)
        return register

    def _view(self, storage: int, shape: tuple[int, ...], dtype: int, register: int) -> None:
        arguments = [storage, self.builder.imm(0), self._object(Shape(shape)), dtype]
        self.builder.emit_call("vm.builtin.alloc_tensor", arguments, register)

    def _storage(self, nbytes: int) -> int:
        register = self._register()
        arguments = [
            self.builder.vm_state(),
            self._object(Shape((max(nbytes, 1),))),
            self.device,
            self.bytes,
            self.scope,
        ]
        self.builder.emit_call("vm.builtin.alloc_storage", arguments, register)
        return register

    def _outputs(self) -> list[int]:
        """Registers of the outputs, each with memory that only the caller holds.

        So inputs, constants and tensors that are already an output are copied (`vm.builtin.copy` would only give the
        same memory another name).
        """
        roots, registers = self.plan.roots, []
        free = {root for root in roots.values() if roots.get(root) == root}  # made by kernels, not yet an output
        for name in self.program.outputs:
            root = roots.get(name, name)
            if root not in free:
                source = self._value(name)
                self._allocate(name)
                self.builder.emit_call("runtime.TVMTensorCopyFromTo", [source, self.at[name]])
            free.discard(root)
            registers.append(self.at[name])
        return registers

    def _value(self, item: str | np.ndarray) -> int:
        if isinstance(item, str) and item in self.at:
            return self.at[item]
        array = self.program.constants[item] if isinstance(item, str) else item
        if id(array) not in self._constants:
            self._constants[id(array)] = self.builder.convert_constant(_SHARED.tensor(array))
        return self._constants[id(array)]

    def _dtype(self, kind: TensorType) -> int:
        return self._object(tvm.DataType(kind.dtype))

    def _object(self, value: Any) -> int:
        """A shape, type or text in the constant pool, without duplicates."""
        key = (type(value).__name__, tuple(value) if isinstance(value, Shape) else str(value))
        if key not in self._constants:
            self._constants[key] = self.builder.convert_constant(value)
        return self._constants[key]

    def _register(self) -> int:
        self._registers += 1
        return self.builder.r(self._registers - 1)


def _nbytes(kind: TensorType) -> int:
    """Bytes in memory, rounded up to whole cache lines."""
    size = kind.size * item_bytes(kind.dtype)
    return -(-size // _ALIGN) * _ALIGN


_SHARED_BYTES = 1 << 29


class _Shared:
    """Read-only arrays (packed weights, scales) as TVM tensors, copied once for all candidates."""

    def __init__(self) -> None:
        # The array is kept beside its tensor: its id is unique only while it is alive.
        self._kept: OrderedDict[int, tuple[np.ndarray, Any]] = OrderedDict()
        self._nbytes = 0

    def tensor(self, array: np.ndarray) -> Any:
        if array.flags.writeable:
            return _copied(array)
        if id(array) not in self._kept:
            self._kept[id(array)] = (array, _copied(array))
            self._nbytes += array.nbytes
            while self._nbytes > _SHARED_BYTES and len(self._kept) > 1:
                _, (oldest, _) = self._kept.popitem(last=False)
                self._nbytes -= oldest.nbytes
        self._kept.move_to_end(id(array))
        return self._kept[id(array)][1]


def _copied(array: np.ndarray) -> Any:
    """A copy as a TVM tensor: like `tvm.runtime.tensor`, but seven times faster for small arrays."""
    if array.dtype == bool or not array.size:
        return tvm.runtime.tensor(np.asarray(array, order="C"))
    memory = np.empty(array.nbytes + _ALIGN, np.uint8)
    start = -memory.ctypes.data % _ALIGN
    place = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    place[...] = array
    return tvm_ffi.from_dlpack(place)


_SHARED = _Shared()


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name) or "x"
