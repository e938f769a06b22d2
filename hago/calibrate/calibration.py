"""What one streaming pass over the calibration samples finds about the activations; it serves every method.

calibration = calibrate(observed_tensors(model), samples, run, batch=1)
lo, hi = calibration.range("conv1_output", RANGES["entropy"], IntegerType(8, signed=False, symmetric=False))
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Samples
from ..data.npz import NpzFile
from ..data.sources import Array
from ..documents import parse_json
from ..errors import DataError, faults_of_others
from ..files import hash_bytes, write_atomic
from ..scheme import IntegerType
from .histogram import Histogram, TensorStats, Workspace
from .statistics import Need, Statistics, TensorStatistic

Range = tuple[float, float]
RangeMethod = Callable[[TensorStats, IntegerType], Range]
"""The range (lo, hi) that follows from the statistics: finite, with lo <= 0 <= hi."""

# Feeds of one batch, by input -> every observed tensor, by name.
CalibrationRun = Callable[[dict[str, Array]], Mapping[str, Array]]

# The histogram of one tensor takes this many values, spread evenly over all samples. A tail of 0.01 % is then
# 200 values. Minimum and maximum always come from all values.
HISTOGRAM_VALUES = 1 << 21
_FORMAT = 1
_STATISTIC = "statistic_"
_FIELDS = ("lo", "hi", "mean_lo", "mean_hi", "exponent", "first", "zeros", "infinite")


class Calibration:
    """What calibration has found about each tensor; ranges are computed on first use, and kept.

    ``samples`` counts the samples seen, ``fingerprint`` identifies model, tensors and samples. ``statistics`` are
    those that methods need besides the histograms.
    """

    def __init__(
        self,
        stats: Mapping[str, TensorStats],
        samples: int = 0,
        fingerprint: str = "",
        model_hash: str = "",
        statistics: Mapping[TensorStatistic, Array] | None = None,
    ) -> None:
        self._stats, self._statistics = dict(stats), dict(statistics or {})
        self.samples, self.fingerprint, self.model_hash = samples, fingerprint, model_hash
        self._ranges: dict[tuple[str, RangeMethod, IntegerType], Range] = {}

    @classmethod
    def placeholder(cls, tensors: Iterable[str]) -> Calibration:
        """Values from -1 to 1 for every tensor, for uses in which only the shape of a quantized model matters."""
        stats = TensorStats(-1.0, 1.0, -1.0, 1.0, 0, -1, np.ones(2, np.int64), 0, 0)
        return cls(dict.fromkeys(tensors, stats))

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that were observed."""
        return tuple(self._stats)

    def stats(self, tensor: str) -> TensorStats:
        """The statistics of one tensor. Raises DataError for one that was not observed."""
        if tensor not in self._stats:
            raise DataError(f"tensor {tensor!r} was not observed during calibration", where="calibration")
        return self._stats[tensor]

    def range(self, tensor: str, method: RangeMethod, integers: IntegerType) -> Range:
        """The range of one tensor by ``method``, for these integers. Raises DataError for one that was not observed."""
        key = (tensor, method, integers)
        if key not in self._ranges:
            self._ranges[key] = method(self.stats(tensor), integers)
        return self._ranges[key]

    def statistic(self, wanted: TensorStatistic) -> Array:
        """One statistic of one tensor. Raises DataError if it was not gathered."""
        if wanted not in self._statistics:
            raise DataError(
                f"there is no {wanted.need.statistic} of tensor {wanted.tensor!r}",
                where="calibration",
                hint="calibrate again, with samples, for the methods that the strategy names",
            )
        return self._statistics[wanted]

    def require(self, model_hash: str, tensors: Iterable[str]) -> None:
        """Raises DataError unless it belongs to this model and has these tensors."""
        missing = next((name for name in tensors if name not in self._stats), None)
        if missing is None and self.model_hash in ("", model_hash):
            return
        raise DataError(
            "its ranges belong to other weights" if missing is None else f"it has no range for tensor {missing!r}",
            where="calibration",
            hint="ranges belong to one set of weights: calibrate again, with samples",
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an npz file of plain arrays. Raises StorageError."""
        header = {
            "format": _FORMAT,
            "model": self.model_hash,
            "samples": self.samples,
            "fingerprint": self.fingerprint,
            "tensors": [
                {"name": name, "bins": len(stats.counts), **{key: getattr(stats, key) for key in _FIELDS}}
                for name, stats in self._stats.items()
            ],
        }
        if self._statistics:
            header["statistics"] = [asdict(each) for each in self._statistics]
        counts = [stats.counts for stats in self._stats.values()]
        arrays: dict[str, Any] = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "counts": np.concatenate(counts) if counts else np.empty(0, np.int64),
            **{f"{_STATISTIC}{index}": value for index, value in enumerate(self._statistics.values())},
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Reads what `save` wrote. Raises DataError if the file is something else, or damaged."""
        hint = "remove it; it will be made again"
        with faults_of_others(lambda reason: DataError(f"is not a calibration: {reason}", where=str(path), hint=hint)):
            try:
                file = NpzFile(path)
                header, counts = parse_json(file["header"].tobytes().decode("utf-8")), file["counts"]
            except DataError as error:
                raise ValueError(error.what) from error
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']}, not {_FORMAT}")
            stats, place = {}, 0
            for entry in header["tensors"]:
                bins = counts[place : place + entry["bins"]].astype(np.int64)
                place += len(bins)
                stats[str(entry["name"])] = _stats_of(entry, bins)
            if place != len(counts):
                raise ValueError("counts and tensors do not agree")
            statistics = {
                TensorStatistic(Need(**entry["need"]), entry["tensor"], entry["axis"]): file[f"{_STATISTIC}{index}"]
                for index, entry in enumerate(header.get("statistics", ()))
            }
            about = int(header["samples"]), str(header["fingerprint"]), str(header.get("model", ""))
            return cls(stats, *about, statistics)


def is_calibration(path: str | os.PathLike[str]) -> bool:
    """Whether `Calibration.save` wrote the file, rather than it being samples."""
    if Path(path).suffix != ".npz" or not Path(path).is_file():
        return False
    return {name for name in NpzFile(path) if not name.startswith(_STATISTIC)} == {"header", "counts"}


def _stats_of(entry: Mapping[str, Any], counts: Array) -> TensorStats:
    if len(counts) != entry["bins"] or not all(math.isfinite(float(entry[key])) for key in _FIELDS):
        raise ValueError(f"tensor {entry['name']!r} is incomplete")
    return TensorStats(
        lo=float(entry["lo"]),
        hi=float(entry["hi"]),
        mean_lo=float(entry["mean_lo"]),
        mean_hi=float(entry["mean_hi"]),
        exponent=int(entry["exponent"]),
        first=int(entry["first"]),
        counts=counts,
        zeros=int(entry["zeros"]),
        infinite=int(entry["infinite"]),
    )


def calibration_fingerprint(
    tensors: Iterable[str],
    samples: Samples,
    model_hash: str = "",
    statistics: Sequence[TensorStatistic] = (),
) -> str:
    """One hash over what determines a calibration: model, tensors, samples and statistics."""
    parts = (str(_FORMAT), str(HISTOGRAM_VALUES), model_hash, samples.fingerprint())
    return hash_bytes(*parts, *dict.fromkeys(tensors), *(json.dumps(asdict(each)) for each in statistics))


def calibrate(
    tensors: Iterable[str],
    samples: Samples,
    run: CalibrationRun,
    batch: int,
    *,
    statistics: Sequence[TensorStatistic] = (),
    model_hash: str = "",
    store: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Runs all samples and gathers histograms of ``tensors``, and ``statistics``.

    ``run`` gets ``batch`` samples at a time; the last batch is filled up by repeating samples, whose values
    are left out of every tensor that has one row per sample. It takes memory for one batch, and 128 KiB per tensor.
    If a tensor has more than about two million values over all samples, every k-th goes into the histogram. For the
    memory of statistics see `hago.calibrate.statistics`.

    With ``store``, a calibration of the same model, tensors, samples and statistics is read from that file, or else
    written to it. ``progress`` is called with (samples done, all samples). Raises DataError if ``run``
    leaves out a tensor or a value is NaN.
    """
    names = tuple(dict.fromkeys(tensors))
    total = len(samples)
    if total < 1 or batch < 1:
        raise DataError(f"calibration needs samples and a batch, found {total} samples, batch {batch}")
    fingerprint = calibration_fingerprint(names, samples, model_hash, statistics)
    if store is not None and (kept := _read_stored(store, fingerprint)) is not None:
        return kept
    observe, collectors = _Observation(names, batch, total), Statistics(statistics, batch, total)
    for start in range(0, total, batch):
        count = min(batch, total - start)
        feeds = samples.batch(start, start + count)
        if count < batch:
            rows = np.arange(batch) % count
            feeds = {name: np.ascontiguousarray(values[rows]) for name, values in feeds.items()}
        values = run(feeds)
        observe.batch(values, count)
        collectors.update(values, start, count)
        if progress is not None:
            progress(start + count, total)
    calibration = Calibration(observe.stats(), total, fingerprint, model_hash, collectors.values())
    if store is not None:
        calibration.save(store)
    return calibration


class _Observation:
    """The histograms of one pass; they share the buffers for counting."""

    def __init__(self, names: Sequence[str], batch: int, total: int) -> None:
        self._names, self._batch, self._total = names, batch, total
        self._workspace = Workspace()
        self._histograms: dict[str, Histogram] = {}

    def batch(self, outputs: Mapping[str, Array], count: int) -> None:
        """Adds the tensors of one batch, whose first ``count`` samples are not repetitions."""
        for name in self._names:
            if name not in outputs:
                raise DataError(f"the calibration run did not return the tensor {name!r}")
            values = np.asarray(outputs[name])
            if name not in self._histograms:
                stride = _stride(values.size // self._batch, self._total)
                self._histograms[name] = Histogram(stride, self._workspace)
            try:
                if values.ndim > 0 and values.shape[0] == self._batch:
                    self._histograms[name].update(values[:count], samples=count)
                else:
                    self._histograms[name].update(values)
            except DataError as error:
                raise DataError(
                    f"tensor {name!r}: {error.what}",
                    where="calibration",
                    hint="the float model itself gives NaN on a calibration sample: check its preprocessing",
                ) from error

    def stats(self) -> dict[str, TensorStats]:
        return {name: histogram.stats() for name, histogram in self._histograms.items()}


def _stride(values_per_sample: int, samples: int) -> int:
    """The k of every k-th value that the histogram takes: coprime with a sample's size, so that all positions count."""
    stride = max(1, math.ceil(values_per_sample * samples / HISTOGRAM_VALUES))
    while stride > 1 and math.gcd(stride, values_per_sample) != 1:
        stride += 1
    return stride


def _read_stored(path: str | os.PathLike[str], fingerprint: str) -> Calibration | None:
    """The calibration in that file, or None if there is none, or one of something else."""
    if not Path(path).is_file():
        return None
    try:
        found = Calibration.load(path)
    except DataError:
        return None  # made again, and the damaged file replaced
    return found if found.fingerprint == fingerprint else None
