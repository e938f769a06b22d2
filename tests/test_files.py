"""Files are whole or not there, and a killed process leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hago.files
from hago.errors import StorageError
from hago.files import TemporaryFolder, write_atomic

ROOT = Path(__file__).resolve().parent.parent
UNNAMED = hasattr(os, "O_TMPFILE")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture(params=["unnamed", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How files are written: without a name, or beside their place, where the system cannot do that."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not UNNAMED:
        pytest.skip("this system has no unnamed files")
    return str(request.param)


def test_a_file_is_written_and_replaced(tmp_path: Path, way: str) -> None:
    path = tmp_path / "a [1].txt"
    for text in ("one", "two", "three"):
        write_atomic(path, text)
        assert path.read_text() == text
        assert names(tmp_path) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644
    write_atomic(path, b"code", mode=0o755)
    assert path.stat().st_mode & 0o777 == 0o755


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left on device"):
        patch.setattr(os, "fsync", full)
        write_atomic(path, "new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomic(tmp_path / "folder", "new")
    with pytest.raises(StorageError, match="No such file or directory"):
        write_atomic(tmp_path / "nowhere" / "file", "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("where", ["fsync", "fchmod", "link", "replace"])
def test_what_a_signal_interrupts_leaves_the_old_file(
    tmp_path: Path, way: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "link" and way == "named":
        pytest.skip("nothing is linked")
    write_atomic(tmp_path / "file", "old")

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, where, stopped)
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == ["file"]


_KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import hago.files
if {named}:
    del os.O_TMPFILE
def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
{before}
os.{where} = killed
{what}
"""


def killed(folder: Path, way: str, where: str, what: str, before: str = "") -> None:
    """Runs ``what`` in a process that is killed when it calls ``os.where``."""
    code = _KILLED.format(root=str(ROOT), named=way == "named", where=where, what=what, before=before)
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("where", ["fsync", "fchmod", "link", "replace"])
def test_a_killed_writer(tmp_path: Path, way: str, where: str) -> None:
    if where == "link" and way == "named":
        pytest.skip("nothing is linked")
    path = tmp_path / "model.so"
    path.write_text("old")
    (tmp_path / ".model.so.mine").write_text("kept")
    killed(tmp_path, way, where, "hago.files.write_atomic('model.so', bytes(1000))")
    assert path.read_text() == "old"
    if way == "unnamed" and where != "replace":
        assert names(tmp_path) == [".model.so.mine", "model.so"]
    if way == "named":
        write_atomic(path, "new")
        assert names(tmp_path) == [".model.so.mine", "model.so"]


def test_where_an_unnamed_file_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems and sandboxes have unnamed files, and refuse to link them."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    for text in ("one", "two"):
        write_atomic(tmp_path / "file", text)
        assert (tmp_path / "file").read_text() == text
    assert names(tmp_path) == ["file"]


def test_what_is_being_written_is_left_alone(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second writer of the same file comes while the first is at it."""
    path, sync = tmp_path / "file", os.fsync

    def meanwhile(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        write_atomic(path, "second")

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_atomic(path, "first")
    assert path.read_text() == "first"
    assert names(tmp_path) == ["file"]


def test_a_temporary_folder_of_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / "hago-out").mkdir()
    code = "folder = hago.files.TemporaryFolder(); open(folder.name + '/part', 'w').close(); os.fsync()"
    killed(tmp_path, "unnamed", "fsync", code)
    assert len(names(tmp_path)) == 3
    with TemporaryFolder(tmp_path) as first, TemporaryFolder(tmp_path) as second:
        assert names(tmp_path) == sorted(["hago-out", Path(first).name, Path(second).name])
    assert names(tmp_path) == ["hago-out"]


def test_a_temporary_folder_that_another_process_removes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, taken = os.open, []

    def removed_first(path: str, *arguments: Any, **named: Any) -> int:
        if not taken:
            taken.append(path)
            os.rmdir(path)
        return really(path, *arguments, **named)

    monkeypatch.setattr(os, "open", removed_first)
    with TemporaryFolder(tmp_path) as folder:
        assert names(tmp_path) == [Path(folder).name] and folder not in taken
    assert names(tmp_path) == []


_SAVES = """
sys.path.insert(0, {tests!r})
import hago
from test_threads import WEIGHTS, product
net = hago.compile(product(WEIGHTS[0]), threads=1, cache="cache")
"""


@pytest.mark.parametrize("where", ["fsync", "fchmod", "link", "waitpid"])
def test_a_killed_export_leaves_nothing(tmp_path: Path, where: str) -> None:
    """Killed while it links (the parent waits for the linker), and in each step of writing."""
    from hago.compiler.linker import linker
    from hago.spec import resolve_hw

    if linker() is None or not resolve_hw("auto").kernels_available or not UNNAMED:
        pytest.skip("nothing is saved here, or not without a name")
    (tmp_path / "out").mkdir()
    killed(tmp_path, "unnamed", where, "net.save('out/model.so')", _SAVES.format(tests=str(ROOT / "tests")))
    assert names(tmp_path / "out") == []
    left = [path.name for path in tmp_path.iterdir() if path.name not in ("cache", "out")]
    assert all(name.startswith(hago.files._MARK) for name in left)
    with TemporaryFolder(tmp_path):
        pass  # whatever comes next clears away
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]
