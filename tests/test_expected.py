"""The change of top-1 that is to be expected on other samples."""

from __future__ import annotations

import numpy as np
import pytest

from hago.measure.expected import ExpectedChange, is_classifier


def _network(n: int, seed: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth: labels are drawn from it."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.standard_normal((n, 10))
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = (chances.cumsum(-1) > rng.random((n, 1))).argmax(-1)
    return logits, labels


def test_the_same_answers_change_nothing() -> None:
    logits, labels = _network(200, 0, 2.0)
    assert ExpectedChange(logits, labels).change(logits.argmax(-1)) == 0.0


def test_flips_of_doubtful_answers_cost_less_than_flips_of_sure_ones() -> None:
    logits, labels = _network(400, 1, 2.0)
    sure = np.sort(logits, -1)[:, -1] - np.sort(logits, -1)[:, -2]
    second = np.argsort(logits, -1)[:, -2]
    order = np.argsort(sure)

    def flipped(rows: np.ndarray) -> np.ndarray:
        answers = logits.argmax(-1)
        answers[rows] = second[rows]
        return answers

    expected = ExpectedChange(logits, labels)
    doubtful, certain = expected.change(flipped(order[:40])), expected.change(flipped(order[-40:]))
    assert certain < doubtful <= 0.001


def test_it_tells_more_of_other_samples_than_the_measured_change_does() -> None:
    """Noise flips answers; the truth is known from many samples. Luck of 300 is drawn many times."""
    rng = np.random.default_rng(2)
    measured, expected = [], []
    many, many_labels = _network(40_000, 3, 1.5)
    noisy = (many + 0.3 * rng.standard_normal(many.shape)).argmax(-1)
    truth = float((noisy == many_labels).mean() - (many.argmax(-1) == many_labels).mean())
    for start in range(0, 12_000, 300):
        part = slice(start, start + 300)
        answers, labels, logits = noisy[part], many_labels[part], many[part]
        measured.append(float((answers == labels).mean() - (logits.argmax(-1) == labels).mean()))
        expected.append(ExpectedChange(logits, labels).change(answers))
    error = [np.sqrt(np.mean((np.array(values) - truth) ** 2)) for values in (measured, expected)]
    assert -0.03 < truth < -0.005 and error[1] < 0.6 * error[0], (truth, error)


@pytest.mark.parametrize("sharpness", [0.0, 50.0])
def test_networks_without_doubt_or_without_a_clue(sharpness: float) -> None:
    logits, labels = _network(50, 4, sharpness)
    answers = np.roll(logits.argmax(-1), 1)
    assert np.isfinite(ExpectedChange(logits, labels).change(answers))


def test_what_a_classifier_is() -> None:
    assert is_classifier(np.zeros((5, 3)), np.zeros(5, np.int64))
    assert not is_classifier(np.zeros((5, 4, 3)), np.zeros((5, 4), np.int64))
    assert not is_classifier(np.zeros((5, 3)), np.zeros(5))
