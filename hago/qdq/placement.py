"""Where a strategy puts QuantizeLinear/DequantizeLinear pairs, and which tensors share parameters.

The rules:

- An integer layer reads every float activation through a pair. A tensor has one pair for all its
  integer consumers; float consumers read the float tensor.
- A layer whose outputs are values of its input (max pooling, nearest or linear resize) has the same
  parameters before and behind it, so that integers pass through unchanged.
- Data movement has no precision. It carries integers if all its readers take the same integers and its input
  has them anyway: an integer layer makes it, or another one reads it.
- The inputs of an integer concat that nothing else reads as integers take the parameters of its output,
  so that the concat only copies. Nothing is lost, as its output is rounded to them anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..scheme import IntegerType
from ..strategy import Strategy
from ..ways import find_way
from .index import GraphIndex

if TYPE_CHECKING:
    from ..model import Layer
    from ..spec import HardwareSpec, Way

Slot = tuple[str, IntegerType]
"""A tensor as integers of one scheme."""


@dataclass
class Placement:
    """The result: which layers compute in integers or in a short float, and whose range each slot takes.

    ``reduced`` layer -> the short float of its activations; ``weight_only`` layers have weights that are integers and
    activations that are not. ``carried`` data movement (or max pooling ...) -> the scheme that passes through it;
    ``calibrator`` slot that provides a range -> how the range is found.
    """

    integer: dict[str, Way] = field(default_factory=dict)
    reduced: dict[str, str] = field(default_factory=dict)
    weight_only: dict[str, Way] = field(default_factory=dict)
    carried: dict[str, IntegerType] = field(default_factory=dict)
    calibrator: dict[Slot, str] = field(default_factory=dict)
    _source: dict[Slot, Slot] = field(default_factory=dict)

    def source(self, tensor: str, scheme: IntegerType) -> Slot:
        """The slot whose calibrated range this tensor takes, often itself."""
        slot = (tensor, scheme)
        while slot in self._source:
            slot = self._source[slot]
        return slot

    def input_scheme(self, layer: str) -> IntegerType | None:
        """The integers that the layer reads, or None if it reads floats."""
        if layer in self.integer:
            return self.integer[layer].activation
        return self.carried.get(layer)


def place(index: GraphIndex, strategy: Strategy, spec: HardwareSpec) -> Placement:
    """Applies the rules above. The strategy must fit (``Strategy.check``)."""
    placement = Placement()
    for layer in index.layers:
        choice = strategy.choice(layer.name)
        if not choice.is_quantized:
            continue
        way = find_way(layer, choice.precision, spec)
        activation = way.numbers.activation
        if way.numbers.is_integer:
            placement.integer[layer.name] = way
        elif activation is not None and not activation.is_float32:
            placement.reduced[layer.name] = activation.kind
        if way.numbers.is_weight_only:
            placement.weight_only[layer.name] = way

    readers = _readers(index, placement)
    _carry(index, placement, readers)
    for layer in index.layers:  # trace every carried tensor back to the tensor that it came from
        scheme = placement.carried.get(layer.name)
        if scheme is not None:
            moved = index.moved_tensor(layer) or index.activations(layer)[0]
            readers.setdefault((moved, scheme), [])
            for made in index.layer_outputs[layer.name]:
                placement._source[made, scheme] = (moved, scheme)
    # The calibrator is that of the first layer that reads the range's tensor, directly or carried, as integers.
    for layer in index.layers:
        if layer.name in placement.integer:
            for slot in _slots(index, placement, layer):
                placement.calibrator.setdefault(placement.source(*slot), strategy.choice(layer.name).calibrator)
    _unify_concats(index, placement, readers)
    return placement


def _slots(index: GraphIndex, placement: Placement, layer: Layer) -> list[Slot]:
    scheme = placement.integer[layer.name].activation
    assert scheme is not None
    return [(tensor, scheme) for tensor in index.activations(layer)]


def _readers(index: GraphIndex, placement: Placement) -> dict[Slot, list[str]]:
    """Slot -> the integer layers that read it, in order."""
    readers: dict[Slot, list[str]] = {}
    for layer in index.layers:
        if layer.name in placement.integer:
            for slot in _slots(index, placement, layer):
                readers.setdefault(slot, []).append(layer.name)
    return readers


def _carry(index: GraphIndex, placement: Placement, readers: dict[Slot, list[str]]) -> None:
    """Fills ``placement.carried``."""
    wanted: dict[str, IntegerType] = {}
    for layer in reversed(index.layers):
        if layer.name in placement.integer or layer.name in placement.reduced:
            continue
        if index.moved_tensor(layer) is None:
            continue
        schemes = {
            None
            if reader is None
            else placement.integer[reader.name].activation
            if reader.name in placement.integer
            else wanted.get(reader.name)
            for made in index.layer_outputs[layer.name]
            for reader in ([None] if made in index.outputs else index.consumers.get(made, [None]))
        }
        if len(schemes) == 1 and (scheme := schemes.pop()) is not None:
            wanted[layer.name] = scheme
    for layer in index.layers:
        if layer.name in placement.integer and index.keeps_range(layer):
            scheme = placement.integer[layer.name].activation
            assert scheme is not None
            placement.carried[layer.name] = scheme
        elif layer.name in wanted:
            moved = index.moved_tensor(layer)
            assert moved is not None
            maker = index.producer.get(moved)
            scheme = wanted[layer.name]
            made_in_integers = maker is not None and (
                maker.name in placement.integer or maker.name in placement.carried
            )
            if made_in_integers or (moved, scheme) in readers:
                placement.carried[layer.name] = scheme


def _unify_concats(index: GraphIndex, placement: Placement, readers: dict[Slot, list[str]]) -> None:
    carriers_of: set[Slot] = set(placement._source.values())
    for layer in index.layers:
        if layer.kind != "concat" or layer.name not in placement.integer or layer.activation:
            continue
        scheme = placement.integer[layer.name].activation
        assert scheme is not None
        output = (layer.output, scheme)
        if output not in readers and output not in carriers_of:
            continue
        for tensor in index.activations(layer):
            slot = (tensor, scheme)
            alone = readers[slot] == [layer.name] and slot not in carriers_of
            if alone and slot not in placement._source:
                placement._source[slot] = output
