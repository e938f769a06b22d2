"""Which of several kernels a call takes: by times on a device, which the kernel cache keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tvm.script.ir_builder import tirx as T

from hago.compiler.cache import KernelCache
from hago.compiler.choose import time_alternatives, with_fastest
from hago.compiler.program import Program, kernel_step
from hago.compiler.toolchain import Toolchain, toolchain_of
from hago.kernels.common.calls import KernelCall
from hago.kernels.common.flat import Flat, primfunc
from hago.measure.kernels import KernelTime
from hago.spec import resolve_hw
from hago.tensor import TensorType

ROW = TensorType("int32", (64,))


@dataclass(frozen=True)
class Tile:
    size: int


def add_one(params: Tile, family: Any, threads: int) -> Any:
    def body(x: Flat, y: Flat) -> None:
        with T.serial(0, 64 // params.size) as i:
            for j in range(params.size):
                y.store(i * params.size + j, x.load(i * params.size + j) + 1)

    return primfunc([ROW], [ROW], body)


@pytest.fixture
def toolchain() -> Toolchain:
    return toolchain_of(resolve_hw("auto"), 1)


@pytest.fixture
def cache(tmp_path: Path) -> KernelCache:
    return KernelCache(tmp_path)


def program_of(toolchain: Toolchain) -> Program:
    call = KernelCall("add", Tile(1), add_one, ("x",), ("y",), alternatives=(Tile(2), Tile(4)))
    types = {"x": ROW, "y": ROW}
    return Program((kernel_step(call, call.inputs, types, toolchain),), ("x",), ("y",), types, {})


def chosen(program: Program, toolchain: Toolchain, cache: KernelCache, place: str = "here") -> Any:
    (step,) = with_fastest(program, toolchain, cache, place).steps
    assert step.call is not None
    return step.call.params


def remember(program: Program, toolchain: Toolchain, cache: KernelCache, place: str, **seconds: float) -> None:
    (step,) = program.steps
    for name, value in seconds.items():
        assert step.call is not None
        params = Tile(int(name.removeprefix("tile")))
        key = kernel_step(replace(step.call, params=params), step.inputs, program.types, toolchain).key
        cache.remember_time(key or "", place, KernelTime(value, 0.0))


def test_the_estimate_holds_until_all_are_timed(toolchain: Toolchain, cache: KernelCache) -> None:
    program = program_of(toolchain)
    assert chosen(program, toolchain, cache) == Tile(1)
    remember(program, toolchain, cache, "here", tile2=1e-6, tile4=2e-6)
    assert chosen(program, toolchain, cache) == Tile(1)
    remember(program, toolchain, cache, "here", tile1=3e-6)
    assert chosen(program, toolchain, cache) == Tile(2)


def test_this_place_counts_before_others(toolchain: Toolchain, cache: KernelCache) -> None:
    program = program_of(toolchain)
    remember(program, toolchain, cache, "there", tile1=3e-6, tile2=2e-6, tile4=1e-6)
    assert chosen(program, toolchain, cache) == Tile(4)
    remember(program, toolchain, cache, "here", tile1=1e-6, tile2=2e-6, tile4=3e-6)
    assert chosen(program, toolchain, cache) == Tile(1) and chosen(program, toolchain, cache, "there") == Tile(4)


def test_times_outlast_the_process_and_the_compiler(toolchain: Toolchain, cache: KernelCache) -> None:
    program = program_of(toolchain)
    remember(program, toolchain, cache, "there", tile1=3e-6, tile2=1e-6, tile4=2e-6)
    later = KernelCache(cache.root)
    assert chosen(program, toolchain, later) == Tile(2)
    time_alternatives(program, toolchain, later, toolchain.backend.executor.place())  # compiles them
    assert chosen(program, toolchain, KernelCache(cache.root), "there") == Tile(2)


def test_all_are_timed_once(toolchain: Toolchain, cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    program, place = program_of(toolchain), toolchain.backend.executor.place()
    time_alternatives(program, toolchain, cache, place)
    (step,) = program.steps
    assert step.key is not None and place in cache.times_of(step.key)
    monkeypatch.setattr("hago.compiler.choose.compile_missing", lambda *_: pytest.fail("timed again"))
    time_alternatives(program, toolchain, cache, place)
    assert chosen(program, toolchain, cache, place) in (Tile(1), Tile(2), Tile(4))
