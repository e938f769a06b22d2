"""Sessions with a device over TVM's RPC: send a compiled network, run it and time it there.

A device may fail, hang or disappear at any moment. Every exchange therefore has a time limit, after which the session
is abandoned, and every failure is a DeviceError that names the step and the device.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, DeviceError
from ..kernels import executor_named
from ..measure.kernels import KernelTime, KernelTypes, least_of
from ..runtime.executor import Executor, unpack
from ..tensor import TensorInfo
from .config import Device
from .emulated import emulated_server
from .sockets import Connection, open_sockets

_PATIENCE = 2.0  # times a device's limit: how long to wait where no limit of our own can end it

Result = TypeVar("Result")


class RemoteSession:
    """A connection to one device; `connect` opens it."""

    def __init__(self, device: Device, remote: Any, connection: Connection) -> None:
        self.device, self._remote, self._connection = device, remote, connection
        self._nets: list[RemoteNet] = []

    @property
    def remote(self) -> Any:
        """TVM's own session; use it within `call`."""
        return self._remote

    def call(self, what: str, function: Callable[[], Result], timeout_s: float | None = None) -> Result:
        """Calls ``function()`` in a separate thread; abandoned after ``timeout_s`` (default: the device's limit)."""
        limit = self.device.timeout_s if timeout_s is None else timeout_s
        return limited(self.device, what, function, limit, give_up=self._connection.cut)

    def function(self, name: str) -> Any:
        """A global function of the device's runtime."""
        return self.call(f"asking for {name}", lambda: self._remote.get_function(name))

    def load(self, path: Path, meta: Mapping[str, Any]) -> RemoteNet:
        """Sends a saved network and opens it there; ``meta`` is the metadata of its Artifact."""
        self._nets.append(RemoteNet(self, path, meta))
        return self._nets[-1]

    def kernel_times_s(
        self,
        library: Path,
        kernels: Sequence[tuple[str, KernelTypes]],
        executor: Executor,
        device_codes: Sequence[bytes] = (),
    ) -> list[KernelTime]:
        """Least seconds of each kernel of a library, on zeros, by symbol and the types and shapes of its arguments.

        ``device_codes`` are what the kernels launch on a device beside the processor.
        """

        def send() -> Any:
            self._remote.upload(str(library))
            module = self._remote.load_module(library.name)
            for code in device_codes:
                executor.attach(module, code, self._remote)
            return module

        def measure(loaded: Any, symbol: str, kinds: KernelTypes) -> KernelTime:
            arguments = [executor.tensor(np.zeros(shape, dtype), self._remote) for dtype, shape in kinds]
            evaluator = loaded.time_evaluator(symbol, executor.device(self._remote), repeat=5, min_repeat_ms=2)
            return least_of([float(value) for value in evaluator(*arguments).results])

        loaded = self.call("sending kernels", send)
        times = [self.call("timing a kernel", partial(measure, loaded, symbol, kinds)) for symbol, kinds in kernels]
        del loaded
        gc.collect()
        self.call("removing kernels", lambda: self._remote.remove(library.name))
        return times

    def unload(self, net: RemoteNet) -> None:
        """Releases a network, and removes its file from the device."""
        self._nets.remove(net)
        net.close()
        gc.collect()
        self.call("removing a network", lambda: self._remote.remove(net.file))

    def close(self) -> None:
        """Closes the session and what it loaded: a server accepts the next session only when nothing is left."""
        for net in self._nets:
            net.close()
        self._nets.clear()
        self._remote = None
        self._connection.forget()
        gc.collect()  # TVM's objects refer to each other in cycles: without this the connection outlives them


def limited(
    device: Device,
    what: str,
    function: Callable[[], Result],
    limit_s: float,
    give_up: Callable[[], None] = lambda: None,
) -> Result:
    """Calls ``function()`` and waits at most ``limit_s``; then calls ``give_up``.

    Raises DeviceError for any failure.
    """
    answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def work() -> None:
        try:
            answers.put((True, function()))
        except BaseException as error:
            answers.put((False, error))

    Thread(target=work, daemon=True).start()
    try:
        good, answer = answers.get(timeout=limit_s)
    except Empty:
        give_up()
        raise DeviceError(
            f"no answer within {limit_s:g} s while {what}",
            where=f"device {device.name!r} ({device.address})",
            hint="is it overloaded, or hanging? timeout_s in devices.yaml allows more",
        ) from None
    if good:
        return answer  # type: ignore[no-any-return]
    if not isinstance(answer, Exception):
        raise answer
    raise DeviceError(
        f"failed while {what}: {(str(answer).strip() or type(answer).__name__).splitlines()[-1]}",
        where=f"device {device.name!r} ({device.address})",
        hint="`hago device check` describes the device",
    ) from answer


