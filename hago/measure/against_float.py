"""Metrics that compare outputs with float32's, quantity by quantity: the worst one counts.

Boxes in pixels and scores from 0 to 1 must not be added up, because errors of the scores would vanish in the boxes. So
each part (outputs.py) is judged separately, and a sample is as good as its worst part.

Notation: ``n`` samples, ``e`` elements of one part for a sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .outputs import Array, ModelOutputs, Part, are_alike

Scores = npt.NDArray[np.float64]

# Below float32's own rounding the ratio has no meaning: 150 dB is 2**-25 of the signal.
SQNR_LIMIT_DB = 150.0


@dataclass(frozen=True)
class AgainstFloat:
    """A measure of each part's distance from float32. ``output`` names an output, or one part of it.

    `fitted` settles the ``parts``; until then each output is one part.
    """

    name: str
    output: str | None = None
    parts: tuple[Part, ...] | None = None
    remarks: tuple[str, ...] = ()
    needs_labels: bool = False
    needs_float: bool = True
    higher_is_better: bool = True
    reads_labels: bool = False
    unit: str = ""

    def fitted(self, outputs: ModelOutputs, labels: Any) -> AgainstFloat:
        """The metric for the outputs of one model. Raises DataError if it has no such output."""
        if self.output is None:
            left = [f"The metric {self.name} ignores {name!r}, which holds whole numbers." for name in outputs.left_out]
            return replace(self, parts=outputs.parts, remarks=tuple(left))
        if named := tuple(part for part in outputs.parts if part.name == self.output):
            return replace(self, parts=named)
        index = outputs.find(self.output, self.name)
        inside = tuple(part for part in outputs.parts if part.output == index)
        return replace(self, parts=inside or (Part(outputs.infos[index].name, index),))

    def per_part(self, outputs: Sequence[Array], float_outputs: Sequence[Array] | None) -> Mapping[str, Scores]:
        """Scores [n] of each part."""
        self._check(outputs, float_outputs)
        parts = self.parts or tuple(Part(str(i), i) for i in range(len(outputs)))
        return {part.name: self._scores(part.of(outputs), part.of(float_outputs or ())) for part in parts}

    def per_sample(self, outputs: Sequence[Array], labels: Any, float_outputs: Sequence[Array] | None = None) -> Scores:
        """The score of each sample's worst part [n]."""
        return self.worst(self.per_part(outputs, float_outputs))

    def worst(self, parts: Mapping[str, Scores]) -> Scores:
        """The worst of the scores of the parts [n]."""
        rows = np.stack(list(parts.values()))
        return rows.min(axis=0) if self.higher_is_better else rows.max(axis=0)

    def value(self, scores: npt.ArrayLike) -> float:
        """The mean of scores [n]."""
        return float(np.mean(np.asarray(scores, np.float64)))

    def _scores(self, found: Scores, wanted: Scores) -> Scores:
        raise NotImplementedError

    def _check(self, outputs: Sequence[Array], float_outputs: Sequence[Array] | None) -> None:
        if float_outputs is None:
            raise DataError(f"the metric {self.name} needs the float model's outputs on the same samples")
        shapes, wanted = [np.shape(o) for o in outputs], [np.shape(o) for o in float_outputs]
        if shapes != wanted:
            raise DataError(
                f"the metric {self.name} needs outputs of the float model's shapes {wanted}, found {shapes}"
            )


@dataclass(frozen=True)
class CosineSimilarity(AgainstFloat):
    """Cosine of the angle between a sample's values and float32's."""

    def _scores(self, found: Scores, wanted: Scores) -> Scores:
        finite = np.isfinite(found).all(axis=1) & np.isfinite(wanted).all(axis=1)
        found, wanted = _scaled(found, wanted)
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        dot = np.einsum("ij,ij->i", found, wanted)
        # Two zero vectors are equal; a zero vector and another one have nothing in common.
        same = (found == wanted).all(axis=1)
        cosine = np.divide(dot, norms, out=same.astype(np.float64), where=norms > 0)
        return np.where(finite, np.clip(cosine, -1.0, 1.0), -1.0)


