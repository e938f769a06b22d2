"""A driver without a GPU: streams that record, graphs that replay, events on a clock that only work moves."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import pytest

import hago.kernels.cuda.executor as executor_module
from hago.kernels.cuda.driver import Driver
from hago.kernels.cuda.executor import CudaExecutor

ILLEGAL_ADDRESS, OUT_OF_MEMORY, NOT_PERMITTED = 700, 2, 800
_NAMES = {
    ILLEGAL_ADDRESS: (b"CUDA_ERROR_ILLEGAL_ADDRESS", b"an illegal memory access was encountered"),
    OUT_OF_MEMORY: (b"CUDA_ERROR_OUT_OF_MEMORY", b"out of memory"),
    NOT_PERMITTED: (b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", b"operation not permitted when stream is capturing"),
}


@dataclass
class FakeCuda:
    """What ctypes makes of libcuda.so.1. ``fails`` maps functions to the status that they return from now on."""

    capability: tuple[int, int] = (9, 0)
    fails: dict[str, int] = field(default_factory=dict)
    work_ms: float = 0.05  # of each piece of work
    clock_ms: float = 0.0
    recording: list | None = None
    calls: list[str] = field(default_factory=list)
    _objects: dict[int, object] = field(default_factory=dict)

    def enqueue(self, work):
        """What a launch of TVM's runtime does: recorded, or run at once."""
        if self.recording is not None:
            self.recording.append(work)
        else:
            self._run([work])

    def alive(self, kind: type) -> int:
        """How many events (float), graphs (list) or streams (str) were made and not released."""
        return sum(isinstance(one, kind) for one in self._objects.values())

    def _run(self, works):
        for work in works:
            self.clock_ms += self.work_ms
            work()

    def _new(self, pointer, thing):
        pointer._obj.value = len(self.calls) + 1000
        self._objects[pointer._obj.value] = thing

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def function(*arguments):
            self.calls.append(name)
            if name in self.fails:
                if name == "cuStreamEndCapture":
                    self.recording = None
                return self.fails[name]
            return getattr(self, f"_{name}", lambda *_: 0)(*arguments) or 0

        return function

    def _cuInit(self, flags):
        return 0

    def _cuDeviceGetName(self, text, size, device):
        text.value = b"A fake GPU"

    def _cuDeviceGetPCIBusId(self, text, size, device):
        text.value = b"0000:3B:00.0"

    def _cuDeviceGetAttribute(self, value, number, device):
        value._obj.value = {75: self.capability[0], 76: self.capability[1]}[number]

    def _cuDriverGetVersion(self, value):
        value._obj.value = 13000

    def _cuDeviceTotalMem_v2(self, value, device):
        value._obj.value = 80 << 30

    def _cuDevicePrimaryCtxRetain(self, context, device):
        context._obj.value = 77

    def _cuGetErrorName(self, status, text):
        text._obj.value = _NAMES[status][0]

    def _cuGetErrorString(self, status, text):
        text._obj.value = _NAMES[status][1]

    def _cuStreamCreate(self, stream, flags):
        assert flags == 1, "a stream that waits for the default stream cannot record"
        self._new(stream, "stream")

    def _cuStreamBeginCapture_v2(self, stream, mode):
        assert self.recording is None and self._objects[stream.value] == "stream"
        self.recording = []

    def _cuStreamEndCapture(self, stream, graph):
        self._new(graph, self.recording)
        self.recording = None

    def _cuGraphInstantiateWithFlags(self, runnable, graph, flags):
        self._new(runnable, self._objects[graph.value])

    def _cuGraphLaunch(self, runnable, stream):
        self._run(self._objects[runnable.value])

    def _cuEventCreate(self, event, flags):
        self._new(event, 0.0)

    def _cuEventRecord(self, event, stream):
        self._objects[event.value] = self.clock_ms

    def _cuEventElapsedTime(self, passed, start, end):
        passed._obj.value = self._objects[end.value] - self._objects[start.value]

    def _cuMemAlloc_v2(self, address, size):
        memory = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(memory)
        self._objects[address._obj.value] = memory

    def _cuMemcpyHtoD_v2(self, target, source, size):
        ctypes.memmove(target.value, source.value, size.value)

    _cuMemcpyDtoH_v2 = _cuMemcpyHtoD_v2

    def _destroy(self, handle):
        del self._objects[handle.value]

    _cuEventDestroy_v2 = _cuGraphDestroy = _cuGraphExecDestroy = _cuStreamDestroy_v2 = _cuMemFree_v2 = _destroy


def gpu_of(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> CudaExecutor:
    """An executor that takes ``fake`` for the driver; its tensors are in this machine's memory."""
    found = Driver(fake)
    monkeypatch.setattr(executor_module, "driver", lambda: found)
    return CudaExecutor("cuda", kind="cpu", shared_memory=False, timed_by_cpu=False, has_clock=True)
