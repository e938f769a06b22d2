"""From a template's function to machine code, by those of TVM's passes that a template needs.

TVM's default pipeline also serves schedules and GPUs. Templates are written the way they are to run: no blocks to
schedule, no threads to bind, buffers as small as they can be, no common expressions that LLVM would not find. Leaving
those passes out halves the time before LLVM.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes
from tvm.tirx.compilation_pipeline import register_tir_pipeline


def compile_template(function: Any, name: str, target: Any, *, general: bool = False) -> Any:
    """The executable of one template's function, under ``name``; ``general`` means by all of TVM's passes."""
    module = tvm.IRModule({name: function.with_attr("global_symbol", name)})
    return tvm.compile(module, target=target, tir_pipeline="default" if general else "hago")


@tvm.transform.module_pass(opt_level=0)
def _pipeline(module: tvm.IRModule, _context: Any) -> tvm.IRModule:
    passes = [
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.NarrowDataType(32),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.StorageRewrite(),
        tirx.transform.StmtSimplify(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
        tirx.transform.BF16StorageLegalize(),
    ]
    return tvm.transform.Sequential(passes)(module)


register_tir_pipeline("hago", lambda: (_pipeline, finalize_host_passes, finalize_device_passes))
