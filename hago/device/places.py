"""Where candidates run, by the names of ``devices.yaml``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import arguments
from ..bench import Bench
from ..bench.local import LocalBench
from ..errors import DeviceError
from ..spec import resolve_hw
from .config import Device, find_device

if TYPE_CHECKING:
    from ..compiler.cache import KernelCache


@dataclass(frozen=True)
class Target:
    """This machine, or devices of one kind that share the work."""

    devices: tuple[Device, ...]

    def __post_init__(self) -> None:
        first = self.devices[0]
        for other in self.devices[1:]:
            kinds = [(d.spec, d.emulated, d.is_local) for d in (first, other)]
            if kinds[0] != kinds[1] or other.is_local:
                raise DeviceError(
                    f"{first.name} ({first.spec}, {first.address}) and {other.name} ({other.spec}, {other.address}) "
                    "are not of one kind",
                    hint="--device A+B takes devices of one spec; --devices A,B finds one strategy for several",
                )

    @property
    def name(self) -> str:
        return "+".join(device.name for device in self.devices)

    @property
    def address(self) -> str:
        """The addresses of its devices, for people."""
        return ", ".join(device.address for device in self.devices)

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return self.devices[0].is_local

    def bench(self, threads: int, cache: KernelCache, seed: int = 0) -> Bench:
        """The bench that measures there, not connected yet. Raises SpecError for an unknown spec."""
        from ..bench.rpc import CountingBench, RpcBench

        first = self.devices[0]
        if first.is_local:
            return LocalBench(resolve_hw(first.spec), seed)
        if first.emulated:
            return CountingBench(self.devices, threads=threads, cache=cache, seed=seed)
        return RpcBench(self.devices, threads=threads, cache=cache, seed=seed)


def find_place(names: str, file: str | os.PathLike[str] | None = None) -> Target:
    """``pi5``, or ``pi5-a+pi5-b`` for devices of one kind. Raises DeviceError."""
    (names,) = arguments.names("a device", [names], DeviceError)
    file = None if file is None else arguments.path("devices_file", file, DeviceError)
    return Target(tuple(find_device(name.strip(), file) for name in names.split("+")))
