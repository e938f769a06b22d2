from __future__ import annotations

import builtins
import struct
import sys
from typing import Any

import pytest

from hago.errors import BuildError, MissingExtraError
from hago.kernels.cuda.cuda_source import Launch, prelude
from hago.kernels.cuda.module import module_bytes
from hago.kernels.cuda.nvrtc import compile_cubin, installed_version
from hago.kernels.cuda.sass import disassemble

ADD = 'extern "C" __global__ void add(const int* a, int* b) { b[threadIdx.x] = a[threadIdx.x] + 1; }'


@pytest.fixture
def compiler() -> str:
    return installed_version() or pytest.skip("the extra cuda is not installed")


@pytest.mark.parametrize("arch", ("sm_75", "sm_80", "sm_87", "sm_89", "sm_90", "sm_90a"))
def test_a_cubin_is_made_without_a_gpu(compiler: str, arch: str) -> None:
    cubin = compile_cubin(ADD, arch)
    assert cubin.startswith(b"\x7fELF")
    sass = disassemble(cubin)
    assert sass.count("EXIT") >= 1 and 0 < sass.registers <= 255 and not sass.spills


def test_the_same_source_gives_the_same_cubin(compiler: str) -> None:
    assert compile_cubin(ADD, "sm_80") == compile_cubin(ADD, "sm_80")


def test_what_kernels_ask_of_the_hardware_compiles(compiler: str) -> None:
    assert compile_cubin(prelude() + ADD, "sm_80").startswith(b"\x7fELF")


def test_a_refused_source_is_told_in_the_compilers_words(compiler: str) -> None:
    with pytest.raises(BuildError, match=r"NVRTC refuses the kernel.*undefined"):
        compile_cubin("__global__ void f() { undefined_name; }", "sm_80")
    with pytest.raises(BuildError) as found:
        compile_cubin(prelude() + "__global__ void f() { undefined_name; }", "sm_80")
    assert "warning" not in str(found.value)  # of what the prelude has and the kernel does not use
    with pytest.raises(BuildError, match="NVRTC"):
        compile_cubin(ADD, "sm_1")


def test_a_missing_package_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("cuda"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.split(".")[0] == "cuda"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"compiling kernels.*'cuda-bindings'") as found:
        compile_cubin(ADD, "sm_80")
    assert found.value.hint == "pip install 'hago[cuda]'"


def test_a_module_holds_code_and_how_to_launch_it() -> None:
    data = module_bytes(b"code", [Launch("f", ("handle", "int32"), ("blockIdx.x",))])

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    types = struct.pack("<QBBHBBH", 2, 3, 64, 1, 0, 32, 1)
    one = text(b"f") + text(b"f") + types + struct.pack("<Q", 1) + text(b"blockIdx.x") + struct.pack("<Q", 0)
    assert data == text(b"cubin") + struct.pack("<Q", 1) + one + text(b"code")
