"""The engines that Hago measures, each as a `Runner` (hago.measure.runner)."""

from ..measure.runner import Runner
from .onnxruntime import OnnxRuntimeRunner
from .openvino import OpenVinoRunner
from .tvm import TvmRunner

__all__ = ["OnnxRuntimeRunner", "OpenVinoRunner", "Runner", "TvmRunner"]
