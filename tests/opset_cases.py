"""Small models of every standard operator whose schema changed between opset 7 and the one Hago works at.

`cases()` gives each operator once per version of its schema, written as that version wants it and with the attributes
whose meaning or default changed. `UNTESTED` says why an operator has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OLDEST, WORKING = 7, 21
UNTESTED = {
    **dict.fromkeys(["Optional", "OptionalGetElement", "OptionalHasElement"], "not of tensors"),
    **dict.fromkeys(["If", "Loop", "Scan"], "control flow, see test_normalize"),
    **dict.fromkeys(["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"], "for training"),
    "CastLike": "a Cast once folded",
}


@dataclass(frozen=True)
class Held:
    """An input that is an initializer."""

    array: np.ndarray


@dataclass(frozen=True)
class Case:
    """One node at one opset; ``newest`` says that it is the last opset to write it so.

    ``inputs`` are fed, `Held`, or None where an optional one is absent.
    """

    op: str
    opset: int
    inputs: tuple[np.ndarray | Held | None, ...]
    attrs: dict[str, Any]
    outputs: int = 1
    note: str = ""
    newest: bool = True

    def __str__(self) -> str:
        told = " ".join(f"{k}={v.tolist() if isinstance(v, np.ndarray) else v}" for k, v in self.attrs.items())
        return f"{self.op}-{self.opset} {self.note or told}".strip()[:90]

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {f"i{n}": a for n, a in enumerate(self.inputs) if isinstance(a, np.ndarray)}

    @property
    def proto(self) -> onnx.ModelProto:
        names = ["" if a is None else f"i{n}" for n, a in enumerate(self.inputs)]
        attrs = {k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in self.attrs.items()}
        outputs = [f"o{n}" for n in range(self.outputs)]
        held = [(n, a.array) for n, a in zip(names, self.inputs, strict=True) if isinstance(a, Held)]
        graph = helper.make_graph(
            [helper.make_node(self.op, names, outputs, "node", **attrs)],
            "case",
            [helper.make_tensor_value_info(n, code(a), a.shape) for n, a in self.feeds.items()],
            [helper.make_tensor_value_info(o, TensorProto.UNDEFINED, None) for o in outputs],
            [numpy_helper.from_array(a, n) for n, a in held],
        )
        version = 3 if self.opset < 8 else 8 if self.opset < 19 else 10
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=version)
        if version < 4:  # where an initializer had to be an input too
            proto.graph.input.extend(helper.make_tensor_value_info(n, code(a), a.shape) for n, a in held)
        typed = onnx.shape_inference.infer_shapes(proto)
        for output in typed.graph.output:
            output.type.tensor_type.ClearField("shape")
        return typed


def code(array: np.ndarray) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


@dataclass
class _Table:
    rows: list[tuple[str, int, int, Case]] = field(default_factory=list)

    def __call__(
        self, op: str, first: int, last: int, *inputs: Any, outputs: int = 1, note: str = "", **attrs: Any
    ) -> None:
        """A case of ``op`` for every version of its schema that is in force at an opset from first to last."""
        fed = tuple(a if a is None or isinstance(a, Held) else np.asarray(a) for a in inputs)
        self.rows.append((op, first, last, Case(op, 0, fed, attrs, outputs, note)))


def schema_starts(op: str) -> list[int]:
    """The opsets, from OLDEST to WORKING, at which a version of this operator's schema comes into force."""
    found = {max(s.since_version, OLDEST) for s in _history().get(op, []) if s.since_version <= WORKING}
    ended = {s.since_version for s in _history().get(op, []) if s.deprecated}
    return sorted(found - ended)


def changed_operators() -> list[str]:
    """Standard operators of which more than one version lies between OLDEST and WORKING, or that ended there."""
    ended = {op for op, known in _history().items() if any(s.deprecated and s.since_version <= WORKING for s in known)}
    return sorted(op for op in _history() if len(schema_starts(op)) > 1 or (op in ended and schema_starts(op)))


@cache
def _history() -> dict[str, list[Any]]:
    known: dict[str, list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            known.setdefault(schema.name, []).append(schema)
    return known


def cases() -> Iterator[Case]:
    """Every case, once for each version of its operator's schema."""
    for op, first, last, case in _rows():
        opsets = [opset for opset in schema_starts(op) if first <= opset <= last]
        for opset in opsets:
            yield replace(case, opset=opset, newest=opset == opsets[-1])


def f(*shape: int, scale: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(sum(shape) + len(shape))
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.abs(f(*shape)) + np.float32(0.1)


def ints(*values: int) -> Held:
    return Held(np.array(values, np.int64))


def one(value: Any, dtype: type = np.float32) -> Held:
    return Held(np.array(value, dtype))


def _rows() -> Sequence[tuple[str, int, int, Case]]:
    from opset_rows import fill

    table = _Table()
    fill(table)
    return table.rows
