"""What must stay as it is: proposals of a search, QDQ files and strategies, of one commit, kept in golden.json.

python tests/golden.py      writes golden.json anew, where a change is meant (say why in docs/decisions.md)
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from search_harness import FakeEvaluator, residual_space

from hago.calibrate import Calibration
from hago.calibrate.histogram import TensorStats
from hago.files import hash_bytes
from hago.model import Model, load_model
from hago.qdq import observed_tensors, quantize_model
from hago.scheme import PER_TENSOR, Granularity
from hago.search import run_search
from hago.spec import load_spec
from hago.strategy import Strategy, uniform

FILE = Path(__file__).with_name("golden.json")
DIGITS = Path(__file__).parents[1] / "examples" / "digits" / "model.onnx"
SAMPLERS, SPECS = ("tpe", "nsga2", "random", "grid"), ("x86-avx2", "x86-avx512-bf16")
DRAWING = ("optuna", "numpy", "scipy")
"""Samplers draw the same only with these libraries in the same versions."""
LOSSES = {"stem": 6.0, "b0.conv1": 1.0, "b0.conv2": 2.0, "b1.short": 3.0, "fc": 0.5}
WAYS = {
    "int8": ("int8", None, "minmax"),
    "int8 per tensor": ("int8", PER_TENSOR, "entropy"),
    "int8 per group": ("int8", Granularity.parse("per_group:32"), "mse"),
    "int7": ("int7", None, "percentile"),
    "bfloat16": ("bfloat16", None, "minmax"),
}


def proposals(sampler: str, hw: str) -> list[str]:
    """The strategies that a search proposes, in order, of a made-up network whose layers cost what they are told."""
    space = residual_space(hw)
    evaluator = FakeEvaluator(space, LOSSES)
    run_search(space, evaluator, sampler=sampler, seed=7, trials=18, patience=None)
    return [key[:16] for key in evaluator.proposed()]


def strategies(model: Model) -> dict[str, Strategy]:
    """Uniform ones, and one whose layers differ."""
    found: dict[str, Strategy] = {}
    for name, (precision, granularity, calibrator) in WAYS.items():
        spec = load_spec("x86-avx512-bf16" if precision == "bfloat16" else "x86-avx2")
        more = {} if granularity is None else {"granularity": granularity}
        found[name] = uniform(model, spec, precision, calibrator=calibrator, **more)
    mixed = found["int8"]
    for i, layer in enumerate(mixed.choices):
        if i % 3:
            mixed = mixed.with_(layer, found["int7" if i % 3 == 1 else "int8 per tensor"].choice(layer))
    found["mixed"] = mixed
    return found


def calibration(model: Model) -> Calibration:
    """Made-up values of every tensor: the same on any processor."""
    found = {}
    for i, name in enumerate(observed_tensors(model)):
        counts = np.random.default_rng(i).integers(0, 1000, 64)
        lo, hi = (0.0, 4.0) if i % 2 else (-2.0, 2.0)
        found[name] = TensorStats(lo, hi, lo * 0.9, hi * 0.8, -4, round(lo * 16), counts, int(counts[0]), 0)
    return Calibration(found, 1000)


def golden() -> dict[str, Any]:
    model = load_model(DIGITS)
    ranges = calibration(model)
    quantized = {}
    for name, strategy in strategies(model).items():
        qdq = quantize_model(model, strategy, ranges, load_spec(strategy.hw))
        quantized[name] = {
            "strategy": strategy.key(), "text": strategy.to_dict(),
            "qdq": hash_bytes(qdq.SerializeToString(deterministic=True)),
        }  # fmt: skip
    return {
        "drawn with": {name: version(name) for name in DRAWING},
        "proposals": {f"{hw} {sampler}": proposals(sampler, hw) for hw in SPECS for sampler in SAMPLERS},
        "quantized": quantized,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden(), indent=1) + "\n", encoding="utf-8")
