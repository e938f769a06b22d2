"""Kernels for GPUs that compute elements, on the emulated block, against numpy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from cuda_harness import SMALL, Case, case, compile_all
from emulated_block import can_emulate
from kernel_harness import numpy_type
from onnx import helper

from hago.kernels.cuda.families import SM80

pytestmark = pytest.mark.skipif(not can_emulate(), reason="there is no compiler of C++")
GPUS = {"few bytes a thread": SM80, "many bytes a thread": SMALL}
F = np.float32


def codes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def fma(a: Any, b: Any, c: Any) -> np.ndarray:
    """One rounding: the product of two float32 is exact in float64, and codes are short."""
    return (np.asarray(a, np.float64) * np.float64(F(b)) + np.asarray(c, np.float64)).astype(F)


def code(real: np.ndarray, zero: int, low: int, high: int) -> np.ndarray:
    return np.clip(np.rint(real) + zero, low, high).astype(np.uint8)


def quantized() -> dict[str, Case]:
    found = {}
    shapes = {
        "": ((2, 5, 16), (2, 5, 16)),
        "broadcast": ((2, 5, 16), (16,)),
        "odd": ((3, 7, 5), (3, 1, 5)),
        "one": ((7, 11), (1, 1)),
    }
    limits = {"y_zero_point": 3, "lo": 3, "hi": 250}
    for name, (one, other) in shapes.items():
        a, b = codes(*one), codes(*other, seed=1)
        scales = {"a_scale": 0.61, "b_scale": 0.37, "offset": -20.5}
        total = fma(a.astype(F), 0.61, fma(b.astype(F), 0.37, F(-20.5)))
        found[f"QAdd {name}"] = case(
            "QAdd", {"a": a, "b": b}, code(total, 3, 3, 250), domain="hago", **scales, **limits
        )
        factors = {"a_zero_point": 100, "b_zero_point": 7, "scale": 0.0123}
        product = (a.astype(F) - 100) * (b.astype(F) - 7) * F(0.0123)
        found[f"QMul {name}"] = case(
            "QMul", {"a": a, "b": b}, code(product, 3, 3, 250), domain="hago", **factors, **limits
        )
    real = {"out": "float32", "act_lo": 0.0, "act_hi": 6.0}
    clamped = np.clip(fma(a.astype(F), 0.1, fma(b.astype(F), 0.3, F(-2))), F(0), F(6))
    found["QAdd to float32"] = case(
        "QAdd", {"a": a, "b": b}, clamped, domain="hago", a_scale=0.1, b_scale=0.3, offset=-2.0, **real
    )
    for channels in (3, 16):
        x, rng = codes(2, 4, 4, channels), np.random.default_rng(2)
        mul, add = rng.uniform(-1, 1, channels).astype(F), rng.uniform(-9, 99, channels).astype(F)
        wide = (x.astype(np.float64) * mul + add).astype(F)
        feeds = {"x": x, "mul": mul, "add": add}
        found[f"QScaleShift {channels}"] = case(
            "QScaleShift", feeds, code(wide, 3, 3, 250), domain="hago", constants=("mul", "add"), **limits
        )
    for dtype in ("uint8", "float32"):
        x, table = codes(3, 25), np.random.default_rng(3).uniform(0, 255, 256).astype(dtype)
        found[f"QLookup {dtype}"] = case("QLookup", {"x": x, "table": table}, table[x], domain="hago")
    return found


def conversions() -> dict[str, Case]:
    found = {}
    perms = {"": (0, 1, 2, 3), "to channels last": (0, 2, 3, 1), "in tiles": (0, 3, 2, 1)}
    for name, perm in perms.items():
        for shape in ((2, 3, 5, 7), (1, 34, 3, 40)):
            x = np.random.default_rng(4).uniform(-200, 200, shape).astype(F)
            x.flat[0] = np.inf
            expected = code(np.clip(x / F(0.7), -999, 999), 9, 1, 250).transpose(perm)
            attrs = {"scale": 0.7, "zero_point": 9, "perm": list(perm)}
            found[f"Quantize {name} {shape}"] = case(
                "Quantize", {"x": x}, expected, domain="hago", lo=1, hi=250, **attrs
            )
            whole = codes(*shape)
            real = ((whole.astype(np.int32) - 9).astype(F) * F(0.7)).transpose(perm)
            found[f"Dequantize {name} {shape}"] = case("Dequantize", {"x": whole}, real, domain="hago", **attrs)
    return found


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith(("int", "uint")):
        info = np.iinfo(dtype)
        return rng.integers(max(info.min, -3000), min(info.max, 3000), shape, endpoint=True).astype(dtype)
    return rng.uniform(-4, 4, shape).astype(numpy_type(dtype))


TYPES = (
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
)


def elementwise() -> dict[str, Case]:
    found = {}
    for dtype in TYPES:
        a, b, c = numbers(dtype, (3, 4, 8)), numbers(dtype, (4, 1), 1), numbers(dtype, (3, 4, 8), 2)
        with np.errstate(over="ignore"):
            total = (a + b).astype(a.dtype)
            expected = np.maximum((total + c).astype(a.dtype), b)
        # The sum must wrap before it is compared, though C computes small integers as int.
        found[f"Fused {dtype}"] = fused(
            {"a": a, "b": b, "c": c}, expected, ("Add", "ab", "s"), ("Add", "sc", "t"), ("Max", "tb", "y")
        )
        kind = helper.np_dtype_to_tensor_dtype(a.dtype)
        real = numbers("float32", (5, 9))
        real = np.abs(real) if dtype.startswith("u") else real
        found[f"Cast to {dtype}"] = case("Cast", {"x": real}, real.astype(a.dtype), to=kind)
        found[f"Cast from {dtype}"] = case("Cast", {"x": a}, a.astype(F), to=1)
        found[f"Less {dtype}"] = case("Less", {"x": a, "b": b}, a < b)
        mask = numbers("bool", (8,))
        found[f"Where {dtype}"] = case("Where", {"c": mask, "a": a, "b": b}, np.where(mask, a, b))
    x, y = numbers("bool", (3, 21)), numbers("bool", (1, 21), 1)
    found["Xor"] = case("Xor", {"x": x, "y": y}, x ^ y)
    found["Not"] = case("Not", {"x": x}, ~x)
    x = numbers("float32", (3, 7))
    x[0, :3] = np.nan, np.inf, -np.inf
    found["Relu of NaN"] = case("Relu", {"x": x}, np.maximum(x, 0))
    found["Exp"] = case("Exp", {"x": x}, np.exp(x), close=True)
    found["Tanh float16"] = case(
        "Tanh", {"x": x.astype(np.float16)}, np.tanh(x.astype(np.float16).astype(F)).astype(np.float16), close=True
    )
    found["Round"] = case("Round", {"x": np.array([0.5, 1.5, -2.5, 7], F)}, np.array([0, 2, -2, 7], F))
    found["Div"] = case(
        "Div",
        {"x": np.array([-7, 7, 5], np.int32), "y": np.array([2, -2, 0], np.int32)},
        np.array([-3, -3, 5], np.int32),
    )
    found["Mod"] = case("Mod", {"x": x[1:], "y": np.full((1, 1), 0.75, F)}, np.fmod(x[1:], F(0.75)), fmod=1)
    return found


def fused(feeds: dict[str, np.ndarray], expected: np.ndarray, *steps: tuple[str, str, str]) -> Case:
    """A node of several operators: (operator, names of its inputs, name of its output) each."""

    def info(name: str, array: np.ndarray) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    nodes = [helper.make_node(op, list(inputs), [output]) for op, inputs, output in steps]
    body = helper.make_graph(nodes, "body", [info(n, a) for n, a in feeds.items()], [info("y", expected)])
    return case("Fused", feeds, expected, domain="hago", body=body)


BOTH, ONE = {**quantized(), **conversions()}, elementwise()
CASES = {**BOTH, **ONE}


@cache
def compiled() -> None:
    compile_all(BOTH.values(), GPUS.values())
    compile_all(ONE.values(), [SMALL])


@pytest.mark.parametrize(
    ("name", "gpu"), [*((name, gpu) for name in BOTH for gpu in GPUS), *((name, list(GPUS)[-1]) for name in ONE)]
)
def test_elements_are_what_numpy_computes(name: str, gpu: str) -> None:
    compiled()
    for seed in range(3):
        CASES[name].check(GPUS[gpu], seed)
