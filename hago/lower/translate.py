"""From the source graph to hago ops, still in ONNX's tensor order (`hago.lower.layout_pass` changes that).

One walk over the nodes in topological order. For each source tensor the walk keeps the representations in which
it is available (`Value`); a DequantizeLinear only records that its output *is* quantized, and float
values are computed when an operator needs them. So every operator without an integer op stays a standard
operator on dequantized values, which is always correct.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..spec import HardwareSpec
from ..tensor import TensorType
from .builder import GraphBuilder
from .graph import LoweredGraph
from .lookahead import FusedEpilogue, Lookahead
from .source import Constant, SourceGraph, SourceNode
from .values import SIGNED_SHIFT, Params, Quant, Value

Handler = Callable[["Translator", SourceNode], bool]
"""Lowers one node, or returns False and leaves everything as it was."""


class Translator:
    """Holds the walk's state and what the handlers share."""

    def __init__(self, source: SourceGraph, handlers: dict[str, Sequence[Handler]], spec: HardwareSpec | None) -> None:
        self.source, self.spec, self.ahead = source, spec, Lookahead(source)
        self.build = GraphBuilder((*source.inputs, *source.outputs))
        self._handlers = handlers
        self._values: dict[str, Value] = {}
        self._constants: dict[str, str] = {}
        self._emitted: dict[tuple[object, ...], str] = {}
        self._done: set[SourceNode] = set()

    def run(self) -> LoweredGraph:
        """The translated graph; its outputs have internal names, in the source's order."""
        for name in self.source.inputs:
            self.build.types[name] = self.source.type(name)
            self._values[name] = Value(tensor=name)
        for node in self.source.nodes:
            if node in self._done or not any(node.outputs) or self.source.constant(node.outputs[0]) is not None:
                continue
            self.build.layer = self.source.layer_of(node)
            handlers = self._handlers.get(node.op, ()) if node.domain == "" else ()
            if not any(handler(self, node) for handler in handlers):
                self.keep(node)
        self.build.layer = None
        outputs = [self.tensor(name) for name in self.source.outputs]
        return self.build.finish(self.source.inputs, outputs, self.source.name, self.source.opset)

    def offers(self, kind: str, precision: str) -> bool:
        """Whether the hardware computes operators of ``kind`` in ``precision``; without a spec, it does."""
        return self.spec is None or any(c.precision == precision for c in self.spec.choices(kind))

    def integers(self, kind: str) -> bool:
        """Whether the hardware computes operators of ``kind`` on integers; without a spec, it does."""
        return self.spec is None or any(way.numbers.is_integer for way in self.spec.choices(kind))

    # --- the representations of a value ---------------------------------------------------------

    def value(self, name: str) -> Value:
        """The representations of a tensor computed at run time; of a constant, none."""
        return self._values.get(name) or Value()

    def set(self, name: str, value: Value) -> None:
        """Records the representations of a tensor."""
        self._values[name] = value

    def tensor(self, name: str) -> str:
        """The lowered tensor with exactly the value and type of the source tensor ``name``."""
        constant = self.source.constant(name)
        if constant is not None:
            return self._constant_tensor(name, constant)
        value = self._values[name]
        if value.tensor is None:
            value.tensor = self._materialize(name, value)
        return value.tensor

    def _constant_tensor(self, name: str, constant: Constant) -> str:
        if name not in self._constants:
            self._constants[name] = self.build.constant(constant.array, name)
        return self._constants[name]

    def _materialize(self, name: str, value: Value) -> str:
        type_ = self.source.type(name)
        if value.table is not None:
            if not value.table.costly:
                return self._keep_outputs(value.table.node)[0]
            table = self.build.constant(value.table.reals, f"{name}_table")
            inputs = [value.table.quant.tensor, table]
            return self.build.emit(
                "QLookup", inputs, type_, hint=name, name=value.table.node.name, layer=value.table.node.layer
            )
        if value.quant is not None:
            attrs = {"scale": float(value.quant.params.scale), "zero_point": value.quant.params.zero_point}
            return self.build.emit(
                "Dequantize", [value.quant.tensor], type_, hint=name, name=f"{name}_dequantize", attrs=attrs
            )
        if value.short is not None:
            return self.standard("Cast", [value.short], type_, name, {"to": 1})
        assert value.codes is not None, f"no representation of {name!r}"
        return self._shifted(value.codes, name, -SIGNED_SHIFT, "int8") if value.signed else value.codes

    def _shifted(self, codes: str, hint: str, offset: int, dtype: str) -> str:
        """int8 from uint8 codes or back; only for tensors that are inputs or outputs of the graph."""
        shape = self.build.types[codes].shape
        wide = TensorType("int32", shape)
        addend = self.build.constant(np.array(offset, np.int32), f"{hint}_offset")
        cast = self.standard("Cast", [codes], wide, f"{hint}_wide", {"to": 6})
        moved = self.standard("Add", [cast, addend], wide, f"{hint}_moved")
        return self.standard("Cast", [moved], TensorType(dtype, shape), hint, {"to": 3 if dtype == "int8" else 2})

    def codes_of(self, name: str) -> str | None:
        """The uint8 codes behind a quantized source tensor (int8 ones shifted), None for other types."""
        value = self.value(name)
        if value.codes is None:
            dtype = self.source.type(name).dtype
            if dtype == "uint8":
                value.codes = self.tensor(name)
            elif dtype == "int8":
                value.codes = self._shifted(self.tensor(name), f"{name}_codes", SIGNED_SHIFT, "uint8")
        return value.codes

    def quant(self, name: str) -> Quant | None:
        """A real tensor (or a constant dequantized per tensor) as quantized codes, or None."""
        constant = self.source.constant(name)
        if constant is None:
            return self.value(name).quant
        codes = constant.codes
        if codes is None or codes.scale.size != 1 or codes.block_size or codes.codes.dtype not in (np.uint8, np.int8):
            return None
        shift = SIGNED_SHIFT if codes.codes.dtype == np.int8 else 0
        stored = (codes.codes.astype(np.int16) + shift).astype(np.uint8)
        params = Params(np.float32(codes.scale.reshape(())), int(codes.zero_point.reshape(())) + shift)
        return Quant(self.once(("codes", name), lambda: self.build.constant(stored, f"{name}_codes")), params)

    def quantized(self, name: str, params: Params, layer: str | None = None) -> str:
        """uint8 codes of a real tensor with exactly these parameters."""
        constant = self.source.constant(name)
        if constant is not None:
            return self.once((name, params), lambda: self.build.constant(params.quantize(constant.array), f"{name}_u8"))
        value = self._values[name]
        if value.quant is not None and value.quant.params == params:
            return value.quant.tensor
        table = value.table
        if table is not None:
            return self.look_up(table.quant, params.quantize(table.reals), table.node.name, table.node.layer)
        if value.quant is not None:
            codes = params.quantize(value.quant.params.reals())
            return self.look_up(value.quant, codes, f"{name}_requantize", layer)
        attrs = {"scale": float(params.scale), "zero_point": params.zero_point, "lo": 0, "hi": 255}
        type_ = TensorType("uint8", self.source.shape(name))
        return self.once(
            (name, params),
            lambda: self.build.emit(
                "Quantize", [self.tensor(name)], type_,
                hint=f"{name}_u8", name=f"{name}_quantize", attrs=attrs, layer=layer,
            ),
        )  # fmt: skip

    def look_up(self, quant: Quant, table: np.ndarray, name: str, layer: str | None) -> str:
        """uint8 codes table[quant]; the identity costs nothing."""
        if np.array_equal(table, np.arange(256)):
            return quant.tensor

        def emit() -> str:
            constant = self.build.constant(table, f"{name}_table")
            type_ = self.build.types[quant.tensor]
            inputs = [quant.tensor, constant]
            return self.build.emit("QLookup", inputs, type_, hint=f"{name}_u8", name=name, layer=layer)

        return self.once((quant.tensor, table.tobytes()), emit)

    def once(self, key: tuple[object, ...], emit: Callable[[], str]) -> str:
        """What ``emit`` made the first time that ``key`` was requested."""
        if key not in self._emitted:
            self._emitted[key] = emit()
        return self._emitted[key]

    def flatten_result(self, name: str, pooled: tuple[int, ...]) -> None:
        """Adds a Reshape behind the node just emitted for ``name``, whose own output has the shape ``pooled``."""
        value = self._values[name]
        final = value.quant.tensor if value.quant is not None else value.tensor
        node = self.build.nodes.pop()
        assert final is not None and node.outputs == (final,)
        type_ = self.build.types[final]
        inner = self.build.fresh(f"{final}_pooled")
        self.build.nodes.append(replace(node, outputs=(inner,)))
        self.build.types[inner] = type_.with_shape(pooled)
        shape = self.build.shared_constant(np.array(type_.shape, np.int64), "shape")
        self.build.add("Reshape", [inner, shape], [(final, type_)], name=f"{node.name}_flatten", layer=node.layer)

    # --- making nodes ---------------------------------------------------------------------------

    def finish(self, epilogue: FusedEpilogue, value: Value) -> None:
        """Records the value of an epilogue's output; the nodes that it includes are not lowered again."""
        self._done.update(epilogue.nodes)
        self.set(epilogue.out, value)

    def hago(
        self,
        op: str,
        node: SourceNode,
        inputs: Sequence[str],
        type_: TensorType,
        hint: str,
        attrs: dict[str, object],
    ) -> str:
        """Emits a hago op for ``node``; returns its output."""
        return self.build.emit(op, inputs, type_, hint=hint, name=node.name, attrs=attrs, layer=node.layer)

    def standard(
        self, op: str, inputs: Sequence[str], type_: TensorType, hint: str,
        attrs: dict[str, object] | None = None, *, name: str | None = None, layer: str | None = None,
    ) -> str:  # fmt: skip
        """Emits a standard operator; returns its output."""
        name = name or f"{hint}_{op.lower()}"
        return self.build.emit(op, inputs, type_, hint=hint, name=name, attrs=attrs, layer=layer, domain="")

    def keep(self, node: SourceNode) -> None:
        """Keeps a node as it is, on real values."""
        outputs = self._keep_outputs(node)
        for name, tensor in zip(node.outputs, outputs, strict=True):
            if name:
                self.set(name, Value(tensor=tensor))

    def _keep_outputs(self, node: SourceNode) -> list[str]:
        inputs = [self.tensor(name) if name else "" for name in node.inputs]
        outputs = [self.build.fresh(name) if name else "" for name in node.outputs]
        types = [(o, self.source.type(name)) for o, name in zip(outputs, node.outputs, strict=True) if name]
        absent = TensorType("float32", ())
        typed = [(o, dict(types).get(o, absent)) for o in outputs]
        name = node.name or f"{node.outputs[0]}_{node.op.lower()}"
        self.build.add(node.op, inputs, typed, name=name, attrs=node.attrs, layer=node.layer, domain=node.domain)
        return outputs
