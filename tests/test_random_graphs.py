"""Random float graphs against ONNX Runtime: a sample of what benchmarks/random_graphs.py runs by the thousand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import random_graphs
from float_graphs import float_graph
from random_graphs import check

SEEDS = [pytest.param(seed, marks=pytest.mark.slow) if seed % 2 else seed for seed in range(10_000, 10_050)]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_graph(seed: int) -> None:
    outcome = check(float_graph(seed))
    assert outcome.kind in ("right", "invalid"), f"{outcome.kind}: {outcome.message}"


def test_graphs_are_the_same_for_a_seed() -> None:
    one, two = float_graph(3), float_graph(3)
    assert one.proto.SerializeToString(deterministic=True) == two.proto.SerializeToString(deterministic=True)
    assert all(np.array_equal(one.feeds[name], two.feeds[name]) for name in one.feeds)


def test_a_wrong_value_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = next(g for g in map(float_graph, range(100)) if g.operators[-1] == "Conv")

    class Off:
        def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            wanted = random_graphs._session(graph).run(None, feeds)
            wanted[-1].flat[0] += 0.01 * np.abs(wanted[-1]).max()
            return wanted

    monkeypatch.setattr(random_graphs.hago, "compile", lambda *_args, **_kwargs: Off())
    assert check(graph).kind == "differs"
    monkeypatch.setattr(random_graphs, "TOLERANCE", 0.02)
    assert check(graph).kind == "right"
