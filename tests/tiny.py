"""A network small enough to be tuned within seconds, and samples on which float32 is always right."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import run_onnx

CLASSES = 4


@cache
def network(seed: int = 0) -> onnx.ModelProto:
    """[n, 2, 8, 8] -> [n, 4]: two convolutions, a pool, a fully connected layer; the batch is dynamic."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (32, 2, 3, 3), "w2": (32, 32, 3, 3), "fc": (CLASSES, 32)}
    arrays = {n: (rng.standard_normal(s) * np.prod(s[1:]) ** -0.5).astype(np.float32) for n, s in shapes.items()}
    arrays["bias"] = np.zeros(CLASSES, np.float32)
    # Centred on their mean, the outputs give every class some of the samples.
    arrays["bias"] -= run_onnx(_network(arrays), {"x": _inputs(200, 99)})[0].mean(0)
    return _network(arrays)


def _inputs(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2, 8, 8)).astype(np.float32)


def _network(arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc", "bias"], ["y"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def samples(count: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(x, y): y are the classes that the float network gives."""
    x = _inputs(count, seed)
    return x, run_onnx(network(), {"x": x})[0].argmax(1)


def write(folder: Path) -> tuple[Path, Path]:
    """model.onnx and samples.npz in the folder."""
    x, y = samples()
    onnx.save(network(), folder / "model.onnx")
    np.savez(folder / "samples.npz", x=x, y=y)
    return folder / "model.onnx", folder / "samples.npz"
