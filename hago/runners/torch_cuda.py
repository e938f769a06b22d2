"""PyTorch on a GPU, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MeasureError, MissingExtraError
from ..tensor import TensorInfo
from .gpu import contiguous, require_gpu
from .onnx_io import ModelLike, input_infos, static_model, weight_bytes

MODES = ("eager", "graph", "compiled")
_WARM_UP = 3


class TorchCudaRunner:
    """A float model in PyTorch, channels last, inputs and outputs in the GPU's memory; onnx2torch makes the module.

    ``mode``: "eager" launches kernels one by one, "graph" replays them as a CUDA graph, "compiled" is `torch.compile`
    with its own graphs. ``half`` computes in float16. Raises MissingExtraError without torch or onnx2torch,
    MeasureError without a GPU or if the model cannot be converted.
    """

    timed_by_cpu = False
    threads = 1

    def __init__(
        self,
        model: ModelLike,
        *,
        batch: int | None = None,
        name: str = "PyTorch",
        mode: str = "eager",
        half: bool = False,
    ) -> None:
        if mode not in MODES:
            raise MeasureError(f"PyTorch runs {', '.join(MODES)}, not {mode!r}", where=name)
        self.name = name
        require_gpu(name)
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError("torch", "gpu-peers", "measuring PyTorch on a GPU") from error
        try:
            import onnx2torch
        except ImportError as error:
            raise MissingExtraError("onnx2torch", "gpu-peers", "measuring an ONNX file in PyTorch") from error
        if not torch.cuda.is_available():
            raise MeasureError("this PyTorch was built without CUDA", where=name, hint="install one with CUDA")
        proto = static_model(model, batch)
        self.inputs: tuple[TensorInfo, ...] = input_infos(proto)
        self.size_bytes = weight_bytes(proto) // (2 if half else 1)
        self._torch, self._half = torch, half
        try:
            self._open(onnx2torch.convert(proto), mode)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise MeasureError(f"PyTorch cannot run the model: {reason}", where=name) from error

    def _open(self, module: Any, mode: str) -> None:
        torch = self._torch
        module = module.eval().cuda().to(memory_format=torch.channels_last)
        module = module.half() if self._half else module
        self._feeds = [self._placed(np.zeros(info.shape, info.dtype)) for info in self.inputs]
        if mode == "compiled":
            module = torch.compile(module, mode="reduce-overhead")
        self._outputs: Any = None

        def call() -> None:
            with torch.inference_mode():
                self._outputs = module(*self._feeds)

        self._call: Callable[[], None] = call
        for _ in range(_WARM_UP):
            call()
        torch.cuda.synchronize()
        if mode == "graph":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            self._call = graph.replay

    def _placed(self, array: NDArray[Any]) -> Any:
        """A tensor on the GPU, floats in the precision of the module, images with channels last."""
        tensor = self._torch.from_numpy(contiguous(array)).cuda()
        tensor = tensor.half() if self._half and array.dtype.kind == "f" else tensor
        return tensor.to(memory_format=self._torch.channels_last) if array.ndim == 4 else tensor

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self._give(feeds)
        self._call()
        outputs = self._outputs if isinstance(self._outputs, (list, tuple)) else [self._outputs]
        whole = [output.float() if self._half and output.is_floating_point() else output for output in outputs]
        return [contiguous(output.cpu().numpy()) for output in whole]

    def time_calls(self, feeds: Mapping[str, NDArray[Any]], count: int) -> float:
        """Seconds of ``count`` calls by the GPU's clock."""
        self._give(feeds)
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            self._call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def close(self) -> None:
        del self._call, self._feeds, self._outputs

    def _give(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        for place, info in zip(self._feeds, self.inputs, strict=True):
            place.copy_(self._placed(feeds[info.name]))
        self._torch.cuda.synchronize()
