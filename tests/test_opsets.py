"""What an operator computes does not change by the conversion of its opset, for every version of its schema."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from opset_cases import UNTESTED, WORKING, Case, cases, changed_operators, schema_starts
from test_normalize import run

import hago
from hago.errors import HagoError
from hago.model import load_model

pytest.importorskip("onnxruntime")

SHAPELESS = "shape is not known before the model runs"
RECURRENT = "recurrent layers have no kernels yet"
REFUSED = {  # what an error says of what Hago does not take
    "Compress": SHAPELESS, "NonMaxSuppression": SHAPELESS, "NonZero": SHAPELESS, "Unique": SHAPELESS,
    "DFT": "neither Hago nor TVM has a kernel", "ReverseSequence": "neither Hago nor TVM has a kernel",
    "GRU": RECURRENT, "LSTM": RECURRENT, "RNN": RECURRENT, "Dropout": "the mask of a Dropout is not defined",
    "MaxPool": "with the positions of the maxima", "RoiAlign": "in the mode 'max'",
}  # fmt: skip


def expected(case: Case) -> list[np.ndarray]:
    """By ONNX Runtime as the model is written; by ONNX's evaluator what ONNX Runtime does not take."""
    try:
        return run(case.proto, case.feeds)
    except Exception:
        return [np.asarray(a) for a in ReferenceEvaluator(case.proto).run(None, case.feeds)]


def test_every_change_of_a_schema_has_a_case() -> None:
    covered = {(case.op, case.opset) for case in cases()}
    wanted = {(op, opset) for op in changed_operators() for opset in schema_starts(op) if opset < WORKING}
    assert {op for op, _ in wanted - covered} <= set(UNTESTED)


def held_to(got: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert [g.dtype for g in got] == [w.dtype for w in wanted]
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def _marks(case: Case) -> Any:
    """Cubic interpolation of a reflected image compiles for ten seconds."""
    return (
        pytest.mark.slow if "GridSample" in str(case) and "bicubic" in str(case) and "reflection" in str(case) else ()
    )


@pytest.mark.parametrize("case", [pytest.param(case, marks=_marks(case)) for case in cases()], ids=str)
def test_conversion_keeps_the_meaning(case: Case) -> None:
    """Compiled where it is the newest way to write it; older ones are held as the ONNX files that they become."""
    wanted = expected(case)
    try:
        model = load_model(case.proto)
        if case.newest:
            held_to(hago.compile(model, threads=1).run(case.feeds), wanted)
    except HagoError as error:
        assert case.op in REFUSED and REFUSED[case.op] in str(error), f"refused: {error}"
        return
    try:
        got = run(model.proto, case.feeds)
    except Exception:  # ONNX Runtime does not take every operator as it is at the newest opset
        got = [np.asarray(a) for a in ReferenceEvaluator(model.proto).run(None, case.feeds)]
    held_to(got, wanted)
