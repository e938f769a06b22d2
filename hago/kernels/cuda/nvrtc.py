"""CUDA source to machine code (cubin) by NVRTC, from pip packages alone: neither a driver nor a GPU is needed."""

from __future__ import annotations

from functools import cache
from typing import Any

from ...errors import BuildError, MissingExtraError

_PURPOSE = "compiling kernels for NVIDIA GPUs"
_LONGEST_LOG = 2000  # characters


def compile_cubin(source: str, arch: str, name: str = "kernel.cu") -> bytes:
    """The cubin of CUDA C++ ``source`` for one architecture ("sm_80"; "sm_90a" for what Hopper alone has).

    Nothing is included: the source brings along all that it uses. Raises MissingExtraError without the packages of
    the extra ``cuda``, BuildError (with the compiler's words) where the source is refused.
    """
    nvrtc = _nvrtc()
    program = _checked(nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], []))
    try:
        options = (f"--gpu-architecture={arch}", "--std=c++17", "-default-device", "--fmad=false", "--disable-warnings")
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if int(status):
            log = _text(nvrtc, program, "ProgramLog").decode(errors="replace")
            raise BuildError(f"NVRTC refuses the kernel: {log.strip()[:_LONGEST_LOG]}", where=f"{name} for {arch}")
        return _text(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(program)


@cache
def installed_version() -> str:
    """NVRTC's, as "NVRTC 13.0"; empty if it is not installed."""
    try:
        nvrtc = _nvrtc()
    except MissingExtraError:
        return ""
    major, minor = _checked(nvrtc, nvrtc.nvrtcVersion())
    return f"NVRTC {major}.{minor}"


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # loads the library, which is a package of its own
    except ImportError as error:
        raise MissingExtraError("cuda-bindings", "cuda", _PURPOSE) from error
    except Exception as error:
        raise MissingExtraError("nvidia-cuda-nvrtc", "cuda", _PURPOSE) from error
    return nvrtc


def _checked(nvrtc: Any, answer: tuple[Any, ...]) -> Any:
    status, *values = answer
    if int(status):
        raise BuildError(f"NVRTC fails: {nvrtc.nvrtcGetErrorString(status)[1].decode()}")
    return values[0] if len(values) == 1 else values


def _text(nvrtc: Any, program: Any, what: str) -> bytes:
    size = _checked(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program))
    data = bytearray(size)
    _checked(nvrtc, (*getattr(nvrtc, f"nvrtcGet{what}")(program, data),))
    return bytes(data)
