"""Quantized files of another tool, drawn by a seed, through `hago.compile`: every code against exact arithmetic.

    python benchmarks/random_qdq.py

ONNX Runtime's quantizer makes the files, in QDQ and QOperator format and dynamically (`qdq_nets`). All quantized
tensors of a file become outputs. Each is then worked out from the quantized tensors before it, as Hago has them, by
ONNX's evaluator in float64, and compared code by code. A code may be the neighbour of the right one only where the
exact value lies within a thousandth of a step from the middle between the two (codes of 16 bits: within four units
in the last place that float32 has for the largest of them): that is rounding, and counted. Sums in int32 must be
equal; float outputs may differ by 1e-5 of the largest.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from qdq_nets import draw_net, draw_way, quantized

import hago

TIE = 1e-3  # of a step
ROUNDING = 2.0**-22  # of the largest code: four units in the last place of float32
FLOAT = 1e-5  # of the largest output
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Verdict:
    """One file. ``differing`` elements are wrong, ``rounded`` are codes next to the right one, at a tie."""

    seed: int
    way: str
    operators: tuple[str, ...]
    elements: int
    differing: int
    rounded: int
    fault: str


def check_seed(seed: int) -> Verdict | None:
    """Draws, quantizes, compiles and compares; None where the quantizer itself refuses the network."""
    rng = np.random.default_rng(seed)
    net, way = draw_net(rng), draw_way(rng)
    try:
        model = quantized(net, way, rng)
    except (ValueError, NotImplementedError):
        return None
    shape = [d.dim_value for d in net.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": rng.standard_normal(shape).astype(np.float32)}
    operators = tuple(sorted({n.op_type for n in model.graph.node}))
    try:
        counts = compare(model, feeds)
        return Verdict(seed, str(way), operators, *counts, "")
    except (AssertionError, hago.HagoError) as error:
        return Verdict(
            seed, str(way), operators, 0, 1, 0, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )


def compare(model: onnx.ModelProto, feeds: Values) -> tuple[int, int, int]:
    """Elements compared, differing, and rounded to the neighbour at a tie."""
    shown = _with_outputs(model)
    names = [o.name for o in shown.graph.output]
    found = dict(zip(names, hago.compile(shown, threads=1).run(feeds), strict=True))
    values: Values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer} | feeds
    elements = differing = rounded = 0
    for node in model.graph.node:
        results, step = _exact(node, values)
        for name, exact in zip(node.output, results, strict=True):
            if name not in found:
                values[name] = exact
                continue
            got = found[name]
            assert got.shape == exact.shape, f"{name}: shape {got.shape}, not {exact.shape}"
            wrong, ties = _differences(got, exact, step)
            elements, differing, rounded = elements + got.size, differing + wrong, rounded + ties
            assert not wrong, f"{wrong} of {got.size} elements of {name!r} ({node.op_type}) differ"
            values[name] = got
    return elements, differing, rounded


def _differences(got: np.ndarray, exact: np.ndarray, codes: np.dtype | None) -> tuple[int, int]:
    """Wrong elements, and neighbours at a tie. ``exact`` are codes before they are rounded, where ``codes`` says so."""
    if codes is not None:
        assert got.dtype == codes, f"type {got.dtype}, not {codes}"
        limits = np.iinfo(codes)
        right = np.clip(np.rint(exact), limits.min, limits.max)
        other = got != right
        near = max(TIE, ROUNDING * float(np.abs(exact).max(initial=0)))
        tie = np.abs(exact - np.floor(exact) - 0.5) <= near
        rounded = other & tie & (np.abs(got.astype(np.float64) - exact) <= 0.5 + near)
        return int((other & ~rounded).sum()), int(rounded.sum())
    if got.dtype.kind == "f":
        limit = FLOAT * max(float(np.abs(exact).max(initial=0)), 1e-30)
        return int((~(np.abs(got - exact) <= limit)).sum()), 0
    return int((got != exact).sum()), 0


def _with_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with every quantized tensor as an output."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    types = {t.name: t.data_type for t in model.graph.initializer}
    present = {o.name for o in shown.graph.output}
    for node in model.graph.node:
        kind = _code_type(node, types)
        for name, code in zip(node.output, kind, strict=False):
            types[name] = code
            if name not in present:
                shown.graph.output.append(helper.make_tensor_value_info(name, code, None))
    return shown


def _code_type(node: onnx.NodeProto, types: Mapping[str, int]) -> tuple[int, ...]:
    """Element types of the quantized tensors that a node makes."""
    zero = _zero_point(node)
    if node.op_type == "DynamicQuantizeLinear":
        return (onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8)
    if zero is None:
        return ()
    return (types.get(zero, onnx.TensorProto.UINT8),) if zero in types else ()


def _zero_point(node: onnx.NodeProto) -> str | None:
    """The name of the zero point of what a quantizing operator makes; None for other operators."""
    at = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearConcat": 1, "QGemm": 8}.get(node.op_type)
    if at is None and node.op_type.startswith("QLinear"):
        at = 7 if len(node.input) > 5 else 4
    return node.input[at] if at is not None and at < len(node.input) and node.input[at] else None


# --- exact arithmetic -------------------------------------------------------------------------------


def _exact(node: onnx.NodeProto, values: Values) -> tuple[list[np.ndarray], np.dtype | None]:
    """The outputs of a node; codes before rounding, with their type, where it quantizes."""
    given = [values[name] if name else None for name in node.input]
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "DequantizeLinear":
        axis = attrs.get("axis", 1)
        return [_real(*given, axis=axis)], None  # type: ignore[arg-type]
    if node.op_type == "QuantizeLinear":
        x, scale, zero = (*given, None)[:3]
        assert x is not None and scale is not None
        dtype = np.dtype(np.uint8) if zero is None else zero.dtype
        return [x / scale.astype(np.float64) + (0.0 if zero is None else zero.astype(np.float64))], dtype
    if node.op_type.startswith("QLinear") or node.op_type == "QGemm":
        return _fused(node.op_type, given, attrs)
    if node.op_type in ("MatMulInteger", "ConvInteger"):
        wide = [None if v is None else v.astype(np.int64) for v in (*given, None, None)[:4]]
        a, b, za, zb = wide
        assert a is not None and b is not None
        a = a - (0 if za is None else za)
        if node.op_type == "MatMulInteger":
            return [a @ (b - (0 if zb is None else zb))], None
        b = b - (0 if zb is None else zb.reshape(-1, *[1] * (b.ndim - 1)))
        return [np.rint(_standard("Conv", [a.astype(np.float64), b.astype(np.float64)], attrs)).astype(np.int64)], None
    if node.op_type == "DynamicQuantizeLinear":
        return _dynamic(given[0]), None  # type: ignore[arg-type]
    wide = [v.astype(np.float64) if v is not None and v.dtype == np.float32 else v for v in given]
    if node.op_type == "Cast" and attrs["to"] == onnx.TensorProto.FLOAT:
        return [given[0].astype(np.float64)], None  # type: ignore[union-attr]
    return [_standard(node.op_type, wide, attrs, len(node.output))], None


def _real(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, axis: int = 1) -> np.ndarray:
    """float64 values of codes; scales may go along an axis."""
    shape = [-1 if i == axis % max(x.ndim, 1) else 1 for i in range(x.ndim)] if scale.size > 1 else []
    offset = 0.0 if zero is None else zero.astype(np.float64).reshape(shape if zero.size > 1 else [])
    return (x.astype(np.float64) - offset) * scale.astype(np.float64).reshape(shape)


def _fused(op: str, given: Sequence[Any], attrs: dict[str, Any]) -> tuple[list[np.ndarray], np.dtype | None]:
    """A quantized operator: the float operator on real values, in steps of the output."""
    if op == "QLinearConcat":
        (ys, yz), rest = given[:2], given[2:]
        parts = [_real(*rest[i : i + 3]) for i in range(0, len(rest), 3)]
        real = np.concatenate(parts, axis=attrs["axis"])
    elif op == "QLinearConv":
        x, xs, xz, w, ws, wz, ys, yz, bias = (*given, None)[:9]
        args = [_real(x, xs, xz), _real(w, ws, wz, axis=0)]
        if bias is not None:
            args.append(bias.astype(np.float64) * xs.astype(np.float64) * ws.astype(np.float64))
        real = _standard("Conv", args, attrs)
    elif op == "QGemm":
        a, sa, za, b, sb, zb, bias, ys, yz = (*given, None, None, None)[:9]
        args = [_real(a, sa, za), _real(b, sb, zb, axis=0 if attrs.get("transB") else 1)]
        alpha = float(attrs.get("alpha", 1.0))
        if bias is not None:
            args.append(bias.astype(np.float64) * sa.astype(np.float64) * sb.astype(np.float64) * alpha)
        real = _standard("Gemm", args, attrs)
        if ys is None:
            return [real], None
    elif op in ("QLinearMatMul", "QLinearAdd", "QLinearMul"):
        a, sa, za, b, sb, zb, ys, yz = given
        real = _standard({"QLinearMatMul": "MatMul"}.get(op, op[7:]), [_real(a, sa, za), _real(b, sb, zb, axis=-1)], {})
    else:
        x, xs, xz, ys, yz = given
        kept = {k: v for k, v in attrs.items() if k not in ("channels_last", "opset")}
        real = _standard(op[7:], [_real(x, xs, xz)], kept)
    return [real / ys.astype(np.float64) + yz.astype(np.float64)], yz.dtype


def _dynamic(x: np.ndarray) -> list[np.ndarray]:
    """DynamicQuantizeLinear, in the float32 arithmetic that defines it."""
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    return _run(node, [x.astype(np.float32)])


def _standard(op: str, inputs: Sequence[np.ndarray | None], attrs: dict[str, Any], outputs: int = 1) -> np.ndarray:
    names = ["" if v is None else f"x{i}" for i, v in enumerate(inputs)]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], **attrs)
    return _run(node, [v for v in inputs if v is not None])[0]


def _run(node: onnx.NodeProto, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A node by ONNX's evaluator, whatever the types of its inputs."""
    infos = [onnx.ValueInfoProto(name=name) for name in node.input if name]
    graph = helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name=name) for name in node.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    results: Any = ReferenceEvaluator(model).run(None, {i.name: v for i, v in zip(infos, inputs, strict=True)})
    return [np.asarray(r) for r in results]