@contextmanager
def connect(device: Device) -> Iterator[RemoteSession]:
    """A session with a remote device (an emulated one is started first). Raises DeviceError if there is none."""
    from tvm import rpc

    if device.emulated and device.rpc is None:
        with emulated_server(device.spec) as address, connect(replace(device, rpc=address)) as session:
            yield session
        return
    if device.is_local:
        raise DeviceError("is this machine: there is nothing to connect to", where=f"device {device.name!r}")

    def reach() -> Any:
        if device.rpc is not None:
            return rpc.connect(*device.rpc)
        assert device.tracker is not None
        tracker = rpc.connect_tracker(*device.tracker)
        return tracker.request(device.key, session_timeout=int(device.timeout_s) * 10)

    before = open_sockets()
    remote = limited(device, "connecting", reach, device.timeout_s, give_up=lambda: Connection(before).cut())
    connection = Connection(before)
    connection.limit(_PATIENCE * device.timeout_s)
    session = RemoteSession(device, remote, connection)
    del remote
    try:
        yield session
    finally:
        session.close()


class RemoteNet:
    """A network on a device; runs like an Artifact here, one call at a time."""

    def __init__(self, session: RemoteSession, path: Path, meta: Mapping[str, Any]) -> None:
        self._session, self.meta, self.file = session, dict(meta), path.name
        self.input_info = tuple(TensorInfo(i["name"], i["dtype"], tuple(i["shape"])) for i in meta["inputs"])
        self.threads, self.size_bytes = int(meta["threads"]), int(meta["size_bytes"])
        self._executor = executor_named(meta["executor"])
        remote = session.remote

        def send() -> Any:
            from tvm.runtime.vm import VirtualMachine

            remote.upload(str(path), target=path.name)
            module = remote.load_module(path.name)
            if meta.get("device_code"):
                data = VirtualMachine(module, remote.cpu(0))
                for code in unpack(data["hago_device_code"]().numpy().tobytes()):
                    self._executor.attach(module, code, remote)
            return VirtualMachine(module, self._executor.device(remote))

        self._machine: Any = session.call("sending the network", send)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for inputs by name."""

        def compute() -> list[NDArray[Any]]:
            self._set(feeds)
            self._machine.invoke_stateful("main")
            found = self._machine.get_outputs("main")
            outputs = found if isinstance(found, (list, tuple)) else [found]
            return [output.numpy() for output in outputs]

        return self._session.call("running", compute)

    def times_s(self, feeds: Mapping[str, NDArray[Any]], repeat: int = 20, min_repeat_ms: int = 20) -> Sequence[float]:
        """Seconds of one call, measured by the device itself, ``repeat`` times."""
        self.give(feeds)
        once = self.timed(1)[0]
        limit = self._session.device.timeout_s + repeat * (once + min_repeat_ms * 5e-3)
        return self._session.call("timing", lambda: self._evaluate(1, repeat, min_repeat_ms), limit)

    def give(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Sends inputs for `timed`."""
        self._session.call("sending inputs", lambda: self._set(feeds))

    def timed(self, calls: int, repeat: int = 1) -> Sequence[float]:
        """Mean seconds of ``calls`` calls on the last inputs, ``repeat`` times, measured by the device itself."""
        return self._session.call("timing", lambda: self._evaluate(calls, repeat, 0))

    def _evaluate(self, calls: int, repeat: int, min_repeat_ms: int) -> Sequence[float]:
        evaluator = self._machine.time_evaluator(
            "invoke_stateful", self._device(), number=calls, repeat=repeat, min_repeat_ms=min_repeat_ms
        )
        return [float(value) for value in evaluator("main").results]

    def close(self) -> None:
        """Releases the network; it cannot be run afterwards."""
        self._machine = None

    def _device(self) -> Any:
        return self._executor.device(self._session.remote)

    def _set(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        values = []
        for info in self.input_info:
            if info.name not in feeds or np.shape(feeds[info.name]) != info.shape:
                raise DataError(
                    f"must be given as {info.dtype} of shape {list(info.shape)}", where=f"input {info.name!r}"
                )
            array = np.ascontiguousarray(feeds[info.name], info.dtype)
            values.append(self._executor.tensor(array, self._session.remote))
        self._machine.set_input("main", *values)
