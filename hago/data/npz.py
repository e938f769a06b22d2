"""Reads npz and npy files of any size without running code: object arrays (pickle) are refused."""

from __future__ import annotations

import math
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import DataError, StorageError, faults_of_others
from .sources import MEMORY_BYTES, Array

_LOCAL_HEADER = struct.Struct("<26xHH")


class NpzFile(Mapping[str, Array]):
    """The arrays of an npz file by name, each read on first use.

    Stored members are mapped into memory; compressed ones are unpacked into memory or, if large, into an anonymous
    temporary file. Raises DataError if the file is damaged, truncated, or contains Python objects.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with _damaged(str(self.path)), zipfile.ZipFile(self.path) as archive:
            members = archive.infolist()
        self._members = {m.filename[:-4]: m for m in members if m.filename.endswith(".npy")}
        self._arrays: dict[str, Array] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            member, where = self._members[name], f"{self.path}[{name}]"
            with _damaged(where):
                self._arrays[name] = self._load(member, where)
        return self._arrays[name]

    def _load(self, member: zipfile.ZipInfo, where: str) -> Array:
        with zipfile.ZipFile(self.path) as archive, archive.open(member) as stream:
            shape, fortran, dtype = _read_header(stream, where)
            header_bytes = stream.tell()
            data_bytes = math.prod(shape) * dtype.itemsize
            if member.file_size - header_bytes < data_bytes:
                raise EOFError(f"{data_bytes} bytes announced, {member.file_size - header_bytes} there")
            if member.compress_type == zipfile.ZIP_STORED and data_bytes:
                offset = self._data_offset(member) + header_bytes
                return _map(self.path, offset, shape, fortran, dtype)
            if data_bytes <= MEMORY_BYTES:
                flat: Array = np.frombuffer(stream.read(data_bytes), dtype)
                return flat.reshape(shape, order="F" if fortran else "C")
            return _unpack(stream, shape, fortran, dtype, where)

    def _data_offset(self, member: zipfile.ZipInfo) -> int:
        """The offset of a stored member's bytes; its local header may differ in length from the central one."""
        with self.path.open("rb") as file:
            file.seek(member.header_offset)
            name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        return member.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)


def open_npy(path: str | os.PathLike[str]) -> Array:
    """The array of a .npy file, mapped into memory. Raises DataError like NpzFile."""
    where = str(path)
    with _damaged(where):
        with Path(path).open("rb") as file:
            shape, fortran, dtype = _read_header(file, where)
            offset = file.tell()
        if math.prod(shape) == 0:
            return np.empty(shape, dtype)
        return _map(Path(path), offset, shape, fortran, dtype)


def _read_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy format {version} is not one of plain arrays")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if any(not isinstance(size, int) or size < 0 for size in shape):
        raise ValueError(f"{shape} is not a shape")
    if dtype.hasobject:
        raise DataError(
            "contains Python objects, which only pickle can read, and pickle can run any code",
            where=where,
            hint="store plain arrays of numbers or texts; in Python, labels may be any objects: data=(x, y)",
        )
    return shape, fortran, dtype


def _map(path: Path, offset: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]) -> Array:
    if path.stat().st_size < offset + math.prod(shape) * dtype.itemsize:
        raise EOFError("the file ends before its array does")
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")


def _unpack(stream: IO[bytes], shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any], where: str) -> Array:
    needed = math.prod(shape) * dtype.itemsize
    file = tempfile.TemporaryFile(prefix="hago-samples-")  # noqa: SIM115 - the memory map keeps it
    try:
        if needed > shutil.disk_usage(tempfile.gettempdir()).free:
            raise OSError(f"{needed >> 20} MiB needed")
        shutil.copyfileobj(stream, file, 1 << 22)
        file.flush()
    except OSError as error:
        raise StorageError(
            f"cannot be unpacked into the temporary folder {tempfile.gettempdir()}: {error}",
            where=where,
            hint="store it with numpy.savez (not compressed), or set TMPDIR to a larger disk",
        ) from error
    if file.tell() < needed:
        raise EOFError("the data end before the array does")
    return np.memmap(file, dtype=dtype, mode="r", shape=shape, order="F" if fortran else "C")


def _damaged(where: str) -> AbstractContextManager[None]:
    hint = "it may be cut off: copy or write it again (numpy.savez)"
    return faults_of_others(
        lambda reason: DataError(f"is not a whole npz or npy file: {reason}", where=where, hint=hint)
    )
