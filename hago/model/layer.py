"""A layer: the unit that is quantized or not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One unit of the network, named after its node in the source model.

    ``kind`` is an op kind of the hardware specs ("conv", "add", ...), "float" for operators that stay in
    float, or "shape" for data movement. ``inputs`` are the activations, ``output`` the tensor
    after the folded activation. ``macs`` counts multiply-adds at the model's batch, ``params`` the
    elements of weight and bias (or of the constant). ``constant`` is the constant operand of an add or mul.
    ``reason`` says why a layer is not ``quantizable``.
    """

    name: str
    kind: str
    op_type: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    weight: str | None = None
    bias: str | None = None
    weight_shape: tuple[int, ...] | None = None
    constant: str | None = None
    macs: int = 0
    params: int = 0
    activation: str | None = None
    quantizable: bool = False
    reason: str | None = None
