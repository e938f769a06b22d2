"""Float model and strategy -> QDQ model. See `qdq` for the graph, `placement` for where pairs stand."""

from __future__ import annotations

from .means import InputMeans
from .quantizer import Quantizer, observed_tensors, quantize_model

__all__ = ["InputMeans", "Quantizer", "observed_tensors", "quantize_model"]
