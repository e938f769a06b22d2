"""NVIDIA's driver (libcuda.so.1), called directly: which GPU there is, streams, graphs of launches, their time.

TVM's runtime launches kernels; it neither records graphs nor takes time between two events of a stream.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_ulonglong, c_void_p
from functools import cache
from typing import Any
from weakref import finalize

from numpy.typing import NDArray

from ...errors import DeviceError, NoDeviceError

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: memory may be allocated meanwhile
_APART = 1  # CU_STREAM_NON_BLOCKING: the stream does not wait for the default stream
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
_MULTIPROCESSORS, _CLOCK_KHZ = 16, 13  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, ..._CLOCK_RATE
_OUT_OF_MEMORY = 2
_LONGEST_NAME = 256
_TEGRA = {(5, 3), (6, 2), (7, 2), (8, 7)}  # run no other device's code, and no other device runs theirs


class Driver:
    """The functions of ``library`` (ctypes), for the first GPU. Raises DeviceError if that cannot be used.

    CUDA_VISIBLE_DEVICES chooses which GPU is the first.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self.call("cuInit", 0)
        self._device, self._context = c_int(), c_void_p()
        self.call("cuDeviceGet", byref(self._device), 0)

    def call(self, function: str, *arguments: Any) -> None:
        """Calls a function of the driver. Raises DeviceError with CUDA's own words where it fails.

        NoDeviceError, if no later call of this process can succeed.
        """
        status = getattr(self._library, function)(*arguments)
        if status:
            raise self._error(function, status)

    def release(self, function: str, handle: c_void_p) -> None:
        """Gives back what ``handle`` stands for, if anything; a GPU that fails has nothing to give back."""
        if handle.value:
            getattr(self._library, function)(handle)
            handle.value = None

    def enter(self) -> None:
        """Makes the context that TVM uses, too, the calling thread's."""
        if not self._context.value:
            self.call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
        self.call("cuCtxSetCurrent", self._context)

    def wait(self) -> None:
        """Until everything that this process asked of the GPU is done."""
        self.enter()
        self.call("cuCtxSynchronize")

    def fault(self) -> DeviceError | None:
        """Why the GPU computes nothing any more; None if it still does."""
        try:
            self.wait()
        except DeviceError as error:
            return error
        return None

    @property
    def name(self) -> str:
        """The GPU's name, such as "NVIDIA A100-SXM4-40GB"."""
        text = ctypes.create_string_buffer(_LONGEST_NAME)
        self.call("cuDeviceGetName", text, _LONGEST_NAME, self._device)
        return text.value.decode(errors="replace")

    @property
    def bus_id(self) -> str:
        """Where it is plugged in, by which other libraries find it: "0000:3B:00.0"."""
        text = ctypes.create_string_buffer(_LONGEST_NAME)
        self.call("cuDeviceGetPCIBusId", text, _LONGEST_NAME, self._device)
        return text.value.decode(errors="replace")

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability: (8, 0) for an A100."""
        return self._attribute(_MAJOR), self._attribute(_MINOR)

    @property
    def cuda(self) -> str:
        """The newest CUDA that the driver serves, such as "13.0"."""
        number = c_int()
        self.call("cuDriverGetVersion", byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"

    @property
    def memory_bytes(self) -> int:
        """The GPU's memory in bytes."""
        size = c_size_t()
        self.call("cuDeviceTotalMem_v2", byref(size), self._device)
        return size.value

    @property
    def multiprocessors(self) -> int:
        """The number of multiprocessors."""
        return self._attribute(_MULTIPROCESSORS)

    @property
    def clock_hz(self) -> float:
        """The highest clock of the multiprocessors."""
        return 1e3 * self._attribute(_CLOCK_KHZ)

    def _attribute(self, number: int) -> int:
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), number, self._device)
        return value.value

    def _error(self, function: str, status: int) -> DeviceError:
        words = f"{self._words('cuGetErrorString', status)} ({self._words('cuGetErrorName', status)} by {function})"
        if status == _OUT_OF_MEMORY:
            hint = "use a smaller batch, or end other programs that use the GPU (nvidia-smi lists them)"
            return DeviceError(f"the GPU reports: {words}", hint=hint)
        hint = "this process cannot use the GPU any more: see whether nvidia-smi finds it, and start again"
        return NoDeviceError(f"the GPU reports: {words}", hint=hint)

    def _words(self, function: str, status: int) -> str:
        text = c_char_p()
        found = getattr(self._library, function)(status, byref(text)) == 0 and text.value
        return found.decode(errors="replace") if found else f"error {status}"


