"""The machine's first NVIDIA GPU, driven by Hago and TVM's runtime, which the bundle brings along."""

from __future__ import annotations

import ctypes
import glob
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle import Bundle

TORCH = "cuda"
"""Where PyTorch runs, to compare with."""

_CUDA_RUNTIME = "libcudart.so.13"
_COPIED = 1 << 30  # bytes


def start(with_torch: bool = False) -> None:
    """Loads TVM's runtime; the first call of a process decides whether PyTorch comes along, which takes seconds."""
    if "tvm" in sys.modules:
        return
    if not with_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi would import it
    os.environ["TVM_FFI_DISABLE_TORCH_C_DLPACK"] = "1"  # it might compile something for PyTorch
    _load_first([_CUDA_RUNTIME, *_elsewhere()])
    import tvm

    ctypes.CDLL(str(Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"), ctypes.RTLD_GLOBAL)


def _elsewhere() -> list[str]:
    """Where CUDA's runtime may be, if the loader does not know it."""
    patterns = [f"{path}/nvidia/*/lib/{_CUDA_RUNTIME}" for path in sys.path if path]
    patterns += [
        f"/usr/local/cuda*/lib64/{_CUDA_RUNTIME}*",
        f"/opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib/{_CUDA_RUNTIME}",
    ]
    return [path for pattern in patterns for path in sorted(glob.glob(pattern))]


def _load_first(paths: Sequence[str]) -> None:
    for path in paths:
        try:
            ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
            return
        except OSError:
            continue
    raise RuntimeError(f"{_CUDA_RUNTIME} is not here: install the CUDA runtime, or PyTorch for CUDA 13")


def describe() -> dict[str, Any]:
    """Name, compute capability, number of multiprocessors, clock and memory."""
    driver = _driver()
    return {
        "name": driver.name,
        "capability": list(driver.capability),
        "cuda": driver.cuda,
        "memory_bytes": driver.memory_bytes,
        "multiprocessors": driver.multiprocessors,
        "clock_hz": driver.clock_hz,
    }


def copy_rate(size: int = _COPIED) -> float:
    """Bytes a second that a copy in the GPU's memory reads and writes."""
    import numpy as np

    from hago.kernels.cuda.driver import Graph, Stream
    from hago.kernels.cuda.executor import EXECUTOR

    source, target = (EXECUTOR.tensor(np.zeros(size, np.uint8)) for _ in range(2))
    driver = _driver()
    stream = Stream(driver)
    places = [ctypes.c_void_p(one.data_ptr()) for one in (target, source)]
    graph = Graph(stream, lambda: driver.call("cuMemcpyDtoDAsync_v2", *places, ctypes.c_size_t(size), stream.handle))
    graph.seconds(1)
    return 2 * size / min(graph.seconds(10) / 10 for _ in range(3))


def _driver() -> Any:
    from hago.kernels.cuda.executor import EXECUTOR

    return EXECUTOR.driver


class Kernels:
    """Kernels of a loaded library, by their symbols."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def kernel_seconds(self, symbol: str, tensors: Sequence[Any], repeats: int) -> list[float]:
        """Seconds of one call, on tensors of these types and shapes with bytes of a generator, each of ``repeats``."""
        import numpy as np

        from hago.kernels.cuda.executor import EXECUTOR

        generator = np.random.default_rng(0)
        arrays = [EXECUTOR.tensor(_values(generator, dtype, shape)) for dtype, shape in tensors]
        return list(EXECUTOR.kernel_times(self._module[symbol], arrays, repeats))


def _values(generator: Any, dtype: str, shape: Sequence[int]) -> Any:
    """Codes that use their range, and floats around one: what the clock of a GPU depends on, too."""
    import numpy as np

    if dtype in ("uint8", "int8"):
        return generator.integers(0, 256, shape, np.uint8).view(dtype)
    if dtype.startswith("float"):
        return generator.random(shape, np.float32).astype(dtype)
    return np.zeros(shape, dtype)


class Network(Kernels):
    """A compiled network of the bundle."""

    def __init__(self, path: Path) -> None:
        from hago.runtime.artifact import Artifact, open_library

        module, kernels, meta = open_library(str(path))
        super().__init__(kernels)
        self.net = Artifact(module, meta)
        self._feeds: Mapping[str, Any] = {}

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs."""
        self._feeds = feeds
        return list(self.net.run(feeds))

    def seconds(self, count: int) -> float:
        """The GPU's time for ``count`` calls, replayed as a CUDA graph, on the inputs of the last run."""
        return float(self.net.time_calls(self._feeds, count))


def open_network(bundle: Bundle, entry: Mapping[str, Any]) -> Network:
    """A network of the manifest."""
    return Network(bundle.path(entry))


def open_kernels(bundle: Bundle) -> Kernels:
    """The kernels that compete with each other, with their code for the GPU."""
    import tvm

    from hago.kernels.cuda.executor import EXECUTOR
    from hago.runtime.executor import unpack

    module = tvm.runtime.load_module(str(bundle.files / "tune.so"))
    for code in unpack((bundle.files / "tune.device").read_bytes()):
        EXECUTOR.attach(module, code)
    return Kernels(module)