def main() -> None:
    from common import markdown, provenance, write_table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/random_qdq.md"))
    options = parser.parse_args()
    verdicts: list[Verdict] = []
    started = time.monotonic()
    with get_context("spawn").Pool(options.jobs) as pool:
        for verdict in pool.imap(check_seed, range(options.seed, options.seed + 2 * options.files)):
            if verdict is None:
                continue
            verdicts.append(verdict)
            if verdict.fault:
                print(f"seed {verdict.seed}: {verdict.way}: {verdict.fault}", flush=True)
            if len(verdicts) % 50 == 0:
                print(f"{len(verdicts)} of {options.files}, {time.monotonic() - started:.0f} s", flush=True)
            if len(verdicts) == options.files:
                break
    write_table(options.out, text(verdicts, markdown) + "\n" + provenance(1) + "\n", [_row(v) for v in verdicts])


def _row(verdict: Verdict) -> dict[str, Any]:
    """As the JSON file holds it: on few lines."""
    return asdict(verdict) | {"operators": " ".join(verdict.operators)}


def text(verdicts: Sequence[Verdict], markdown: Any) -> str:
    """The report."""
    rows = []
    for form in ("qdq", "qoperator", "dynamic"):
        of = [v for v in verdicts if v.way.startswith(form)]
        numbers = [len(of), sum(bool(v.fault) for v in of), sum(v.elements for v in of), sum(v.rounded for v in of)]
        rows.append([form, *(f"{n:,}" for n in numbers)])
    seen = Counter(op for v in verdicts for op in v.operators)
    head = ["format", "files", "files with a difference", "elements compared", "codes rounded the other way at a tie"]
    faults = [f"- seed {v.seed}: {v.way}: {v.fault}" for v in verdicts if v.fault]
    return (
        "\n".join(
            [
                "# Quantized files of another tool\n",
                " ".join((__doc__ or "").split("\n\n", 2)[2].split()) + "\n",
                markdown(head, rows),
                "Operators, and in how many files: " + ", ".join(f"{op} {n}" for op, n in seen.most_common()) + ".",
                *(["", "Differences:", "", *faults] if faults else []),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
