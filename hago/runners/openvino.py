"""OpenVINO on the CPU, to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from ..errors import MeasureError, MissingExtraError
from ..tensor import TensorInfo
from .onnx_io import ModelLike, input_infos, serialized, static_model, weight_bytes


class OpenVinoRunner:
    """A float or QDQ model in OpenVINO, tuned for latency, at a fixed batch.

    ``precision`` is what float layers compute in. It is always set: by default, OpenVINO silently
    computes a float32 model in bfloat16 if the CPU has it, which would not be a fair comparison.
    Raises MissingExtraError without openvino, ModelError for a file that is not ONNX, MeasureError if
    OpenVINO rejects the model.
    """

    def __init__(
        self,
        model: ModelLike,
        threads: int = 1,
        *,
        batch: int | None = None,
        name: str = "OpenVINO",
        precision: str = "f32",
    ) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "peers", "measuring OpenVINO") from error
        self.name, self.threads = name, threads
        proto = static_model(model, batch)
        self.inputs: tuple[TensorInfo, ...] = input_infos(proto)
        self.size_bytes = weight_bytes(proto)
        payload = serialized(proto, name)
        try:
            core = openvino.Core()
            read = core.read_model(payload)
            hints = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": precision,
            }
            # The plugin gives the thread that loads it a signal stack, and frees that stack when it is unloaded. If
            # several are unloaded in the order of loading, the thread keeps a freed stack, and the next signal, even
            # Ctrl-C, kills the process (SIGSEGV). So a thread that ends here loads it.
            with ThreadPoolExecutor(1) as thread:
                compiled = thread.submit(core.compile_model, read, "CPU", hints).result()
            self._request = compiled.create_infer_request()
        except Exception as error:
            raise MeasureError(f"OpenVINO refuses the model: {_reason(error)}", where=name) from error
        # By position, not by name: cheaper per call, and OpenVINO renames some tensors.
        self._places = [_place(compiled.inputs, info.name, i) for i, info in enumerate(self.inputs)]
        self._outputs = range(len(compiled.outputs))

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        by_place = {place: feeds[info.name] for place, info in zip(self._places, self.inputs, strict=True)}
        # Inputs are read in place, as in ONNX Runtime; outputs are copied, so that the caller owns them.
        results = self._request.infer(by_place, share_inputs=True, share_outputs=False)
        return [results[i] for i in self._outputs]

    def close(self) -> None:
        del self._request


def _place(ports: list[Any], name: str, default: int) -> int:
    for i, port in enumerate(ports):
        if name in port.get_names():
            return i
    return default


# OpenVINO wraps its reasons in names of its source files, headings and a link.
_WRAPPING = ("Exception from", "Check '", "FrontEnd API failed", "Summary:", "To facilitate")


def _reason(error: Exception) -> str:
    lines = [line.strip().removeprefix("-- ") for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(_WRAPPING)]
    return " ".join(said) or type(error).__name__
