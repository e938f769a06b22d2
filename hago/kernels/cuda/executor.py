"""NVIDIA GPUs, driven by TVM's runtime: no compiler is needed to run what was compiled before."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import HagoError, HagoWarning, NoDeviceError, reason_of
from ...runtime.executor import Executor
from .driver import Driver, Graph, Stream, driver, runs_on

_LOADER = "ffi.Module.load_from_bytes.cuda"
_LAUNCHES = 10  # of a kernel in a graph: the time between two graphs then hardly counts
_SAMPLE_S, _MOST_GRAPHS = 4e-4, 200  # what is between two events: so long, but not more graphs


@dataclass(frozen=True)
class CudaExecutor(Executor):
    """Code of NVIDIA GPUs: launched by code of the processor, which comes along with it."""

    def why_absent(self, arch: str = "") -> str | None:
        found = driver()
        if found is None:
            return "this machine has no GPU that CUDA can use"
        if arch and not runs_on(arch, found.capability):
            return f"this machine's {found.name} does not run code for {arch}"
        return None

    def place(self) -> str:
        found = driver()
        return "" if found is None else found.name

    @property
    def driver(self) -> Driver:
        """The driver of this machine. Raises NoDeviceError if it has no GPU."""
        found = driver()
        if found is None:
            raise NoDeviceError("there is no GPU that CUDA can use", hint="see whether nvidia-smi finds one")
        return found

    def attach(self, module: Any, code: bytes, session: Any = None) -> None:
        if session is not None:
            from tvm.rpc import _ffi_api

            _ffi_api.ImportRemoteModule(module, session.get_function(_LOADER)(code))
            return
        import tvm_ffi

        module.import_module(tvm_ffi.get_global_func(_LOADER)(code))

    def prepared(self, machine: Mapping[str, Any], buffers: Sequence[Any]) -> Callable[..., Sequence[Any]]:
        return ReplayedNetwork(self, machine["main"], machine["held"])

    def time_calls(self, main: Callable[..., Sequence[Any]], buffers: Sequence[Any], count: int) -> float:
        assert isinstance(main, ReplayedNetwork)
        return main.seconds(buffers, count)

    def kernel_times(self, function: Callable[..., Any], tensors: Sequence[Any], repeats: int) -> list[float]:
        function(*tensors)  # loads its code, which a graph cannot record
        self.wait()
        stream = Stream(self.driver)
        with self.on(stream):
            graph = Graph(stream, lambda: [function(*tensors) for _ in range(_LAUNCHES)])
        once = graph.seconds(1)
        count = max(1, min(_MOST_GRAPHS, math.ceil(_SAMPLE_S / max(once, 1e-7))))
        return [graph.seconds(count) / (count * _LAUNCHES) for _ in range(repeats)]

    def failure(self, error: Exception) -> HagoError:
        if isinstance(error, HagoError):
            return error
        found = driver()
        return (found.fault() if found is not None else None) or super().failure(error)

    def on(self, stream: Stream) -> Any:
        """A block in which TVM's runtime launches kernels into ``stream``."""
        import tvm_ffi

        return tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), stream.handle.value or 0)


class ReplayedNetwork:
    """A network's function. The first call records its launches; later calls replay them as one graph.

    At batch 1, launching kernels one by one takes longer than the kernels. ``held`` is ``main`` which also returns the
    memory of its intermediate tensors: a graph needs it as long as it lives. The tensors returned are overwritten by
    the next call.
    """

    def __init__(self, executor: CudaExecutor, main: Callable[..., Any], held: Callable[..., Any]) -> None:
        self._executor, self._main, self._held = executor, main, held
        self._graph: Graph | None = None
        self._tensors: Sequence[Any] = ()  # of the graph: outputs, then intermediate memory
        self._outputs: Sequence[Any] = ()
        self._tried = False

    def __call__(self, *buffers: Any) -> Sequence[Any]:
        if self._graph is not None:
            self._replay()
            return self._outputs
        outputs = self._main(*buffers)
        if not self._tried:
            self._tried = True
            self._executor.wait()
            self._record(buffers, outputs)
        return outputs  # type: ignore[no-any-return]

    def seconds(self, buffers: Sequence[Any], count: int) -> float:
        """The GPU's time for ``count`` calls: replays or, where nothing could be recorded, calls."""
        if not self._tried:
            self(*buffers)
        self._executor.wait()
        if self._graph is not None:
            return self._graph.seconds(count)
        stream = Stream(self._executor.driver)
        with self._executor.on(stream):
            return stream.seconds(lambda: [self._main(*buffers) for _ in range(count)])

    def _replay(self) -> None:
        assert self._graph is not None
        self._executor.wait()  # the inputs' copies, which are in the default stream
        self._graph.launch()
        self._graph.stream.wait()

    def _record(self, buffers: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Records the launches, and keeps them if a replay gives ``outputs`` again."""
        try:
            stream = Stream(self._executor.driver)
            with self._executor.on(stream):
                self._graph = Graph(stream, lambda: self._hold(buffers, len(outputs)))
            if self._gives(outputs):
                return
            reason = "not all of the network can be recorded"
        except NoDeviceError:
            raise
        except Exception as error:
            reason = error.what if isinstance(error, HagoError) else reason_of(error)
        self._graph, self._tensors, self._outputs = None, (), ()
        text = f"the network's kernels are launched one by one, which is slower than replaying a graph: {reason}"
        warnings.warn(text, HagoWarning, stacklevel=2)

    def _hold(self, buffers: Sequence[Any], count: int) -> None:
        self._tensors = list(self._held(*buffers))
        self._outputs = self._tensors[:count]

    def _gives(self, outputs: Sequence[Any]) -> bool:
        """Whether a replay writes every byte of its outputs, and writes those of ``outputs``."""
        wanted = [self._executor.array(output) for output in outputs]
        for array, tensor in zip(wanted, self._outputs, strict=True):
            other = np.frombuffer(bytes(~np.frombuffer(array.tobytes(), np.uint8)), array.dtype)
            tensor.copyfrom(other.reshape(array.shape))
        self._replay()
        found = map(self._executor.array, self._outputs)
        return all(one.tobytes() == other.tobytes() for one, other in zip(wanted, found, strict=True))


EXECUTOR = CudaExecutor("cuda", kind="cuda", shared_memory=False, timed_by_cpu=False, has_clock=True)
