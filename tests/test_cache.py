"""The kernel cache on disk: shared by processes, damaged, refused, full, cleared."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

import hago.compiler.built
import hago.compiler.cache
import hago.compiler.linker
from hago.cli import main
from hago.compiler.build import build
from hago.compiler.cache import KernelCache, template_version
from hago.compiler.cache_folder import check_private, default_folder
from hago.compiler.linker import link, linker
from hago.errors import BuildError, HagoWarning, StorageError
from hago.kernels import TARGETS
from hago.lower import lower
from hago.measure.kernels import KernelTime
from hago.runtime.artifact import Artifact
from hago.runtime.checksum import has_valid_checksum
from hago.spec import resolve_hw

HOST = resolve_hw("auto")
if not HOST.kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)
needs_linker = pytest.mark.skipif(linker() is None, reason="without a linker nothing is kept on disk")
ROOT = Path(__file__).resolve().parent


def model(kernels: int = 2) -> onnx.ModelProto:
    """A chain of products, each of another shape: that many kernels."""
    rng = np.random.default_rng(0)
    nodes, arrays, sizes = [], [], [8, *(16 + 4 * i for i in range(kernels))]
    for i, shape in enumerate(pairwise(sizes)):
        arrays.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"t{i + 1}"], f"product{i}"))
    info = helper.make_tensor_value_info
    x, y = (info(f"t{i}", TensorProto.FLOAT, [5, n]) for i, n in ((0, sizes[0]), (kernels, sizes[-1])))
    graph = helper.make_graph(nodes, "chain", [x], [y], arrays)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True)


X = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)


class Compiled(list[tuple[int, int]]):
    """Notes every kernel that is compiled."""

    def __call__(self, done: int, total: int) -> None:
        self.append((done, total))


def compiled(cache: KernelCache, kernels: int = 2) -> tuple[Artifact, int]:
    """The network and how many kernels had to be compiled for it."""
    noted = Compiled()
    net = build(lower(model(kernels), HOST), HOST, cache=cache, progress=noted)
    return net, len(noted)


def entries(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"tvm-*/*{suffix}"))


# --- hit and miss --------------------------------------------------------------------------------


@needs_linker
def test_what_is_compiled_once_is_found_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    cache = KernelCache(folder)
    first, count = compiled(cache)
    total = len(entries(folder, ".so"))
    assert count == total == 2
    assert [len(entries(folder, s)) for s in (".so", ".o", ".json")] == [total] * 3
    assert all(map(has_valid_checksum, entries(folder, ".so")))
    assert sorted(p.name for p in folder.iterdir()) == [template_version()]
    assert folder.joinpath(template_version()).stat().st_mode & 0o077 == 0
    for again in (cache, KernelCache(folder)):
        second, missing = compiled(again)
        assert missing == 0
        assert np.array_equal(second(X)[0], first(X)[0])
    about = json.loads(entries(folder, ".json")[0].read_text())
    assert {"family", "params", "isa", "threads"} <= set(about)


@needs_linker
def test_other_templates_have_other_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, count = compiled(KernelCache(tmp_path))
    assert template_version().startswith("tvm-0.")
    monkeypatch.setattr(hago.compiler.cache, "template_version", lambda: "tvm-0-other")
    cache = KernelCache(tmp_path)
    before = cache.info()
    assert (before.kernels, before.stale_kernels) == (0, count) and before.stale_bytes > 0
    assert compiled(cache)[1] == count
    after = cache.info()
    assert (after.kernels, after.stale_kernels) == (count, count)
    assert cache.clear(stale_only=True) == after
    assert (cache.info().kernels, cache.info().stale_kernels) == (count, 0)
    assert compiled(KernelCache(tmp_path))[1] == 0
    cache.clear()
    assert (cache.info().kernels, cache.info().bytes) == (0, 0)
    assert compiled(KernelCache(tmp_path))[1] == count


def test_the_version_tells_every_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {template_version()}
    sources = (None, "a = 1", "a = 2", "a = 1\n")  # None: no template at all
    for number, (name, source) in enumerate([*(("dense.py", one) for one in sources), ("device.cuh", "int a;")]):
        package = tmp_path / f"target{number}" / "templates"  # templates of a target may lie in folders of their own
        package.mkdir(parents=True)
        (package.parent / "__init__.py").write_text("")
        if source is not None:
            (package / name).write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(TARGETS, "mine", package.parent.name)
        seen.add(template_version())
    assert len(seen) == 6


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "hago"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "hago"


def test_times_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = map(float, range(1, 1000))  # as on a quiet machine: none is to be measured anew
    monkeypatch.setattr(hago.compiler.built, "time_kernel", lambda *_, **__: KernelTime(next(measured), disturbed=0.0))
    net, _ = compiled(KernelCache(tmp_path))
    times = net.kernel_times(repeats=1)
    again = compiled(KernelCache(tmp_path))[0].kernel_times(repeats=1)
    assert [t for _, _, t in again] == [t for _, _, t in times]
    for path in entries(tmp_path, ".json"):
        path.write_text("{ torn")
    fresh = compiled(KernelCache(tmp_path))[0].kernel_times(repeats=1)
    assert len(fresh) == len(times) and all(t > 0 for _, _, t in fresh)


# --- damage --------------------------------------------------------------------------------------


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[len(data) // 2 :]
    elif how == "bit":
        data[len(data) // 2] ^= 1
    else:
        data.clear()
    # In a new file: changing one that is mapped changes the code that is running.
    path.unlink()
    path.write_bytes(data)


@needs_linker
@pytest.mark.parametrize("how", ["cut", "bit", "empty"])
def test_a_damaged_kernel_is_compiled_again(tmp_path: Path, how: str) -> None:
    first, _ = compiled(KernelCache(tmp_path))
    expected = first(X)[0]
    spoil(entries(tmp_path, ".so")[0], how)
    second, missing = compiled(KernelCache(tmp_path))
    assert missing == 1
    assert np.array_equal(second(X)[0], expected)
    assert compiled(KernelCache(tmp_path))[1] == 0


@needs_linker
@pytest.mark.parametrize("how", ["cut", "bit", "empty", "gone"])
def test_a_damaged_object_does_not_get_into_a_saved_network(tmp_path: Path, how: str) -> None:
    import hago

    first, _ = compiled(KernelCache(tmp_path / "cache"))
    expected = first(X)[0]
    broken = entries(tmp_path / "cache", ".o")[0]
    if how == "gone":
        broken.unlink()
    else:
        spoil(broken, how)
    net, _ = compiled(KernelCache(tmp_path / "cache"))
    net.save(tmp_path / "model.so")
    assert np.array_equal(hago.load(tmp_path / "model.so")(X)[0], expected)


# --- several processes ---------------------------------------------------------------------------

_BUILDER = """
import sys
sys.modules["torch"] = None  # tvm_ffi imports it where it is, for seconds
sys.path.insert(0, {tests!r})
from pathlib import Path
import numpy as np
from test_cache import X, compiled, KernelCache
Path({ready!r} + sys.argv[1]).touch()
while not Path({go!r}).exists():
    pass
