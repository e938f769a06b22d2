"""Whether a compiled network computes what its lowered graph says, node by node.

Every node is *teacher forced*: the numpy reference of the node gets the inputs that the compiled network
gave to its own kernel, so that a float operator in the middle (softmax, say), where the last bit may differ,
does not hide an error behind it, nor look like one. What has one right answer must be equal bit for bit:
all integer operators, conversions, and what only moves elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .build import build
from .cache import KernelCache
from .kernels.fusion import fuse_elementwise
from .lower import LoweredGraph, Node, reference
from .lower.graph import DOMAIN

if TYPE_CHECKING:
    from .artifact import Artifact
    from .spec import HardwareSpec

# Of these, every IEEE implementation has the same result: one rounding, or none.
_EXACT_FLOAT = frozenset({"Dequantize", "Quantize", "MaxPool"})
_EXACT_STEPS = frozenset(
    ["QuantizeLinear", "DequantizeLinear", "Cast", "Add", "Sub", "Mul", "Div", "Max", "Min", "Relu", "Clip", "Abs"]
)
_MOVES = frozenset(
    ["Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Concat", "Gather", "Pad", "Expand", "Tile"]
)


@dataclass(frozen=True)
class NodeCheck:
    """One node, compiled, against its reference on the same inputs.

    ``exact`` says that the results have to be equal; ``differing`` of ``elements`` are not. ``error`` is
    the largest difference relative to the largest value of the reference.
    """

    name: str
    op: str
    layer: str | None
    exact: bool
    elements: int
    differing: int
    error: float

    def __add__(self, other: NodeCheck) -> NodeCheck:
        """The same node on more samples."""
        return replace(
            self,
            elements=self.elements + other.elements,
            differing=self.differing + other.differing,
            error=max(self.error, other.error),
        )


class Conformance:
    """Checks one lowered graph, compiled for ``spec``; the kernels are those of the network itself."""

    def __init__(
        self, lowered: LoweredGraph, spec: HardwareSpec, *, threads: int = 1, cache: KernelCache | None = None
    ) -> None:
        self.lowered = lowered
        self.fused = fuse_elementwise(lowered)
        made = [name for node in self.fused.nodes for name in node.outputs if name]
        exposed = replace(self.fused, outputs=tuple(dict.fromkeys([*self.fused.outputs, *made])))
        self.artifact: Artifact = build(exposed, spec, threads=threads, cache=cache)
        self._names = exposed.outputs
        self._nodes = {node.name: _alone(self.fused, node) for node in self.fused.nodes}

    def check(self, feeds: Mapping[str, np.ndarray]) -> list[NodeCheck]:
        """Every node, for one batch of inputs."""
        tensors = {**feeds, **dict(zip(self._names, self.artifact.run(feeds), strict=True))}
        found = []
        for node in self.fused.nodes:
            alone = self._nodes[node.name]
            inputs = {name: self._logical(name, tensors[name]) for name in alone.inputs}
            for name, wanted in zip(alone.outputs, reference(alone)(inputs), strict=True):
                found.append(_compare(node, self._logical(name, tensors[name]), wanted, self._exact(node)))
        return found

    def check_all(self, batches: Iterable[Mapping[str, np.ndarray]]) -> list[NodeCheck]:
        """Every node, over several batches."""
        total: list[NodeCheck] = []
        for feeds in batches:
            found = self.check(feeds)
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return total

    def _logical(self, name: str, array: np.ndarray) -> np.ndarray:
        """bfloat16 leaves the network as its bits."""
        if self.fused.types[name].dtype == "bfloat16" and array.dtype == np.uint16:
            import ml_dtypes

            return array.view(ml_dtypes.bfloat16)
        return array

    def _exact(self, node: Node) -> bool:
        if node.op == "Fused" and node.domain == DOMAIN:
            steps = [step.op_type for step in node.attrs["body"].node]
            # Two roundings in a row may be contracted into one (a fused multiply-add).
            arithmetic = [step for step in steps if step in ("Add", "Sub", "Mul", "Div")]
            return set(steps) <= _EXACT_STEPS and len(arithmetic) + steps.count("DequantizeLinear") <= 1
        if node.domain == DOMAIN:
            return node.op.startswith("Q") or node.op in _EXACT_FLOAT
        types = {self.fused.types[name].dtype for name in (*node.inputs, *node.outputs) if name}
        return "float32" not in types or node.op in _EXACT_STEPS | _MOVES


def _alone(graph: LoweredGraph, node: Node) -> LoweredGraph:
    """A graph of this one node."""
    names = dict.fromkeys(name for name in node.inputs if name)
    outputs = tuple(name for name in node.outputs if name)
    return LoweredGraph(
        (node,),
        tuple(name for name in names if name not in graph.constants),
        outputs,
        {name: graph.types[name] for name in (*names, *outputs)},
        {name: graph.constants[name] for name in names if name in graph.constants},
        opset=graph.opset,
    )


def _compare(node: Node, found: np.ndarray, wanted: np.ndarray, exact: bool) -> NodeCheck:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise AssertionError(f"{node.name}: {found.dtype}{found.shape} against {wanted.dtype}{wanted.shape}")
    same = (found == wanted) | (_nan(found) & _nan(wanted))
    error = 0.0
    if not same.all():
        a, b = (np.where(same, 0, array).astype(np.float64) for array in (found, wanted))
        error = float(np.abs(a - b).max() / max(float(np.abs(wanted.astype(np.float64)).max()), 1e-30))
    return NodeCheck(node.name, node.op, node.layer, exact, int(same.size), int((~same).sum()), error)


def _nan(array: np.ndarray) -> np.ndarray:
    return np.isnan(array) if array.dtype.kind not in "iub" else np.zeros(array.shape, bool)
