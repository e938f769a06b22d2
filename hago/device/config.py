"""``devices.yaml``: the machines that networks can run on.

devices:
  desk:  {spec: auto, local: true}
  pi5:   {spec: arm-cortex-a76, rpc: "127.0.0.1:9090"}
  farm:  {spec: arm-cortex-a72, tracker: "10.8.0.1:9190", key: pi4, timeout_s: 120}
  a72:   {spec: arm-cortex-a72, emulated: true}
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..documents import Document, read_document
from ..errors import DeviceError

DEFAULT_FILE = "devices.yaml"
_LONGEST_S = 86_400  # seconds: no device takes a day to answer


@dataclass(frozen=True)
class Device:
    """One machine. ``rpc`` and ``tracker`` are (host, port); with neither, it is this machine, or emulated on it."""

    name: str
    spec: str = "auto"
    rpc: tuple[str, int] | None = None
    tracker: tuple[str, int] | None = None
    key: str = ""
    timeout_s: float = 60.0
    emulated: bool = False

    @property
    def is_local(self) -> bool:
        """Whether it is this machine."""
        return self.rpc is None and self.tracker is None and not self.emulated

    @property
    def address(self) -> str:
        """Its address, for people."""
        if self.rpc is not None:
            return f"rpc {self.rpc[0]}:{self.rpc[1]}"
        if self.tracker is not None:
            return f"tracker {self.tracker[0]}:{self.tracker[1]}, key {self.key}"
        return "emulated here" if self.emulated else "this machine"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    spec: str = "auto"
    local: bool = False
    rpc: str | None = None
    tracker: str | None = None
    emulated: bool = False
    key: str = ""
    timeout_s: float = Field(60.0, gt=0, le=_LONGEST_S)

    @model_validator(mode="after")
    def _one_way(self) -> _Entry:
        ways = [name for name in ("local", "rpc", "tracker", "emulated") if getattr(self, name)]
        if len(ways) != 1:
            found = ", ".join(ways) or "none"
            raise ValueError(f"needs exactly one of local: true, rpc, tracker, emulated: true (has: {found})")
        if (self.tracker is not None) != bool(self.key):
            raise ValueError("a tracker needs a key, and only a tracker does")
        if self.spec == "auto" and not self.local:
            raise ValueError("spec: auto is only for this machine; name the device's spec (`hago hw list`)")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    devices: dict[str, _Entry]


def load_devices(path: str | os.PathLike[str]) -> dict[str, Device]:
    """The devices of a file, by name. Raises DeviceError, naming the file and the key."""
    document = read_document(path, error=DeviceError, hint="see docs/devices.md for its format")
    try:
        file = _File.model_validate(document.data)
    except ValidationError as error:
        first = error.errors()[0]
        where = document.where(first["loc"] or ("devices",))
        raise DeviceError(first["msg"].removeprefix("Value error, "), where=where) from None
    return {name: _device(name, entry, document) for name, entry in file.devices.items()}


def find_device(name: str, path: str | os.PathLike[str] | None = None) -> Device:
    """The device of this name in ``path`` (default: devices.yaml here); "local" is always this machine."""
    file = Path(path or DEFAULT_FILE)
    known = load_devices(file) if path is not None or file.is_file() else {}
    if name in known:
        return known[name]
    if name == "local":
        return Device("local")
    names = ", ".join(["local", *known])
    raise DeviceError(f"there is no device {name!r}", where=str(file), hint=f"devices: {names}")


def _device(name: str, entry: _Entry, document: Document) -> Device:
    def address(text: str | None, key: str) -> tuple[str, int] | None:
        if text is None:
            return None
        host, _, port = text.rpartition(":")
        if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            raise DeviceError(f"must be host:port, not {text[:80]!r}", where=document.where(("devices", name, key)))
        return host, int(port)

    rpc, tracker = address(entry.rpc, "rpc"), address(entry.tracker, "tracker")
    return Device(name, entry.spec, rpc, tracker, entry.key, entry.timeout_s, entry.emulated)