net, count = compiled(KernelCache({folder!r}), {kernels})
print(count, net(X)[0].tobytes().hex())
"""


def builder(folder: Path, number: int, kernels: int) -> subprocess.Popen[str]:
    paths = {"ready": str(folder / "ready"), "go": str(folder / "go"), "folder": str(folder / "cache")}
    code = _BUILDER.format(tests=str(ROOT), kernels=kernels, **paths)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@needs_linker
def test_two_processes_fill_one_cold_cache(tmp_path: Path) -> None:
    both = [builder(tmp_path, number, 4) for number in (0, 1)]
    for number, process in enumerate(both):
        wait_for(tmp_path / f"ready{number}", process)
    (tmp_path / "go").touch()
    results = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    cache = KernelCache(tmp_path / "cache")
    net, missing = compiled(cache, 4)
    assert missing == 0
    assert {output.split()[1] for output, _ in results} == {net(X)[0].tobytes().hex()}
    assert [p.name for p in cache.folder.iterdir() if p.name.startswith(".")] == []


@needs_linker
def test_a_killed_writer_leaves_nothing_broken(tmp_path: Path) -> None:
    """Killed while it compiles, at several moments: whatever is there loads, the rest is compiled."""
    expected, folder = None, tmp_path / "cache"
    (tmp_path / "go").touch()
    for number, moment in enumerate((1, 2, 3)):
        process = builder(tmp_path, number, 6)
        wait_for(tmp_path / f"ready{number}", process)
        while len(entries(folder, ".so")) < moment and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = entries(folder, ".so")
    assert left and all(map(has_valid_checksum, left))
    cache = KernelCache(folder)
    net, missing = compiled(cache, 6)
    assert missing == len(entries(folder, ".so")) - len(left)
    expected, _ = compiled(KernelCache(tmp_path / "other"), 6)
    assert np.array_equal(net(X)[0], expected(X)[0])
    cache.clear()
    assert list(folder.glob("tvm-*")) == []


# --- folders that cannot be used -----------------------------------------------------------------


@needs_linker
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    compiled(KernelCache(tmp_path))
    folder = KernelCache(tmp_path).folder
    folder.chmod(mode)
    with pytest.raises(StorageError, match=r"others can write to it\n.*chmod go-w"):
        compiled(KernelCache(tmp_path))
    folder.chmod(0o755)
    assert compiled(KernelCache(tmp_path))[1] == 0


@needs_linker
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    compiled(KernelCache(tmp_path))
    os.chown(KernelCache(tmp_path).folder, 12345, 12345)
    with pytest.raises(StorageError, match=r"it belongs to another user \(12345\)\n.*chown it"):
        compiled(KernelCache(tmp_path))


def wide_open(folder: Path, _cache: Path) -> None:
    folder.chmod(0o777)


def sticky(folder: Path, _cache: Path) -> None:
    folder.chmod(0o1777)


def foreign(folder: Path, _cache: Path) -> None:
    os.chown(folder, 12345, 12345)


def link_into_the_open(folder: Path, cache: Path) -> None:
    (folder / "open").mkdir()
    cache.rename(folder / "open" / "cache")
    (folder / "open").chmod(0o777)
    cache.symlink_to("open/cache")


def link_of_another(_folder: Path, cache: Path) -> None:
    cache.rename(cache.with_name("elsewhere"))
    cache.symlink_to(cache.with_name("elsewhere"))
    os.chown(cache, 12345, 12345, follow_symlinks=False)


def safe_link(_folder: Path, cache: Path) -> None:
    cache.rename(cache.with_name("elsewhere"))
    cache.symlink_to(Path("..") / cache.parent.name / "elsewhere")


@needs_linker
@pytest.mark.parametrize(
    ("spoil_it", "refused"),
    [
        (wide_open, "above: the kernel cache contains .*others can write to it"),
        (foreign, "above: .*another user"),
        (link_into_the_open, "above/open: .*others can write to it"),
        (link_of_another, "above/cache: .*another user"),
        (safe_link, None),
        (sticky, None),
    ],
)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_the_way_to_the_folder_must_be_safe_too(
    tmp_path: Path, spoil_it: Callable[[Path, Path], None], refused: str | None, warm: bool
) -> None:
    """Whoever can replace a folder on the way, or a link, can put another cache in its place."""
    if spoil_it in (foreign, link_of_another) and os.getuid() != 0:
        pytest.skip("only root can give files away")
    above = tmp_path / "above"
    above.mkdir()
    cache = above / "cache"
    cache.mkdir(mode=0o700)
    if warm:
        compiled(KernelCache(cache))
    spoil_it(above, cache)
    if refused is None:
        assert compiled(KernelCache(cache))[1] == (0 if warm else 2)
        return
    with pytest.raises(StorageError, match=refused):
        compiled(KernelCache(cache))
    assert warm or not list(above.rglob("*.so"))


@needs_linker
def test_the_root_itself_must_be_closed_to_others(tmp_path: Path) -> None:
    compiled(KernelCache(tmp_path / "cache"))
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(StorageError, match=r"cache: .*others can write to it"):
        compiled(KernelCache(tmp_path / "cache"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_uses_what_is_theirs_or_roots() -> None:
    with tempfile.TemporaryDirectory() as made:  # pytest's own folder lets nobody else in
        place = Path(made)
        place.chmod(0o755)
        for user in (12345, 12346):
            (place / str(user)).mkdir()
            os.chown(place / str(user), user, user)
        os.seteuid(12345)
        try:
            check_private(place)
            check_private(place / "12345")
            with pytest.raises(StorageError, match=r"12346: .*another user \(12346\)"):
                check_private(place / "12346")
        finally:
            os.seteuid(0)


@needs_linker
def test_a_kernel_of_another_user_is_compiled_again(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    compiled(KernelCache(tmp_path))
    os.chown(entries(tmp_path, ".so")[0], 12345, 12345)
    assert compiled(KernelCache(tmp_path))[1] == 1
    assert compiled(KernelCache(tmp_path))[1] == 0


# --- a user without a place for it ---------------------------------------------------------------

_HOMELESS = """
import os, pwd, sys
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
sys.path.insert(0, {root!r})
from hago.cli import main
sys.exit(main(sys.argv[1:]))
"""


def hago_without(setting: dict[str, str], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line as a user whose number has no name, and whose environment says no more than ``setting``."""
    code = _HOMELESS.format(root=str(ROOT.parent))
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(cwd), **setting}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


