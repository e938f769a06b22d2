"""The likely change of top-1 on samples that were not measured.

On a few hundred samples the measured change of a strategy that flips every seventh answer is mostly noise, and the best
of many such strategies owes most to chance. float32's confidence says more: a flip to a class that float32 found nearly
as likely costs little, a flip away from a confident answer costs nearly a whole sample.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import softmax

_TEMPERATURES = (0.05, 20.0)


class ExpectedChange:
    """Judges the answers of candidates on samples whose float32 logits [n, C] and labels [n] are known.

    Logits become probabilities by a temperature at which float32's confidence equals its accuracy on average
    (temperature scaling, Guo et al. 2017). If a candidate's flips were independent of the truth, float32's
    probabilities would give their cost; if they were as good as float32's own answers, they would cost nothing. The
    expectation lies in between: it combines a uniform prior between the two with the measured change, each weighted by
    its precision.
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
        most = float(costs.mean())  # at most 0: the cost of flips that are independent of the truth
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
