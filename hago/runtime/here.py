"""Whether this machine can run what is compiled for some hardware."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from ..errors import DeviceError
from ..kernels import executor_named, families
from .processor import machine_name, missing_features


class _Spec(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def kernels(self) -> str | None: ...

    @property
    def triple(self) -> str: ...

    @property
    def cpu_features(self) -> Collection[str]: ...

    @property
    def target(self) -> Mapping[str, Any]: ...


def why_not_here(spec: _Spec) -> str | None:
    """Why this machine cannot run networks for ``spec``, as a clause; None if it can."""
    target = families().get(spec.kernels or "")
    if target is None:
        return "there are no kernels for it yet"
    machine = spec.triple.partition("-")[0]
    if machine and machine != machine_name():
        return f"this processor is {machine_name()}, not {machine}"
    missing = missing_features(spec.cpu_features)
    if missing:
        return f"this processor lacks {', '.join(missing)}"
    return executor_named(target).why_absent(str(spec.target.get("arch", "")))


def require_here(spec: _Spec) -> None:
    """Raises DeviceError if networks for ``spec`` cannot be measured on this machine."""
    why = why_not_here(spec)
    if why is not None:
        raise DeviceError(
            f"a search measures every candidate, and {why}",
            where=f"hardware {spec.name!r}",
            hint="name a device of that kind (--device, see docs/devices.md), or use what fits this machine (`hago hw "
            "detect`); `hago compile` needs no device",
        )
