"""Metrics against their plain definitions, and the errors of outputs and labels that do not fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hago.errors import DataError
from hago.measure.metrics import SQNR_LIMIT_DB, Metric, get_metric

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
    outputs, floats = (
        [found[:, :4], found[:, 4:].reshape(len(found), 5, 1)],
        [wanted[:, :4], wanted[:, 4:, None]],
    )
    f, q = wanted.astype(np.float64), found.astype(np.float64)
    mse = get_metric("mse").per_sample(outputs, None, floats)
    npt.assert_allclose(mse, ((f - q) ** 2).mean(axis=1))
    cosine = get_metric("cosine").per_sample(outputs, None, floats)
    sqnr = get_metric("sqnr").per_sample(outputs, None, floats)
    for i in range(len(f)):
        norms = np.linalg.norm(f[i]) * np.linalg.norm(q[i])
        if np.abs(f[i]).max() > 1e-3 and np.abs(q[i]).max() > 1e-3:
            npt.assert_allclose(cosine[i], f[i] @ q[i] / norms, atol=1e-9)
        noise, signal = ((f[i] - q[i]) ** 2).sum(), (f[i] ** 2).sum()
        if noise > 1e-12 and signal > 1e-12:
            decibels = 10 * math.log10(signal / noise)
            npt.assert_allclose(sqnr[i], np.clip(decibels, -SQNR_LIMIT_DB, SQNR_LIMIT_DB), atol=1e-6)


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
    npt.assert_array_equal(share.per_sample([np.zeros((3, 1))], None), [0.25] * 3)
    both = get_metric(lambda outputs, labels: outputs[0][:, 0] + outputs[1][:, 0])
    npt.assert_array_equal(both.per_sample([np.ones((2, 1)), np.ones((2, 1))], None), [2.0, 2.0])
    with pytest.raises(DataError, match="shape \\(2, 1\\)"):
        get_metric(lambda outputs, labels: outputs).per_sample([np.zeros((2, 1))], None)
    with pytest.raises(DataError, match="ZeroDivisionError"):
        get_metric(lambda outputs, labels: 1 / 0).per_sample([np.zeros((2, 1))], None)


def test_names_and_properties() -> None:
    for name in NAMES:
        metric = get_metric(name)
        assert isinstance(metric, Metric) and metric.name == name and get_metric(metric) is metric
        assert metric.higher_is_better == (name != "mse")
        assert metric.needs_labels == name.startswith("top")
        assert metric.needs_float == (not name.startswith("top"))
        assert metric.value([0.0, 1.0, 1.0, 0.0]) == 0.5
    with pytest.raises(DataError, match=r"unknown metric 'top2'(.|\n)*top1"):
        get_metric("top2")
    with pytest.raises(DataError, match="not int"):
        get_metric(3)  # type: ignore[arg-type]
