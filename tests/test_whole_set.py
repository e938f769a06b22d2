"""Metrics of the whole set: what is told is what the function makes of all, and intervals hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from measure_fakes import FakeRunner, FakeSamples

from hago.errors import DataError, MeasureError
from hago.measure import whole_set
from hago.measure.accuracy import measure_accuracy
from hago.measure.metrics import SetMetric, get_metric

N = 300
RNG = np.random.default_rng(3)
CLASSES = RNG.choice(3, N, p=[0.8, 0.15, 0.05])
LOGITS = (np.eye(3)[CLASSES] * 1.5 + RNG.normal(size=(N, 3))).astype(np.float32)


def macro_f1(outputs: np.ndarray, labels: np.ndarray) -> float:
    answers, found = outputs.argmax(axis=1), []
    for c in range(3):
        hit = np.sum((answers == c) & (labels == c))
        wrong = np.sum(answers == c) + np.sum(labels == c) - 2 * hit
        found.append(2 * hit / (2 * hit + wrong) if hit + wrong else 0.0)
    return float(np.mean(found))


def auc(outputs: np.ndarray, labels: np.ndarray) -> float:
    positive, negative = outputs[labels == 2, 2], outputs[labels != 2, 2]
    if not len(positive) or not len(negative):
        raise ValueError("only one class is there")
    return float(np.mean(positive[:, None] > negative[None]))


def precision_of_boxes(outputs: np.ndarray, labels: list[np.ndarray]) -> float:
    """A toy mAP: of all boxes, best score first, the mean of the precision at each that hits one of its image's."""
    scores, hits = outputs[:, 0], np.array([len(boxes) > 0 and boxes[0, 0] > 0.5 for boxes in labels])
    ranked = hits[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())


def word_error_rate(outputs: np.ndarray, labels: list[str]) -> float:
    words = [text.split() for text in labels]
    heard = ["a" if row[0] > 0 else "b" for row in outputs]
    wrong = sum(sum(word != guess for word in spoken) for spoken, guess in zip(words, heard, strict=True))
    return wrong / sum(map(len, words))


word_error_rate.higher_is_better = False  # type: ignore[attr-defined]

CASES: dict[str, tuple[Any, Any]] = {
    "macro F1": (macro_f1, CLASSES),
    "AUC": (auc, CLASSES),
    "boxes": (precision_of_boxes, [np.full((i % 3, 4), (i % 7) / 6) for i in range(N)]),
    "texts": (word_error_rate, ["a b a"[: 1 + 2 * (i % 3)] for i in range(N)]),
}


