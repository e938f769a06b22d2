"""Top-k: whether the label is among the classes with the highest scores.

Notation: ``n`` samples, ``T`` positions, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .outputs import Array, ModelOutputs

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TopK:
    """Whether the label is among the ``k`` classes with the highest scores; of equal scores the lower class wins.

    The output named by ``output``, or else the one that fits the labels, holds scores [n, C] (or [n, C, 1, 1]);
    labels are [n] integers. Scores for each position, [n, T, C] with labels [n, T], give the share of correct
    positions. `fitted` settles the ``index`` of the output that is read.
    """

    name: str
    k: int = 1
    output: str | None = None
    index: int | None = None
    remarks: tuple[str, ...] = ()
    needs_labels: bool = True
    needs_float: bool = False
    higher_is_better: bool = True
    unit: str = "share"

    def fitted(self, outputs: ModelOutputs, labels: Any) -> TopK:
        """The metric for the outputs of one model. Raises DataError if none, or more than one, fits the labels."""
        if self.output is not None:
            return replace(self, index=outputs.find(self.output, self.name))
        if len(outputs) == 1:
            return replace(self, index=0)
        truth = self._truth(labels)
        most = int(truth.max(initial=0)) if truth.dtype.kind in "biu" else 0
        classes = [self._classes(info.shape[1:], truth) for info in outputs.infos]
        found = [i for i, count in enumerate(classes) if count > max(self.k, most)]
        # Of several, the one without classes beyond the labels.
        for chosen, how in ((found, "the only one"), ([i for i in found if classes[i] == most + 1], "the one")):
            if len(chosen) == 1:
                name = outputs.infos[chosen[0]].name
                told = f"The metric {self.name} reads the output {name!r}, {how} of {len(outputs)} that fits the labels"
                return replace(self, index=chosen[0], remarks=(f"{told} (another: {self.name}:NAME).",))
        fit = f"{len(found)} of {len(outputs)} outputs fit" if found else f"none of {len(outputs)} outputs fits"
        about = f"{truth.dtype.name} of shape {list(truth.shape)}" + (f", {most} at most" if most else "")
        name = outputs.infos[found[0] if found else 0].name
        raise DataError(
            f"{fit} the labels ({about}): {outputs.listed()}",
            where=f"the metric {self.name}",
            hint=f"name the one that holds the scores of the classes, such as {self.name}:{name}",
        )

    def per_sample(self, outputs: Sequence[Array], labels: Any, float_outputs: Sequence[Array] | None = None) -> Scores:
        """1 if correct, else 0; or the share of correct positions [n]."""
        truth = self._truth(labels)
        logits = self.scores(outputs, truth)
        self._check(logits, truth)
        own = np.take_along_axis(logits, truth[..., None].astype(np.int64), axis=-1)
        earlier = np.arange(logits.shape[-1]) < truth[..., None]
        rank = np.count_nonzero((logits > own) | ((logits == own) & earlier), axis=-1)
        # Comparisons with NaN are false, which would make a sample without a score correct.
        right = (rank < self.k) & ~np.isnan(logits.astype(np.float32)).any(axis=-1)
        return right.reshape(len(right), -1).mean(axis=1, dtype=np.float64)

    def value(self, scores: npt.ArrayLike) -> float:
        """The mean of scores [n]."""
        return float(np.mean(np.asarray(scores, np.float64)))

    def scores(self, outputs: Sequence[Array], labels: Any) -> Array:
        """The output that the metric reads, [n, C] or [n, T, C]."""
        index = self.index
        if index is None:
            index = _settled(self, outputs, labels)
        logits = np.asarray(outputs[index])
        while logits.ndim > 2 and logits.ndim > np.ndim(labels) + 1 and logits.shape[-1] == 1:
            logits = logits[..., 0]
        return logits

    def guessing(self, labels: Any) -> float:
        """The accuracy of always answering the ``k`` most frequent classes."""
        _, counts = np.unique(self._truth(labels), return_counts=True)
        return float(np.sort(counts)[-self.k :].sum() / counts.sum())

    def _truth(self, labels: Any) -> Array:
        if labels is None:
            raise DataError(
                f"the metric {self.name} needs labels, the samples have none",
                hint="give (x, y), or choose a metric against the float outputs: sqnr, cosine, mse",
            )
        if isinstance(labels, list):  # objects instead of numbers
            kinds = sorted({type(label).__name__ for label in labels})
            raise DataError(
                f"the metric {self.name} needs integer labels, found objects ({', '.join(kinds[:3])})",
                hint="give integer classes, or pass a function (outputs, labels) as the metric",
            )
        return np.asarray(labels)

    def _classes(self, shape: Sequence[int], truth: Array) -> int:
        """How many classes an output of this shape for one sample can score; 0 if it does not fit the labels."""
        sizes = list(shape)
        while len(sizes) > truth.ndim and sizes[-1] == 1:
            sizes.pop()
        if truth.dtype.kind not in "biu" or tuple(sizes[:-1]) != truth.shape[1:] or not sizes:
            return 0
        return sizes[-1]

    def _check(self, logits: Array, truth: Array) -> None:
        if truth.dtype.kind not in "biu" or truth.shape != logits.shape[:-1]:
            one_hot = truth.shape == logits.shape
            raise DataError(
                f"the metric {self.name} needs integer labels of shape {logits.shape[:-1]} for scores of "
                f"shape {logits.shape}, found {truth.dtype.name} of shape {truth.shape}",
                hint="convert one-hot labels to classes with y.argmax(axis=-1)"
                if one_hot
                else "give integer classes, or pass a function (outputs, labels) as the metric",
            )
        classes = logits.shape[-1]
        if classes <= self.k:
            raise DataError(
                f"the metric {self.name} needs more than {self.k} classes, the output has {classes}",
                hint="choose another metric, or pass a function (outputs, labels)",
            )
        wrong = (truth < 0) | (truth >= classes)
        if wrong.any():
            first = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(
                f"labels must be from 0 to {classes - 1}, found {truth[first]}",
                hint="do the labels start at 1, or belong to another model?",
            )


def _settled(metric: TopK, outputs: Sequence[Array], labels: Any) -> int:
    """The output that is read, if outputs only have numbers."""
    from ..tensor import TensorInfo

    infos = tuple(TensorInfo(str(i), np.asarray(o).dtype.name, np.shape(o)) for i, o in enumerate(outputs))
    index = metric.fitted(ModelOutputs(infos), labels).index
    assert index is not None
    return index
