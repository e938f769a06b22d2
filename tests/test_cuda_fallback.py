"""Operators without a kernel for GPUs of their own, by TVM's lowering, on the emulated block, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from cuda_harness import Case, case, compile_all
from emulated_block import can_emulate
from kernel_harness import numpy_type, type_of, view
from test_kernels_fallback import onnxruntime_run

from hago.errors import BuildError, UnsupportedOpError
from hago.kernels.cpu.backend import BACKEND as PROCESSORS
from hago.kernels.cuda.backend import BACKEND
from hago.kernels.cuda.families import SM80

needs_compiler = pytest.mark.skipif(not can_emulate(), reason="there is no compiler of C++")
X = np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype(np.float32)
ONES, ZEROS = np.ones(3, np.float32), np.zeros(3, np.float32)


def same_as_onnxruntime(
    op: str, feeds: Mapping[str, np.ndarray], *constants: str, count: int = 1, **attrs: Any
) -> Case:
    expected = onnxruntime_run(op, dict(feeds), attrs, count)
    return case(op, feeds, *expected, constants=constants, close=True, **attrs)


def halves(op: str, function: Any, dtype: str) -> Case:
    x = X.astype(numpy_type(dtype))
    return case(op, {"x": x}, function(x.astype(np.float32)).astype(x.dtype))


def cases() -> dict[str, Case]:
    rng = np.random.default_rng(1)
    norm = {"x": X, "s": ONES * 2, "b": ONES}
    batch = {"x": X, "s": ONES, "b": ZEROS, "m": ZEROS, "v": ONES}
    weights = rng.standard_normal((3, 4, 3, 3)).astype(np.float32)
    indices, matrix = rng.integers(0, 6, (2, 3, 4, 5)), X[0, 0]
    repeated = X.round().astype(np.float32)
    scattered = {"x": matrix, "i": np.array([[1, 0, 2, 4, 3]]), "u": np.arange(5, dtype=np.float32)[None]}
    return {
        "several nests, with temporaries": same_as_onnxruntime("InstanceNormalization", norm, "s", "b"),
        "a sum over windows": same_as_onnxruntime(
            "ConvTranspose", {"x": X, "w": weights}, "w", strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        "a function": same_as_onnxruntime("Sin", {"x": X * 9}),
        "float64": same_as_onnxruntime("Exp", {"x": X.astype(np.float64)}),
        "float16": halves("Cos", np.cos, "float16"),
        "bfloat16": halves("Sin", np.sin, "bfloat16"),
        "a parallel loop": same_as_onnxruntime("CumSum", {"x": X, "axis": np.array(2)}, "axis"),
        "run-time indices": same_as_onnxruntime("GatherElements", {"x": X, "i": indices}, axis=2),
        "a nest that writes in place": same_as_onnxruntime("ScatterElements", scattered, axis=1),
        "an argument of a maximum": same_as_onnxruntime("Hardmax", {"x": X}),
        "several outputs of one": same_as_onnxruntime("BatchNormalization", batch, "s", "b", "m", "v"),
        "largest": same_as_onnxruntime("TopK", {"x": X, "k": np.array([3])}, "k", count=2, axis=2),
        "smallest of equals": same_as_onnxruntime(
            "TopK", {"x": repeated, "k": np.array([4])}, "k", count=2, axis=-1, largest=0
        ),
    }


CASES = cases() if can_emulate() else {}


@cache
def compiled() -> None:
    compile_all(CASES.values(), [SM80])


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_what_tvm_lowers_runs_on_gpus(name: str) -> None:
    compiled()
    for seed in range(3):
        CASES[name].check(SM80, seed)


@needs_compiler
def test_not_a_number_is_the_largest() -> None:
    x = np.array([1, np.nan, 3, np.nan], np.float32)
    found = case("TopK", {"x": x, "k": np.array([3])}, x[[1, 3, 2]], np.array([1, 3, 2]), constants=("k",))
    found.check(SM80, 0)


def test_code_that_calls_the_processor_is_refused_plainly() -> None:
    node = view("TopK", {"x": X[0, 0, 0], "k": np.array([5])}, {"v": type_of(X[0, 0, 0])}, domain="", constants=("k",))
    with pytest.raises(UnsupportedOpError, match=r"'TopK' cannot be compiled: .*calls a function of the processor"):
        BACKEND.emit(node, SM80)


def test_code_that_cuda_does_not_know_is_refused_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    node = view("Sin", {"x": X}, {"y": type_of(X)}, domain="")
    (call,) = BACKEND.emit(node, SM80)
    monkeypatch.setattr("hago.kernels.cuda.backend.compile_cubin", _refuses)
    with pytest.raises(UnsupportedOpError, match="operator 'Sin' cannot be compiled for nvidia-sm80: no such name"):
        BACKEND.compile(call, SM80, 1, "k", None)


def _refuses(*arguments: Any) -> bytes:
    raise BuildError("NVRTC refuses the kernel:\nno such name")


def test_gpus_have_a_kernel_for_whatever_processors_have_one() -> None:
    missing = sorted(f"{domain or 'ai.onnx'}.{op}" for domain, op in set(PROCESSORS.emitters) - set(BACKEND.emitters))
    assert not missing, f"no kernel for GPUs: {', '.join(missing)}"
