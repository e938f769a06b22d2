"""Several devices of one kind, any of which may fail, hang or disappear during a measurement.

Work goes to the devices in turn. Work that fails on one is tried on the next; an unreachable device rests for a while
and is then tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import DeviceError, NoDeviceError
from .config import Device
from .remote import RemoteNet, RemoteSession, connect

Result = TypeVar("Result")

_REST_S, _PAUSE_S, _PATIENCE_S = 60.0, 3.0, 30.0


class PoolMember:
    """One device of a pool, with its session and the networks loaded there."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.rests_until = 0.0
        self.checked: set[str] = set()  # networks whose outputs were compared with this machine's in this session
        self._session: RemoteSession | None = None
        self._opened = ExitStack()
        self._nets: dict[str, RemoteNet] = {}

    @property
    def session(self) -> RemoteSession:
        """The session, opened if necessary. Raises DeviceError."""
        if self._session is None:
            self._session = self._opened.enter_context(connect(self.device))
        return self._session

    def net(self, key: str, path: Path, meta: dict[str, Any]) -> RemoteNet:
        """The saved network, loaded on the device until a `keep` without it."""
        if key not in self._nets:
            self._nets[key] = self.session.load(path, meta)
        return self._nets[key]

    def keep(self, keys: Collection[str]) -> None:
        """Unloads all other networks."""
        for key in [key for key in self._nets if key not in keys]:
            self.session.unload(self._nets.pop(key))

    def close(self) -> None:
        """Abandons the session, in any state."""
        self._nets.clear()
        self.checked.clear()
        self._session = None
        opened, self._opened = self._opened, ExitStack()
        opened.close()


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The result of some work, and the device that did it."""

    result: Result
    device: str


@dataclass
class Pool:
    """Devices of one spec that share the work."""

    devices: Sequence[Device]
    patience_s: float = field(default_factory=lambda: _PATIENCE_S)
    _members: list[PoolMember] = field(default_factory=list)
    _unreported: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._members = [PoolMember(device) for device in self.devices]

    @property
    def name(self) -> str:
        return "+".join(device.name for device in self.devices)

    def do(self, work: Callable[[PoolMember], Result]) -> Done[Result]:
        """Does ``work`` on the device whose turn it is, or on the next one that can.

        Raises DeviceError if it fails on every device (a single device is tried twice) while one is reachable, and
        NoDeviceError if none is reachable for ``patience_s`` seconds.
        """
        end = time.monotonic() + self.patience_s
        while True:
            try:
                return self._try(work)
            except NoDeviceError:  # a board may be starting again
                if time.monotonic() >= end:
                    raise
                time.sleep(min(_PAUSE_S, self.patience_s))

    def _try(self, work: Callable[[PoolMember], Result]) -> Done[Result]:
        """`do`, without waiting for devices to come back."""
        trouble: list[str] = []
        failed = ""
        for member in self._in_turn():
            try:
                member.session  # noqa: B018 - connects
            except DeviceError as error:
                trouble.append(self._note(member, error))
                self._rest(member, _REST_S)
                continue
            try:
                return Done(work(member), member.device.name)
            except DeviceError as error:
                trouble.append(self._note(member, error))
                failed = error.where or member.device.name
            # Only now are all references of the failed call gone, which would keep the connection open.
            self._rest(member, 0.0)
        if failed and any(self._answers(member) for member in self._members):
            raise DeviceError("; ".join(trouble), where=failed, hint="`hago device check` describes the device")
        raise NoDeviceError(
            f"no device answers: {'; '.join(trouble)}",
            where=self.name,
            hint="see `hago device check`; restart the device, then continue with --resume",
        )

    def close(self) -> None:
        """Closes all sessions."""
        for member in self._members:
            member.close()

    def _in_turn(self) -> list[PoolMember]:
        """The devices to try, in order: ready ones in turn, then resting ones. A single device comes twice."""
        first = self._members.pop(0)
        self._members.append(first)
        turn = [first, *self._members[:-1]]
        now = time.monotonic()
        rested = [member for member in turn if member.rests_until <= now]
        resting = [member for member in turn if member.rests_until > now]
        asked = rested if len(rested) > 1 else rested * 2
        return [*asked, *(resting if len(rested) < 2 else [])]

    def new_trouble(self) -> str | None:
        """Failures of devices since the last call; None without any."""
        found, self._unreported = self._unreported, []
        return "; ".join(dict.fromkeys(found)) or None

    def _note(self, member: PoolMember, error: DeviceError) -> str:
        self._unreported.append(f"{member.device.name}: {error.what}")
        return self._unreported[-1]

    def _answers(self, member: PoolMember) -> bool:
        """Whether the device is reachable, so that the work itself failed."""
        try:
            member.session  # noqa: B018 - connects
        except DeviceError:
            return False
        return True

    def _rest(self, member: PoolMember, seconds: float) -> None:
        """Drops its session, which can no longer be trusted, and lets it rest."""
        member.close()
        member.rests_until = time.monotonic() + seconds