@needs_linker
@pytest.mark.parametrize(
    "setting",
    [
        {},
        pytest.param({"HOME": "/proc/none"}, marks=pytest.mark.slow),
        pytest.param({"HOME": "/", "XDG_CACHE_HOME": "/proc/none"}, marks=pytest.mark.slow),
    ],
)
def test_without_a_home_it_compiles_and_runs(tmp_path: Path, setting: dict[str, str]) -> None:
    model, samples = map(str, tiny.write(tmp_path))
    place = tmp_path / "place"
    place.mkdir()
    done = hago_without(setting, "compile", model, "--threads", "1", "--out", "model.so", cwd=place)
    assert done.returncode == 0, done.stderr
    if os.getuid() != 0 or setting:  # root can write to /
        assert done.stderr.count("warning:") == done.stderr.count("the kernel cache") == 1
        assert "cannot be used (it cannot be created: " in done.stderr and "--cache" in done.stderr
    assert [path.name for path in place.iterdir()] == ["model.so"]
    done = hago_without(setting, "run", "model.so", "--data", samples, cwd=place)
    assert (done.returncode, done.stderr) == (0, "") and "top-1" in done.stdout


@needs_linker
def test_a_default_folder_that_others_can_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "hago").mkdir()
    (tmp_path / "hago").chmod(0o777)
    with pytest.warns(HagoWarning, match="hago cannot be used .*others can write to it.*--cache"):
        assert compiled(KernelCache())[1] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiled(KernelCache())[1] == 0  # in this process; and it is said once
    assert list((tmp_path / "hago").iterdir()) == []


