"""A detector with boxes in pixels beside scores of classes: which output is judged, how, and what is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hago
from hago.compiler.cache import KernelCache
from hago.data import make_samples, split_samples
from hago.measure.metrics import get_metric
from hago.model import Model, load_model
from hago.spec import resolve_hw
from hago.strategy import Choice, Strategy, uniform
from hago.tuning.candidates import EvaluatorOptions
from hago.tuning.evaluator import TvmEvaluator

HOST = resolve_hw("auto")
if not HOST.kernels_available:
    pytest.skip("no kernels for this processor", allow_module_level=True)
N, CLASSES = 120, 6
X = np.random.default_rng(0).normal(size=(N, 3, 8, 8)).astype(np.float32)


def detector() -> onnx.ModelProto:
    """x [n, 3, 8, 8] -> boxes [n, 4, 64] in pixels, scores [n, 6]."""
    rng = np.random.default_rng(1)

    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    weights = {
        "w1": weight(16, 3, 3, 3), "wb": weight(4, 16, 1, 1), "wc": weight(CLASSES, 16, 1, 1), "px": np.float32(640),
        "rows": np.array([0, 4, 64], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "body", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "wb"], ["cb"], "box_head"),
        helper.make_node("Sigmoid", ["cb"], ["sb"], "box_sigmoid"),
        helper.make_node("Mul", ["sb", "px"], ["mb"], "pixels"),
        helper.make_node("Reshape", ["mb", "rows"], ["boxes"], "box_rows"),
        helper.make_node("Conv", ["r", "wc"], ["cc"], "class_head"),
        helper.make_node("GlobalAveragePool", ["cc"], ["gc"], "pool"),
        helper.make_node("Flatten", ["gc"], ["scores"], "flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 4, 64]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(detector())


@pytest.fixture(scope="module")
def outputs() -> list[np.ndarray]:
    """The reference's, in numpy."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(detector()).run(None, {"x": X})


def evaluator(model: Model, cache: KernelCache, metric: str, labels: Any = None) -> TvmEvaluator:
    data = X if labels is None else (X, labels)
    parts = split_samples(make_samples(data, model.inputs))
    return TvmEvaluator(model, HOST, parts, get_metric(metric), EvaluatorOptions(cache=cache))


def test_a_metric_against_float32_tells_each_output(model: Model, cache: KernelCache) -> None:
    judge = evaluator(model, cache, "sqnr")
    record = judge.evaluate(uniform(model, judge.spec, "int8"))
    assert record.state == "ok" and set(record.accuracy_parts) == {"boxes", "scores"}
    assert record.accuracy is not None and record.accuracy <= min(record.accuracy_parts.values())
    alone = evaluator(model, cache, "sqnr:scores").evaluate(uniform(model, judge.spec, "int8"))
    assert alone.accuracy == pytest.approx(record.accuracy_parts["scores"]) and not alone.accuracy_parts


def test_sensitivity_is_of_what_the_metric_judges(model: Model, cache: KernelCache) -> None:
    """In pixels squared, no noise of the scores would ever be seen beside the boxes."""
    everywhere = uniform(model, HOST, "int8")
    head = Strategy(everywhere.model_hash, everywhere.hw, {"class_head": Choice("int8")})
    noise = {name: evaluator(model, cache, name).sensitivity(head, 8) for name in ("cosine", "cosine:scores")}
    assert noise["cosine"] == pytest.approx(noise["cosine:scores"] / 2) and noise["cosine"] > 1e-6
    assert evaluator(model, cache, "cosine:boxes").sensitivity(head, 8) == 0.0


def test_top1_reads_the_scores(model: Model, cache: KernelCache, outputs: list[np.ndarray]) -> None:
    labels = outputs[1].argmax(axis=1)
    judge = evaluator(model, cache, "top1", labels)
    assert judge.float_record().accuracy == 1.0
    assert judge.remarks() == (
        "The metric top1 reads the output 'scores', the only one of 2 that fits the labels (another: top1:NAME).",
    )
    record = judge.evaluate(uniform(model, judge.spec, "int8"))
    assert record.accuracy is not None and record.accuracy > 0.5 and record.expected_change is not None
    named = evaluator(model, cache, "top1:scores", labels)
    assert named.identity()["metric"] == "top1:scores" and named.float_record().accuracy == 1.0
    assert named.remarks() == ()


def test_accuracy_at_the_level_of_guessing_is_reported(model: Model, cache: KernelCache) -> None:
    labels = np.random.default_rng(7).integers(0, CLASSES, N)
    told = evaluator(model, cache, "top1:scores", labels).remarks()
    assert len(told) == 1 and "not clearly better than always predicting the most frequent class" in told[0]


@pytest.mark.parametrize("labels", [[{"box": np.zeros((i % 3, 4))} for i in range(N)], ["text"] * N])
def test_metrics_without_labels_do_not_look_at_them(model: Model, cache: KernelCache, labels: list[Any]) -> None:
    plain, judge = evaluator(model, cache, "cosine"), evaluator(model, cache, "cosine", labels)
    assert judge.identity() == plain.identity()
    assert judge.float_record().accuracy == pytest.approx(1.0)


def test_a_floor_of_decibels_is_searched_and_reported(cache: KernelCache, tmp_path: Path) -> None:
    given: dict[str, Any] = {"data": X, "metric": "sqnr", "threads": 1, "cache": cache, "out": tmp_path / "out"}
    result = hago.tune(detector(), min_value="20 dB", trials=3, **given)
    assert result.search.goal.limit == 20.0 and result.best.metric == "sqnr"
    within = [record for record in result.search.records if result.search.goal.within(record)]
    assert within and all(record.accuracy is not None and record.accuracy >= 20 for record in within)
    for text in (result.summary(), (tmp_path / "out" / "report.md").read_text(encoding="utf-8")):
        assert "20.0 dB" in text
    assert "150" not in result.summary()
    again = hago.tune(detector(), min_value=10, trials=3, resume=True, **given)  # another bound, the same search
    assert len(again.search.records) == 3 and again.search.goal.limit == 10.0
    with pytest.raises(hago.HagoError, match="150 on the search samples, the bound is at least 300"):
        hago.tune(detector(), min_value=300, trials=3, resume=True, **given)


def test_a_metric_of_the_whole_set_is_searched(cache: KernelCache, outputs: list[np.ndarray]) -> None:
    labels = [f"class {c}" for c in outputs[1].argmax(axis=1)]
    calls: list[int] = []

    def share_of_texts(outputs: list[np.ndarray], labels: list[str]) -> float:
        calls.append(len(labels))
        assert isinstance(labels, list) and isinstance(outputs, list)
        return float(np.mean([f"class {c}" == label for c, label in zip(outputs[1].argmax(1), labels, strict=True)]))

    result = hago.tune(detector(), data=(X, labels), metric=share_of_texts, max_drop="50%", trials=2, threads=1,
                       cache=cache)  # fmt: skip
    assert set(calls) == {result.search.float.n_samples, result.float.n_samples}
    assert result.float.accuracy == 1.0
    for record in result.search.records:  # none was stopped early
        assert record.state == "ok" and record.accuracy_change_interval is not None
