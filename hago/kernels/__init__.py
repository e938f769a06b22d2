"""Kernels, one folder for each kind of target, and what the rest of Hago needs to know about them.

    common/   what every target needs: kernel calls, fusion, the `Backend` itself
    cpu/      x86 and Arm
    cuda/     NVIDIA GPUs

A target is a package with three modules: ``families`` (FAMILIES and PRECISIONS, plain values that a spec is checked
against), ``executor`` (EXECUTOR, which needs only TVM's runtime) and ``backend`` (BACKEND, which needs its compiler).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..errors import BuildError

if TYPE_CHECKING:
    from ..runtime.executor import Executor
    from .common.backend import Backend

TARGETS: dict[str, str] = {
    "cpu": "hago.kernels.cpu",
    "cuda": "hago.kernels.cuda",
}
"""Name of a target -> its package. A new target is one more entry."""


class _Spec(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def kernels(self) -> str | None: ...


class _Way(Protocol):
    @property
    def precision(self) -> str: ...


def families() -> dict[str, str]:
    """Kernel family (``kernels`` in a spec) -> the target that it belongs to."""
    return {family: target for target in TARGETS for family in _module(target, "families").FAMILIES}


def backend_of(spec: _Spec) -> Backend:
    """The backend that compiles for this hardware. Raises BuildError if there is none."""
    known = families()
    if spec.kernels is None or spec.kernels not in known:
        raise BuildError(
            f"there are no kernels for this hardware yet (have: {', '.join(known)})",
            where=f"hardware {spec.name!r}",
            hint="`hago hw list` shows the hardware that Hago can compile for",
        )
    return cast("Backend", _module(known[spec.kernels], "backend").BACKEND)


def executor_named(name: str) -> Executor:
    """How code of the target ``name`` runs. Raises BuildError if no such target is known."""
    if name not in TARGETS:
        raise BuildError(f"there is no target {name!r} (have: {', '.join(TARGETS)})")
    return cast("Executor", _module(name, "executor").EXECUTOR)


def why_not(spec: _Spec, kind: str, way: _Way) -> str | None:
    """Why a layer of ``kind`` cannot be compiled that way yet: one sentence without its full stop.

    None if it can, and for hardware that has no kernels at all: its strategies are written as QDQ models.
    """
    target = families().get(spec.kernels or "")
    if target is None or way.precision in _module(target, "families").PRECISIONS:
        return None
    return f"there is no {kind} kernel in {way.precision} for {spec.name} yet"


def _module(target: str, name: str) -> Any:
    return import_module(f"{TARGETS[target]}.{name}")
