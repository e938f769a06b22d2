"""Checks node by node that a compiled network computes what its lowered graph defines.

Every node is *teacher forced*: its numpy reference gets the inputs that the compiled network gave to the node's
kernel, so that a float operator in the middle (softmax, say), where the last bit may differ, neither hides an
error behind it nor looks like one. Results with one right answer must be equal bit for bit: those of all integer
operators, conversions, and data movement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..kernels import backend_of
from ..lower import LoweredGraph, Node, reference
from ..lower.graph import DOMAIN
from .build import build
from .cache import KernelCache

if TYPE_CHECKING:
    from ..spec import HardwareSpec

# Every IEEE implementation gives the same result for these: one rounding, or none.
_EXACT_FLOAT = frozenset({"Dequantize", "Quantize", "MaxPool"})
_EXACT_STEPS = frozenset(
    ["QuantizeLinear", "DequantizeLinear", "Cast", "Add", "Sub", "Mul", "Div", "Max", "Min", "Relu", "Clip", "Abs"]
)
_MOVES = frozenset(
    ["Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Concat", "Gather", "Pad", "Expand", "Tile"]
)


@dataclass(frozen=True)
class NodeCheck:
    """One compiled node against its reference on the same inputs.

    If ``exact``, the results must be equal; ``differing`` of ``elements`` are not. ``error`` is the largest
    difference relative to the largest value of the reference.
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


@dataclass(frozen=True)
class Conformity:
    """What `Conformance.check` found: every node, and the graph's outputs without teacher forcing.

    An output is ``exact`` if no node before it may differ.
    """

    nodes: tuple[NodeCheck, ...]
    outputs: tuple[NodeCheck, ...]

    @property
    def wrong(self) -> list[NodeCheck]:
        """The checks that differ and must not."""
        return [check for check in (*self.nodes, *self.outputs) if check.exact and check.differing]

    @property
    def error(self) -> float:
        """The largest relative difference of a node whose results are floats."""
        return max((check.error for check in self.nodes if not check.exact), default=0.0)

    def __add__(self, other: Conformity) -> Conformity:
        """The same graph on more samples."""
        nodes = tuple(a + b for a, b in zip(self.nodes, other.nodes, strict=True))
        return Conformity(nodes, tuple(a + b for a, b in zip(self.outputs, other.outputs, strict=True)))


class Runs(Protocol):
    """A compiled network, here or on a device."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]: ...


class Conformance:
    """Checks one lowered graph, compiled for ``spec``, by the kernels of the network itself.

    ``make`` compiles the graph with all its tensors as outputs (default: for this machine).
    """

    def __init__(
        self,
        lowered: LoweredGraph,
        spec: HardwareSpec,
        *,
        threads: int = 1,
        cache: KernelCache | None = None,
        make: Callable[[LoweredGraph], Runs] | None = None,
    ) -> None:
        self.fused = backend_of(spec).fuse(lowered)
        made = [name for node in self.fused.nodes for name in node.outputs if name]
        exposed = replace(self.fused, outputs=tuple(dict.fromkeys([*self.fused.outputs, *made])))
        self.artifact: Runs = make(exposed) if make else build(exposed, spec, threads=threads, cache=cache)
        self._names = exposed.outputs
        self._alone = {node.name: single_node(self.fused, node) for node in self.fused.nodes}

    def check(self, feeds: Mapping[str, np.ndarray]) -> Conformity:
        """Every node and every output, for one batch of inputs."""
        found = {name: self._logical(name, a) for name, a in zip(self._names, self.artifact.run(feeds), strict=True)}
        found.update({name: np.asarray(feeds[name], self.fused.types[name].dtype) for name in self.fused.inputs})
        free = {**self.fused.constants, **{name: found[name] for name in self.fused.inputs}}
        same = set(free)  # tensors that both have, bit for bit
        exact = set(free)  # tensors that depend on nothing that may differ
        nodes = []
        for node in self.fused.nodes:
            alone = self._alone[node.name]
            run = reference(alone)
            results = run({name: free[name] for name in alone.inputs})
            forced = results if same.issuperset(alone.inputs) else run({name: found[name] for name in alone.inputs})
            must = _exact(self.fused, node)
            for name, result, wanted in zip(alone.outputs, results, forced, strict=True):
                free[name] = result
                nodes.append(_compare(node.name, node.op, node.layer, must, found[name], wanted))
                if wanted is result and not nodes[-1].differing:
                    same.add(name)
            if must and exact.issuperset(alone.inputs):
                exact.update(alone.outputs)
        outputs = [
            _compare(name, "output", None, name in exact, found[name], free[name]) for name in self.fused.outputs
        ]
        return Conformity(tuple(nodes), tuple(outputs))

    def _logical(self, name: str, array: np.ndarray) -> np.ndarray:
        """The array in its logical type: the network returns bfloat16 as its bits."""
        if self.fused.types[name].dtype == "bfloat16" and array.dtype == np.uint16:
            import ml_dtypes

            return array.view(ml_dtypes.bfloat16)
        return array


def is_exact(lowered: LoweredGraph, spec: HardwareSpec) -> bool:
    """Whether the graph, compiled for ``spec``, has the same bits as its result on every machine."""
    fused = backend_of(spec).fuse(lowered)
    return all(_exact(fused, node) for node in fused.nodes)


def _exact(graph: LoweredGraph, node: Node) -> bool:
    if node.op == "Fused" and node.domain == DOMAIN:
        steps = [step.op_type for step in node.attrs["body"].node]
        # Two roundings in a row may be contracted into one (a fused multiply-add).
        arithmetic = [step for step in steps if step in ("Add", "Sub", "Mul", "Div")]
        return set(steps) <= _EXACT_STEPS and len(arithmetic) + steps.count("DequantizeLinear") <= 1
    if node.domain == DOMAIN:
        return node.op.startswith("Q") or node.op in _EXACT_FLOAT
    types = {graph.types[name].dtype for name in (*node.inputs, *node.outputs) if name}
    return "float32" not in types or node.op in _EXACT_STEPS | _MOVES


def single_node(graph: LoweredGraph, node: Node) -> LoweredGraph:
    """The graph of this one node of ``graph``."""
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


def _compare(name: str, op: str, layer: str | None, exact: bool, found: np.ndarray, wanted: np.ndarray) -> NodeCheck:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise AssertionError(f"{name}: {found.dtype}{found.shape} against {wanted.dtype}{wanted.shape}")
    same = (found == wanted) | (_nan(found) & _nan(wanted))
    error = 0.0
    if not same.all():
        a, b = (np.where(same, 0, array).astype(np.float64) for array in (found, wanted))
        error = float(np.abs(a - b).max() / max(float(np.abs(wanted.astype(np.float64)).max()), 1e-30))
    return NodeCheck(name, op, layer, exact, int(same.size), int((~same).sum()), error)


def _nan(array: np.ndarray) -> np.ndarray:
    return np.isnan(array) if array.dtype.kind not in "iub" else np.zeros(array.shape, bool)