@needs_linker
def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(StorageError, match=r"kernel cache cannot be created.*\n.*--cache"):
        compiled(KernelCache(tmp_path / "cache"))


class Disk:
    """A file system of its own, 1 MiB large, mounted for one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))

    def fill(self) -> None:
        with suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def read_only(self) -> None:
        self._mount("-o", "remount,ro", str(self.folder))

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False)

    def _mount(self, *arguments: str) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    mounted = Disk(tmp_path / "disk")
    yield mounted
    mounted.close()


@needs_linker
def test_a_full_disk_can_still_be_read_and_otherwise_says_so(disk: Disk) -> None:
    expected = compiled(KernelCache(disk.folder / "cache"))[0](X)[0]
    disk.fill()
    net, missing = compiled(KernelCache(disk.folder / "cache"))
    assert missing == 0 and np.array_equal(net(X)[0], expected)
    assert all(t > 0 for _, _, t in net.kernel_times(repeats=1))  # remembered in memory alone
    with pytest.raises(StorageError, match=r"No space left on device \(.* needed, .* free\)\n.*free some space"):
        compiled(KernelCache(disk.folder / "cache"), 3)
    with pytest.raises(StorageError, match="No space left on device"):
        net.save(disk.folder / "model.so")
    (disk.folder / "filler").unlink()
    assert compiled(KernelCache(disk.folder / "cache"), 3)[1] == 1
    assert sorted(p.name for p in disk.folder.iterdir()) == ["cache"]


@needs_linker
@pytest.mark.parametrize("kib", [4, 16, 40])
def test_a_disk_that_fills_up_meanwhile(disk: Disk, kib: int) -> None:
    """There is room for the object, or for a part of it, but not for all."""
    disk.fill()
    with (disk.folder / "filler").open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 1024 * kib)
    with pytest.raises(StorageError, match=r"No space left on device"):
        compiled(KernelCache(disk.folder / "cache"), 12)
    assert all(map(has_valid_checksum, [*entries(disk.folder / "cache", ".so"), *entries(disk.folder / "cache", ".o")]))
    (disk.folder / "filler").unlink()
    net, _ = compiled(KernelCache(disk.folder / "cache"))
    assert net(X)[0].shape == (5, 20)


@needs_linker
def test_a_read_only_cache_is_read_and_otherwise_says_so(disk: Disk) -> None:
    expected = compiled(KernelCache(disk.folder))[0](X)[0]
    disk.read_only()
    net, missing = compiled(KernelCache(disk.folder))
    assert missing == 0 and np.array_equal(net(X)[0], expected)
    assert all(t > 0 for _, _, t in net.kernel_times(repeats=1))
    with pytest.raises(StorageError, match=r"kernel cache cannot be written: Read-only.*\n.*--cache"):
        compiled(KernelCache(disk.folder), 3)
    with pytest.raises(StorageError, match="kernel cache cannot be created: Read-only"):
        compiled(KernelCache(disk.folder / "new"))


def test_without_a_linker_it_compiles_and_runs_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compiled(KernelCache(tmp_path / "disk"))[0](X)[0]
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(hago.compiler.linker, "find_spec", lambda name: None)
    linker.cache_clear()
    try:
        assert linker() is None
        cache = KernelCache(tmp_path / "memory")
        net, count = compiled(cache)
        assert count == 2 and np.array_equal(net(X)[0], expected)
        assert compiled(cache)[1] == 0  # remembered for this process
        assert not (tmp_path / "memory").exists()
        assert all(t > 0 for _, _, t in net.kernel_times(repeats=1))
        with pytest.raises(BuildError, match=r"a linker is needed.*\n.*binutils"):
            net.save(tmp_path / "model.so")
        with pytest.raises(BuildError, match="a linker is needed"):
            link([], tmp_path / "x.so")
        # What lies on disk already needs no linker.
        assert compiled(KernelCache(tmp_path / "disk"))[1] == 0
    finally:
        linker.cache_clear()


@needs_linker
def test_a_linker_that_fails_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "bad.o").write_text("no object")
    with pytest.raises(BuildError, match=r"x\.so: linking failed: .*bad\.o"):
        link([tmp_path / "bad.o"], tmp_path / "x.so")


# --- hago cache ----------------------------------------------------------------------------------


@needs_linker
def test_the_command_tells_and_clears(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache"
    assert main(["cache", "info", "--cache", str(folder)]) == 0
    assert "kernels  0 (0 B)" in capsys.readouterr().out
    assert not folder.exists()  # asking makes nothing
    compiled(KernelCache(folder))
    foreign = folder / "mine.txt"
    foreign.write_text("not a kernel")
    assert main(["cache", "info", "--cache", str(folder)]) == 0
    assert "kernels  2 (" in capsys.readouterr().out
    assert main(["cache", "clear", "--stale", "--cache", str(folder)]) == 0
    assert "deleted 0 kernels" in capsys.readouterr().out
    assert main(["cache", "clear", "--cache", str(folder)]) == 0
    assert "deleted 2 kernels" in capsys.readouterr().out
    assert list(folder.iterdir()) == [foreign]
