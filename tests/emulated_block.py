"""CUDA source, as NVRTC gets it, compiled for this processor and run on an emulated block of threads."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from itertools import count
from pathlib import Path

import numpy as np

from hago.files import TemporaryFolder
from hago.kernels.cuda.cuda_source import KernelSource

HERE = Path(__file__).parent
SOURCES = ("emulated_block.h", "emulated_block.cpp", "fibers.h")
BUILT = HERE.parent / "build" / "emulated"
FAULTS = ("", "divergent barrier", "outside of memory", "never waited for", "misaligned")

_OPTIONS = ("-std=c++17", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-fPIC", "-shared")
_AT_ONCE = 8  # kernels in one run of the compiler
_KERNEL = 'extern "C" __global__'
_SIGNATURE = re.compile(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\)")
_DYNAMIC = re.compile(r"extern __shared__ (?:(?:__align__|alignas)\(\d+\) )?([\w ]+?) (\w+)\[\];")
_STATIC = re.compile(r"__shared__ (?:(?:__align__|alignas)\(\d+\) )?([\w ]+?) (\w+)\[(\d+)\];")

Dimensions = tuple[int, int, int]


class EmulatedKernel:
    """One kernel of a source, compiled when it is first run.

    ``arguments`` are its parameters' names, in order; ``body`` is its code.
    """

    def __init__(self, kernel: str, shared_bytes: int = 0) -> None:
        """``kernel`` is `KernelSource.kernel`; ``shared_bytes`` what it is launched with."""
        found = _SIGNATURE.search(kernel)
        assert found is not None, kernel[:300]
        self._name, parameters = found.groups()
        self._types = [re.sub(r"__restrict__|\w+$", "", one.strip()).strip() for one in parameters.split(",")]
        self.arguments = [re.findall(r"\w+", one)[-1] for one in parameters.split(",")]
        slots = count(1)
        body = _DYNAMIC.sub(
            rf"\1* \2 = (\1*)emulated::shared_bytes(0, {shared_bytes});", kernel.replace(_KERNEL, "static")
        )
        self.body = _STATIC.sub(
            lambda f: f"auto& {f[2]} = emulated::shared_array<{f[1]}, {f[3]}>({next(slots)});", body
        )
        self.key = "k" + sha256(self.body.encode()).hexdigest()[:24]

    @property
    def text(self) -> str:
        """C++ of the kernel, and of a function of its key's name that calls it with an array of pointers."""
        passed = ", ".join(f"({kind})data[{i}]" for i, kind in enumerate(self._types))
        return (
            f"namespace in_{self.key} {{\n{self.body}\n}}\n"
            f'extern "C" void {self.key}(void** data) {{ in_{self.key}::{self._name}({passed}); }}\n'
        )

    def __call__(self, arrays: Sequence[np.ndarray], grid: Dimensions, block: Dimensions, seed: int = 0) -> str:
        """Runs it; ``arrays`` hold their new values afterwards. Returns "" or the fault that was found."""
        assert len(arrays) == len(self.arguments) and all(array.flags.c_contiguous for array in arrays)
        compile_kernels([self])
        pointers = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
        sizes = (ctypes.c_long * len(arrays))(*[array.nbytes for array in arrays])
        dimensions = [(ctypes.c_int * 3)(*given) for given in (grid, block)]
        body = getattr(_loaded(self.key), self.key)
        return FAULTS[_block().run(body, pointers, sizes, len(arrays), *dimensions, ctypes.c_uint(seed))]


def emulated(
    source: KernelSource, shared_bytes: int = 0, edit: Callable[[str], str] = lambda kernel: kernel
) -> EmulatedKernel:
    """The kernel of a source, after ``edit`` of its text."""
    return EmulatedKernel(edit(source.kernel), shared_bytes)


def can_emulate() -> bool:
    """Whether there is a compiler of C++."""
    return shutil.which("g++") is not None


def compile_kernels(kernels: Iterable[EmulatedKernel], jobs: int = 1) -> None:
    """Compiles those that are not compiled yet, several at once. What was compiled is kept in `BUILT`."""
    folder = _folder()
    missing = {kernel.key: kernel for kernel in kernels if not (folder / f"{kernel.key}.so").is_file()}
    groups = [list(missing.values())[i : i + _AT_ONCE] for i in range(0, len(missing), _AT_ONCE)]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(_compile_group, groups))


def _compile_group(kernels: Sequence[EmulatedKernel]) -> None:
    folder = _folder()
    with TemporaryFolder(folder) as place:
        (Path(place) / "kernels.cpp").write_text(
            f'#include "{SOURCES[0]}"\n' + "".join(kernel.text for kernel in kernels)
        )
        _compile(Path(place), "-O1", f"-I{HERE}", "kernels.cpp", "-o", "kernels.so")
        for kernel in kernels:  # the same file under the names of all its kernels
            link = Path(place) / f"{kernel.key}.so"
            os.link(Path(place) / "kernels.so", link)
            os.replace(link, folder / link.name)


@cache
def _folder() -> Path:
    """Of kernels compiled with these very headers; those of others are removed."""
    digest = sha256("".join((HERE / name).read_text() for name in SOURCES).encode()).hexdigest()[:16]
    folder = BUILT / digest
    if not folder.is_dir():
        shutil.rmtree(BUILT, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def _block() -> ctypes.CDLL:
    """emulated_block.cpp, whose names all kernels see."""
    library = _folder() / "block.so"
    if not library.is_file():
        with TemporaryFolder(_folder()) as place:
            _compile(Path(place), "-O3", "-march=native", str(HERE / SOURCES[1]), "-o", "block.so")
            os.replace(Path(place) / "block.so", library)
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@cache
def _loaded(key: str) -> ctypes.CDLL:
    _block()
    return ctypes.CDLL(str(_folder() / f"{key}.so"))


def _compile(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["g++", *_OPTIONS, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
