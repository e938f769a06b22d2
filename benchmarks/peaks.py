"""What this processor reaches at best: dot products in a loop that does little else, and copying from each cache.

Kernels are told against these, measured in the same run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from hago.kernels.common.flat import primfunc
from hago.kernels.cpu.dot import DOTS
from hago.kernels.cpu.families import Isa
from hago.kernels.cpu.ir_builder import argument
from hago.kernels.cpu.jit import jit
from hago.tensor import TensorType

_REPEATS = 2000


def dot_peak(dot: str, isa: Isa) -> float:
    """Multiply-adds per second of one core that does nothing else."""
    if DOTS[dot].tiles:
        return _timed(_tile_loop, dot, isa, 4 * _REPEATS * 16 * 16 * 16 * DOTS[dot].pack)
    pixels, vectors = _sums(isa)
    return _timed(_vector_loop, dot, isa, pixels * vectors * _REPEATS * isa.lanes * DOTS[dot].pack)


def _sums(isa: Isa) -> tuple[int, int]:
    return (5, 2) if isa.registers == 16 else (12, 2)


def _timed(template: Any, dot: str, isa: Isa, macs: int) -> float:
    kernel = jit(template, dot, isa)
    kind = DOTS[dot]
    lanes = isa.lanes * kind.pack
    x, w = np.ones(16 * lanes, kind.weight_numpy), np.ones(2 * lanes, kind.weight_numpy)
    return macs / kernel.time_s(x, w, np.zeros(24 * 256, "int32" if kind.integer else "float32"))


def _vector_loop(dot: str, isa: Isa, _threads: int) -> Any:
    """Sums of P x V products in every turn, one operand from the nearest cache, so that none is computed twice."""
    kind, (pixels, vectors) = DOTS[dot], _sums(isa)
    acc_type = f"{'int32' if kind.integer else 'float32'}x{isa.lanes}"
    lanes = isa.lanes * kind.pack
    vector_type = f"{kind.weight_numpy.name}x{lanes}"
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        x = argument("x", (16 * lanes,), kind.weight_numpy.name)
        w = argument("w", (2 * lanes,), kind.weight_numpy.name)
        y = argument("y", (24 * 256,), acc_type.split("x")[0])
        weights = [T.bind(w.vload([v * lanes], vector_type)) for v in range(vectors)]
        acc = T.alloc_buffer((pixels * vectors,), acc_type, scope="local")
        for i in range(pixels * vectors):
            T.buffer_store(acc, y.vload([i * isa.lanes], acc_type), [i])
        with kind.scope(isa), T.serial(0, _REPEATS) as turn:
            start = T.bind(turn % 4)
            for p in range(pixels):
                a = T.bind(x.vload([(start + p) * lanes], vector_type))
                for v in range(vectors):
                    i = p * vectors + v
                    T.buffer_store(acc, kind.step(isa, acc[i], a, weights[v]), [i])
        for i in range(pixels * vectors):
            T.buffer_store(y, acc[i], [T.ramp(i * isa.lanes, 1, isa.lanes)])
    return builder.get()


def _tile_loop(dot: str, isa: Isa, _threads: int) -> Any:
    kind = DOTS[dot]
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1
    shapes[16:32].view(np.uint16)[:] = 64
    shapes[48:56] = 16
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        lanes = isa.lanes * kind.pack
        argument("x", (16 * lanes,), kind.weight_numpy.name)
        argument("w", (2 * lanes,), kind.weight_numpy.name)
        y = argument("y", (24 * 256,), "int32" if kind.integer else "float32")
        config = T.alloc_buffer((16,), "int32", scope="local")
        for i, word in enumerate(shapes.view(np.int32)):
            T.buffer_store(config, T.int32(int(word)), [i])
        T.evaluate(T.call_llvm_intrin("void", "llvm.x86.ldtilecfg", config.access_ptr("r")))
        for i in range(8):
            T.evaluate(T.call_llvm_intrin("void", "llvm.x86.tilezero", T.uint8(i)))
        with T.serial(0, _REPEATS):
            for i in range(4):
                arguments = T.uint8(i), T.uint8(4 + i % 2), T.uint8(6 + i // 2)
                T.evaluate(T.call_llvm_intrin("void", kind.tile_instruction, *arguments))
        for i in range(4):
            place = y.access_ptr("w", offset=256 * i)
            T.evaluate(T.call_llvm_intrin("void", "llvm.x86.tilestored64", T.uint8(i), place, T.int64(64)))
        T.evaluate(T.call_llvm_intrin("void", "llvm.x86.tilerelease"))
    return builder.get()


def copy_bandwidth(nbytes: int, isa: Isa) -> float:
    """Bytes read plus bytes written per second, copying ``nbytes`` again and again on one core."""
    lanes = isa.bits // 8
    count = max(1, nbytes // lanes)
    kind = TensorType("uint8", (count * lanes,))

    def template(_params: int, _isa: Isa, _threads: int) -> Any:
        def body(x: Any, y: Any) -> None:
            with T.serial(0, count) as i:
                y.store(i * lanes, x.load(i * lanes, lanes), lanes)

        return primfunc([kind], [kind], body)

    kernel = jit(template, count, isa)
    x = np.ones(kind.shape, np.uint8)
    return 2 * count * lanes / kernel.time_s(x, np.zeros_like(x))
