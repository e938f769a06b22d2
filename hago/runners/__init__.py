"""The engines that Hago measures, each as a `Runner` (hago.measure.runner)."""

from ..measure.runner import Runner
from .onnxruntime import OnnxRuntimeRunner
from .onnxruntime_cuda import OnnxRuntimeCudaRunner
from .openvino import OpenVinoRunner
from .tensorrt import TensorRtRunner
from .torch_cuda import TorchCudaRunner
from .tvm import TvmRunner

__all__ = [
    "OnnxRuntimeCudaRunner",
    "OnnxRuntimeRunner",
    "OpenVinoRunner",
    "Runner",
    "TensorRtRunner",
    "TorchCudaRunner",
    "TvmRunner",
]
