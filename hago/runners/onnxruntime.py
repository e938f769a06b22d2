"""ONNX Runtime on the CPU, to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ..errors import MeasureError, MissingExtraError
from ..tensor import TensorInfo
from .onnx_io import ModelLike, input_infos, serialized, static_model, weight_bytes


class OnnxRuntimeRunner:
    """A float or QDQ model in ONNX Runtime, with all graph optimizations, at a fixed batch.

    With more than one thread, its idle workers are sent to sleep at the end of each run: they would spin
    for longer than 100 ms and take the cores from whatever is measured in turns with it. Waking them costs
    about 25 us per run.

    ``model`` is a path, a ModelProto or its bytes; ``batch`` fixes a dynamic one (None: as in the file,
    else 1). Raises MissingExtraError without onnxruntime, ModelError for a file that is not ONNX,
    MeasureError if ONNX Runtime rejects the model.
    """

    def __init__(
        self, model: ModelLike, threads: int = 1, *, batch: int | None = None, name: str = "ONNX Runtime"
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "peers", "measuring ONNX Runtime") from error
        self.name, self.threads = name, threads
        proto = static_model(model, batch)
        self.inputs: tuple[TensorInfo, ...] = input_infos(proto)
        self.size_bytes = weight_bytes(proto)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if threads > 1:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors only: they are raised anyway, and warnings would disturb the table
        payload = serialized(proto, name)
        try:
            self._session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base class
            raise MeasureError(f"ONNX Runtime refuses the model: {error}", where=name) from error

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return self._session.run(None, feeds)

    def close(self) -> None:
        del self._session
