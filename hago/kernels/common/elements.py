"""Vectors of ONNX's element types, as the elementwise kernels compute with them.

A `Vec` is a TIR expression [lanes] with the element type that ONNX gives it. bool is a TIR boolean; float16 and
bfloat16 are held as float32 and rounded to their precision by every operator that produces them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from . import math as vm
from .flat import Expr, all_lanes, typed

ONNX_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
HALF = frozenset({"float16", "bfloat16"})
FLOATS = HALF | {"float32", "float64"}


@dataclass(frozen=True)
class Vec:
    """``lanes`` values of the ONNX element type ``dtype``; ``constant`` is their value if all are one known number."""

    value: Expr
    dtype: str
    lanes: int
    constant: float | int | None = None


def held(dtype: str) -> str:
    """The TIR type that holds values of an ONNX type."""
    return "float32" if dtype in HALF else dtype


def constant(value: float | int, dtype: str, lanes: int) -> Vec:
    """The same number in every lane."""
    if dtype == "bool":
        number: Expr = T.bool(bool(value))
    elif dtype in FLOATS:
        number = getattr(T, held(dtype))(float(value))
    else:
        number = getattr(T, dtype)(int(value))
    return Vec(all_lanes(number, lanes), dtype, lanes, value)


def widened(raw: Expr, dtype: str, lanes: int) -> Vec:
    """A `Vec` from what memory holds (bool as uint8, bfloat16 as uint16)."""
    if dtype == "bool":
        return Vec(T.NE(raw, all_lanes(T.uint8(0), lanes)), dtype, lanes)
    if dtype == "bfloat16":
        high = T.cast(raw, typed("uint32", lanes)) << T.uint32(16)
        return Vec(T.reinterpret(high, dtype=typed("float32", lanes)), dtype, lanes)
    if dtype == "float16":
        return Vec(T.cast(raw, typed("float32", lanes)), dtype, lanes)
    return Vec(raw, dtype, lanes)


def narrowed(vec: Vec) -> Expr:
    """What memory holds of a `Vec`."""
    if vec.dtype == "bool":
        return T.cast(vec.value, typed("uint8", vec.lanes))
    if vec.dtype == "bfloat16":
        bits = T.reinterpret(vec.value, dtype=typed("uint32", vec.lanes)) >> T.uint32(16)
        return T.cast(bits, typed("uint16", vec.lanes))
    if vec.dtype == "float16":
        return T.cast(vec.value, typed("float16", vec.lanes))
    return vec.value


def named(vec: Vec) -> Vec:
    """The same values, stored for repeated use."""
    if vec.constant is not None:
        return vec
    if vec.dtype == "bool":
        # TVM's simplifier fails on a boolean vector that is bound to a name.
        zero = all_lanes(T.int32(0), vec.lanes)
        flag = vm.named(T.Select(vec.value, all_lanes(T.int32(1), vec.lanes), zero))
        return Vec(T.NE(flag, zero), vec.dtype, vec.lanes)
    return Vec(vm.named(vec.value), vec.dtype, vec.lanes)


def cast(vec: Vec, dtype: str) -> Vec:
    """ONNX Cast: to integers towards zero, to bool "is not zero", to 16-bit floats half to even."""
    if vec.dtype == dtype:
        return vec
    if dtype == "bool":
        zero = constant(0, vec.dtype, vec.lanes).value
        return Vec(T.NE(vec.value, zero), dtype, vec.lanes)
    value = vec.value
    if vec.dtype == "bool":
        value = T.Select(value, constant(1, dtype, vec.lanes).value, constant(0, dtype, vec.lanes).value)
        return Vec(value, dtype, vec.lanes)
    if held(vec.dtype) != held(dtype):
        value = T.cast(value, typed(held(dtype), vec.lanes))
    return rounded(Vec(value, dtype, vec.lanes))


def rounded(vec: Vec) -> Vec:
    """float32 values rounded to the precision of the 16-bit float that they represent."""
    lanes = vec.lanes
    if vec.dtype == "float16":
        there = T.cast(vec.value, typed("float16", lanes))
        return Vec(T.cast(there, typed("float32", lanes)), vec.dtype, lanes)
    if vec.dtype == "bfloat16":
        # Half of the last kept bit, less one unless that bit is odd: ties to even. NaN is kept as it is.
        value = vm.named(vec.value)
        bits = vm.named(T.reinterpret(value, dtype=typed("uint32", lanes)))
        odd = (bits >> T.uint32(16)) & T.uint32(1)
        up = (bits + T.uint32(0x7FFF) + odd) & T.uint32(0xFFFF0000)
        nan = (bits & T.uint32(0xFFFF0000)) | T.uint32(0x00400000)
        magnitude = bits & T.uint32(0x7FFFFFFF)
        kept = T.Select(magnitude > all_lanes(T.uint32(0x7F800000), lanes), nan, up)
        return Vec(T.reinterpret(kept, dtype=typed("float32", lanes)), vec.dtype, lanes)
    return vec
