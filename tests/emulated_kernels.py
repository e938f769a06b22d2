"""Kernels of any instruction set, called with numpy arrays.

Where this processor has what they need, they run as they are. Those for newer x86 processors run with the meaning of
the instructions that it lacks (`emulated_x86`), those for Arm on an emulated machine.
"""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from emulated_x86 import Emulated
from tvm.target import Target

from hago.compiler.linker import link, object_code
from hago.device.config import Device
from hago.device.emulated import emulated_server, sysroot
from hago.device.remote import RemoteSession, connect
from hago.kernels.cpu.fallback import fallback
from hago.kernels.cpu.families import DOTPROD, I8MM, NEON, Isa
from hago.kernels.cpu.jit import Jitted, jit, missing
from hago.kernels.cpu.pipeline import compile_template
from hago.spec import load_spec

SPECS = {NEON: "arm-cortex-a72", DOTPROD: "arm-cortex-a76", I8MM: "arm-neoverse-v1"}
_open = ExitStack()
atexit.register(_open.close)
_numbers = count()


def can_emulate() -> bool:
    return sysroot() is not None


def kernel_of(template: Callable[..., Any], params: Any, isa: Isa, threads: int = 1) -> Callable[..., None]:
    """Like `jit`, on any processor with AVX2."""
    if not isa.arm:
        return x86_kernel(template, params, isa, threads)
    session, place = _session(SPECS[isa])
    name = f"kernel{next(_numbers)}"
    target = Target(dict(load_spec(SPECS[isa]).target))
    compiled = compile_template(template(params, isa, threads), name, target)
    (place / f"{name}.o").write_bytes(object_code(compiled.mod))
    link([place / f"{name}.o"], place / f"{name}.so", "aarch64-linux-gnu")
    remote = session.remote
    remote.upload(str(place / f"{name}.so"))
    function = remote.load_module(f"{name}.so")[name]

    def call(*arrays: np.ndarray) -> None:
        tensors = [tvm.runtime.tensor(np.require(array, requirements="C"), remote.cpu()) for array in arrays]
        session.call("running a kernel", lambda: function(*tensors))
        for array, tensor in zip(arrays, tensors, strict=True):
            if array.flags.writeable:
                array[...] = tensor.numpy().reshape(array.shape)

    return call


def x86_kernel(template: Callable[..., Any], params: Any, isa: Isa, threads: int = 1) -> Jitted:
    """`kernel_of`, of x86 alone."""
    if not missing(isa):
        return jit(template, params, isa, threads)
    return Emulated(template(params, isa, threads), general=template is fallback)


@cache
def _session(spec: str) -> tuple[RemoteSession, Path]:
    """One emulated machine of each kind, until the tests end."""
    place = Path(_open.enter_context(tempfile.TemporaryDirectory()))
    address = _open.enter_context(emulated_server(spec))
    return _open.enter_context(connect(Device(spec, spec, rpc=address))), place
