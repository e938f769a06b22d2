"""Which layers must agree, and which tensors pass from one group of layers to another.

Two rules form a group. An add, mul or concat of two or more activations needs inputs of one precision, so it joins the
layers that produce them. A layer that only follows (a pool, a table, a per-channel affine, data movement) joins its
producer or, if that is a graph input or a float layer, its first consumer. Layers that cannot be quantized belong to no
group and end the walk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model import Layer, Model

ANCHORS = ("conv", "depthwise_conv", "fully_connected", "matmul")
JOINS = ("add", "mul", "concat")


class UnionFind:
    """Disjoint sets of names, each identified by its earliest member."""

    def __init__(self, items: Iterable[str]) -> None:
        self._order = {item: i for i, item in enumerate(items)}
        self._parent = {item: item for item in self._order}

    def find(self, item: str) -> str:
        """The representative of the set that an item is in."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def union(self, a: str, b: str) -> None:
        """Merges the sets of two items."""
        first, second = sorted((self.find(a), self.find(b)), key=self._order.__getitem__)
        self._parent[second] = first

    def sets(self) -> list[tuple[str, ...]]:
        """All sets and their members, in order of first appearance."""
        found: dict[str, list[str]] = {}
        for item in self._order:
            found.setdefault(self.find(item), []).append(item)
        return [tuple(members) for members in found.values()]


@dataclass(frozen=True)
class Flow:
    """A tensor between groups: it needs a conversion if maker and reader differ in precision.

    ``maker`` and ``readers`` are indices of groups; ``maker`` is None for a graph input or a layer that is
    always float; ``float_reader`` is set if such a layer, or a graph output, reads the tensor.
    """

    tensor: str
    elements: int
    maker: int | None
    readers: tuple[int, ...]
    float_reader: bool


def group_layers(model: Model, searched: Callable[[Layer], bool]) -> list[tuple[str, ...]]:
    """The names of the layers of each group, in the model's order.

    ``searched`` holds the layers that have a choice. Data movement takes the type of its neighbours: it connects
    groups but belongs to none.
    """
    maker = _makers(model)
    readers: dict[str, list[Layer]] = {}
    for layer in model.layers:
        for tensor in dict.fromkeys(layer.inputs):
            readers.setdefault(tensor, []).append(layer)

    def walked(layer: Layer | None) -> bool:
        return layer is not None and (layer.kind == "shape" or searched(layer))

    sets = UnionFind(layer.name for layer in model.layers)
    for layer in model.layers:
        if not walked(layer) or layer.kind in ANCHORS or not layer.inputs:
            continue
        joins = layer.kind in JOINS and len(layer.inputs) > 1
        for tensor in layer.inputs if joins else layer.inputs[:1]:
            feeding = maker.get(tensor)
            if feeding is not None and walked(feeding):
                sets.union(layer.name, feeding.name)
            elif not joins:
                reading = next((r for r in readers.get(layer.output, ()) if walked(r)), None)
                if reading is not None:
                    sets.union(layer.name, reading.name)
    named = {layer.name for layer in model.layers if layer.kind != "shape" and searched(layer)}
    kept = [tuple(name for name in members if name in named) for members in sets.sets()]
    return [members for members in kept if members]


def tied_layers(model: Model, searched: Callable[[Layer], bool]) -> tuple[tuple[str, ...], ...]:
    """Sets of two or more layers that read one tensor, and so share a scale and a calibrator."""
    roots = _roots(model, ("shape", "max_pool"))
    layers = [layer for layer in model.layers if layer.kind != "shape" and searched(layer)]
    sets = UnionFind(layer.name for layer in layers)
    first_reader: dict[str, str] = {}
    for layer in layers:
        for tensor in layer.inputs:
            sets.union(layer.name, first_reader.setdefault(roots.get(tensor, tensor), layer.name))
    return tuple(members for members in sets.sets() if len(members) > 1)


def find_flows(model: Model, group_of: dict[str, int]) -> tuple[Flow, ...]:
    """Every tensor that leaves or enters a group. ``group_of``: layer name -> index."""
    roots = _roots(model, ("shape",))
    makers = {tensor: group_of.get(layer.name) for tensor, layer in _makers(model).items()}
    readers: dict[str, set[int | None]] = {}
    for layer in model.layers:
        if layer.kind == "shape":
            continue
        for tensor in layer.inputs:
            readers.setdefault(roots.get(tensor, tensor), set()).add(group_of.get(layer.name))
    for info in model.outputs:
        readers.setdefault(roots.get(info.name, info.name), set()).add(None)
    flows = []
    for tensor, found in readers.items():
        maker = makers.get(tensor)
        others = tuple(sorted(g for g in found if g is not None and g != maker))
        float_reader = None in found
        if others or (maker is not None and float_reader):
            elements = 1
            for size in model.tensor_shapes.get(tensor, ()):
                elements *= max(1, int(size))
            flows.append(Flow(tensor, elements, maker, others, float_reader))
    return tuple(flows)


def _makers(model: Model) -> dict[str, Layer]:
    """Tensor -> the layer that produces it, for all outputs of every layer."""
    owner = {name: layer for layer in model.layers for name in layer.nodes}
    made = {t: owner[n.name] for n in model.proto.graph.node if n.name in owner for t in n.output if t}
    return made | {layer.output: layer for layer in model.layers}


def _roots(model: Model, kinds: tuple[str, ...]) -> dict[str, str]:
    """Tensor -> its source through layers of these kinds, or itself."""
    roots: dict[str, str] = {}
    for tensor, layer in _makers(model).items():  # in topological order: an input's root is known
        source = layer.inputs[0] if layer.kind in kinds and layer.inputs else tensor
        roots[tensor] = roots.get(source, source)
    return roots
