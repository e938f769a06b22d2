"""A network of the bundle as an ONNX model in ONNX Runtime, with weights from a generator (see torch_network.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

_OPSET = 21
_ERRORS = 3  # log errors alone


def make_model(graph: Mapping[str, Any], batch: int) -> onnx.ModelProto:
    """The float32 model at this batch."""
    generator = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(_constant(about, generator), name) for name, about in graph["constants"].items()
    ]
    nodes = []
    for node in graph["nodes"]:
        attributes, inputs = dict(node["attributes"]), list(node["inputs"])
        if node["op"] == "Reshape":  # its shape was that of batch 1
            inputs[1] = f"{node['output']} shape"
            constants.append(numpy_helper.from_array(np.array(attributes["shape"], np.int64), inputs[1]))
        for own in ("shape", "size", "scalar"):  # told for PyTorch
            attributes.pop(own, None)
        nodes.append(helper.make_node(node["op"], inputs, [node["output"]], **attributes))
    inputs = [_info(name, about, batch) for name, about in graph["shapes"].items()]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in graph["outputs"]]
    made = helper.make_graph(nodes, "network", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


def _info(name: str, about: Mapping[str, Any], batch: int) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(about["dtype"]))
    return helper.make_tensor_value_info(name, dtype, [batch, *about["shape"][1:]])


def _constant(about: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    shape = about["shape"]
    if "values" in about:
        return np.array(about["values"], about["dtype"]).reshape(shape)
    value = generator.standard_normal(shape, np.float32)
    fan_in = max(int(np.prod(shape[1:])), 1)
    return value * np.float32((2 / fan_in) ** 0.5) if len(shape) > 1 else np.abs(value) * 0.1 + np.float32(0.9)


def timer(graph: Mapping[str, Any], batch: int, provider: str, device: str) -> Callable[[int], float]:
    """Seconds of n calls by the clock, inputs and outputs in the device's memory."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS
    model, providers = make_model(graph, batch).SerializeToString(), [f"{provider}ExecutionProvider"]
    session = onnxruntime.InferenceSession(model, options, providers=providers)
    binding = session.io_binding()
    for name, about in graph["shapes"].items():
        array = np.zeros([batch, *about["shape"][1:]], about["dtype"])
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
    for name in graph["outputs"]:
        binding.bind_output(name, device)

    def seconds(count: int) -> float:
        binding.synchronize_inputs()
        began = time.perf_counter()
        for _ in range(count):
            session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return time.perf_counter() - began

    return seconds
