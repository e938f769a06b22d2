"""Lowered graphs of single nodes, compiled for GPUs and compared with their reference on the emulated block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from emulated_block import can_emulate
from emulated_gpu import EmulatedNetwork

from hago.compiler.conformance import Conformance
from hago.kernels.cuda.cuda_source import source_of
from hago.kernels.cuda.nvrtc import compile_cubin, installed_version
from hago.kernels.cuda.sass import Sass, disassemble
from hago.lower import LoweredGraph, Node, reference
from hago.spec import load_spec
from hago.tensor import TensorType

needs_compiler = pytest.mark.skipif(not can_emulate(), reason="g++ is not installed: no block can be emulated")
needs_cuda = pytest.mark.skipif(not installed_version(), reason="the extra cuda is not installed")


def single(
    op: str,
    feeds: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    inputs: tuple[str, ...],
    y: TensorType,
    domain: str = "hago",
    **attrs: Any,
) -> LoweredGraph:
    """The graph of one node with output "y"; ``inputs`` names feeds and constants, in order."""
    types = {name: TensorType(array.dtype.name, array.shape) for name, array in {**feeds, **constants}.items()}
    node = Node("node", op, domain, inputs, ("y",), attrs, "layer")
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


def one_node(
    op: str,
    inputs: Mapping[str, np.ndarray | None],
    attrs: Mapping[str, Any],
    computed: tuple[str, ...] = ("x", "r"),
    domain: str = "hago",
) -> tuple[LoweredGraph, dict[str, np.ndarray]]:
    """`single`, with the type of "y" from the reference, and its feeds: the inputs that are ``computed``."""
    arrays = {name: array for name, array in inputs.items() if array is not None}
    names = tuple(name if name in arrays else "" for name in inputs)
    feeds = {name: array for name, array in arrays.items() if name in computed}
    constants = {name: array for name, array in arrays.items() if name not in computed}
    shapeless = single(op, feeds, constants, names, TensorType("float32", ()), domain, **attrs)
    (y,) = reference(shapeless)(feeds)
    return single(op, feeds, constants, names, TensorType.of(y), domain, **attrs), feeds


def sass_of(function: Any, arch: str) -> Sass:
    """What NVRTC makes of a template's function."""
    return disassemble(compile_cubin(source_of(function, "kernel").text, arch))
