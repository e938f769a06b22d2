"""Killed at any moment, two at once, hostile files: nothing is lost, nothing is run that came with data."""

from __future__ import annotations

import ast
import io
import multiprocessing
import os
import random
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny

import hago
from hago.calibrate import Calibration
from hago.cli import main
from hago.errors import HagoError
from hago.record import Record
from hago.record_file import read_records
from hago.spec import load_spec, resolve_hw
from hago.strategy import Strategy

HERE = Path(__file__).resolve().parent
HOST = resolve_hw("auto")
needs_kernels = pytest.mark.skipif(not HOST.kernels_available, reason="there are no kernels for this machine")
FILES = {"strategy.yaml", "model.qdq.onnx", "model.so", "records.jsonl", "report.html", "report.md", "study.db"}


# --- killed, and two at once ---------------------------------------------------------------------


def run_command(arguments: list[str], output: str) -> None:
    """``hago ARGUMENTS`` in a process of its own, its output in a file."""
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.exit(main(arguments))


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Makes processes that have imported Hago already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs a fork server")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hago.tuning.opening", "test_robustness"])
    return context


class Tunes:
    """Runs ``hago tune`` on the tiny network, all with one kernel cache."""

    def __init__(self, folder: Path, processes: ForkServerContext) -> None:
        self.folder, self._processes = folder, processes
        self.model, self.samples = tiny.write(folder)
        self.cache = folder / "kernels"

    def start(self, out: Path, *more: str, trials: int) -> ForkServerProcess:
        options = [f"--data={self.samples}", f"--out={out}", f"--cache={self.cache}", f"--trials={trials}"]
        command = ["tune", str(self.model), *options, "--threads=1", "--max-drop=0.5", "--progress=plain", *more]
        process = self._processes.Process(target=run_command, args=(command, f"{out}.log"))
        process.start()
        return process

    def finish(self, out: Path, process: ForkServerProcess) -> str:
        process.join(120)
        text = Path(f"{out}.log").read_text()
        assert process.exitcode == 0, text
        return text


@pytest.fixture
def tunes(tmp_path: Path, processes: ForkServerContext) -> Tunes:
    return Tunes(tmp_path, processes)


def trials_of(folder: Path) -> dict[int, Record]:
    path = folder / "records.jsonl"
    return {r.id: r for r in read_records(path) if r.id >= 0 and r.part == "search"} if path.exists() else {}


def kill(process: ForkServerProcess, when: Callable[[], bool], later_s: float) -> None:
    deadline = time.monotonic() + 60
    while process.is_alive() and not when():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(later_s)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join()


@needs_kernels
def test_a_killed_tune_resumes_without_losing_a_trial(tunes: Tunes) -> None:
    chance, out, total = random.Random(0), tunes.folder / "out", 5
    kept: dict[int, Record] = {}
    for wanted in (0, 2, 3):  # before the first trial, in the midst, close to the end
        process = tunes.start(out, *(["--resume"] if kept or out.exists() else []), trials=total)
        kill(process, lambda: len(trials_of(out)) >= wanted and (wanted > 0 or out.exists()), chance.uniform(0, 0.5))  # noqa: B023
        found = trials_of(out)
        assert {number: found[number] for number in kept} == kept
        kept = found
    assert len(kept) >= 3
    tunes.finish(out, tunes.start(out, "--resume", trials=total))
    final = trials_of(out)
    assert {number: final[number] for number in kept} == kept
    assert len(final) == total  # one that was killed has a number too, and was measured again under another
    assert all(record.state == "ok" for record in final.values())
    assert len({record.strategy.key() for record in final.values() if record.strategy}) == total
    names = {path.name for path in out.iterdir()}
    assert names >= FILES and not [name for name in names if name.startswith(".")]
    assert hago.load(out / "model.so")(tiny.samples()[0][:1])[0].shape == (1, tiny.CLASSES)


@needs_kernels
def test_two_tunes_share_a_cold_cache(tunes: Tunes) -> None:
    outs = [tunes.folder / name for name in ("one", "two", "alone")]
    both = [(out, tunes.start(out, trials=2)) for out in outs[:2]]
    for out, process in both:
        tunes.finish(out, process)
    assert not list(tunes.cache.rglob(".*"))  # nothing half made
    tunes.finish(outs[2], tunes.start(outs[2], trials=2))
    accuracies: dict[str, set[float | None]] = {}
    for out in outs:
        assert {path.name for path in out.iterdir()} >= FILES
        records = trials_of(out)
        assert [record.state for record in records.values()] == ["ok"] * 2
        for record in records.values():
            assert record.strategy is not None
            accuracies.setdefault(record.strategy.key(), set()).add(record.accuracy)
    # Whatever two of them tried got the same accuracy, and some of it they all did.
    assert all(len(values) == 1 for values in accuracies.values())
    assert len(accuracies) < 6
    x = tiny.samples()[0][:1]
    answers = [(Strategy.load(out / "strategy.yaml").key(), hago.load(out / "model.so")(x)[0]) for out in outs]
    for key, found in answers:
        assert all(np.array_equal(found, other) for its_key, other in answers if its_key == key)


