"""TensorRT, to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import HagoError, MeasureError, MissingExtraError
from ..kernels.cuda.driver import Graph, Memory, Stream
from ..tensor import TensorInfo
from .gpu import contiguous, require_gpu
from .onnx_io import ModelLike, input_infos, serialized, static_model, weight_bytes


class TensorRtRunner:
    """A float or QDQ model in TensorRT, replayed as a CUDA graph, inputs and outputs in the GPU's memory.

    ``precisions`` are what layers may compute in besides float32: "float16", "int8" (where the file is quantized).
    Raises MissingExtraError without tensorrt, MeasureError without a GPU or if TensorRT rejects the model.
    """

    timed_by_cpu = False
    threads = 1

    def __init__(
        self,
        model: ModelLike,
        *,
        batch: int | None = None,
        name: str = "TensorRT",
        precisions: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        gpu = require_gpu(name)
        try:
            import tensorrt
        except ImportError as error:
            raise MissingExtraError("tensorrt", "gpu-peers", "measuring TensorRT") from error
        proto = static_model(model, batch)
        self.inputs: tuple[TensorInfo, ...] = input_infos(proto)
        self.size_bytes = weight_bytes(proto)
        payload = serialized(proto, name)
        try:
            gpu.enter()
            self._open(tensorrt, payload, precisions, Stream(gpu))
        except HagoError:
            raise
        except Exception as error:
            raise MeasureError(f"TensorRT refuses the model: {error}", where=name) from error

    def _open(self, trt: Any, payload: bytes, precisions: tuple[str, ...], stream: Stream) -> None:
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(payload):
            raise MeasureError(f"TensorRT refuses the model: {parser.get_error(0)}", where=self.name)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        for precision in precisions:
            config.set_flag({"float16": trt.BuilderFlag.FP16, "int8": trt.BuilderFlag.INT8}[precision])
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise MeasureError("TensorRT cannot build the model (its log says why)", where=self.name)
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        self._context = self._engine.create_execution_context()
        self._memory: dict[str, Memory] = {}
        self._outputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for index in range(self._engine.num_io_tensors):
            tensor = self._engine.get_tensor_name(index)
            shape = tuple(self._engine.get_tensor_shape(tensor))
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(tensor)))
            memory = Memory(stream.driver, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            self._memory[tensor] = memory
            self._context.set_tensor_address(tensor, memory.address.value)
            if self._engine.get_tensor_mode(tensor) == trt.TensorIOMode.OUTPUT:
                self._outputs[tensor] = shape, dtype
        self._launch(stream)  # it must have run once before it can be recorded
        stream.wait()
        self._graph = Graph(stream, lambda: self._launch(stream))

    def _launch(self, stream: Stream) -> None:
        if not self._context.execute_async_v3(stream.handle.value):
            raise MeasureError("TensorRT cannot run the model (its log says why)", where=self.name)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self._give(feeds)
        self._graph.launch()
        self._graph.stream.wait()
        found = []
        for name, (shape, dtype) in self._outputs.items():
            array = np.empty(shape, dtype)
            self._memory[name].read(array)
            found.append(array)
        return found

    def time_calls(self, feeds: Mapping[str, NDArray[Any]], count: int) -> float:
        """Seconds of ``count`` calls by the GPU's clock."""
        self._give(feeds)
        return self._graph.seconds(count)

    def close(self) -> None:
        del self._graph, self._context, self._engine, self._runtime, self._memory

    def _give(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        self._graph.stream.driver.enter()
        for info in self.inputs:
            self._memory[info.name].write(contiguous(feeds[info.name]))
        self._graph.stream.driver.wait()
