"""Where samples come from: rows that can be read by index without loading all of them into memory.

Notation: ``n`` samples in a source, ``m`` of them requested.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from typing import IO, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from ..errors import DataError, StorageError

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

# Above this, spooled samples go to a temporary file that is mapped into memory.
MEMORY_BYTES = 256 << 20
# The space that a spool leaves free on the disk of the temporary folder.
_KEEP_FREE_BYTES = 1 << 30


class Source(Protocol):
    """Rows of one array, read by index."""

    def __len__(self) -> int: ...

    def read(self, indices: Indices) -> Array:
        """Rows ``indices`` [m], in that order, as an array [m, ...]. It may be a view: do not write to it."""
        ...


def as_array(value: object, where: str) -> Array:
    """A numpy array of ``value``: an array, nested numbers, or another library's tensor (``__array__``).

    Raises DataError if that would give an array of Python objects.
    """
    if hasattr(value, "detach"):  # a torch tensor, possibly with a gradient or on a device
        value = cast(Any, value).detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"cannot be read as an array: {error}", where=where) from error
    if array.dtype.hasobject:
        raise DataError(
            f"contains Python objects ({type(value).__name__}), not an array of numbers",
            where=where,
            hint="samples of one input must all have the same shape; stack them with numpy.stack",
        )
    return array


def is_array_like(value: object) -> bool:
    """Whether ``value`` is an array of numpy, or of a library with the same interface."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")


class ArraySource:
    """Rows of a numpy array, which may be mapped from a file."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: Indices) -> Array:
        run = _as_slice(indices)
        return np.asarray(self.array[run] if run is not None else self.array[indices])


class SliceSource:
    """Rows of any object with ``len()`` whose slices are arrays, computed or read on demand."""

    def __init__(self, rows: Any, where: str) -> None:
        self.rows, self.where = rows, where

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: Indices) -> Array:
        # Only slices are used: h5py needs sorted indices, and other libraries do not support index arrays.
        starts = np.flatnonzero(np.diff(indices, prepend=indices[:1] - 2) != 1)
        stops = np.append(starts[1:], len(indices))
        parts = []
        for a, b in zip(starts, stops, strict=True):
            first, count = int(indices[a]), int(b - a)
            part = as_array(self.rows[first : first + count], self.where)
            if part.ndim == 0 or len(part) != count:
                raise DataError(
                    f"slice [{first}:{first + count}] must hold {count} samples, its shape is {part.shape}",
                    where=self.where,
                )
            parts.append(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _as_slice(indices: Indices) -> slice | None:
    """The slice that reads ``indices``, or None if they are not consecutive."""
    if len(indices) and np.array_equal(indices, np.arange(indices[0], indices[0] + len(indices))):
        return slice(int(indices[0]), int(indices[0]) + len(indices))
    return None


class Spool:
    """Collects rows of one shape and type: a few in memory, more in a temporary file.

    The file is anonymous: it disappears with the last array that maps it.
    """

    def __init__(
        self,
        row_shape: Sequence[int],
        dtype: np.dtype[Any],
        where: str,
        *,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.row_shape, self.dtype, self.where = tuple(row_shape), dtype, where
        self._memory_bytes = memory_bytes
        self._parts: list[Array] = []
        self._file: IO[bytes] | None = None
        self._rows, self._bytes, self._free = 0, 0, 0

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: Array) -> None:
        """Adds rows [m, *row_shape], copied. Raises StorageError if the disk is too small."""
        copied = np.array(rows, dtype=self.dtype, order="C").reshape(-1, *self.row_shape)
        self._rows += len(copied)
        self._bytes += copied.nbytes
        if self._file is None and self._bytes <= self._memory_bytes:
            self._parts.append(copied)
            return
        pending = [*self._parts, copied]
        self._parts = []
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="hago-samples-")  # noqa: SIM115
                self._free = shutil.disk_usage(tempfile.gettempdir()).free
            if self._bytes > self._free - _KEEP_FREE_BYTES:
                raise OSError(f"{self._bytes >> 20} MiB of samples, {self._free >> 20} MiB free")
            for part in pending:
                if part.size:
                    part.tofile(self._file)
        except OSError as error:
            raise StorageError(
                f"samples do not fit into the temporary folder {tempfile.gettempdir()}: {error}",
                where=self.where,
                hint="does the iterable end? Give fewer samples, or set TMPDIR to a larger disk",
            ) from error

    def array(self) -> Array:
        """All rows [n, *row_shape], read-only; do not append afterwards."""
        shape = (self._rows, *self.row_shape)
        if self._file is not None:
            self._file.flush()
            return np.memmap(self._file, dtype=self.dtype, mode="r", shape=shape)
        whole = np.concatenate(self._parts) if self._parts else np.empty(shape, self.dtype)
        self._parts = [whole]
        view = whole.view()
        view.setflags(write=False)
        return view
