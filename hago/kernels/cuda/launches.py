"""TVM's functions for processors as kernels for GPUs, one for each nest of loops.

TVM's own rule inlines what can be inlined and gives one element of the output to each thread. Nests that it does not
know run as they are: a parallel loop in many threads, any other in one. What a nest leaves for a later one is a
temporary. Correct, not fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.gpu import Fallback as OneThreadPerElement
from tvm.target import Target
from tvm_ffi import structural_map, structural_walk

from ...errors import UnsupportedOpError
from ...tensor import TensorType
from ..common.fallback import Kernel, Kernels
from .grid import THREADS

_TARGET = Target({"kind": "cuda", "arch": "sm_80", "max_num_threads": THREADS})
_LOOP = tirx.ForKind
_LOWERING = tvm.transform.Sequential(
    [
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.StmtSimplify(),
    ]
)


@dataclass
class _Nest:
    """Statements that become one kernel, and the buffers that they use."""

    statements: list[Any]
    read: list[Any] = field(default_factory=list)
    written: list[Any] = field(default_factory=list)


def launches(function: Any, inputs: int) -> Kernels:
    """The kernels of a function whose first ``inputs`` parameters are its inputs.

    Raises UnsupportedOpError for a function that calls others.
    """
    with _TARGET:
        schedule = OneThreadPerElement().apply(function, _TARGET, False)
    function = schedule.mod["main"] if schedule is not None else function
    root = function.body.block if isinstance(function.body, s_tir.SBlockRealize) else None
    nests = _merged([_nest([statement]) for statement in _statements(root.body if root else function.body)])
    own = list(function.params)
    temporaries = [b for b in (root.alloc_buffers if root else ()) if any(_has(n.written, b) for n in nests)]
    numbered = [*own, *temporaries]
    kernels = []
    for nest in nests:
        read = [buffer for buffer in nest.read if not _has(nest.written, buffer)]
        places = tuple(tuple(_index(numbered, buffer) for buffer in buffers) for buffers in (read, nest.written))
        kernels.append(Kernel(_function(nest.statements, [*read, *nest.written]), *places))
    types = tuple(TensorType(str(b.dtype), tuple(int(size) for size in b.shape)) for b in temporaries)
    return Kernels(tuple(kernels), types)


def _statements(body: Any) -> Iterator[Any]:
    """The statements that follow one another, without the blocks around them that have no loops of their own."""
    if isinstance(body, tirx.SeqStmt):
        for statement in body.seq:
            yield from _statements(statement)
    elif isinstance(body, s_tir.SBlockRealize) and not body.block.iter_vars and not body.block.alloc_buffers:
        yield from _statements(body.block.body)
    else:
        yield body


def _nest(statements: list[Any]) -> _Nest:
    nest, local = _Nest(statements), []

    def note(found: list[Any], buffer: Any) -> None:
        if not _has(found, buffer):
            found.append(buffer)

    def call(node: Any) -> None:
        if getattr(node.op, "name", "") in ("tirx.tvm_call_packed", "tirx.call_packed", "tirx.tvm_call_cpacked"):
            raise UnsupportedOpError("a part of TVM's code for it calls a function of the processor")

    structural_walk(
        statements,
        [
            (tvm.ir.expr.TensorLoad, lambda node: note(nest.read, node.source)),
            (tirx.BufferStore, lambda node: note(nest.written, node.buffer)),
            (s_tir.SBlock, lambda node: local.extend(node.alloc_buffers)),
            ((tirx.AllocBuffer, tirx.DeclBuffer), lambda node: local.append(node.buffer)),
            (tvm.ir.Call, call),
        ],
    )
    nest.read = [buffer for buffer in nest.read if not _has(local, buffer)]
    nest.written = [buffer for buffer in nest.written if not _has(local, buffer)]
    return nest


def _merged(nests: list[_Nest]) -> list[_Nest]:
    """Every buffer is written by one kernel alone: nests between two that write it go into one with them."""
    for first, nest in enumerate(nests):
        for last in range(len(nests) - 1, first, -1):
            if any(_has(nests[last].written, buffer) for buffer in nest.written):
                together = _nest([s for part in nests[first : last + 1] for s in part.statements])
                return _merged([*nests[:first], together, *nests[last + 1 :]])
    return nests


def _function(statements: Sequence[Any], buffers: Sequence[Any]) -> Any:
    """One kernel, in the form in which templates make them."""
    plain = [tirx.decl_buffer(b.shape, b.dtype, f"x{i}") for i, b in enumerate(buffers)]
    body = structural_map(
        _launched(statements),
        (tirx.Buffer, lambda b: plain[_index(buffers, b)] if _has(buffers, b) else b),
        order="pre",
    )
    function = tirx.PrimFunc(plain, body).with_attr({"tirx.noalias": True, "global_symbol": "kernel"})
    return _LOWERING(tvm.IRModule({"kernel": function}))["kernel"]


def _launched(statements: Sequence[Any]) -> Any:
    """The statements of one kernel, with the threads that run them."""
    if len(statements) == 1:
        (statement,) = statements
        if isinstance(statement, tirx.For) and statement.kind == _LOOP.THREAD_BINDING:
            return _root(statement)
        if isinstance(statement, tirx.For) and statement.kind == _LOOP.PARALLEL:
            return _root(_spread(statement))
    body = tirx.SeqStmt(list(statements)) if len(statements) > 1 else statements[0]
    return _root(_bound(body, 1, 1, *map(_number, ("block", "thread"))))


def _spread(loop: Any) -> Any:
    """A parallel loop, one iteration in each thread."""
    count = int(loop.extent)
    block, thread = map(_number, ("block", "thread"))
    index = block * THREADS + thread
    place = tirx.Cast(loop.loop_var.ty.dtype, index) + loop.min
    body = tirx.IfThenElse(index < count, tirx.SeqStmt([tirx.Bind(loop.loop_var, place), loop.body]), None)
    return _bound(body, -(-count // THREADS), THREADS, block, thread)


def _bound(body: Any, blocks: int, threads: int, block: Any, thread: Any) -> Any:
    """The statement in so many blocks and threads, whose numbers are the two variables."""
    for variable, extent, tag in ((thread, threads, "threadIdx.x"), (block, blocks, "blockIdx.x")):
        axis = tirx.IterVar(tvm.ir.Range(0, extent), variable, tirx.IterVar.ThreadIndex, tag)
        body = tirx.AttrStmt(axis, "thread_extent", tirx.IntImm("int32", extent), body)
    return body


def _number(name: str) -> Any:
    return tirx.Var(name, "int32")


def _root(body: Any) -> Any:
    return s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))


def _has(buffers: Sequence[Any], buffer: Any) -> bool:
    return any(one.same_as(buffer) for one in buffers)


def _index(buffers: Sequence[Any], buffer: Any) -> int:
    for place, one in enumerate(buffers):
        if one.same_as(buffer):
            return place
    raise UnsupportedOpError("a part of TVM's code for it does not run on GPUs")
