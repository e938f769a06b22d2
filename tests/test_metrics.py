"""Metrics against their plain definitions, and the errors of outputs and labels that do not fit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hago.errors import DataError
from hago.measure.metrics import SQNR_LIMIT_DB, SampleMetric, SetMetric, fit, get_metric, unit_of
from hago.measure.outputs import ModelOutputs
from hago.tensor import TensorInfo

NAMES = ("top1", "top5", "cosine", "sqnr", "mse")
Arrays = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float32, (n, 9), elements=st.floats(-100, 100, width=32)),
        hnp.arrays(np.float32, (n, 9), elements=st.floats(-100, 100, width=32)),
        hnp.arrays(np.int64, (n,), elements=st.integers(0, 8)),
    )
)


@given(Arrays)
def test_top_k_is_what_a_stable_sort_says(arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    logits, _, labels = arrays
    logits = np.round(logits)  # many ties, as quantized outputs have
    order = np.argsort(-logits, axis=1, kind="stable")
    for name, k in (("top1", 1), ("top5", 5)):
        scores = get_metric(name).per_sample([logits], labels)
        npt.assert_array_equal(scores, (order[:, :k] == labels[:, None]).any(axis=1))
    npt.assert_array_equal(get_metric("top1").per_sample([logits], labels), logits.argmax(axis=1) == labels)


@given(Arrays)
def test_comparisons_with_float_follow_their_definitions(
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    found, wanted, _ = arrays
    f, q = wanted.astype(np.float64), found.astype(np.float64)
    mse = get_metric("mse").per_sample([found[:, :4], found[:, 4:]], None, [wanted[:, :4], wanted[:, 4:]])
    npt.assert_allclose(mse, ((f - q) ** 2).mean(axis=1))
    cosine = get_metric("cosine").per_sample([found.reshape(-1, 3, 3)], None, [wanted.reshape(-1, 3, 3)])
    sqnr = get_metric("sqnr").per_sample([found], None, [wanted])
    for i in range(len(f)):
        norms = np.linalg.norm(f[i]) * np.linalg.norm(q[i])
        if np.abs(f[i]).max() > 1e-3 and np.abs(q[i]).max() > 1e-3:
            npt.assert_allclose(cosine[i], f[i] @ q[i] / norms, atol=1e-9)
        noise, signal = ((f[i] - q[i]) ** 2).sum(), (f[i] ** 2).sum()
        if noise > 1e-12 and signal > 1e-12:
            decibels = 10 * math.log10(signal / noise)
            npt.assert_allclose(sqnr[i], np.clip(decibels, -SQNR_LIMIT_DB, SQNR_LIMIT_DB), atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "sqnr"])
def test_the_worst_output_of_each_sample_counts(name: str) -> None:
    rng = np.random.default_rng(0)
    boxes, scores = rng.uniform(100, 600, (9, 5, 4)), rng.uniform(0, 1, (9, 7))
    outputs = [boxes + rng.normal(0, 2, boxes.shape), scores + rng.normal(0, 0.3, scores.shape)]
    metric = get_metric(name)
    alone = [metric.per_sample([found], None, [wanted]) for found, wanted in zip(outputs, [boxes, scores], strict=True)]
    both = metric.per_sample(outputs, None, [boxes, scores])
    npt.assert_array_equal(both, np.minimum(*alone))
    assert both.mean() < alone[0].mean() - 0.02  # pooled, the boxes alone would be seen
    parts = metric.per_part(outputs, [boxes, scores])
    for part, expected in zip(parts.values(), alone, strict=True):
        npt.assert_array_equal(part, expected)


def test_equal_outputs_have_the_best_score_and_broken_ones_the_worst() -> None:
    good = np.array([[1.0, 2.0], [0.0, 0.0], [3e38, -3e38]], np.float32)
    npt.assert_array_equal(get_metric("sqnr").per_sample([good], None, [good]), SQNR_LIMIT_DB)
    npt.assert_allclose(get_metric("cosine").per_sample([good], None, [good]), 1.0)
    npt.assert_array_equal(get_metric("mse").per_sample([good], None, [good]), 0.0)
    for bad in (np.nan, np.inf):
        broken = np.full_like(good, bad)
        npt.assert_array_equal(get_metric("sqnr").per_sample([broken], None, [good]), -SQNR_LIMIT_DB)
        npt.assert_array_equal(get_metric("cosine").per_sample([broken], None, [good]), -1.0)
        npt.assert_array_equal(get_metric("mse").per_sample([broken], None, [good]), np.inf)
    nothing, something = np.zeros((1, 2)), np.ones((1, 2))
    assert get_metric("cosine").per_sample([nothing], None, [something])[0] == 0.0
    assert get_metric("sqnr").per_sample([something], None, [nothing])[0] == -SQNR_LIMIT_DB
    assert get_metric("top1").per_sample([np.array([[np.nan, 1.0]])], np.array([0]))[0] == 0.0


def test_mse_uses_labels_that_are_targets() -> None:
    output, float_output = np.array([[1.0], [2.0]]), np.array([[1.5], [2.5]])
    metric = get_metric("mse")
    npt.assert_allclose(metric.per_sample([output], np.array([0.0, 4.0]), [float_output]), [1.0, 4.0])
    npt.assert_allclose(metric.per_sample([output], np.array([0, 4]), [float_output]), [0.25, 0.25])


def test_positions_and_trailing_ones() -> None:
    logits = np.eye(4)[None, :, :]  # position t scores class t
    assert get_metric("top1").per_sample([logits], np.array([[0, 1, 0, 3]]))[0] == 0.75
    image = np.eye(4)[:, :, None, None]
    npt.assert_array_equal(get_metric("top1").per_sample([image], np.arange(4)), 1.0)


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "words"),
    [
        ("top1", np.zeros((2, 3)), None, "needs labels"),
        ("top1", np.zeros((2, 3)), np.zeros((2, 3)), "argmax"),
        ("top1", np.zeros((2, 3)), np.array([0.5, 1.0]), "integer labels"),
        ("top1", np.zeros((2, 3)), np.array([0, 3]), "from 0 to 2, found 3"),
        ("top1", np.zeros((2, 3)), np.array([-1, 0]), "found -1"),
        ("top1", np.zeros((2, 1)), np.array([0, 0]), "more than 1 classes"),
        ("top5", np.zeros((2, 4)), np.array([0, 0]), "more than 5 classes"),
        ("sqnr", np.zeros((2, 4)), None, "float model's outputs"),
    ],
)
def test_labels_and_outputs_that_do_not_fit(name: str, outputs: Any, labels: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        get_metric(name).per_sample([outputs], labels)
    with pytest.raises(DataError, match="shapes"):
        get_metric("mse").per_sample([np.zeros((2, 3))], None, [np.zeros((2, 4))])


def test_functions_as_metrics() -> None:
    def distance(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.abs(outputs[:, 0] - labels)

    metric = get_metric(distance)
    assert metric.name == "distance" and metric.higher_is_better and not metric.needs_float
    npt.assert_array_equal(metric.per_sample([np.array([[1.0], [5.0]])], np.array([3, 5])), [2.0, 0.0])
    distance.higher_is_better = False  # type: ignore[attr-defined]
    assert not get_metric(distance).higher_is_better
    share = get_metric(lambda outputs, labels: 0.25)
    assert isinstance(share, SetMetric) and share.of_set([np.zeros((3, 1))], None) == 0.25
    with pytest.raises(DataError, match="one score for each of 3 samples"):
        share.per_sample([np.zeros((3, 1))], None)
    with pytest.raises(DataError, match="one number"):
        metric.of_set([np.array([[1.0], [5.0]])], np.array([3, 5]))
    assert metric.whole_set is None
    distance.whole_set = False  # type: ignore[attr-defined]
    assert get_metric(distance).whole_set is False
    both = get_metric(lambda outputs, labels: outputs[0][:, 0] + outputs[1][:, 0])
    npt.assert_array_equal(both.per_sample([np.ones((2, 1)), np.ones((2, 1))], None), [2.0, 2.0])
    with pytest.raises(DataError, match="shape \\(2, 1\\)"):
        get_metric(lambda outputs, labels: outputs).per_sample([np.zeros((2, 1))], None)
    with pytest.raises(DataError, match="ZeroDivisionError"):
        get_metric(lambda outputs, labels: 1 / 0).per_sample([np.zeros((2, 1))], None)


def test_names_and_properties() -> None:
    for name in NAMES:
        metric = get_metric(name)
        assert isinstance(metric, SampleMetric) and not isinstance(metric, SetMetric)
        assert metric.name == name and get_metric(metric) is metric
        assert metric.higher_is_better == (name != "mse")
        assert metric.needs_labels == name.startswith("top")
        assert metric.needs_float == (not name.startswith("top"))
        assert metric.value([0.0, 1.0, 1.0, 0.0]) == 0.5
        assert unit_of(metric) == {"top": "share", "sqn": "dB"}.get(name[:3], "")
    with pytest.raises(DataError, match=r"unknown metric 'top2'(.|\n)*top1"):
        get_metric("top2")
    with pytest.raises(DataError, match="not int"):
        get_metric(3)  # type: ignore[arg-type]


# Which output is read

DETECTOR = ModelOutputs(
    (
        TensorInfo("boxes", "float32", (1, 50, 4)),
        TensorInfo("scores", "float32", (1, 10, 1, 1)),
        TensorInfo("count", "int64", (1,)),
    )
)


def outputs_of(n: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(n, 10, 1, 1))
    return [rng.uniform(0, 600, (n, 50, 4)), scores, np.ones(n, np.int64)], scores[..., 0, 0].argmax(axis=1)


@pytest.mark.parametrize("name", ["top1", "top1:scores", "top1:1"])
def test_top1_reads_the_output_that_fits_or_is_named(name: str) -> None:
    outputs, labels = outputs_of(20)
    metric = fit(get_metric(name), DETECTOR, lambda: labels)
    assert metric.name == name
    npt.assert_array_equal(metric.per_sample(outputs, labels), 1.0)
    assert any("'scores'" in remark for remark in metric.remarks) == (name == "top1")
    npt.assert_array_equal(get_metric("top1").per_sample(outputs, labels), 1.0)  # without names too


@pytest.mark.parametrize(
    ("infos", "labels", "words"),
    [
        ([("a", (11,)), ("b", (12,))], np.arange(10), "2 of 2 outputs fit.*9 at most.*a .11., b .12.(.|\n)*top1:a"),
        ([("a", (10,)), ("b", (10,))], np.arange(10), "2 of 2 outputs fit"),
        ([("a", (4,)), ("b", (5,))], np.arange(10), "none of 2 outputs fits"),
        ([("a", (10,)), ("b", (3, 10))], np.zeros((10, 2), int), "none of 2"),
        ([("a", (10,)), ("b", (3, 4))], [{}] * 10, "integer labels, found objects .dict"),
        ([("a", (10,)), ("b", (3, 4))], np.array(["x"] * 10), "none of 2 outputs fits"),
    ],
)
def test_labels_that_fit_no_output_or_several(infos: Any, labels: Any, words: str) -> None:
    outputs = ModelOutputs(tuple(TensorInfo(name, "float32", (1, *shape)) for name, shape in infos))
    with pytest.raises(DataError, match=words):
        fit(get_metric("top1"), outputs, lambda: labels)


def test_of_outputs_that_fit_the_one_without_more_classes_is_read() -> None:
    infos = (TensorInfo("features", "float32", (1, 64)), TensorInfo("logits", "float32", (1, 10)))
    metric = fit(get_metric("top1"), ModelOutputs(infos), lambda: np.arange(10))
    assert metric.index == 1 and "'logits', the one of 2" in metric.remarks[0]


def test_outputs_that_are_not_there_are_listed() -> None:
    for name in ("top1:logits", "cosine:7", "sqnr:box"):
        with pytest.raises(DataError, match=r"boxes \[50, 4\], scores \[10, 1, 1\], count \[\]"):
            fit(get_metric(name), DETECTOR, lambda: np.zeros(4, int))
    with pytest.raises(DataError, match="unknown metric 'top1:'"):
        get_metric("top1:")
    assert get_metric("top1:a:0").output == "a:0"  # names of outputs may hold colons


def test_metrics_against_float_read_real_numbers_or_what_is_named() -> None:
    outputs, _ = outputs_of(6)
    noisy = [array + 0.01 * (array.dtype.kind == "f") for array in outputs]
    metric = fit(get_metric("cosine"), DETECTOR, lambda: pytest.fail("labels were read"))
    assert [part.name for part in metric.parts] == ["boxes", "scores"]
    assert any("'count'" in remark for remark in metric.remarks)
    named = fit(get_metric("cosine:boxes"), DETECTOR, lambda: pytest.fail("labels were read"))
    wanted = get_metric("cosine").per_sample(noisy[:1], None, outputs[:1])
    npt.assert_array_equal(named.per_sample(noisy, None, outputs), wanted)


def test_mse_of_unlike_outputs_has_to_name_one() -> None:
    outputs, _ = outputs_of(6)
    known = replace(DETECTOR, few=lambda: outputs)
    with pytest.raises(DataError, match=r"cannot be added up: boxes, scores(.|\n)*mse:boxes"):
        fit(get_metric("mse"), known, lambda: None)
    named = fit(get_metric("mse:scores"), known, lambda: None)
    found = [outputs[0], outputs[1] + 0.5, outputs[2]]
    npt.assert_allclose(named.per_sample(found, None, outputs), 0.25)


def test_mse_with_targets_is_no_comparison_with_float() -> None:
    one = ModelOutputs((TensorInfo("y", "float32", (1, 1)),))
    targets = np.array([0.0, 4.0])
    metric = fit(get_metric("mse"), one, lambda: targets)
    assert not metric.needs_float and metric.needs_labels
    npt.assert_allclose(metric.per_sample([np.array([[1.0], [2.0]])], targets), [1.0, 4.0])
    npt.assert_array_equal(metric.per_sample([np.array([[1.0], [np.inf]])], np.array([np.nan, 4.0])), [np.nan, np.inf])
    for labels in (np.array([0, 4]), None, ["a", "b"]):
        assert fit(get_metric("mse"), one, lambda labels=labels: labels).needs_float
