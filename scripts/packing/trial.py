"""Runs a bundle without a GPU: wholly on the emulated block, or up to the driver, with a driver that does nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hago.compiler.cache import KernelCache
from hago.spec import load_spec

from .models import Source, digits

ROOT = Path(__file__).resolve().parents[2]
_HW = "nvidia-h100"


def run(bundle: Path | None) -> int:
    """What `gpu_bundle.py --try` does; returns the exit code."""
    if bundle is not None:
        return up_to_the_driver(bundle)
    with tempfile.TemporaryDirectory() as place:
        results = emulated(Path(place), [digits(ROOT)], ("int8",), (1,), KernelCache(Path(place) / "kernels"))
        found = failures(results) + [
            f"wrong: {name}" for name, one in results["exactness"]["networks"].items() if not one["right"]
        ]
        print("\n".join(found) if found else "all stages run on the emulated block, and all outputs are right")
        return 1 if found else 0


def emulated(
    place: Path, sources: Sequence[Source], precisions: Sequence[str], batches: Sequence[int], cache: KernelCache
) -> dict[str, Any]:
    """Packs these networks into ``place``, runs all stages on the emulated block, and returns the results."""
    from gpu_bundle import make_bundle

    bundle = place / "bundle"
    make_bundle(bundle, sources, load_spec(_HW), batches, precisions, cache, for_emulation=True)
    paths = [ROOT / "scripts", ROOT / "scripts" / "packing", ROOT / "tests", ROOT]
    run_bundle(sys.executable, bundle, {"PYTHONPATH": os.pathsep.join(map(str, paths))}, "--device", "packing.emulated")
    return dict(json.loads((bundle / "results" / "gpu.json").read_text()))


def up_to_the_driver(bundle: Path) -> int:
    """Runs a bundle with Python 3.12 and libraries in the place of CUDA's that do nothing; 0 if it gets through.

    Networks give wrong results then, and nothing else may fail.
    """
    python = _python()
    with tempfile.TemporaryDirectory() as place:
        make_stubs(Path(place))
        run_bundle(python, bundle, {"LD_LIBRARY_PATH": place})
    found = failures(json.loads((bundle / "results" / "gpu.json").read_text()))
    print("\n".join(found) if found else "all stages reach the driver")
    return 1 if found else 0


def failures(results: Mapping[str, Any]) -> list[str]:
    """What failed, but for engines that are not installed; wrong outputs are no failure here."""
    found = [f"{stage}: {end}" for stage, end in results["ends"].items() if end != "done"]
    for stage in results["ends"]:
        for where, told in results.get(stage, {}).get("errors", {}).items():
            if isinstance(told, dict):  # a text says what is not installed
                found.append(f"{stage}: {where}: {told['error']}")
    return found + [f"not built: {one}" for one in results["bundle"]["not_built"]]


def run_bundle(python: str, bundle: Path, environment: Mapping[str, str], *words: str) -> int:
    """Runs a bundle's run.py; returns its exit code."""
    command = [python, str(bundle / "run.py"), *words]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def _python() -> str:
    """A Python 3.12 with numpy. Exits without one."""
    found = os.environ.get("HAGO_PYTHON312", "python3.12")
    check = "import sys, numpy; assert sys.version_info[:2] == (3, 12)"
    try:
        subprocess.run([found, "-c", check], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        sys.exit("this needs Python 3.12 with numpy: name it by HAGO_PYTHON312=/path/to/python3.12")
    return found


def make_stubs(folder: Path) -> None:
    """Writes libcuda.so.1 and libcudart.so.13 that answer every call with success, and do nothing."""
    spec = find_spec("tvm")
    assert spec is not None and spec.submodule_search_locations
    library = Path(next(iter(spec.submodule_search_locations))) / "lib" / "libtvm_runtime_cuda.so"
    listed = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    asked = {word.partition("@")[0] for word in listed.stdout.split() if word.startswith("cu")}
    own = set(re.findall(r'"(cu[A-Z]\w+)"', (ROOT / "hago/kernels/cuda/driver.py").read_text()))
    own |= {"cuMemcpyDtoDAsync_v2"}
    _stub(folder / "libcudart.so.13", {name for name in asked if name.startswith("cuda")}, versioned=True)
    _stub(folder / "libcuda.so.1", {name for name in asked | own if not name.startswith("cuda")}, versioned=False)


_MEANINGS = {
    "cudaMalloc": "(void** to, unsigned long n) { *to = malloc(n); return 0; }",
    "cudaMallocHost": "(void** to, unsigned long n) { *to = malloc(n); return 0; }",
    "cudaFree": "(void* it) { free(it); return 0; }",
    "cudaMemcpyAsync": "(void* to, void* from, unsigned long n) { __builtin_memcpy(to, from, n); return 0; }",
    "cudaMemcpy": "(void* to, void* from, unsigned long n) { __builtin_memcpy(to, from, n); return 0; }",
    "cudaGetDeviceCount": "(int* n) { *n = 1; return 0; }",
    "cudaGetDevice": "(int* n) { *n = 0; return 0; }",
    "cuDeviceGetCount": "(int* n) { *n = 1; return 0; }",
    "cuDeviceGetName": '(char* to, int n) { __builtin_strcpy(to, "no GPU"); return 0; }',
    "cuDeviceGetAttribute": "(int* to, int which) { *to = which == 75 ? 9 : which == 76 ? 0 : 100; return 0; }",
    "cuDriverGetVersion": "(int* to) { *to = 13000; return 0; }",
    "cuEventElapsedTime": "(float* to) { *to = 0.5f; return 0; }",
}


def _stub(path: Path, functions: set[str], versioned: bool) -> None:
    texts = [
        f'const char* {name}() {{ return "stub"; }}'
        if "ErrorString" in name and name.startswith("cuda")
        else f"int {name}{_MEANINGS.get(name, '() { return 0; }')}"
        for name in sorted(functions)
    ]
    source = path.with_suffix(".c")
    source.write_text("#include <stdlib.h>\n" + "\n".join(texts))
    options = [f"-Wl,-soname,{path.name}"]
    if versioned:
        script = path.with_suffix(".map")
        script.write_text(f"{path.name} {{ global: *; }};")
        options.append(f"-Wl,--version-script={script}")
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", *options, str(source), "-o", str(path)], check=True)
