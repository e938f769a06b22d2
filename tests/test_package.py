"""What is shipped: the wheel, the public names, and files that give nothing away about where they were made."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import hago

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {"hago": "hago", "search": "hago/search", "hw_specs": "hago/hw_specs"}
# An absolute path of somebody's machine, or a note to oneself.
_LEAKS = re.compile(rb"(?<![\w.$}/])/(?:work|home|root|Users|mnt|tmp)/\w|\b(?:TODO|FIXME|XXX)\b")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, since setuptools leaves a build folder whose stale files would get into the wheel."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("building the wheel needs pip")
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in SOURCES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(place), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = place.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_only_top_level_package_is_hago(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hago"}
    assert len(tops) == 2


def test_the_wheel_holds_every_source_file_and_every_data_file(wheel: zipfile.ZipFile) -> None:
    expected = {
        f"{target}/{path.relative_to(ROOT / name).as_posix()}"
        for name, target in SOURCES.items()
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not _below_a_link(path)
    }
    packed = {name for name in wheel.namelist() if name.startswith("hago/")}
    assert packed == expected
    for name in (
        "hago/py.typed",
        "hago/search/__init__.py",
        "hago/hw_specs/x86-avx512-vnni.yaml",
        "hago/cli/__init__.py",
    ):
        assert name in packed


def _below_a_link(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents)


def test_the_metadata_name_the_licence_the_command_and_the_pins(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info" in name}
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert metadata["Name"] == "hago"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert "hago = hago.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    needs = [need.replace(" ", "") for need in metadata.get_all("Requires-Dist") or []]
    # Other versions of TVM have other private interfaces; 0.1.15 of its FFI crashes.
    assert "apache-tvm<0.28,>=0.27" in needs
    assert "apache-tvm-ffi<0.1.15,>=0.1.14" in needs


def test_the_repository_names_no_path_of_any_machine() -> None:
    found = []
    for path in _repository_files():
        for match in _LEAKS.finditer(path.read_bytes()):
            found.append(f"{path.relative_to(ROOT)}: {match.group().decode(errors='replace')}")
    own = "tests/test_package.py"
    assert [text for text in found if not text.startswith(own)] == []


def _repository_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_no_file_that_is_read_can_run_code() -> None:
    unsafe = re.compile(r"allow_pickle\s*=\s*True|\bpickle\.loads?\(|yaml\.(unsafe_load|full_load)|(?<![.\w])eval\(")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for folder in SOURCES
        for path in sorted((ROOT / folder).rglob("*.py"))
        for match in unsafe.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_every_public_name_is_there() -> None:
    for name in hago.__all__:
        assert getattr(hago, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'tuen'"):
        hago.tuen  # noqa: B018


def test_the_promised_signatures_hold() -> None:
    promised = {
        hago.tune: "model hw data calibration metric max_drop trials budget seed threads out",
        hago.compile: "model hw batch threads",
        hago.load: "path",
        hago.quantize: "model strategy calibration hw",
    }
    for function, names in promised.items():
        parameters = inspect.signature(function).parameters
        assert list(parameters)[: len(names.split())] == names.split()
    tune = inspect.signature(hago.tune).parameters
    defaults = {name: tune[name].default for name in ("hw", "metric", "max_drop", "trials", "budget", "seed")}
    assert defaults == {"hw": "auto", "metric": "top1", "max_drop": 0.01, "trials": 40, "budget": None, "seed": 0}


def test_loading_a_network_needs_neither_compiler_nor_search() -> None:
    code = (
        "import sys, hago; hago.load; "
        "heavy = {'onnx', 'onnx_ir', 'optuna', 'scipy', 'yaml', 'rich', 'jinja2', 'hago.compiler', 'hago.search'}; "
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"imported: {done.stderr}"
