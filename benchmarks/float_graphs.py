"""Random float graphs, the same for the same seed: `float_graph(seed)`.

A graph grows node by node from one to three inputs; every operator draws its attributes, constants and second
operands so that it is valid at the drawn opset. A *moved* tensor holds values of the inputs and nothing computed from
them: only such tensors are rounded, compared and searched for the largest, since there a last bit decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = (11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)
LARGEST = 20_000  # elements of a tensor
FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Graph:
    """A model, one set of feeds, and the operators in it."""

    seed: int
    proto: onnx.ModelProto
    feeds: dict[str, np.ndarray]

    @property
    def operators(self) -> list[str]:
        return [node.op_type for node in self.proto.graph.node if node.op_type != "Constant"]

    @property
    def opset(self) -> int:
        return int(self.proto.opset_import[0].version)


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    moved: bool


class Maker:
    """A graph under way: what operators draw from and add to."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.tensors: list[Tensor] = []

    # --- draws ------------------------------------------------------------------------------------

    def among(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def number(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def values(self, shape: Sequence[int], scale: float | None = None) -> np.ndarray:
        """Mostly around 1; sometimes tiny, large, or with many zeros."""
        scale = scale or float(self.among(1, 1, 1, 1, 1, 1, 1e-4, 30, 1e4, 1e-30))
        array = self.rng.standard_normal(shape) * scale
        if self.chance(0.1):
            array = array * (self.rng.random(shape) < 0.5)
        return array.astype(np.float32)

    # --- parts ------------------------------------------------------------------------------------

    def feed(self, shape: Sequence[int]) -> Tensor:
        name = f"x{len(self.feeds)}"
        self.feeds[name] = self.values(shape)
        self.tensors.append(Tensor(name, tuple(shape), True))
        return self.tensors[-1]

    def constant(self, array: Any) -> str:
        """An initializer, or what a Constant node makes."""
        array = np.asarray(array)
        name = f"c{len(self.weights) + len(self.nodes)}"
        if self.chance(0.2):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.weights.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, *shape: int) -> str:
        fan = math.prod(shape[1:]) or 1
        return self.constant(self.values(shape, 1 / math.sqrt(fan)))

    def emit(self, op: str, inputs: Sequence[str], outputs: int = 1, kind: int = FLOAT, **attrs: Any) -> list[str]:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        attrs = {k: v for k, v in attrs.items() if v is not None}
        self.nodes.append(helper.make_node(op, list(inputs), names, **attrs))
        return names

    def keep(self, name: str, shape: Sequence[int], moved: bool = False) -> None:
        """A tensor that later operators may read."""
        if shape and 0 < math.prod(shape) <= LARGEST:
            self.tensors.append(Tensor(name, tuple(int(s) for s in shape), moved))

    def operand(self, x: Tensor) -> tuple[str, bool]:
        """Something that broadcasts to ``x``, or the other way round; whether it is moved."""
        same = [t for t in self.tensors if t.shape == x.shape]
        if same and self.chance(0.4):
            other = same[self.number(0, len(same) - 1)]
            return other.name, other.moved
        shape = [d if self.chance(0.6) else 1 for d in x.shape][self.number(0, len(x.shape)) :]
        return self.constant(self.values(shape)), True


Operator = Callable[[Maker, Tensor], None]


def float_graph(seed: int, operators: Sequence[Operator] | None = None) -> Graph:
    """The graph of that number."""
    from float_operators import OPERATORS

    make, known = Maker(seed), operators or OPERATORS
    rank = make.among(2, 3, 4, 4, 4, 5)
    shape = [make.number(1, 2), *(make.among(1, 2, 3, 4, 5, 7, 8, 11, 16) for _ in range(rank - 1))]
    while math.prod(shape) > LARGEST // 8:
        shape[shape.index(max(shape))] //= 2
    make.feed(shape)
    for _ in range(make.number(0, 2)):
        make.feed(shape if make.chance(0.7) else shape[::-1])
    wanted = make.number(2, 9)
    for _ in range(200):
        if sum(n.op_type != "Constant" for n in make.nodes) >= wanted:
            break
        recent = make.tensors[-4:] if make.chance(0.7) else make.tensors
        known[make.number(0, len(known) - 1)](make, recent[make.number(0, len(recent) - 1)])
    return _finished(make, seed)


def _finished(make: Maker, seed: int) -> Graph:
    """Outputs are all tensors that nothing reads, and sometimes one more."""
    read = {name for node in make.nodes for name in node.input}
    made = [name for node in make.nodes if node.op_type != "Constant" for name in node.output if name]
    outputs = [name for name in made if name not in read]
    if make.chance(0.2):
        outputs += [name for name in made if name not in outputs][:1]
    graph = helper.make_graph(
        make.nodes,
        f"graph{seed}",
        [helper.make_tensor_value_info(n, FLOAT, a.shape) for n, a in make.feeds.items()],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        make.weights,
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", make.opset)], ir_version=10 if make.opset > 18 else 7
    )
    return Graph(seed, onnx.shape_inference.infer_shapes(proto, data_prop=True), make.feeds)
