"""Float model and strategy -> QDQ model. See `quantizer` for the graph, `placement` for where pairs go."""

from __future__ import annotations

from .quantizer import Quantizer, observed_tensors, quantize_model

__all__ = ["Quantizer", "observed_tensors", "quantize_model"]
