"""ONNX's own tests of every operator (`onnx.backend.test`), through `hago.compile`: right, refused, or wrong.

    python benchmarks/onnx_node_tests.py

Writes a table by operator under reports/, and what is refused and why into docs/operators.md. Many of the cases feed
what networks hold as constants (a shape, axes, a scale) at run time; where that is refused, the case is tried again
with all inputs but the floating-point ones, then with all but the first, as constants. A case counts as refused where
no form of it compiles.
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import hago
from hago.files import write_atomic

VERDICTS = ("right", "refused", "wrong value", "wrong type", "raw error", "data at fault")
_LENGTH = "the standard divides by the length of the resized tensor less one; the expected data by length * scale - 1"
FAULTY = {
    "test_resize_downsample_scales_linear_align_corners": _LENGTH,
    "test_resize_downsample_scales_cubic_align_corners": _LENGTH,
}
"""Cases whose expected data contradict the standard, and how; tests hold Hago to the standard there."""


@dataclass(frozen=True)
class Outcome:
    """One case. ``form`` says which inputs were constants; ``detail`` is the reason of a refusal, or the fault."""

    case: str
    operator: str
    verdict: str
    form: str
    detail: str


def load_cases(expanded: bool = False) -> list[Any]:
    """The cases of single operators; with ``expanded``, also their forms as functions of other operators."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    return [case for case in cases if expanded or "_expanded" not in case.name]


def operator_of(case: Any) -> str:
    """The operator that a case is about, with its domain where that is not the standard's."""
    nodes = case.model.graph.node
    named = [n for n in nodes if n.op_type.lower() in case.name.replace("_", "")]
    node = max(named or nodes[-1:], key=lambda n: len(n.op_type))
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def run_case(case: Any, **options: Any) -> Outcome:
    """Compiles and runs a case on all of its data; ``options`` go to `hago.compile`."""
    outcome = None
    for form, frozen in _forms(case):
        outcome = _run_form(case, form, frozen, options)
        if outcome.verdict != "refused":
            break
    assert outcome is not None
    return outcome


