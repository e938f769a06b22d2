"""Hago: finds the layers of a network to quantize on your hardware, and to which precision.

    import hago

    result = hago.tune("model.onnx", data="samples.npz", max_drop=0.01, out="out")
    net = hago.load("out/model.so")

Public names are imported on first use, so that `hago.load` needs only TVM's runtime and numpy.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import compile, quantize, tune
    from .errors import HagoError
    from .model import Model, load_model
    from .model.torch_import import from_torch
    from .options import GoalOptions, JobOptions, SearchOptions
    from .record import Record
    from .runtime.artifact import Artifact, load
    from .spec import HardwareSpec, load_spec
    from .strategy import Choice, Strategy
    from .tuning.answering import answer
    from .tuning.cross_device import compare_devices
    from .tuning.tuned import Result

_HOMES = {
    "Artifact": "runtime.artifact",
    "Choice": "strategy",
    "GoalOptions": "options",
    "HagoError": "errors",
    "HardwareSpec": "spec",
    "JobOptions": "options",
    "Model": "model",
    "Record": "record",
    "Result": "tuning.tuned",
    "SearchOptions": "options",
    "Strategy": "strategy",
    "answer": "tuning.answering",
    "compare_devices": "tuning.cross_device",
    "compile": "api",
    "from_torch": "model.torch_import",
    "load": "runtime.artifact",
    "load_model": "model",
    "load_spec": "spec",
    "quantize": "api",
    "tune": "api",
}

__all__ = [
    "Artifact",
    "Choice",
    "GoalOptions",
    "HagoError",
    "HardwareSpec",
    "JobOptions",
    "Model",
    "Record",
    "Result",
    "SearchOptions",
    "Strategy",
    "answer",
    "compare_devices",
    "compile",
    "from_torch",
    "load",
    "load_model",
    "load_spec",
    "quantize",
    "tune",
]

# TVM looks up the home folder when it is imported. A user without one (in a container, a number without a name) gets
# what login would give: /.
if os.path.expanduser("~") == "~":
    os.environ["HOME"] = "/"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hago' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
