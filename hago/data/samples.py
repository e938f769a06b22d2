"""Labelled samples that fit a model's inputs, read batch by batch and checked as they are read.

Notation: ``n`` samples; the model's leading dimension, its batch, is not part of a sample's shape.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..files import hash_bytes
from ..tensor import TensorInfo
from .labels import Labels
from .sources import MEMORY_BYTES, Array, ArraySource, Indices, Source, Spool

# Bytes read at a time when all samples are read.
_BLOCK_BYTES = 16 << 20


def element_type(name: str) -> np.dtype[Any]:
    """The numpy type that TensorInfo.dtype names, including the short floats of ml_dtypes."""
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = np.dtype(getattr(ml_dtypes, name, object))
    if dtype.kind not in "biufV" or dtype.hasobject:
        raise DataError(f"samples must be numbers or booleans, but the model takes {name}")
    return dtype


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether it is a floating-point type, of numpy or ml_dtypes."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name in ("bfloat16", "float16"))


class InputReader:
    """Reads one model input: casts and checks what its source gives, each sample's values once."""

    def __init__(self, info: TensorInfo, source: Source, where: str) -> None:
        if not info.shape:
            raise DataError(f"input {info.name!r} of the model is a scalar and holds no samples", where=where)
        self.info, self.source, self.where = info, source, where
        self.dtype = element_type(info.dtype)
        self._checked = np.zeros(len(source), dtype=bool)
        if len(source):
            self.read(np.zeros(1, np.int64))

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample of this input."""
        return int(np.prod(self.info.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def read(self, indices: Indices) -> Array:
        """Samples ``indices`` as a C-contiguous array [m, *sample shape] of the model's element type."""
        raw = self.source.read(indices)
        self._check_shape(raw, len(indices))
        cast = self._cast(raw, indices)
        fresh = indices[~self._checked[indices]]
        if len(fresh):
            self._check_finite(cast, indices)
            self._checked[indices] = True
        return np.ascontiguousarray(cast)

    def _check_shape(self, raw: Array, count: int) -> None:
        wanted, found = tuple(self.info.shape[1:]), raw.shape[1:]
        if raw.shape == (count, *wanted):
            return
        hint = None
        whole = (len(self.source), *found)
        if whole == wanted:
            hint = "a single sample needs a leading axis: x[None]"
        elif len(wanted) == 3 and len(found) == 3 and sorted(wanted) == sorted(found):
            axes = "(0, 3, 1, 2)" if (found[2], *found[:2]) == wanted else "(0, 2, 3, 1)"
            hint = f"the axes look swapped: x.transpose{axes}"
        elif (1, *found) == wanted:
            hint = "a channel axis is missing: x[:, None]"
        elif (*found, 1) == wanted:
            hint = "a channel axis is missing: x[..., None]"
        raise DataError(
            f"input {self.info.name!r} of the model takes samples of shape {_text(wanted)}, "
            f"found {_text(found)} (array of shape {_text(whole)}, samples first)",
            where=self.where,
            hint=hint,
        )

    def _cast(self, raw: Array, indices: Indices) -> Array:
        have, want = raw.dtype, self.dtype
        if have == want:
            return raw
        if is_float(have) and is_float(want):
            with np.errstate(over="ignore"):
                cast = raw.astype(want)
            if have.itemsize > want.itemsize:
                self._name_first(np.isinf(cast) & np.isfinite(raw), indices, f"does not fit into {want.name}")
            return cast
        if have.kind in "iu" and want.kind in "iu":
            if not np.can_cast(have, want, "safe"):
                limits = np.iinfo(want)
                wrong = (raw < limits.min) | (raw > limits.max)
                self._name_first(wrong, indices, f"does not fit into {want.name}")
            return raw.astype(want)
        hint = f"convert it after the preprocessing the model was trained with: x.astype({want.name!r})"
        raise DataError(
            f"input {self.info.name!r} of the model takes {want.name}, found {have.name}",
            where=self.where,
            hint=hint,
        )

    def _check_finite(self, values: Array, indices: Indices) -> None:
        if is_float(values.dtype):
            self._name_first(~np.isfinite(values), indices, "is not a finite number")

    def _name_first(self, wrong: npt.NDArray[np.bool_], indices: Indices, what: str) -> None:
        if not wrong.any():
            return
        rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
        place = tuple(int(i) for i in np.argwhere(wrong[rows[0]])[0])
        count = "" if len(rows) == 1 else f" ({len(rows)} such samples in this batch of {len(indices)})"
        raise DataError(
            f"sample {int(indices[rows[0]])} of input {self.info.name!r}: the value at {place} {what}{count}",
            where=self.where,
            hint="remove or repair these samples",
        )


