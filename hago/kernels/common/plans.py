"""What a node asks of any target: the kernels to call, their parameters and inputs, and no template yet.

A *planner* turns one node of the lowered graph into `Plan`s. A target has a template for each type of parameters, and
`emitters` makes emitters of both, so that targets share all but their loops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ...tensor import TensorType
from .calls import Emitter, KernelCall, NodeView, Template


@dataclass(frozen=True)
class Plan:
    """A `KernelCall` whose template is that of the type of ``params``."""

    family: str
    params: Any
    inputs: tuple[str | np.ndarray, ...]
    outputs: tuple[str, ...]
    temporaries: Mapping[str, TensorType] = field(default_factory=dict)


Planner = Callable[[NodeView], Sequence[Plan] | None]
"""None: no template computes the node; the target's fallback may."""

PLANNERS: dict[tuple[str, str], Planner] = {}


def plans(domain: str, *ops: str) -> Callable[[Planner], Planner]:
    """Registers the decorated function as the planner of those operators."""

    def register(function: Planner) -> Planner:
        PLANNERS.update({(domain, op): function for op in ops})
        return function

    return register


def planned(found: Sequence[Plan], node: NodeView, templates: Mapping[type, Template]) -> list[KernelCall]:
    """The calls of a target that has these templates."""
    return [
        KernelCall(
            plan.family, plan.params, templates[type(plan.params)], plan.inputs, plan.outputs, node.layer,
            plan.temporaries,
        )
        for plan in found
    ]  # fmt: skip


def emitters(templates: Mapping[type, Template], fallback: Emitter) -> dict[tuple[str, str], Emitter]:
    """The emitters of all operators that have a planner."""

    def emit(planner: Planner, node: NodeView, family: Any) -> Sequence[KernelCall]:
        found = planner(node)
        return fallback(node, family) if found is None else planned(found, node, templates)

    return {key: partial(emit, planner) for key, planner in PLANNERS.items()}