# --- nothing that is read can run code -----------------------------------------------------------

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
FORBIDDEN_CALLS = {
    "eval", "exec", "__import__", "os.system", "os.popen", "yaml.unsafe_load",
    "yaml.full_load", "torch.load", "runpy.run_path", "np.fromregex",
}  # fmt: skip

SAFE_LOADERS = {"yaml.SafeLoader"}


def sources() -> list[Path]:
    root = HERE.parent
    return sorted({path.resolve() for name in ("hago", "search", "hw_specs") for path in (root / name).rglob("*.py")})


def unsafe(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        loaders = [ast.unparse(k.value) for k in node.keywords if k.arg == "Loader"]
        if called in FORBIDDEN_CALLS or (called in ("yaml.load", "yaml.load_all") and not loaders):
            yield f"calls {called}"
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else "?"
            text = ast.unparse(keyword.value)
            wrong = keyword.arg == "allow_pickle" and value is not False
            wrong |= keyword.arg == "shell" and value is True
            builds = called != "yaml.parse"  # which gives events, and makes no objects of them
            wrong |= keyword.arg == "Loader" and builds and text not in SAFE_LOADERS
            if wrong:
                yield f"{called}({keyword.arg}={text})"


def test_no_module_reads_what_can_run_code() -> None:
    assert len(sources()) > 100
    found = [f"{path.name}: {what}" for path in sources() for what in unsafe(ast.parse(path.read_text()))]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from dill import loads", "eval('1')", "np.load(p, allow_pickle=True)", "yaml.load(text)",
        "np.load(p, allow_pickle=flag)", "run(c, shell=True)", "torch.load(p)", "y.load(t, Loader=yaml.Loader)",
    ],
)  # fmt: skip
def test_the_search_for_unsafe_code_finds_it(text: str) -> None:
    assert list(unsafe(ast.parse(text)))


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (os.mkdir, (str(self.trace),))


def bomb_npz(path: Path, trace: Path, *names: str) -> None:
    """An npz whose arrays are pickled objects."""
    import pickle

    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            buffer = io.BytesIO()
            np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (4,)})
            archive.writestr(f"{name}.npy", buffer.getvalue() + pickle.dumps([Bomb(trace)] * 4))


YAML_BOMBS = (
    "!!python/object/apply:os.mkdir ['{trace}']",
    "hago_strategy: 1\nmodel: !!python/object/apply:os.mkdir ['{trace}']\nhw: x\nlayers: {{}}",
    "hago_strategy: 1\nmodel: a\nhw: x\nlayers: {{a: !!python/name:os.system ''}}",
    "hago_strategy: 1\nmodel: a\nhw: x\nlayers: {{a: !!python/module:antigravity ''}}",
    "&a [*a]",
    "hago_strategy: 1\nmodel: a\nhw: x\nlayers: &l {{a: {{precision: int8}}, b: *l}}",
)


@pytest.mark.parametrize("text", YAML_BOMBS)
def test_a_hostile_strategy_or_spec_is_refused(text: str, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    path = tmp_path / "hostile.yaml"
    path.write_text(text.format(trace=trace))
    for read in (Strategy.load, load_spec):
        with pytest.raises(HagoError):
            read(path)
    assert not trace.exists()


def test_hostile_samples_and_calibrations_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, path = tmp_path / "ran", tmp_path / "hostile.npz"
    onnx.save(tiny.network(), tmp_path / "model.onnx")
    bomb_npz(path, trace, "x", "y", "calibration", "meta", "tensors", "header")
    with pytest.raises(HagoError):
        Calibration.load(path)
    assert main(["tune", str(tmp_path / "model.onnx"), "--data", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "error:" in capsys.readouterr().err
    assert not trace.exists()
    with pytest.raises(FileExistsError):  # the bomb does go off where pickles are allowed
        trace.mkdir()
        np.load(path, allow_pickle=True)["x"]


def test_hostile_records_are_data(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"hago_record": 1, "id": "__import__(\'os\').mkdir(\'ran\')"}\n')
    with pytest.raises(HagoError):
        read_records(path)
    path.write_text('{"py/object": "os.mkdir"}\n')
    with pytest.raises(HagoError):
        read_records(path)
