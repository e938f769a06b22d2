"""Cubins as modules of TVM's runtime: what its loader reads, made without TVM's compiler or a driver.

TVM's own module for CUDA can only be made where the driver is. Its loader, ``ffi.Module.load_from_bytes.cuda``, takes
the bytes that are written here: format, functions, code, each text with its length before it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

_CODES = {"int": 0, "uint": 1, "float": 2, "handle": 3}


@dataclass(frozen=True)
class Launch:
    """How the driver launches one kernel: the types of its arguments, and what TVM's host code adds to them."""

    name: str
    arguments: tuple[str, ...]
    tags: tuple[str, ...]


def module_bytes(cubin: bytes, launches: Sequence[Launch]) -> bytes:
    """A cubin and how its kernels are launched, as TVM 0.27's runtime loads them."""
    parts = [_text(b"cubin"), _count(len(launches))]
    for launch in launches:
        name = launch.name.encode()
        parts += [_text(name), _text(name), _count(len(launch.arguments)), *map(_type, launch.arguments)]
        parts += [_count(len(launch.tags)), *(_text(tag.encode()) for tag in launch.tags)]
        parts.append(_count(0))  # arguments of special kinds, such as tensor maps
    return b"".join([*parts, _text(cubin)])


def _count(number: int) -> bytes:
    return struct.pack("<Q", number)


def _text(data: bytes) -> bytes:
    return _count(len(data)) + data


def _type(dtype: str) -> bytes:
    """DLPack's code, bits and lanes of a scalar argument; pointers are handles."""
    kind = dtype.rstrip("0123456789")
    bits = 64 if kind == "handle" else int(dtype[len(kind) :])
    return struct.pack("<BBH", _CODES[kind], bits, 1)