def _forms(case: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The forms of a case, as indices of the inputs that are constants."""
    yield "as given", ()
    inputs = _arrays(case.data_sets[0][0])
    if not all(isinstance(array, np.ndarray) for array in inputs) or len(inputs) != len(case.model.graph.input):
        return
    floats = [i for i, array in enumerate(inputs) if array.dtype.kind == "f"]
    some = tuple(i for i in range(len(inputs)) if i not in floats)
    if floats and some:
        yield "integer inputs constant", some
    if len(inputs) > 1 and tuple(range(1, len(inputs))) != some:
        yield "all inputs but the first constant", tuple(range(1, len(inputs)))


def _run_form(case: Any, form: str, frozen: tuple[int, ...], options: dict[str, Any]) -> Outcome:
    operator = operator_of(case)
    try:
        for fed_data, expected in case.data_sets:
            inputs = _arrays(fed_data)
            model = _frozen(case.model, inputs, frozen)
            names = [i.name for i in model.graph.input]
            fed = [array for i, array in enumerate(inputs) if i not in frozen]
            network = hago.compile(model, threads=1, **options)
            fault = differences(network.run(dict(zip(names, fed, strict=True))), expected, case.rtol, case.atol)
            if fault is not None and fault[0] == "wrong value" and case.name in FAULTY:
                return Outcome(case.name, operator, "data at fault", form, FAULTY[case.name])
            if fault is not None:
                return Outcome(case.name, operator, fault[0], form, fault[1])
    except hago.HagoError as error:
        return Outcome(case.name, operator, "refused", form, reason(error))
    except Exception as error:
        return Outcome(case.name, operator, "raw error", form, f"{type(error).__name__}: {str(error)[:200]}")
    return Outcome(case.name, operator, "right", form, "")


def _arrays(values: Sequence[Any]) -> list[Any]:
    """Some cases hold their data as messages."""
    return [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


def _frozen(model: onnx.ModelProto, inputs: Sequence[Any], frozen: tuple[int, ...]) -> onnx.ModelProto:
    """The model with some inputs as initializers."""
    if not frozen:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    held = [copy.graph.input[i] for i in frozen]
    copy.graph.initializer.extend(_tensor(inputs[i], info) for i, info in zip(frozen, held, strict=True))
    kept = [info for i, info in enumerate(model.graph.input) if i not in frozen]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    return copy


def _tensor(array: np.ndarray, info: onnx.ValueInfoProto) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), info.name)


def differences(got: Sequence[Any], expected: Sequence[Any], rtol: float, atol: float) -> tuple[str, str] | None:
    """("wrong type" or "wrong value", how) of the first output that is not what is expected; None if all are."""
    for index, (ours, wanted) in enumerate(zip(got, _arrays(expected), strict=True)):
        if wanted is None:
            continue
        right = np.asarray(wanted)
        if ours.dtype != right.dtype or ours.shape != right.shape:
            return "wrong type", f"output {index}: {ours.dtype}{list(ours.shape)}, not {right.dtype}{list(right.shape)}"
        a, b = (array.astype(np.float64) if array.dtype.kind not in "biu" else array for array in (ours, right))
        if a.dtype.kind == "f" and not np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True):
            bad = ~np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
            return "wrong value", f"output {index}: {int(bad.sum())} of {b.size}, {a[bad][0]} for {b[bad][0]}"
        if a.dtype.kind != "f" and not np.array_equal(a, b):
            bad = a != b
            return "wrong value", f"output {index}: {int(bad.sum())} of {b.size}, {a[bad][0]} for {b[bad][0]}"
    return None


def reason(error: hago.HagoError) -> str:
    """What an error says, in one line."""
    return " ".join(error.what.split())


def main() -> None:
    from common import provenance, write_table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="cases whose name holds one of these")
    parser.add_argument("--expanded", action="store_true", help="also the operators written out as functions")
    parser.add_argument("--out", type=Path, default=Path("reports/onnx_node_tests.md"))
    parser.add_argument("--docs", type=Path, default=Path("docs/operators.md"), help="the page of what is refused")
    options = parser.parse_args()
    cases = [c for c in load_cases(options.expanded) if not options.only or any(t in c.name for t in options.only)]
    outcomes, started = [], time.monotonic()
    for number, case in enumerate(cases, start=1):
        outcomes.append(run_case(case))
        if outcomes[-1].verdict not in ("right", "refused"):
            print(" | ".join(asdict(outcomes[-1]).values()), flush=True)
        if number % 100 == 0:
            print(f"{number} of {len(cases)}, {time.monotonic() - started:.0f} s", flush=True)
    write_table(options.out, report(outcomes) + "\n" + provenance(1) + "\n", [asdict(o) for o in outcomes])
    if not options.only and not options.expanded:
        write_atomic(options.docs, page(outcomes))


def report(outcomes: Sequence[Outcome]) -> str:
    """The table by operator, and every case that is neither right nor refused."""
    rows = []
    for operator, of in by_operator(outcomes):
        counts = Counter(o.verdict for o in of)
        rows.append([operator, *(str(counts[v] or "") for v in VERDICTS)])
    total = Counter(o.verdict for o in outcomes)
    rows.append(["all", *(str(total[v]) for v in VERDICTS)])
    forms = Counter(o.form for o in outcomes if o.verdict == "right")
    odd = [o for o in outcomes if o.verdict not in ("right", "refused")]
    return "\n".join([
        f"# ONNX's tests of operators, onnx {onnx.__version__}\n",
        f"{len(outcomes)} cases: " + ", ".join(f"{total[v]} {v}" for v in VERDICTS) + ". Of the right ones "
        + ", ".join(f"{n} {form}" for form, n in forms.most_common()) + ".\n",
        _table(["operator", *VERDICTS], rows),
        *(f"- {o.case}, {o.verdict}: {o.detail}" for o in odd),
    ]) + "\n"  # fmt: skip


def page(outcomes: Sequence[Outcome]) -> str:
    """docs/operators.md."""
    rows = []
    for operator, of in by_operator(outcomes):
        counts = Counter(o.verdict for o in of)
        reasons = Counter(_general(o.detail) for o in of if o.verdict == "refused")
        rows.append([operator, str(counts["right"]), str(counts["refused"]), _most(reasons)])
    total = Counter(o.verdict for o in outcomes)
    return (
        "# Operators\n\n"
        f"Results of ONNX's own operator tests (onnx {onnx.__version__}, {len(outcomes)} cases): {total['right']} are "
        f"right, {total['refused']} are rejected with a reason, and the expected data of {total['data at fault']} "
        "contradict the standard. Generated by `python benchmarks/onnx_node_tests.py`.\n\n"
        "The tests cover all types, attributes and opsets that the standard allows, including many that no network\n"
        "uses. A rejected case means that one way of using the operator is unsupported, not the whole operator.\n"
        "The last column gives the most frequent reason.\n\n"
        + _table(["operator", "right", "rejected", "reason"], rows)
    )


def by_operator(outcomes: Sequence[Outcome]) -> list[tuple[str, list[Outcome]]]:
    """The outcomes of each operator, in the order of their names."""
    names = sorted({o.operator for o in outcomes}, key=lambda name: (name.count("."), name.lower()))
    return [(name, [o for o in outcomes if o.operator == name]) for name in names]


def _general(detail: str) -> str:
    """A reason without what it says of this case alone, short enough for a table."""
    text = re.sub(r"\(op_type:[^)]*\): |\[\w+Error\] ?|\(nor can .*\)", "", detail).replace("|", "/").strip()
    return text if len(text) <= 150 else text[:147] + "..."


def _most(reasons: Counter[str]) -> str:
    return reasons.most_common(1)[0][0] if reasons else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
