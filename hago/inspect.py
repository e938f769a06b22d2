"""The layers of a model, and what a piece of hardware can do with each.

``inspect_model(model, spec)`` returns values; ``to_json`` and ``render`` display them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .errors import HagoError, visible
from .model import Layer, Model
from .precision import FLOAT32
from .spec import HardwareSpec
from .visible import cell
from .ways import granularities, op_kind

JSON_VERSION = 1


@dataclass(frozen=True)
class Row:
    """A layer and its options on this hardware: precision -> the granularities that its weights may have.

    ``reason`` says why it can only run in float, or not at all; None if it can be quantized.
    """

    layer: Layer
    ways: Mapping[str, tuple[str, ...]]
    reason: str | None


@dataclass(frozen=True)
class Inspection:
    """What one piece of hardware can do with a model."""

    model: Model
    spec: HardwareSpec
    rows: tuple[Row, ...]
    refused: tuple[str, ...] = ()
    """Why `hago compile` rejects the model: one sentence per node that it cannot compile."""

    @property
    def quantizable(self) -> tuple[Row, ...]:
        """The layers that have a precision other than float32 to choose."""
        return tuple(r for r in self.rows if any(precision != FLOAT32 for precision in r.ways))

    @property
    def quantizable_macs(self) -> int:
        """The multiply-adds of the quantizable layers."""
        return sum(r.layer.macs for r in self.quantizable)


def inspect_model(model: Model, spec: HardwareSpec) -> Inspection:
    """Lists every layer of ``model`` with what ``spec`` offers for it, and whether it compiles at all."""
    found = _refusals(model, spec)
    told: dict[str | None, str] = {}
    for layer, reason in found:
        told.setdefault(layer, reason)
    rows = [_row(layer, spec) for layer in model.layers]
    rows = [Row(row.layer, {}, told[row.layer.name]) if row.layer.name in told else row for row in rows]
    return Inspection(model, spec, tuple(rows), tuple(reason for _, reason in found))


def _refusals(model: Model, spec: HardwareSpec) -> list[tuple[str | None, str]]:
    """(layer, sentence) for each node that cannot be compiled; empty for hardware without kernels."""
    from .compiler.program import refusals
    from .lower import lower

    if not spec.kernels_available:
        return []
    try:
        found = refusals(lower(model.proto, spec), spec)
    except HagoError as error:
        return [(None, str(error).splitlines()[0])]
    return [(refusal.layer, f"{refusal.node}: {refusal.error.what}") for refusal in found]


def _row(layer: Layer, spec: HardwareSpec) -> Row:
    if layer.kind == "shape":
        return Row(layer, {}, layer.reason)
    if not layer.quantizable:
        return Row(layer, {FLOAT32: ()} if spec.float_unit else {}, layer.reason)
    ways = {way.precision: tuple(map(str, granularities(layer, way))) for way in spec.choices(op_kind(layer))}
    if set(ways) <= {FLOAT32}:
        return Row(layer, ways, f"{spec.name} has no integer {op_kind(layer)}")
    return Row(layer, ways, None)


def to_json(inspection: Inspection) -> str:
    """The inspection as one JSON object. Keys are stable; ``version`` changes with them."""
    model, spec = inspection.model, inspection.spec
    document: dict[str, Any] = {
        "version": JSON_VERSION,
        "model": model.source,
        "hash": model.hash,
        "batch": model.batch,
        "is_quantized": model.is_quantized,
        "hw": spec.name,
        "inputs": [{"name": t.name, "dtype": t.dtype, "shape": t.shape} for t in model.inputs],
        "outputs": [{"name": t.name, "dtype": t.dtype, "shape": t.shape} for t in model.outputs],
        "macs": model.macs,
        "params": model.params,
        "refused": list(inspection.refused),
        "quantizable_layers": len(inspection.quantizable),
        "quantizable_macs": inspection.quantizable_macs,
        "layers": [
            {
                "name": row.layer.name,
                "kind": row.layer.kind,
                "op_type": row.layer.op_type,
                "activation": row.layer.activation,
                "nodes": row.layer.nodes,
                "inputs": row.layer.inputs,
                "output": row.layer.output,
                "input_shapes": row.layer.input_shapes,
                "output_shape": row.layer.output_shape,
                "weight_shape": row.layer.weight_shape,
                "macs": row.layer.macs,
                "params": row.layer.params,
                "choices": [{"precision": name, "granularities": found} for name, found in row.ways.items()],
                "reason": row.reason,
            }
            for row in inspection.rows
        ],
    }
    return json.dumps(document, indent=1)


def render(inspection: Inspection, wrap: bool = True) -> RenderableType:
    """A line about the model, a table of its layers, and the totals, for a rich console."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("layer", no_wrap=not wrap, overflow="fold", style="bold")
    table.add_column("op", no_wrap=not wrap)
    table.add_column("in -> out", no_wrap=not wrap)
    table.add_column("weights", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column(f"choices on {inspection.spec.name}, or why not", no_wrap=not wrap, overflow="fold")
    for row in inspection.rows:
        layer = row.layer
        shapes = " ".join(_shape(s) for s in layer.input_shapes) or "()"
        table.add_row(
            cell(layer.name),
            cell(_operation(layer)),
            f"{shapes} -> {_shape(layer.output_shape)}",
            _shape(layer.weight_shape) if layer.weight_shape is not None else "",
            count(layer.macs) if layer.macs else "",
            count(layer.params) if layer.params else "",
            _choices(row),
        )
    return Group(*map(cell, _heading(inspection)), table, Text(_totals(inspection)))


def count(number: int) -> str:
    """12501632 as 12.50M, rounded for display."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)


def _operation(layer: Layer) -> str:
    name = layer.op_type if layer.activation is None else f"{layer.op_type}+{layer.activation}"
    return name if layer.kind in ("float", "shape", "lookup") else f"{name} ({layer.kind})"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"


def _offer(precision: str, granularities: tuple[str, ...]) -> str:
    """``int8 (tensor, channel, group 32/64)``."""
    groups = [g.removeprefix("per_group:") for g in granularities if g.startswith("per_group:")]
    words = [g.removeprefix("per_") for g in granularities if not g.startswith("per_group:")]
    told = ", ".join([*words, *([f"group {'/'.join(groups)}"] if groups else [])])
    return f"{precision} ({told})" if told else precision


def _choices(row: Row) -> Text:
    if row.layer.kind == "shape" and row.reason == row.layer.reason:
        return cell(row.reason or "", "dim")
    if row.reason is None:
        return cell(" | ".join(_offer(*way) for way in row.ways.items()))
    where = "float32 only" if row.ways else "cannot run here"
    return cell(f"{where}: {row.reason}", "yellow")


def _heading(inspection: Inspection) -> list[str]:
    model = inspection.model
    ends = [", ".join(f"{t.name} {t.dtype} {_shape(t.shape)}" for t in side) for side in (model.inputs, model.outputs)]
    lines = [f"{model.source}: {ends[0]} -> {ends[1]}, batch {model.batch}"]
    if model.is_quantized:
        lines.append("The model is already quantized: compile it as it is; it cannot be searched.")
    return lines


def _totals(inspection: Inspection) -> str:
    from .text import plural

    model, free = inspection.model, inspection.quantizable
    kinds = Counter(row.layer.kind for row in free)
    share = inspection.quantizable_macs / model.macs if model.macs else 0.0
    told = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    lines = [
        f"{plural(len(inspection.rows), 'layer')}, {count(model.macs)} multiply-adds, {count(model.params)} parameters "
        f"({count(4 * model.params)}B in float32)",
        f"{len(free)} of them can be quantized, with {share:.1%} of the multiply-adds: {told}"
        if free
        else "None of them can be quantized",
    ]
    if inspection.refused:
        lines.append("It cannot be compiled:")
        lines += [visible(f"  {reason}") for reason in inspection.refused]
    if not inspection.spec.kernels_available:
        lines.append(f"{inspection.spec.name} has no kernels yet: Hago cannot compile for it")
    return "\n".join(lines)
