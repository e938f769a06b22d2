"""The emitters of NVIDIA GPUs: operator -> the function that turns a node into kernel calls."""

from __future__ import annotations

from ..common.registry import Registry

REGISTRY = Registry()
EMITTERS, TEMPLATES = REGISTRY.emitters, REGISTRY.templates
emits, computes = REGISTRY.emits, REGISTRY.computes