class Stream:
    """Launches in order, apart from those of the default stream."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.handle = driver, c_void_p()
        driver.enter()
        driver.call("cuStreamCreate", byref(self.handle), _APART)
        _released(self, driver, "cuStreamDestroy_v2", self.handle)

    def wait(self) -> None:
        """Until all that it holds is done."""
        self.driver.call("cuStreamSynchronize", self.handle)

    def seconds(self, work: Callable[[], object]) -> float:
        """The GPU's time from the start to the end of what ``work()`` puts into the stream."""
        self.driver.enter()
        with self._event() as start, self._event() as end:
            self.driver.call("cuEventRecord", start, self.handle)
            work()
            self.driver.call("cuEventRecord", end, self.handle)
            self.driver.call("cuEventSynchronize", end)
            passed = c_float()
            self.driver.call("cuEventElapsedTime", byref(passed), start, end)
        return passed.value * 1e-3

    @contextmanager
    def _event(self) -> Iterator[c_void_p]:
        event = c_void_p()
        self.driver.call("cuEventCreate", byref(event), 0)
        try:
            yield event
        finally:
            self.driver.release("cuEventDestroy_v2", event)


class Memory:
    """Some of the GPU's memory, for one array at a time. Raises DeviceError if there is not enough."""

    def __init__(self, driver: Driver, nbytes: int) -> None:
        self.driver, self.address = driver, c_void_p()
        driver.enter()
        driver.call("cuMemAlloc_v2", byref(self.address), c_size_t(max(nbytes, 1)))
        _released(self, driver, "cuMemFree_v2", self.address)

    def write(self, array: NDArray[Any]) -> None:
        """Copies a contiguous array there."""
        self.driver.call("cuMemcpyHtoD_v2", self.address, c_void_p(array.ctypes.data), c_size_t(array.nbytes))

    def read(self, array: NDArray[Any]) -> None:
        """Fills a contiguous array from there."""
        self.driver.call("cuMemcpyDtoH_v2", c_void_p(array.ctypes.data), self.address, c_size_t(array.nbytes))


class Graph:
    """What ``work()`` puts into ``stream``: recorded, not run; each `launch` then runs all of it.

    Everything that it reads or writes must stay where it is. Raises DeviceError if it cannot be recorded.
    """

    def __init__(self, stream: Stream, work: Callable[[], object]) -> None:
        self.stream, self._recorded, self._runnable = stream, c_void_p(), c_void_p()
        driver = stream.driver
        _released(self, driver, "cuGraphDestroy", self._recorded)
        _released(self, driver, "cuGraphExecDestroy", self._runnable)
        driver.enter()
        driver.call("cuStreamBeginCapture_v2", stream.handle, _RELAXED)
        try:
            work()
        finally:  # whatever happened, the stream must not go on recording
            driver.call("cuStreamEndCapture", stream.handle, byref(self._recorded))
        driver.call("cuGraphInstantiateWithFlags", byref(self._runnable), self._recorded, c_ulonglong(0))
        driver.call("cuGraphUpload", self._runnable, stream.handle)

    def launch(self) -> None:
        """Puts it into its stream."""
        self.stream.driver.call("cuGraphLaunch", self._runnable, self.stream.handle)

    def seconds(self, count: int) -> float:
        """The GPU's time for ``count`` launches, one after the other."""

        def work() -> None:
            for _ in range(count):
                self.launch()

        return self.stream.seconds(work)


def _released(owner: Any, driver: Driver, function: str, handle: c_void_p) -> None:
    """Has ``handle`` released together with its owner; the end of the process releases everything anyway."""
    finalize(owner, driver.release, function, handle).atexit = False


@cache
def driver() -> Driver | None:
    """The driver, for this machine's first GPU; None if it has none that CUDA can use."""
    try:
        return Driver(ctypes.CDLL("libcuda.so.1"))
    except (OSError, DeviceError):
        return None


def runs_on(arch: str, capability: tuple[int, int]) -> bool:
    """Whether machine code for ``arch`` ("sm_80", "sm_90a") runs on a GPU of this compute capability."""
    found = re.fullmatch(r"sm_(\d+)(\d)([a-z]?)", arch)
    if found is None:
        return False
    made_for = int(found[1]), int(found[2])
    if made_for == capability or found[3] or _TEGRA & {made_for, capability}:
        return made_for == capability
    return made_for[0] == capability[0] and made_for[1] < capability[1]