class Samples:
    """Samples for one model, with or without labels; a subset shares the data of the whole set.

    ``labels`` is an array [n, ...] (of objects: [n]) or None; or the error to raise when they are read, since not
    every metric reads them. ``calibration`` has the samples that the same file reserves for calibration, if any.
    Batches are read-only: they may be views of the caller's arrays.
    """

    def __init__(
        self,
        readers: Sequence[InputReader],
        labels: Array | DataError | None = None,
        *,
        where: str = "samples",
        calibration: Samples | None = None,
    ) -> None:
        self.where, self.calibration = where, calibration
        self._readers = tuple(readers)
        counts = {r.info.name: len(r.source) for r in self._readers}
        if len(set(counts.values())) != 1:
            raise DataError(f"every input needs the same number of samples, found {counts}", where=where)
        total = next(iter(counts.values()))
        if total == 0:
            raise DataError("there are no samples", where=where)
        if isinstance(labels, np.ndarray) and len(labels) != total:
            raise DataError(f"{total} samples need {total} labels, found {len(labels)}", where=where)
        self._all_labels = labels
        self._digests: list[bytes | None] = [None] * total
        self._indices: Indices = np.arange(total)

    def __len__(self) -> int:
        return len(self._indices)

    def __repr__(self) -> str:
        labelled = "unlabelled" if self._all_labels is None else "labelled"
        return f"<Samples: {len(self)} {labelled} of {self.where}>"

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The model's inputs, as these samples feed them."""
        return tuple(reader.info for reader in self._readers)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the model's inputs."""
        return tuple(reader.info.name for reader in self._readers)

    @property
    def has_labels(self) -> bool:
        """Whether there are labels, without reading them."""
        return self._all_labels is not None

    @property
    def labels(self) -> Labels | None:
        """An array [n, ...], or a list of n objects. Raises DataError if those of the file cannot be read."""
        own = self.own_labels
        if isinstance(own, DataError):
            raise own
        return own.tolist() if own is not None and own.dtype.hasobject else own

    @property
    def own_labels(self) -> Array | DataError | None:
        """The labels as the constructor takes them."""
        return self._all_labels[self._indices] if isinstance(self._all_labels, np.ndarray) else self._all_labels

    @property
    def indices(self) -> Indices:
        """Indices [n] of these samples in the set that they were taken from."""
        return self._indices

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample of all inputs."""
        return sum(reader.row_bytes for reader in self._readers)

    def batch(self, start: int, stop: int) -> dict[str, Array]:
        """Samples ``start`` to ``stop`` (clipped at the end) by model input.

        Raises DataError, with the sample's index in its file, for NaN, infinity, a wrong shape or type.
        """
        indices = self._indices[start:stop]
        return {reader.info.name: reader.read(indices) for reader in self._readers}

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """All samples in order, ``size`` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.batch(start, start + size)

    def whole_batches(self, size: int, count: int) -> list[dict[str, Array]]:
        """``count`` batches of exactly ``size``, starting over when the samples end."""
        order = np.arange(size * count).reshape(count, size) % len(self)
        return [self.subset(indices).batch(0, size) for indices in order]

    def subset(self, indices: npt.ArrayLike) -> Samples:
        """The samples at ``indices``, in that order. Raises DataError if there are none, or for a bad index."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        if chosen.size == 0 or chosen.min() < 0 or chosen.max() >= len(self):
            raise DataError(f"a subset of {len(self)} samples cannot be {chosen.tolist()[:5]}", where=self.where)
        part = copy.copy(self)
        part._indices, part.calibration = self._indices[chosen], None
        return part

    def digests(self) -> list[bytes]:
        """SHA-256 of each sample's inputs as the model gets them; equal samples have equal digests.

        The first call reads all samples, and so checks all of them.
        """
        missing = np.array([i for i in self._indices if self._digests[i] is None], dtype=np.int64)
        size = self._block()
        for start in range(0, len(missing), size):
            block = missing[start : start + size]
            hashes = [hashlib.sha256() for _ in block]
            for reader in self._readers:
                rows = reader.read(block)
                flat = rows.reshape(len(block), -1).view(np.uint8)
                for digest, row in zip(hashes, flat, strict=True):
                    digest.update(row.data)
            for i, digest in zip(block, hashes, strict=True):
                self._digests[i] = digest.digest()
        return [found for i in self._indices if (found := self._digests[i]) is not None]

    def fingerprint(self) -> str:
        """One hash of the samples and their order, without labels."""
        return hash_bytes(*self.digests())

    def spooled(self, memory_bytes: int = MEMORY_BYTES) -> Samples:
        """The same samples, read once and kept in the model's types, so that reading them again costs little.

        This pays if reading is slow, as with images, which are decoded each time. Up to ``memory_bytes`` stay in
        memory, more go to an anonymous temporary file; samples that already are arrays of the model's type are not
        copied. Raises StorageError if the disk is full.
        """
        if all(isinstance(r.source, ArraySource) and r.source.array.dtype == r.dtype for r in self._readers):
            return self
        spools = [
            Spool(r.info.shape[1:], r.dtype, r.where, memory_bytes=memory_bytes // len(self._readers))
            for r in self._readers
        ]
        for batch in self.batches(self._block()):
            for reader, spool in zip(self._readers, spools, strict=True):
                spool.append(batch[reader.info.name])
        readers = [
            InputReader(reader.info, ArraySource(spool.array()), reader.where)
            for reader, spool in zip(self._readers, spools, strict=True)
        ]
        spooled = Samples(readers, self.own_labels, where=self.where, calibration=self.calibration)
        spooled._digests = [self._digests[i] for i in self._indices]
        return spooled

    def _block(self) -> int:
        return max(1, _BLOCK_BYTES // max(1, self.row_bytes))


def _text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"
