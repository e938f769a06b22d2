"""Brings the translated graph from ONNX's tensor order to channels-last, with few transposes.

One forward pass. For every tensor it keeps the layouts in which it is available (`hago.lower.layouts`);
operators that need channels-last get it, operators that work in any order take what is there, and the
rest get ONNX's order; a conversion is emitted at its first use only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..tensor import TensorType
from .builder import GraphBuilder
from .graph import DOMAIN, LoweredGraph, Node
from .layouts import TO_LAST, TO_ONNX, Layout


@dataclass
class Position:
    """A tensor of the draft in the new graph, in either layout; None where it does not exist (yet)."""

    type: TensorType
    layout: Layout | None
    onnx: str | None = None
    last: str | None = None


Rule = Callable[["LayoutPass", Node], bool]
"""Emits one node in a layout of its choice; False leaves it in ONNX's order."""


class LayoutPass:
    """The state of the pass, and what the rules share."""

    def __init__(self, draft: LoweredGraph, output_names: Sequence[str]) -> None:
        self.draft = draft
        self.build = GraphBuilder((*draft.inputs, *output_names))
        self.positions: dict[str, Position] = {}
        self._constants: dict[tuple[str, object], str] = {}

    def run(self, rules: dict[tuple[str, str], Rule]) -> LoweredGraph:
        for name in self.draft.inputs:
            type_ = self.build.types[name] = self.draft.types[name]
            self.positions[name] = Position(type_, Layout.of(type_.shape), onnx=name)
        for node in self.draft.nodes:
            self.build.layer = node.layer
            rule = rules.get((node.domain, node.op))
            if rule is None or not rule(self, node):
                self.emit(node, [self.onnx(name) if name else "" for name in node.inputs], last=False)
        self.build.layer = None
        outputs = [self.onnx(name) for name in self.draft.outputs]
        return self.build.finish(self.draft.inputs, outputs, self.draft.name, self.draft.opset)

    # --- a tensor in one of its layouts -------------------------------------------------------------

    def is_constant(self, name: str) -> bool:
        """Whether the tensor is a constant."""
        return name in self.draft.constants

    def onnx(self, name: str) -> str:
        """The tensor in ONNX's order."""
        if self.is_constant(name):
            return self.constant(name, self.draft.constants[name], "onnx")
        position = self.positions[name]
        if position.onnx is None:
            assert position.last is not None and position.layout is not None
            position.onnx = self._to_onnx(name, position.last, position.layout, position.type)
        return position.onnx

    def last(self, name: str) -> str:
        """The tensor (image or line, no constant) with channels last."""
        position = self.positions[name]
        if position.last is None:
            assert position.onnx is not None and position.layout is not None
            position.last = self._to_last(name, position.onnx, position.layout, position.type)
        return position.last

    def constant(self, name: str, array: np.ndarray, variant: object) -> str:
        """A constant of the draft in the new graph; ``variant`` distinguishes its layouts."""
        key = (name, variant)
        if key not in self._constants:
            self._constants[key] = self.build.constant(array, name)
        return self._constants[key]

    def reshape(self, tensor: str, shape: tuple[int, ...], hint: str, name: str, layer: str | None = None) -> str:
        """Emits a Reshape; returns its output."""
        target = self.build.shared_constant(np.array(shape, np.int64), "shape")
        type_ = self.build.types[tensor].with_shape(shape)
        return self.build.emit("Reshape", [tensor, target], type_, hint=hint, name=name, layer=layer, domain="")

    def transpose(self, tensor: str, perm: tuple[int, ...], hint: str, name: str, layer: str | None = None) -> str:
        """Emits a Transpose; returns its output."""
        type_ = self.build.types[tensor]
        type_ = type_.with_shape(type_.shape[axis] for axis in perm)
        attrs = {"perm": perm}
        return self.build.emit("Transpose", [tensor], type_, hint=hint, name=name, attrs=attrs, layer=layer, domain="")

    def _to_last(self, name: str, tensor: str, layout: Layout, type_: TensorType) -> str:
        hint, node = f"{name}_nhwc", f"{name}_to_nhwc"
        if layout.is_reshape:
            return self.reshape(tensor, layout.last_shape, hint, node)
        if layout.rank == 4:
            return self.transpose(tensor, TO_LAST, hint, node)
        return self.reshape(self.transpose(tensor, (0, 2, 1), f"{name}_nlc", node), layout.last_shape, hint, node)

    def _to_onnx(self, name: str, tensor: str, layout: Layout, type_: TensorType) -> str:
        hint, node = f"{name}_nchw", f"{name}_to_nchw"
        if layout.is_reshape:
            return self.reshape(tensor, type_.shape, hint, node)
        if layout.rank == 4:
            return self.transpose(tensor, TO_ONNX, hint, node)
        n, c, h, w = layout.image
        if layout.rank == 3:
            return self.transpose(self.reshape(tensor, (n, w, c), f"{name}_nlc", node), (0, 2, 1), hint, node)
        image = self.reshape(tensor, (n, h, w, c), f"{name}_image", node)
        return self.reshape(self.transpose(image, TO_ONNX, f"{name}_image_nchw", node), type_.shape, hint, node)

    # --- emitting -------------------------------------------------------------------------------

    def emit(
        self, node: Node, inputs: Sequence[str], *, last: bool, layouts: Sequence[Layout | None] = (),
        attrs: dict[str, object] | None = None,
    ) -> None:  # fmt: skip
        """Emits ``node`` on these inputs; its outputs are channels-last or in the ONNX layout.

        ``layouts`` of the outputs are needed only where they are flat.
        """
        outputs: list[tuple[str, TensorType]] = []
        for index, name in enumerate(node.outputs):
            if not name:
                outputs.append(("", TensorType("float32", ())))
                continue
            type_ = self.draft.types[name]
            layout = layouts[index] if layouts else Layout.of(type_.shape)
            position = self.positions[name] = Position(type_, layout)
            tensor = self.build.fresh(name)
            if last:
                assert layout is not None
                position.last, type_ = tensor, type_.with_shape(layout.last_shape)
            else:
                position.onnx = tensor
            outputs.append((tensor, type_))
        self.build.add(
            node.op, inputs, outputs, name=node.name, attrs=node.attrs if attrs is None else attrs,
            layer=node.layer, domain=node.domain,
        )  # fmt: skip

    def common_layout(self, node: Node, operands: Sequence[str]) -> Layout | None:
        """The layout in which an operator that works in any order should take its operands.

        None means ONNX's order: all have it, or some cannot be channels-last.
        """
        rank = self.draft.types[node.outputs[0]].rank
        positions = [self.positions[name] for name in operands if name and not self.is_constant(name)]
        # A scalar broadcasts the same in any order.
        positions = [p for p in positions if np.prod(p.type.shape, dtype=np.int64) != 1 or p.type.rank == rank]
        if not positions or any(p.layout is None or p.type.rank != rank for p in positions):
            return None
        layouts = [p.layout for p in positions if p.layout is not None]
        if any(layout.kind != layouts[0].kind for layout in layouts):
            return None
        if all(p.last is None for p in positions) or (rank == 2 and any(p.last is None for p in positions)):
            return None
        if all(p.onnx is not None for p in positions) and any(p.last is None for p in positions):
            return None
        return layouts[0]

    def operands_last(self, operands: Sequence[str], layout: Layout) -> list[str] | None:
        """The operands of an operator, channels-last; None if a constant has no such layout."""
        found: list[str] = []
        for name in operands:
            if not name:
                found.append("")
            elif self.is_constant(name):
                array = layout.constant_to_last(self.draft.constants[name])
                if array is None:
                    return None
                found.append(self.constant(name, array, (layout.rank, layout.image[1:] if layout.rank == 2 else ())))
            elif self.positions[name].type.rank != layout.rank:
                found.append(self.onnx(name))
            else:
                found.append(self.last(name))
        return found

    def wants_last(self, name: str, depth: int = 4) -> bool:
        """Whether a convolution or pool reads the tensor, directly or behind elementwise operators."""
        for reader in self.draft.consumers.get(name, ()):
            if (reader.domain, reader.op) in CHANNELS_LAST:
                return True
            follows = reader.domain == "" and reader.op in (
                "Relu",
                "Clip",
                "Add",
                "Mul",
                "Sub",
                "Div",
                "Cast",
            )
            follows = follows or reader.is_hago("Quantize", "Dequantize", "QLookup", "QAdd", "QMul")
            if follows and depth > 0 and self.wants_last(reader.outputs[0], depth - 1):
                return True
        return False


