"""Lowered graphs of single nodes, compiled for GPUs and compared with their reference on the emulated block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from emulated_gpu import EmulatedNetwork

from hago.compiler.conformance import Conformance
from hago.lower import LoweredGraph, Node
from hago.spec import load_spec
from hago.tensor import TensorType


def single(
    op: str,
    feeds: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    inputs: tuple[str, ...],
    y: TensorType,
    **attrs: Any,
) -> LoweredGraph:
    """The graph of one node of the domain hago with output "y"; ``inputs`` names feeds and constants, in order."""
    types = {name: TensorType(array.dtype.name, array.shape) for name, array in {**feeds, **constants}.items()}
    node = Node("node", op, "hago", inputs, ("y",), attrs, "layer")
    return LoweredGraph((node,), tuple(feeds), ("y",), {**types, "y": y}, dict(constants))


def conforms(
    graph: LoweredGraph, feeds: Mapping[str, np.ndarray], spec_name: str = "nvidia-a100", seeds: int = 3
) -> float:
    """Asserts that the compiled graph computes what its reference does; returns the largest error of float results."""
    spec, error = load_spec(spec_name), 0.0
    network: list[EmulatedNetwork] = []
    for seed in range(seeds):

        def make(lowered: LoweredGraph, seed: int = seed) -> EmulatedNetwork:
            network.append(EmulatedNetwork(lowered, spec, seed))
            return network[-1]

        found = Conformance(graph, spec, make=make).check(feeds)
        assert network[-1].faults == []
        assert found.wrong == []
        error = max(error, found.error)
    return error
