"""NVIDIA GPUs, driven by TVM's runtime: no compiler is needed to run what was compiled before."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache
from typing import Any

from ...runtime.executor import Executor


class CudaExecutor(Executor):
    """Code of NVIDIA GPUs: launched by code of the processor, which comes along with it."""

    def is_present(self) -> bool:
        return has_gpu()

    def attach(self, module: Any, code: bytes) -> None:
        import tvm_ffi

        module.import_module(tvm_ffi.get_global_func("ffi.Module.load_from_bytes.cuda")(code))


@cache
def has_gpu() -> bool:
    """Whether this machine has a GPU that CUDA can use."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        return False


EXECUTOR = CudaExecutor("cuda", kind="cuda", shared_memory=False, timed_by_cpu=False)
