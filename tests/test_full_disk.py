"""A full disk, for real: a command says which file and how much is missing, ends with 3, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny

from hago.cli import main
from hago.compiler.linker import linker
from hago.search.trial_store import has_search
from hago.spec import resolve_hw

if linker() is None or not resolve_hw("auto").kernels_available:
    pytest.skip("a linker and kernels for this machine are needed", allow_module_level=True)

TUNE = "--data {here}/samples.npz --threads 1 --trials 1 --max-drop 0.5 --progress silent --cache {cache}"
COMMANDS = {
    "quantize": "quantize {here}/model.onnx --calibration {here}/samples.npz --cache {cache} --out {out}/q.onnx",
    "compile": "compile {here}/model.onnx --threads 1 --cache {cache} --out {out}/model.so",
    "build": "build {here}/model.onnx --hw x86-avx2 --cache {cache} --out {out}/board",
    "tune": f"tune {{here}}/model.onnx {TUNE} --out {{out}}/tuned",
    "report": f"report {{here}}/model.onnx --devices local {TUNE} --out {{out}}/report",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full-disk")
    tiny.write(folder)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many KiB. Skips where nothing can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kib: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"NOT TESTED: nothing can be mounted here: {error}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("command", COMMANDS)
def test_where_the_results_go(
    command: str, here: Path, disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = disk(8)
    assert main(COMMANDS[command].format(here=here, cache=here / "cache", out=out).split()) == 3
    said = capsys.readouterr().err
    assert f"error: {out}" in said and " needed" in said and " free)" in said and "Traceback" not in said
    assert "free some space" in said
    assert not [name for name in files(out) if name != "study.db"]
    assert not has_search(out / "tuned") and not has_search(out / "report" / "local")


@pytest.mark.parametrize("kib", [12, 60])
def test_where_kernels_are_kept(
    kib: int, here: Path, disk: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = disk(kib)
    assert main(COMMANDS["compile"].format(here=here, cache=full / "cache", out=tmp_path).split()) == 3
    said = capsys.readouterr().err
    assert f"error: {full / 'cache'}" in said and "the kernel cache cannot be written: No space left" in said
    assert " free)" in said and "--cache" in said
    assert all(name.endswith((".json", ".o", ".so")) for name in files(full))  # of kernels that are whole


def test_where_temporary_files_lie(
    here: Path,
    disk: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = disk(40)
    monkeypatch.setattr("tempfile.tempdir", str(full))
    for command in ("compile", "build"):
        assert main(COMMANDS[command].format(here=here, cache=here / "cache", out=tmp_path).split()) == 3
        said = capsys.readouterr().err
        assert f"temporary files in {full}" in said and "MiB needed" in said and "TMPDIR" in said
    assert files(full) == [] and not (tmp_path / "board").exists() and not (tmp_path / "model.so").exists()


def test_a_search_that_found_no_room_is_begun_anew(
    here: Path, disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command, without --resume, once there is room: also with another seed."""
    out = disk(60)
    command = COMMANDS["tune"].format(here=here, cache=here / "cache", out=out)
    assert main(command.split()) == 3
    subprocess.run(["mount", "-o", "remount,size=8m", str(out)], check=True)
    assert main([*command.split(), "--seed", "1"]) == 0, capsys.readouterr().err


def test_a_device_whose_files_cannot_be_written_is_reported(
    here: Path, disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """There is room for the search, and none for its network."""
    command = COMMANDS["report"].format(here=here, cache=here / "cache", out=disk(300))
    assert main(command.split()) == 3
    told = capsys.readouterr()
    assert "error: local: " in told.err and "No space left on device" in told.err and "model.so" in told.err
    assert "of float32" in told.out


def test_an_output_that_takes_nothing() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hago", "hw", "list"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 3 and b"No space left on device" in done.stderr and b"Exception" not in done.stderr
