"""What a machine without any of our packages needs: TVM's runtime for CPython 3.12, and Hago's own sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

PYTHON = "3.12"
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64")
_WHEELS = ("apache-tvm-ffi", "ml_dtypes", "typing_extensions")
# TVM's wheel (100 MB, nearly all of it the compiler) serves every Python, so it is taken as it is installed here.
_LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_cuda.so", "libtvm_runtime_extra.so")
_NOT_NEEDED = ("include", "3rdparty", "cython", "*.pyi", "*.h", "*.cmake", "__pycache__", "licenses")


def copy_runtime(site: Path) -> None:
    """Fills the folder ``site``, to be put on ``sys.path`` there. Needs pip and a package index."""
    site.mkdir()
    with tempfile.TemporaryDirectory() as place:
        for wheel in _downloaded(Path(place)):
            unpacked = Path(place) / wheel.stem
            with zipfile.ZipFile(wheel) as file:
                file.extractall(unpacked)
            for item in unpacked.iterdir():
                if not item.name.endswith((".dist-info", ".libs", ".data")):
                    _copy(item, site / item.name)
    tvm = _home("tvm")
    _copy(tvm, site / "tvm", "lib", "3rdparty", "src", "include")
    for library in _LIBRARIES:
        (site / "tvm" / "lib").mkdir(exist_ok=True)
        shutil.copy(tvm / "lib" / library, site / "tvm" / "lib" / library)
    _copy(_home("hago"), site / "hago", "hw_specs", "search", "report", "methods", "normalize")


def _downloaded(place: Path) -> list[Path]:
    wanted = [f"{name}=={version(name)}" for name in _WHEELS]
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
        "--python-version", PYTHON, "--implementation", "cp", *platforms, "--dest", str(place), *wanted,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pip cannot download the wheels for Python {PYTHON}: {done.stderr.strip()[-500:]}")
    return sorted(place.glob("*.whl"))


def _home(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def _copy(source: Path, target: Path, *without: str) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_NOT_NEEDED, *without))
    else:
        shutil.copy(source, target)