@pytest.mark.parametrize(("function", "labels"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("batch", [1, 7])
def test_what_is_reported_is_what_the_function_makes_of_all(function: Any, labels: Any, batch: int) -> None:
    calls: list[int] = []
    kind = type(labels)

    def counted(outputs: np.ndarray, labels: Any) -> float:
        assert type(labels) is kind
        calls.append(len(outputs))
        return float(function(outputs, labels))

    counted.higher_is_better = getattr(function, "higher_is_better", True)  # type: ignore[attr-defined]
    metric = get_metric(counted)
    samples = FakeSamples(LOGITS, labels)
    floats = measure_accuracy(FakeRunner(batch=batch), samples, metric)
    assert floats.value == function(LOGITS, labels)
    assert set(calls) == {N} and len(calls) <= 1 + whole_set.RESAMPLES
    assert floats.low is not None and floats.high is not None and floats.low < floats.value < floats.high
    assert floats.scores is None and not floats.partial and floats.n == N

    worse = FakeRunner(batch=batch, function=lambda x: np.round(x))
    found = measure_accuracy(worse, samples, metric, reference=floats, stop=lambda *_: pytest.fail("raced"))
    assert found.value == function(np.round(LOGITS), labels)
    assert found.change == found.value - floats.value
    assert found.change_low is not None and found.change_high is not None
    assert found.change_low <= found.change <= found.change_high
    assert found.change_high - found.change_low < floats.high - floats.low  # paired
    again = measure_accuracy(worse, samples, metric, reference=floats)
    assert (again.low, again.change_low) == (found.low, found.change_low)


def test_an_unchanged_model_has_no_change() -> None:
    metric, samples = get_metric(macro_f1), FakeSamples(LOGITS, CLASSES)
    floats = measure_accuracy(FakeRunner(), samples, metric)
    found = measure_accuracy(FakeRunner(), samples, metric, reference=floats)
    assert (found.change, found.change_low, found.change_high) == (0.0, 0.0, 0.0)


def disturbed(x: np.ndarray) -> np.ndarray:
    return x + 0.7 * np.sin(13 * x)


@pytest.mark.parametrize("function", [macro_f1, auc])
def test_intervals_hold_the_truth(function: Any) -> None:
    """Of 95 % intervals on samples of a known population, about 95 % hold its value; so for changes."""
    rng = np.random.default_rng(11)
    classes = rng.choice(3, 10_000, p=[0.6, 0.25, 0.15])
    logits = (np.eye(3)[classes] * 1.2 + rng.normal(size=(10_000, 3))).astype(np.float32)
    coarse = disturbed(logits)
    truth, change = function(logits, classes), function(coarse, classes) - function(logits, classes)
    metric, held, held_change, runs = get_metric(function), 0, 0, 40
    for _ in range(runs):
        rows = rng.integers(0, len(classes), 250)
        floats = measure_accuracy(FakeRunner(), FakeSamples(logits[rows], classes[rows]), metric)
        runner = FakeRunner(function=disturbed)
        found = measure_accuracy(runner, FakeSamples(logits[rows], classes[rows]), metric, reference=floats)
        assert floats.low is not None and floats.high is not None
        assert found.change_low is not None and found.change_high is not None
        held += floats.low <= truth <= floats.high
        held_change += found.change_low <= change <= found.change_high
    assert min(held, held_change) >= 0.85 * runs


def test_scores_of_a_function_stay_scores() -> None:
    calls: list[int] = []

    def right(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        calls.append(len(outputs))
        return outputs.argmax(axis=1) == labels

    metric, samples = get_metric(right), FakeSamples(LOGITS, CLASSES)
    floats = measure_accuracy(FakeRunner(), samples, metric)
    assert floats.scores is not None and calls == [N]  # what it is shows with the first call
    found = measure_accuracy(FakeRunner(), samples, metric, reference=floats, stop=lambda *_: True)
    assert found.partial and found.n == 32 and calls == [N, 32]
    assert found.p_value == 1.0 and found.is_share

    right.whole_set = False  # type: ignore[attr-defined]
    calls.clear()
    measure_accuracy(FakeRunner(), samples, get_metric(right))
    assert max(calls) == 32  # promised: outputs are never kept


def test_a_set_metric_may_be_an_object() -> None:
    class Spread:
        name, needs_labels, needs_float, higher_is_better = "spread", False, True, False

        def of_set(self, outputs: Any, labels: Any, float_outputs: Any = None) -> float:
            assert labels is None
            return float(np.abs(outputs[0] - float_outputs[0]).max())

    metric = Spread()
    assert isinstance(metric, SetMetric) and get_metric(metric) is metric
    runner = FakeRunner(function=lambda x: np.round(x))
    found = measure_accuracy(runner, FakeSamples(LOGITS), metric, float_outputs=[LOGITS])
    assert found.value == np.abs(LOGITS - np.round(LOGITS)).max() and found.low is not None


def test_a_slow_metric_is_resampled_less_or_not_at_all() -> None:
    time = [0.0]

    def measured(seconds: float) -> int:
        def slow(outputs: np.ndarray, labels: Any) -> float:
            time[0] += seconds
            return float(outputs.mean())

        found = whole_set.measure_set(
            FakeRunner(), FakeSamples(LOGITS), get_metric(slow), None, 0, clock=lambda: time[0]
        )
        assert isinstance(found, whole_set.SetValue) and found.value == LOGITS.mean()
        return len(found.draws)

    assert [measured(seconds) for seconds in (0.0, 0.05, 1.0)] == [whole_set.RESAMPLES, 100, 0]


def test_a_resample_without_a_value_is_left_out() -> None:
    few = np.zeros(N, int)
    few[:2] = 2  # an eighth of the resamples draws neither
    found = measure_accuracy(FakeRunner(), FakeSamples(LOGITS, few), get_metric(auc))
    assert found.draws is not None and 0 < np.isnan(found.draws).sum() < 100 and found.low is not None


def test_outputs_may_be_written_to() -> None:
    def in_place(outputs: np.ndarray, labels: Any) -> float:
        outputs -= outputs.max(axis=1, keepdims=True)
        return float(np.exp(outputs).mean())

    found = measure_accuracy(FakeRunner(), FakeSamples(LOGITS), get_metric(in_place))
    assert found.value == in_place(LOGITS.copy(), None)


def test_what_cannot_be_determined_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = FakeSamples(LOGITS, CLASSES)
    with pytest.raises(MeasureError, match=f"gave NaN for these {N} samples"):
        measure_accuracy(FakeRunner(), samples, get_metric(lambda outputs, labels: float("nan")))
    with pytest.raises(DataError, match="ValueError: only one class is there"):
        measure_accuracy(FakeRunner(), FakeSamples(LOGITS, np.zeros(N, int)), get_metric(auc))
    monkeypatch.setattr(whole_set, "KEPT_BYTES", 1000)
    with pytest.raises(MeasureError, match=r"outputs of all 300 samples at once(.|\n)*whole_set = False"):
        measure_accuracy(FakeRunner(), samples, get_metric(macro_f1))