@dataclass(frozen=True)
class Sqnr(AgainstFloat):
    """Signal to quantization noise in dB: 10 log10(sum(f**2) / sum((f - q)**2)) over a sample's values.

    Clipped to plus or minus 150 dB: exact agreement would be infinite, and outputs that are not finite count as the
    worst.
    """

    unit: str = "dB"

    def _scores(self, found: Scores, wanted: Scores) -> Scores:
        found, wanted = _scaled(found, wanted)
        signal = np.square(wanted).sum(axis=1)
        noise = np.square(wanted - found).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = 10.0 * np.log10(signal / noise)
        ratio = np.where(noise == 0, SQNR_LIMIT_DB, ratio)
        return np.clip(np.where(np.isnan(ratio), -SQNR_LIMIT_DB, ratio), -SQNR_LIMIT_DB, SQNR_LIMIT_DB)


@dataclass(frozen=True)
class MeanSquaredError(AgainstFloat):
    """Mean squared difference from the targets, or from the float outputs if the labels are not targets.

    Labels are targets if they are real numbers in the shape of the output. Squares of different units cannot be added
    up, and none of them is the worst: if parts differ in magnitude, one must be named.
    """

    higher_is_better: bool = False
    reads_labels: bool = True

    def fitted(self, outputs: ModelOutputs, labels: Any) -> MeanSquaredError:
        """The metric for one model: against the targets, if the labels are targets."""
        fitted = super().fitted(outputs, labels)
        assert isinstance(fitted, MeanSquaredError) and fitted.parts is not None
        held = {part.output for part in fitted.parts}
        sizes = [int(np.prod(outputs.infos[i].shape[1:], dtype=np.int64)) for i in held]
        if len(held) == 1 and _are_targets(labels, sizes[0] * len(labels) if labels is not None else 0):
            return replace(fitted, needs_float=False, needs_labels=True)
        magnitudes = [outputs.magnitudes.get(part.name, 1.0) for part in fitted.parts]
        if not are_alike(magnitudes):
            names = [part.name for part in fitted.parts]
            raise DataError(
                f"squared errors of different magnitudes cannot be added up: {', '.join(names)}",
                where=f"the metric {self.name}",
                hint=f"name one, such as {self.name}:{names[0]}; cosine and sqnr judge each one separately",
            )
        return fitted

    def per_sample(self, outputs: Sequence[Array], labels: Any, float_outputs: Sequence[Array] | None = None) -> Scores:
        """The mean over all elements of all parts [n]."""
        parts = self.parts or tuple(Part(str(i), i) for i in range(len(outputs)))
        held = {part.output for part in parts}
        output = np.asarray(outputs[min(held)])
        if len(held) == 1 and _are_targets(labels, output.size):
            wanted = list(outputs)
            wanted[min(held)] = np.asarray(labels).reshape(output.shape)
            float_outputs = wanted
            unknown = np.isnan(Part("", min(held)).of(wanted)).any(axis=1)
        else:
            unknown = np.zeros(len(output), bool)
        self._check(outputs, float_outputs)
        found = np.concatenate([part.of(outputs) for part in parts], axis=1)
        aim = np.concatenate([part.of(float_outputs or ()) for part in parts], axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.square(found - aim).mean(axis=1)
        return np.where(np.isnan(error) & ~unknown, np.inf, error)

    def per_part(self, outputs: Sequence[Array], float_outputs: Sequence[Array] | None) -> Mapping[str, Scores]:
        """None, because the parts form one sum."""
        return {}


def _are_targets(labels: Any, size: int) -> bool:
    """Whether the labels are real numbers, as many as the output has values."""
    return isinstance(labels, np.ndarray) and labels.dtype.kind == "f" and labels.size == size


def _scaled(found: Scores, wanted: Scores) -> tuple[Scores, Scores]:
    """Both divided by the largest magnitude of their sample, so that no square overflows or vanishes."""
    peak = np.maximum(np.abs(found).max(axis=1, initial=0.0), np.abs(wanted).max(axis=1, initial=0.0))
    peak = np.maximum(peak, np.finfo(np.float64).tiny)[:, None]
    with np.errstate(invalid="ignore"):
        return found / peak, wanted / peak
