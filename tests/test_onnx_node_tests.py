"""ONNX's tests of operators: the quantized ones, a sample of the rest. `benchmarks/onnx_node_tests.py` runs all."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

import hago

ROOT = Path(__file__).resolve().parents[1]
F32 = np.float32
QUANTIZED = ("quantizelinear", "qlinear", "integer")
# Types, edges and refusals that were once wrong, and one case of every few operators.
CHOSEN = (
    "test_mul_uint16", "test_div_uint16", "test_add_uint16", "test_max_uint16", "test_max_float16", "test_min_float16",
    "test_isinf_positive", "test_isinf_negative", "test_mod_mixed_sign_float32", "test_mod_mixed_sign_float16",
    "test_mod_float_edge_cases_fmod_0_float32", "test_lstm_defaults", "test_gru_seq_length", "test_rnn_seq_length",
    "test_cast_FLOAT_to_BFLOAT16", "test_cast_FLOAT_to_FLOAT16", "test_cast_FLOAT_to_FLOAT8E4M3FN", "test_top_k_uint64",
    "test_roialign_mode_max", "test_resize_downsample_scales_linear_align_corners",
)  # fmt: skip
EVERY = 40


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("onnx_node_tests", ROOT / "benchmarks" / "onnx_node_tests.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_case_is_right_or_refused_with_a_reason() -> None:
    script = load_script()
    cases = script.load_cases()
    names = {case.name for case in cases}
    assert set(CHOSEN) <= names
    chosen = [
        case
        for index, case in enumerate(cases)
        if case.name in CHOSEN or any(word in case.name for word in QUANTIZED) or index % EVERY == 0
    ]
    outcomes = [script.run_case(case) for case in chosen]
    fine = {"right", "refused", "data at fault"}
    assert not [outcome for outcome in outcomes if outcome.verdict not in fine]
    assert {o.case for o in outcomes if o.verdict == "data at fault"} <= set(script.FAULTY)
    assert not [outcome for outcome in outcomes if outcome.verdict == "refused" and len(outcome.detail) < 10]
    right = {outcome.case for outcome in outcomes if outcome.verdict == "right"}
    assert {name for name in CHOSEN if "uint16" in name or "float16" in name or "isinf" in name} <= right
    assert sum("quantizelinear" in name or "qlinear" in name or "integer" in name for name in right) >= 20


def test_aligned_corners_are_those_of_whole_pixels() -> None:
    """By ONNX's text the last of two pixels is the last of four; its data let it lie beyond."""
    x = F32([[[[1, 2, 3, 4], [5, 6, 7, 8]]]])
    node = helper.make_node(
        "Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="align_corners"
    )
    y = run(node, x, [numpy_helper.from_array(F32([1, 1, 0.6, 0.6]), "s")])
    np.testing.assert_allclose(y, F32([[[[1, 4]]]]))


def run(node: Any, x: np.ndarray, held: list[Any]) -> np.ndarray:
    info = helper.make_tensor_value_info("x", 1, x.shape)
    graph = helper.make_graph([node], "g", [info], [helper.make_tensor_value_info("y", 1, None)], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return hago.compile(model, threads=1).run({"x": x})[0]
