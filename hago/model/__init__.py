"""A trained model: read from ONNX or PyTorch, normalized, with named layers."""

from .layer import Layer
from .model import Model, ModelSource, expose, load_model, static_source
from .normalize import InputShapes

__all__ = ["InputShapes", "Layer", "Model", "ModelSource", "expose", "load_model", "static_source"]
