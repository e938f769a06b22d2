"""The meaning that the tests give to instructions: what numpy says, and what a processor that has them does."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from emulated_kernels import x86_kernel
from emulated_x86 import Emulated
from tvm.script.ir_builder import tirx as T

from hago.kernels.common.flat import Flat, primfunc
from hago.kernels.common.pointwise import Lookup
from hago.kernels.cpu.dot import DOTS
from hago.kernels.cpu.epilogue_x86 import pack_bytes, round_to_int
from hago.kernels.cpu.families import AMX, AVX2, AVX512_BF16, AVX512_VNNI, AVX_VNNI, Isa
from hago.kernels.cpu.jit import Jitted, jit, missing
from hago.kernels.cpu.lookup import lookup
from hago.tensor import TensorType

pytestmark = pytest.mark.skipif(bool(missing(AVX2)), reason="needs an x86 processor with AVX2")


def dot(isa: Isa, name: str) -> Any:
    """(acc, a, w) -> acc plus the products, of one vector."""
    found, lanes = DOTS[name], isa.lanes
    count = lanes * found.pack
    acc = "int32" if found.integer else "float32"
    kinds = [acc, found.read_type if name == "bf16" else "int8", found.weight_numpy.name]

    def body(sums: Flat, a: Flat, w: Flat, y: Flat) -> None:
        with found.scope(isa):
            y.store(0, found.step(isa, sums.load(0, lanes), a.load(0, count), w.load(0, count)), lanes)

    inputs = [TensorType(kind, (size,)) for kind, size in zip(kinds, (lanes, count, count), strict=True)]
    return primfunc(inputs, [TensorType(acc, (lanes,))], body)


def products(name: str, isa: Isa, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Arguments of `dot` and what comes of them, computed by numpy; the first lanes hold the extremes."""
    rng, pack = np.random.default_rng(seed), DOTS[name].pack
    a = rng.integers(0, 256, (isa.lanes, pack))
    w = rng.integers(-128, 128, (isa.lanes, pack))
    a[:2], w[0], w[1] = 255, 127, -128
    sums = rng.integers(-(2**31), 2**31, isa.lanes)
    if name == "bf16":
        a, w = (rng.standard_normal((isa.lanes, 2)).astype(ml_dtypes.bfloat16) for _ in range(2))
        sums = rng.standard_normal(isa.lanes).astype(np.float32)
        want = sums + (a.astype(np.float64) * w.astype(np.float64)).sum(1)
        return [sums, a.view(np.uint16).ravel(), w.view(np.uint16).ravel()], want
    added = a * w
    if name == "maddubs":  # neighbours are added in int16
        added = np.clip(added.reshape(isa.lanes, 2, 2).sum(2), -32768, 32767)
    want = (sums + added.sum(1)).astype(np.int32)  # wraps
    return [sums.astype(np.int32), a.astype(np.uint8).view(np.int8).ravel(), w.astype(np.int8).ravel()], want


CASES = [(AVX_VNNI, "vnni"), (AVX512_VNNI, "vnni"), (AVX512_VNNI, "maddubs"), (AVX512_BF16, "bf16")]


@pytest.mark.parametrize(
    ("isa", "name", "bits"),
    [(isa, name, bits) for isa, name in CASES for bits in (128, 256, 512) if bits <= isa.bits],
    ids=lambda v: getattr(v, "name", v),
)
def test_dot_products_mean_what_the_manual_says(isa: Isa, name: str, bits: int) -> None:
    narrow = isa.fit(bits // 32)
    arguments, want = products(name, narrow, bits)
    got = np.zeros_like(arguments[0])
    Emulated(dot(narrow, name))(*arguments, got)
    np.testing.assert_allclose(got, want, rtol=1e-6 if name == "bf16" else 0, atol=1e-6 if name == "bf16" else 0)


@pytest.mark.parametrize(("isa", "name"), CASES, ids=lambda v: getattr(v, "name", v))
def test_dot_products_mean_what_the_processor_does(isa: Isa, name: str) -> None:
    if missing(isa):
        pytest.skip(f"this processor lacks {' '.join(missing(isa))}")
    arguments, _ = products(name, isa, 1)
    here, there = np.zeros_like(arguments[0]), np.zeros_like(arguments[0])
    Jitted(dot(isa, name), isa)(*arguments, here)
    Emulated(dot(isa, name))(*arguments, there)
    np.testing.assert_array_equal(here, there)


def test_rounding_is_half_to_even_and_packing_saturates() -> None:
    def body(x: Flat, y: Flat) -> None:
        whole = [round_to_int(AVX512_VNNI, x.load(16 * i, 16)) for i in range(4)]
        y.store(0, pack_bytes(AVX512_VNNI, whole, T.int32(3), T.float32(-3)), 64)

    x = np.linspace(-300, 300, 64, dtype=np.float32)
    x[:8] = [0.5, 1.5, 2.5, -0.5, 254.5, 1e6, -1e6, 70000]
    got = np.zeros(64, np.uint8)
    Emulated(primfunc([TensorType("float32", (64,))], [TensorType("uint8", (64,))], body))(x, got)
    words = np.clip(np.rint(x), -32768, 32767).astype(np.int16) + np.int16(3)
    # Packing takes four lanes of each vector at a time.
    want = np.clip(words, 0, 255).astype(np.uint8).reshape(4, 4, 4).transpose(1, 0, 2).ravel()
    np.testing.assert_array_equal(got, want)


def test_bytes_are_looked_up_in_two_tables() -> None:
    rng = np.random.default_rng(0)
    x, table = (rng.permutation(256).astype(np.uint8) for _ in range(2))
    got = np.zeros(256, np.uint8)
    Emulated(lookup(Lookup((256,), "uint8"), AVX512_BF16, 1))(x, table, got)
    np.testing.assert_array_equal(got, table[x])


def test_a_kernel_that_this_processor_cannot_run_says_so() -> None:
    others = [isa for isa in (AVX_VNNI, AVX512_VNNI, AVX512_BF16, AMX) if missing(isa)]
    if not others:
        pytest.skip("this processor has everything")
    from hago.errors import MeasureError

    kernel = jit(lookup, Lookup((64,), "uint8"), others[0])
    arrays = np.zeros(64, np.uint8), np.zeros(256, np.uint8), np.zeros(64, np.uint8)
    assert kernel.assembly()
    for use in (kernel, kernel.time_s):
        with pytest.raises(MeasureError, match=rf"this processor lacks .*{missing(others[0])[0]}"):
            use(*arrays)


def test_what_the_processor_has_is_not_emulated() -> None:
    assert type(x86_kernel(lookup, Lookup((64,), "uint8"), AVX2)) is Jitted
