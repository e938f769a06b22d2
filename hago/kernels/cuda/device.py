"""Calls of the functions of device.cuh, and other statements that kernels consist of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.calls import stored
from ..common.flat import Expr


def argument(name: str, shape: tuple[int, ...], dtype: str) -> Any:
    """A buffer argument. All arguments come before anything else in a function."""
    return T.arg(name, T.buffer(shape, dtype))


def in_memory(dtype: str) -> str:
    """The type that memory holds of an ONNX type."""
    return stored(TensorType(dtype, ())).dtype


def seen_as(buffer: Any, dtype: str, count: int) -> Any:
    """The memory of a buffer as ``count`` elements of another type."""
    return T.decl_buffer((count,), dtype, data=buffer.data, scope=buffer.scope())


def elements(buffer: Any) -> int:
    """How many elements a buffer has."""
    return prod(int(extent) for extent in buffer.shape)


def call(name: str, *arguments: Expr) -> None:
    """A call of a function of device.cuh."""
    T.evaluate(T.call_extern("void", f"hago::{name}", *arguments))


def value(dtype: str, name: str, *arguments: Expr) -> Expr:
    """A call of a function of device.cuh that returns something."""
    return T.call_extern(dtype, f"hago::{name}", *arguments)


def address(buffer: Any, index: Expr) -> Expr:
    """Where an element lies."""
    return T.address_of(buffer[index])


@contextmanager
def when(condition: Expr | bool) -> Iterator[None]:
    """A block of statements for the threads for which ``condition`` holds; for all where it is plainly True."""
    if condition is True:
        yield
        return
    with T.If(condition), T.Then():
        yield


def all_of(*conditions: Expr | bool) -> Expr | bool:
    """Whether all hold; True where each is plainly True."""
    left = [condition for condition in conditions if condition is not True]
    return tirx.all(*left) if left else True
