"""How kernels are compiled for one spec: the target's backend, its kernel family, TVM's target, threads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm.target import Target

from ..kernels import backend_of
from ..kernels.common.backend import Backend
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
        return str(self.target.attrs.get("mtriple", "x86_64-linux-gnu"))

    @property
    def is_foreign(self) -> bool:
        """Whether the code is for another kind of machine than this one."""
        return is_foreign(self.triple)


def toolchain_of(spec: HardwareSpec, threads: int) -> Toolchain:
    """The toolchain for this hardware. Raises BuildError if there are no kernels for it."""
    backend = backend_of(spec)
    family = backend.families[spec.kernels or ""]
    key = f"{backend.name} {family!r} {json.dumps(dict(spec.target), sort_keys=True)} {threads}"
    return Toolchain(backend, family, Target(dict(spec.target)), threads, key)