CHANNELS_LAST = frozenset(
    (DOMAIN, op)
    for op in (
        "QConv", "Conv", "QMaxPool", "MaxPool", "QAvgPool", "AvgPool", "QGlobalAvgPool", "GlobalAvgPool",
    )
)  # fmt: skip


def fold_permutations(graph: LoweredGraph) -> LoweredGraph:
    """Quantize then Transpose, and Dequantize then Transpose, become one node with ``perm``."""
    replaced: dict[str, Node | None] = {}
    for node in graph.nodes:
        if not node.is_onnx("Transpose"):
            continue
        before = graph.producers.get(node.inputs[0])
        if before is None or not before.is_hago("Quantize", "Dequantize") or "perm" in before.attrs:
            continue
        if graph.sole_consumer(before.outputs[0]) is not node:
            continue
        attrs = {**before.attrs, "perm": tuple(node.attrs["perm"])}
        replaced[before.name] = None
        replaced[node.name] = replace(before, outputs=node.outputs, attrs=attrs)
    if not replaced:
        return graph
    nodes = [replaced.get(node.name, node) for node in graph.nodes]
    return graph.with_nodes([node for node in nodes if node is not None])


def rename_outputs(graph: LoweredGraph, names: Sequence[str]) -> LoweredGraph:
    """Gives the graph's outputs their names, with an Identity for a tensor that needs two."""
    renamed: dict[str, str] = {}
    extra: list[Node] = []
    fixed = {*graph.inputs, *graph.constants}
    for tensor, name in zip(graph.outputs, names, strict=True):
        if tensor == name and tensor in graph.producers:
            renamed[tensor] = name
        elif tensor in fixed or tensor in renamed:
            source = renamed.get(tensor, tensor)
            extra.append(Node(f"{name}_identity", "Identity", "", (source,), (name,)))
        else:
            renamed[tensor] = name

    def new(tensors: Sequence[str]) -> tuple[str, ...]:
        return tuple(renamed.get(t, t) for t in tensors)

    nodes = [replace(n, inputs=new(n.inputs), outputs=new(n.outputs)) for n in graph.nodes]
    types = {renamed.get(t, t): type_ for t, type_ in graph.types.items()}
    for tensor, name in zip(graph.outputs, names, strict=True):
        types[name] = graph.types[tensor]
    ready = LoweredGraph((), graph.inputs, tuple(names), types, graph.constants, graph.name, graph.opset)
    return ready.with_nodes([*nodes, *extra])
