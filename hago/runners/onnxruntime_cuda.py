"""ONNX Runtime's CUDA provider, to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ..errors import MeasureError, MissingExtraError
from ..kernels.cuda.driver import Stream
from ..tensor import TensorInfo
from .gpu import contiguous, output_types, require_gpu
from .onnx_io import ModelLike, input_infos, serialized, static_model, weight_bytes

_PROVIDER = "CUDAExecutionProvider"


class OnnxRuntimeCudaRunner:
    """A float or QDQ model in ONNX Runtime on the GPU, inputs and outputs in its memory.

    It replays a CUDA graph if all of the model runs on the GPU; otherwise ONNX Runtime launches kernels one by one.
    Raises MissingExtraError without onnxruntime-gpu, MeasureError without a GPU or if ONNX Runtime rejects the model.
    """

    timed_by_cpu = False
    threads = 1

    def __init__(self, model: ModelLike, *, batch: int | None = None, name: str = "ONNX Runtime CUDA") -> None:
        self.name = name
        gpu = require_gpu(name)
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime-gpu", "gpu-peers", "measuring ONNX Runtime on a GPU") from error
        if _PROVIDER not in onnxruntime.get_available_providers():
            raise MissingExtraError("onnxruntime-gpu", "gpu-peers", "measuring ONNX Runtime on a GPU")
        proto = static_model(model, batch)
        self.inputs: tuple[TensorInfo, ...] = input_infos(proto)
        self.size_bytes = weight_bytes(proto)
        self._stream, payload = Stream(gpu), serialized(proto, name)
        self._quickly = onnxruntime.RunOptions()  # without waiting at the end of each run
        self._quickly.add_run_config_entry("disable_synchronize_execution_providers", "1")
        try:
            try:
                self._open(onnxruntime, payload, proto, graph=True)
            except Exception:  # a part of the model does not run on the GPU, or its shapes are open
                self._open(onnxruntime, payload, proto, graph=False)
        except Exception as error:  # its exceptions have no common base class
            raise MeasureError(f"ONNX Runtime refuses the model: {error}", where=name) from error

    def _open(self, onnxruntime: Any, payload: bytes, proto: Any, *, graph: bool) -> None:
        """Opens the session, and runs it twice: kernels are chosen, then a graph is recorded."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4  # what fails is raised, and may be tried again without a graph
        about = {
            "user_compute_stream": str(self._stream.handle.value),
            "enable_cuda_graph": str(int(graph)),
            "use_tf32": "0",
        }
        self._session = onnxruntime.InferenceSession(payload, options, providers=[(_PROVIDER, about)])
        self._binding, self._values = self._session.io_binding(), {}
        value = onnxruntime.OrtValue
        for info in self.inputs:
            self._values[info.name] = value.ortvalue_from_shape_and_type(info.shape, info.dtype, "cuda", 0)
            self._binding.bind_ortvalue_input(info.name, self._values[info.name])
        types = output_types(proto)
        for output in self._session.get_outputs():
            made = value.ortvalue_from_shape_and_type(output.shape, types[output.name], "cuda", 0)
            self._binding.bind_ortvalue_output(output.name, made)
        for _ in range(2):
            self._session.run_with_iobinding(self._binding)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self._give(feeds)
        self._session.run_with_iobinding(self._binding)
        self._stream.wait()
        return list(self._binding.copy_outputs_to_cpu())

    def time_calls(self, feeds: Mapping[str, NDArray[Any]], count: int) -> float:
        """Seconds of ``count`` calls by the GPU's clock."""
        self._give(feeds)

        def work() -> None:
            for _ in range(count):
                self._session.run_with_iobinding(self._binding, self._quickly)

        return self._stream.seconds(work)

    def close(self) -> None:
        del self._session, self._binding, self._values

    def _give(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        for info in self.inputs:
            self._values[info.name].update_inplace(contiguous(feeds[info.name]))
        self._stream.driver.wait()  # the copies are not in this stream
