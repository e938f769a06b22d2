"""Statistics of the tensors around each layer that methods need, gathered in the pass that finds the ranges.

Notation: C channels along the axis that a layer sums over; a row is one position of one sample, so that a batch
[N, C, H, W] has N * H * W rows of C values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import DataError

if TYPE_CHECKING:
    from ..model import Layer

Array = npt.NDArray[np.float32]

MOST_CHANNELS = 4096
"""Second moments of more channels would take more than 128 MiB for one layer."""


@dataclass(frozen=True, order=True)
class Need:
    """One statistic, a key of `STATISTICS`, that a method reads of every layer with weights.

    ``samples`` is the number of samples that it keeps, or 0 if it sums over all.
    """

    statistic: str
    samples: int = 0


@dataclass(frozen=True, order=True)
class TensorStatistic:
    """One statistic of one tensor; channels lie on ``axis``."""

    need: Need
    tensor: str
    axis: int


class Collector(Protocol):
    """Gathers one statistic, batch by batch, in memory that does not grow with the samples."""

    def update(self, values: Array, first: int) -> None:
        """Adds a batch [N, ...] whose first sample is number ``first`` of all."""

    def value(self) -> Array:
        """The statistic of the samples so far."""


class ChannelMean:
    """The mean of each channel, float32 [C]. Infinite values are left out, with their row."""

    def __init__(self, wanted: TensorStatistic, total: int) -> None:
        self._axis, self._sum, self._rows = wanted.axis, np.zeros(0), 0

    def update(self, values: Array, first: int) -> None:
        rows = _rows(values, self._axis)
        if not self._sum.size:
            self._sum = np.zeros(rows.shape[1])
        self._sum += rows.sum(axis=0, dtype=np.float64)
        self._rows += len(rows)

    def value(self) -> Array:
        return (self._sum / max(1, self._rows)).astype(np.float32)


class SecondMoments:
    """E[x_i * x_j] of the channels, float32 [C, C]. Infinite values are left out, with their row."""

    def __init__(self, wanted: TensorStatistic, total: int) -> None:
        self._wanted, self._sum, self._rows = wanted, np.zeros((0, 0)), 0

    def update(self, values: Array, first: int) -> None:
        channels = values.shape[self._wanted.axis]
        if channels > MOST_CHANNELS:
            raise DataError(
                f"second moments of {channels} channels: at most {MOST_CHANNELS}",
                where=f"tensor {self._wanted.tensor}",
                hint="leave out the method that needs them",
            )
        rows = _rows(values, self._wanted.axis).astype(np.float64)
        if not self._sum.size:
            self._sum = np.zeros((channels, channels))
        self._sum += rows.T @ rows
        self._rows += len(rows)

    def value(self) -> Array:
        return (self._sum / max(1, self._rows)).astype(np.float32)


class KeptSamples:
    """Some samples, whole: float32 [samples, ...]. They are the same samples for every tensor."""

    def __init__(self, wanted: TensorStatistic, total: int) -> None:
        count = min(wanted.need.samples, total)
        self._picked = np.sort(np.random.default_rng(0).choice(total, count, replace=False))
        self._kept: list[Array] = []

    def update(self, values: Array, first: int) -> None:
        here = self._picked[(self._picked >= first) & (self._picked < first + len(values))] - first
        self._kept += [values[place].copy() for place in here]

    def value(self) -> Array:
        return np.stack(self._kept) if self._kept else np.empty(0, np.float32)


STATISTICS: Mapping[str, type[ChannelMean] | type[SecondMoments] | type[KeptSamples]] = {
    "input_mean": ChannelMean,
    "input_moments": SecondMoments,
    "inputs": KeptSamples,
    "outputs": KeptSamples,
}
"""Statistics of a layer's first input, or of its output behind its Relu or Clip (``outputs``)."""


def statistic_of(need: Need, layer: Layer) -> TensorStatistic:
    """The statistic of the tensor that this layer needs."""
    tensor = layer.output if need.statistic == "outputs" else layer.inputs[0]
    # Images have channels on axis 1; a product sums over the last.
    return TensorStatistic(need, tensor, 1 if layer.op_type == "Conv" else -1)


def statistics_of(layers: Iterable[Layer], needs: Iterable[Need]) -> tuple[TensorStatistic, ...]:
    """The statistics that one pass must gather so that every layer with weights has these, each once."""
    weighted = [layer for layer in layers if layer.weight is not None and layer.quantizable]
    return tuple(dict.fromkeys(statistic_of(need, layer) for need in needs for layer in weighted))


class Statistics:
    """The collectors of one pass over ``total`` samples, ``batch`` at a time."""

    def __init__(self, wanted: Sequence[TensorStatistic], batch: int, total: int) -> None:
        self._batch = batch
        self._collectors: dict[TensorStatistic, Collector] = {s: STATISTICS[s.need.statistic](s, total) for s in wanted}

    def update(self, tensors: Mapping[str, npt.NDArray[np.generic]], first: int, count: int) -> None:
        """Adds a batch; its first ``count`` samples are not repetitions, ``first`` is the index of the first."""
        for wanted, collector in self._collectors.items():
            if wanted.tensor not in tensors:
                raise DataError(f"the calibration run did not return the tensor {wanted.tensor!r}")
            collector.update(self._samples(np.asarray(tensors[wanted.tensor], np.float32), wanted, count), first)

    def values(self) -> dict[TensorStatistic, Array]:
        """Every statistic of the samples so far."""
        return {wanted: collector.value() for wanted, collector in self._collectors.items()}

    def _samples(self, values: Array, wanted: TensorStatistic, count: int) -> Array:
        """[count, ...]; a product over positions has several rows per sample."""
        if values.shape[0] == self._batch:
            return values[:count]
        if values.shape[0] % self._batch == 0:
            return values.reshape(self._batch, -1, *values.shape[1:])[:count]
        if wanted.need.samples:
            raise DataError(
                f"its {values.shape[0]} rows cannot be divided among {self._batch} samples",
                where=f"calibration, tensor {wanted.tensor}",
                hint="take a batch of 1",
            )
        return values[None]  # sequences first: the repetitions of the last batch count too


def _rows(values: Array, axis: int) -> Array:
    """[rows, C] of finite values."""
    rows = np.moveaxis(values, axis, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    finite = np.isfinite(rows)
    return rows if finite.all() else rows[finite.all(axis=1)]
