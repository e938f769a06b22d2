"""A trained model: read from ONNX or PyTorch, normalized, its layers named."""

from .layers import Layer
from .model import Model, ModelSource, expose, load_model

__all__ = ["Layer", "Model", "ModelSource", "expose", "load_model"]
