"""What a change of top-1 is likely to be on samples that were not measured.

On a few hundred samples the measured change of a strategy that flips every seventh answer is mostly luck, and
the best of many such strategies is the luckiest. How sure float32 was of each answer says more: a flip to a
class that it held for nearly as likely costs little, one away from a sure answer costs nearly a whole sample.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import softmax

_TEMPERATURES = (0.05, 20.0)


class ExpectedChange:
    """Judges the answers of candidates on samples whose float32 logits [n, C] and labels [n] are known.

    Logits become probabilities by a temperature at which float32 is as sure, on average, as it is right
    (temperature scaling, Guo et al. 2017). If a candidate's flips told nothing of the truth, float32's
    probabilities would say what they cost; if they were as good as float32's own answers, they would cost
    nothing. The expectation lies between, wherever the measured change pulls it: a uniform prior between the
    two and the measurement, each weighted by its precision.
    """

    def __init__(self, logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> None:
        logits = np.asarray(logits, np.float64)
        self._float = logits.argmax(axis=-1)
        self._labels = np.asarray(labels)
        right = float((self._float == self._labels).mean())
        low, high = _TEMPERATURES

        def excess(temperature: float) -> float:
            return float(softmax(logits / temperature, axis=-1).max(axis=-1).mean()) - right

        temperature = low if excess(low) <= 0 else high if excess(high) >= 0 else brentq(excess, low, high)
        self._sure = softmax(logits / temperature, axis=-1)

    def change(self, answers: npt.NDArray[np.integer]) -> float:
        """The expected change of top-1 (a fraction) of a candidate with these answers [n]."""
        n, rows = len(answers), np.arange(len(answers))
        costs = self._sure[rows, answers] - self._sure[rows, self._float]
        most = float(costs.mean())  # at most 0: what the flips would cost if they told nothing
        if most == 0:
            return 0.0
        gains = (answers == self._labels).astype(float) - (self._float == self._labels)
        measured, measured_variance = float(gains.mean()), (gains.var() + 1 / n) / n
        prior, prior_variance = most / 2, most**2 / 12 + costs.var() / (4 * n)
        weight = prior_variance / (prior_variance + measured_variance)
        return float(weight * measured + (1 - weight) * prior)


def is_classifier(logits: npt.NDArray[np.generic], labels: npt.NDArray[np.generic]) -> bool:
    """Whether these are logits [n, C] and integer labels [n]."""
    return logits.ndim == 2 and labels.dtype.kind in "iu" and labels.shape == logits.shape[:1]
