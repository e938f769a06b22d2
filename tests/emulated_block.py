"""CUDA source, as NVRTC gets it, compiled for this processor and run on an emulated block of threads."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from hago.kernels.cuda.cuda_source import KernelSource

HEADER = Path(__file__).with_name("emulated_block.h")
FAULTS = ("", "divergent barrier", "outside of memory", "never waited for", "misaligned")
_OPTIONS = ("-O1", "-std=c++17", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-fPIC")
_SIGNATURE = re.compile(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\)")
_DYNAMIC = re.compile(r"extern __shared__[^;]*?(\w+)\[\];")
_STATIC = re.compile(r"__shared__ ((?:__align__|alignas)\(\d+\) )?")

Dimensions = tuple[int, int, int]


class EmulatedKernel:
    """One kernel of a source; ``arguments`` are its parameters' names, in order."""

    def __init__(self, kernel: str, shared_bytes: int = 0) -> None:
        """``kernel`` is `KernelSource.kernel`; ``shared_bytes`` what it is launched with."""
        found = _SIGNATURE.search(kernel)
        assert found is not None, kernel[:300]
        name, parameters = found.groups()
        types = [re.sub(r"__restrict__|\w+$", "", one.strip()).strip() for one in parameters.split(",")]
        self.arguments = [re.findall(r"\w+", one)[-1] for one in parameters.split(",")]
        passed = ", ".join(f"({kind})data[{i}]" for i, kind in enumerate(types))
        body = _STATIC.sub("static ", _DYNAMIC.sub(rf"uchar* \1 = emulated::dynamic_shared({shared_bytes});", kernel))
        self._run = _library(f'#include "{HEADER.name}"\n{body}\n{_ENTRY % f"{name}({passed})"}')

    def __call__(self, arrays: Sequence[np.ndarray], grid: Dimensions, block: Dimensions, seed: int = 0) -> str:
        """Runs it; ``arrays`` hold their new values afterwards. Returns "" or the fault that was found."""
        assert len(arrays) == len(self.arguments) and all(array.flags.c_contiguous for array in arrays)
        pointers = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
        sizes = (ctypes.c_long * len(arrays))(*[array.nbytes for array in arrays])
        dimensions = [(ctypes.c_int * 3)(*given) for given in (grid, block)]
        return FAULTS[self._run(pointers, sizes, len(arrays), *dimensions, ctypes.c_uint(seed))]


def emulated(
    source: KernelSource, shared_bytes: int = 0, edit: Callable[[str], str] = lambda kernel: kernel
) -> EmulatedKernel:
    """The kernel of a source, after ``edit`` of its text."""
    return EmulatedKernel(edit(source.kernel), shared_bytes)


def can_emulate() -> bool:
    """Whether there is a compiler of C++."""
    return shutil.which("g++") is not None


_ENTRY = """
extern "C" int run(void** arrays, const long* bytes, int count, const int* grid, const int* block, unsigned seed) {
  std::vector<emulated::Guarded> guarded;
  std::vector<void*> data;
  for (int i = 0; i < count; i++) {
    guarded.emplace_back(arrays[i], bytes[i]);
    data.push_back(guarded[i].data);
  }
  auto body = [=] { %s; };
  const int fault = emulated::run({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, seed, body);
  for (int i = 0; i < count; i++) guarded[i].release(arrays[i], bytes[i]);
  return fault;
}
"""


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder with the header, compiled once for all kernels."""
    place = tempfile.TemporaryDirectory()
    shutil.copy(HEADER, place.name)
    _compile(place.name, "-x", "c++-header", HEADER.name, "-o", f"{HEADER.name}.gch")
    return place


@cache
def _library(text: str) -> Callable[..., int]:
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    place = Path(_folder().name)
    (place / f"{name}.cpp").write_text(text)
    _compile(str(place), "-shared", f"{name}.cpp", "-o", f"{name}.so")
    return ctypes.CDLL(str(place / f"{name}.so")).run  # type: ignore[no-any-return]


def _compile(folder: str, *arguments: str) -> None:
    done = subprocess.run(["g++", *_OPTIONS, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
