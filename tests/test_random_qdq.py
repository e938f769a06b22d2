"""Files of ONNX Runtime's quantizer against exact arithmetic: a few of those that `benchmarks/random_qdq.py` draws."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.append(BENCHMARKS)
    try:
        import random_qdq

        return random_qdq
    finally:
        sys.path.remove(BENCHMARKS)


@pytest.mark.parametrize("first", [0, pytest.param(10, marks=pytest.mark.slow)])
def test_every_code_is_that_of_exact_arithmetic(script: Any, first: int) -> None:
    verdicts = [verdict for seed in range(first, first + 10) if (verdict := script.check_seed(seed)) is not None]
    assert verdicts
    assert not [verdict for verdict in verdicts if verdict.fault]
    # A hundredth of the codes at a tie would be no rounding any more.
    assert sum(v.rounded for v in verdicts) <= 0.01 * sum(v.elements for v in verdicts)


def test_a_wrong_code_is_distinguished_from_one_at_a_tie(script: Any) -> None:
    exact, codes = np.array([3.2, 3.4999, 3.5004, 300.0]), np.dtype(np.uint8)
    right = np.array([3, 3, 4, 255], np.uint8)
    assert script._differences(right, exact, codes) == (0, 0)
    assert script._differences(np.array([3, 4, 3, 255], np.uint8), exact, codes) == (0, 2)
    assert script._differences(np.array([4, 3, 4, 255], np.uint8), exact, codes) == (1, 0)
    assert script._differences(np.array([3, 3, 4, 254], np.uint8), exact, codes) == (1, 0)
