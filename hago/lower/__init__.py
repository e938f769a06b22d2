"""From a float or QDQ ONNX graph to the lowered graph of integer and float kernels, and its reference.

lowered = lower(model_proto, spec)        # values; lowered.proto is the same as an ONNX file
outputs = reference(lowered)({"x": x})    # numpy, exact
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from ..tensor import TensorType
from .fuse import fuse
from .graph import DOMAIN, LoweredGraph, Node
from .handlers import HANDLERS
from .layout_rules import channels_last
from .reference import Reference, reference
from .source import SourceGraph
from .translate import Translator

if TYPE_CHECKING:
    from ..spec import HardwareSpec

__all__ = ["DOMAIN", "LoweredGraph", "Node", "Reference", "TensorType", "lower", "reference"]


def lower(qdq: onnx.ModelProto, spec: HardwareSpec | None = None) -> LoweredGraph:
    """Lowers a float or QDQ graph with static shapes to hago ops; operators without one stay standard ONNX.

    Operators that ``spec`` does not offer in integers or in a short float stay in float32; without a spec, all are
    lowered. Raises ModelError for a tensor without a static type, UnsupportedOpError for control flow.
    """
    source = SourceGraph(qdq)
    draft = Translator(source, HANDLERS, spec).run()
    return fuse(channels_last(draft, source.outputs))
