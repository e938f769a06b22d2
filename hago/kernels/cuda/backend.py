"""Everything needed to compile for an NVIDIA GPU; importing this registers all emitters of the folder."""

from __future__ import annotations

from typing import Any

from ...errors import MissingExtraError, UnsupportedOpError
from ...lower.graph import LoweredGraph
from ..common.backend import Backend, Code
from ..common.calls import KernelCall
from ..common.code_bits import mark_four_bits
from ..common.elementwise_ops import supported
from ..common.fusion import fuse_elementwise
from ..common.narrow_outputs import narrow_outputs
from ..common.plans import emitters
from ..common.registry import import_modules
from .cuda_source import source_of
from .executor import EXECUTOR
from .fallback import emit_fallback, fallback
from .families import FAMILIES, Gpu
from .module import module_bytes
from .nvrtc import compile_cubin, installed_version
from .registry import EMITTERS, TEMPLATES

import_modules(__package__ or "")


def compile_call(call: KernelCall, gpu: Gpu, threads: int, symbol: str, target: Any) -> Code:
    """The kernel of ``call`` under the name ``symbol``: what launches it, and its cubin.

    Raises UnsupportedOpError if TVM's own lowering of an operator gives no code for GPUs.
    """
    try:
        source = source_of(call.template(call.params, gpu, threads), symbol, target)
        cubin = compile_cubin(source.text, gpu.arch, call.template.__name__)
    except MissingExtraError:
        raise
    except Exception as error:
        if call.template is not fallback:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UnsupportedOpError(
            f"operator {call.params.op!r} cannot be compiled for {gpu.name}: {reason}",
            where=f"layer {call.layer!r}",
            hint="export the model with other operators, or take this part out of it",
        ) from error
    return Code(source.host, module_bytes(cubin, source.launches))


EMITTERS.update({key: emitter for key, emitter in emitters(TEMPLATES, emit_fallback).items() if key not in EMITTERS})


def fuse(lowered: LoweredGraph) -> LoweredGraph:
    """The graph with what kernels do in one: casts behind half-precision sums, elementwise operators in groups."""
    return fuse_elementwise(narrow_outputs(mark_four_bits(lowered)), supported=supported)


BACKEND = Backend(
    "cuda",
    FAMILIES,
    EMITTERS,
    emit_fallback,
    fuse,
    compile_call,
    EXECUTOR,
    installed_version,
    has_device_code=True,
)
