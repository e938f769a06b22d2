"""From a template's function to CUDA source, and to the host's code that launches it.

TVM puts helpers for all types that it knows before every kernel, on which NVRTC would spend nearly all of its time.
They are cut off; `device.cuh` stands in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes
from tvm.target import Target
from tvm.tirx.build import codegen_build, split_host_device_mods
from tvm.tirx.op import register_intrin_lowering

from ...errors import BuildError
from ..common.backend import HOST
from .module import Launch

_KERNEL = 'extern "C" __global__'


@dataclass(frozen=True)
class KernelSource:
    """A function for a GPU: ``host`` is TVM's module of what launches it, ``text`` CUDA C++ that includes nothing."""

    host: Any
    text: str
    kernel: str  # what TVM wrote of ``text``: the kernel without device.cuh
    launches: tuple[Launch, ...]


def source_of(function: Any, name: str, target: Target | None = None) -> KernelSource:
    """The source of one template's function, under ``name``; ``target`` names the processor that launches it."""
    target = target if target is not None else Target({"kind": "cuda", "arch": "sm_80", "host": HOST})
    module = tvm.IRModule({name: function.with_attr("global_symbol", name)})
    with target:
        module = tirx.transform.BindTarget(target)(module)
        lowered = tvm.transform.Sequential(_PASSES)(module)
        host, devices = split_host_device_mods(lowered)
        if len(devices) != 1:
            raise BuildError(f"a kernel must have code for one device, found {len(devices)}", where=name)
        ((device_target, device),) = devices.items()
        device = finalize_device_passes()(device)
        kernels = codegen_build(device, device_target)
        compiled_host = codegen_build(finalize_host_passes()(host), target.host)
    text = kernels.inspect_source()
    kernel = text[text.index(_KERNEL) :]
    return KernelSource(compiled_host, f"{prelude()}\n{kernel}", kernel, tuple(_launches(device)))


@cache
def prelude() -> str:
    """What stands before every kernel."""
    return Path(__file__).with_name("device.cuh").read_text()


def _launches(device: tvm.IRModule) -> list[Launch]:
    found = []
    for function in device.functions.values():
        tags = tuple(str(tag) for tag in function.attrs["tirx.kernel_launch_params"])
        arguments = tuple(map(_argument, function.params))
        found.append(Launch(str(function.attrs["global_symbol"]), arguments, tags))
    return found


def _argument(parameter: Any) -> str:
    """A pointer, or the type of a number."""
    return "handle" if isinstance(parameter.ty, tvm.ir.PointerType) else str(parameter.ty.dtype)


def _fused_multiply_add(call: Any) -> Any:
    """TVM knows no CUDA for it."""
    return tirx.call_extern(call.ty.dtype, "hago::multiply_add", *call.args)


register_intrin_lowering("tirx.fma", target="cuda", f=_fused_multiply_add)

_PASSES = [
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.LowerMatchBuffer(),
    s_tir.transform.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
    tirx.transform.NarrowDataType(32),
    tirx.transform.VectorizeLoop(True),
    tirx.transform.StmtSimplify(),
    s_tir.transform.RewriteUnsafeSelect(),
    tirx.transform.VerifyMemory(),
    tirx.transform.AnnotateEntryFunc(),
    s_tir.transform.MergeSharedMemoryAllocations(),
    tirx.transform.SplitHostDevice(),
    tirx.transform.MakePackedAPI(),
]
"""Templates write their barriers themselves, and no more than they need: TVM's own insertion is left out."""
