"""How kernels are compiled for one spec: the target's backend, its kernel family, TVM's target, threads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm.target import Target

from ..kernels import backend_of
from ..kernels.common.backend import HOST, Backend
from .linker import is_foreign

if TYPE_CHECKING:
    from ..spec import HardwareSpec


@dataclass(frozen=True)
class Toolchain:
    """How the kernels of a network are compiled; ``key`` has all that their code depends on besides their calls."""

    backend: Backend
    family: Any
    target: Target
    threads: int
    key: str

    @property
    def triple(self) -> str:
        """LLVM's name of the machine that the code is for."""
        host = self.target if self.target.kind.name == "llvm" else self.target.host
        return str(host.attrs.get("mtriple", HOST["mtriple"]))

    @property
    def arch(self) -> str:
        """The device's architecture ("sm_80"), where it is not the processor."""
        return str(self.target.attrs.get("arch", "")) if self.backend.has_device_code else ""

    @property
    def is_foreign(self) -> bool:
        """Whether the code is for another kind of machine than this one."""
        return is_foreign(self.triple) or not self.backend.executor.is_present(self.arch)


def toolchain_of(spec: HardwareSpec, threads: int) -> Toolchain:
    """The toolchain for this hardware. Raises BuildError if there are no kernels for it."""
    backend = backend_of(spec)
    threads = 1 if backend.has_device_code else threads  # one is enough to launch what a device computes
    family = backend.families[spec.kernels or ""]
    target = dict(spec.target)
    if target["kind"] != "llvm":
        target.setdefault("host", HOST)
    key = f"{backend.name} {family!r} {json.dumps(target, sort_keys=True)} {threads} {backend.compiler()}".rstrip()
    return Toolchain(backend, family, Target(target), threads, key)
