"""What the runners of other engines on a GPU share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import MeasureError
from ..kernels.cuda.driver import Driver, driver


def require_gpu(engine: str) -> Driver:
    """The driver of this machine's GPU. Raises MeasureError if there is none."""
    found = driver()
    if found is None:
        raise MeasureError("this machine has no GPU that CUDA can use", where=engine)
    return found


def output_types(proto: onnx.ModelProto) -> dict[str, np.dtype[Any]]:
    """The type of each output, by name."""
    return {
        value.name: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        for value in proto.graph.output
    }


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """The array, in one piece of memory in C order."""
    return np.ascontiguousarray(array)
