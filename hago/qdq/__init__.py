"""Float model and strategy -> QDQ model. See `qdq` for the graph, `placement` for where pairs stand."""

from __future__ import annotations

from .quantizer import Quantizer, observed_tensors, quantize_model

__all__ = ["Quantizer", "observed_tensors", "quantize_model"]
