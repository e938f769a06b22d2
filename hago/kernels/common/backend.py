"""How networks are compiled for one kind of target: all that `hago.compiler` knows about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import BuildError, HagoError
from .calls import Emitter, KernelCall, NodeView

if TYPE_CHECKING:
    from ...lower.graph import LoweredGraph
    from ...runtime.executor import Executor


HOST = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}
"""TVM's target of the processor that drives a device, where nothing names one."""


@dataclass(frozen=True)
class Code:
    """A compiled kernel: TVM's module of what runs on the processor, and the bytes that a device beside it runs."""

    host: Any
    device: bytes = b""


@dataclass(frozen=True)
class Backend:
    """What a target provides.

    ``families``: kernel family -> what its templates must know about the hardware; its ``repr`` is part of the kernels'
    cache key. ``emitters``: (domain, operator) -> emitter; ``fallback`` serves all others. ``fuse`` rewrites the
    lowered graph before its nodes are emitted. ``compile`` turns a call into code, given the call, the family, the
    threads, the symbol of the kernel and TVM's target; ``compiler`` names what compiles besides TVM, and its
    version. ``has_device_code``: kernels consist of code for the processor and code for a device beside it.
    """

    name: str
    families: Mapping[str, Any]
    emitters: Mapping[tuple[str, str], Emitter]
    fallback: Emitter
    fuse: Callable[[LoweredGraph], LoweredGraph]
    compile: Callable[[KernelCall, Any, int, str, Any], Code]
    executor: Executor
    compiler: Callable[[], str] = str
    has_device_code: bool = False

    def emit(self, node: NodeView, family: Any) -> list[KernelCall]:
        """The calls that compute ``node``. Raises HagoError if no kernel can."""
        emitter = self.emitters.get((node.domain, node.op), self.fallback)
        try:
            return list(emitter(node, family))
        except HagoError:
            raise
        except Exception as error:
            raise BuildError(
                f"no kernel could be made: {type(error).__name__}: {error}",
                where=f"node {node.name!r} ({node.op})",
            ) from error
