"""The command line: every command's help, the whole way on the example, interruption, pipes."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bad_inputs import network, samples

from hago.cli import EXIT_ERROR, main
from hago.cli.exit_codes import code_of
from hago.errors import BuildError, StorageError
from hago.record import Record
from hago.record_file import read_records
from hago.search import Goal, SearchResult
from hago.strategy import Strategy

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples" / "digits" / "model.onnx"
DATA = ROOT / "examples" / "digits" / "samples.npz"
COMMANDS = (
    "tune", "inspect", "compare", "quantize", "compile", "run",
    "hw", "hw list", "hw show", "hw check", "hw detect", "cache", "cache info", "cache clear",
)  # fmt: skip
RESULTS = {
    "strategy.yaml", "model.qdq.onnx", "model.so", "records.jsonl", "report.html", "report.md", "study.db",
    "calibration.npz", "environment.json",
}  # fmt: skip
_ESCAPE = "\x1b"


def hago(command: str) -> int:
    return main(shlex.split(command))


@pytest.fixture(scope="module")
def cache(kernels_folder: Path) -> Path:
    """The folder of the kernel cache, as `--cache` takes it."""
    return kernels_folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a short search on the example, with some of its samples."""
    place = tmp_path_factory.mktemp("tuned")
    few, out = place / "few.npz", place / "out"
    with np.load(DATA) as file:
        np.savez(few, x=file["x"][:300], y=file["y"][:300])
    assert hago(f"tune {MODEL} --data {few} --trials 3 --threads 1 --cache {cache} --out {out} --progress silent") == 0
    return out


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with a tiny network and its samples."""
    onnx.save(network(), tmp_path / "model.onnx")
    x, y = samples(200)
    np.savez(tmp_path / "samples.npz", x=x, y=y)
    return tmp_path


def start(folder: Path, cache: Path, arguments: str) -> subprocess.Popen[str]:
    """``hago`` as a process of its own, in ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", "hago", *shlex.split(arguments)],
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(cache.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_trials(process: subprocess.Popen[str], records: Path, count: int) -> None:
    """Until that many trials are written down (or the process has ended)."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if trials(records) >= count:
            return
        time.sleep(0.05)
    out, err = process.communicate(timeout=5)
    raise AssertionError(f"{trials(records)} trials, exit code {process.returncode}: {out}{err}")


def trials(records: Path) -> int:
    return sum(r.id >= 0 and r.part == "search" for r in read_records(records)) if records.exists() else 0


# Help and versions.


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        hago(f"{command} --help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: hago {command}")
    options = re.findall(r"^  (--?[\w-]+)[^\n]*\n?([^\n]*)", text, re.MULTILINE)
    assert options


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert hago("") == EXIT_ERROR
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"    {command.split()[0]}" in text


def test_the_version_names_the_compiler_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert hago("--version") == 0
    assert re.fullmatch(r"hago \d+\.\d+\.\d+\S*, TVM 0\.27\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["tun model.onnx", "tune model.onnx", "tune model.onnx --data x --trials many"])
def test_arguments_that_cannot_be_are_refused_with_the_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        hago(command)
    assert ended.value.code == EXIT_ERROR
    assert capsys.readouterr().err.startswith("usage: hago")


# The whole way.


def test_tune_fills_the_folder(tuned: Path) -> None:
    assert {path.name for path in tuned.iterdir()} >= RESULTS
    assert trials(tuned / "records.jsonl") == 3
    strategy = Strategy.load(tuned / "strategy.yaml")
    assert strategy.choices
    onnx.checker.check_model(onnx.load(tuned / "model.qdq.onnx"), full_check=True)
    page = (tuned / "report.html").read_text(encoding="utf-8")
    assert "<html" in page and not re.search(r"(src|href)=.https?:", page)


def test_tune_prints_the_answer_and_where_it_is(tiny: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = f"{tiny / 'model.onnx'} --data {tiny / 'samples.npz'} --threads 1 --cache {cache}"
    assert hago(f"tune {common} --trials 2 --max-drop 0.1 --out {tiny / 'out'}") == 0
    out, err = capsys.readouterr()
    assert "float32" in out and f"Report: {tiny / 'out' / 'report.html'}" in out
    assert "trial 1/2" in err and "trial 2/2" in err
    assert _ESCAPE not in out + err


def test_a_finished_search_goes_on_with_more_trials(tiny: Path, cache: Path) -> None:
    common = (
        f"tune {tiny / 'model.onnx'} --data {tiny / 'samples.npz'} --threads 1 --cache {cache} --out {tiny / 'out'}"
    )
    assert hago(f"{common} --trials 1 --progress silent") == 0
    first = read_records(tiny / "out" / "records.jsonl")
    assert hago(f"{common} --trials 2 --progress silent --resume") == 0
    again = read_records(tiny / "out" / "records.jsonl")
    assert again[: len(first)] == first
    assert trials(tiny / "out" / "records.jsonl") == 2


def test_the_answer_runs_by_itself(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hago(f"run {tuned / 'model.so'} --data {DATA} --out {tmp_path / 'scores.npz'}") == 0
    text = capsys.readouterr().out
    assert "1,100 samples, 1 per call, 1 thread" in text
    accuracy = float(re.search(r"top-1 +([\d.]+)%", text).group(1)) / 100  # type: ignore[union-attr]
    with np.load(tmp_path / "scores.npz") as file, np.load(DATA) as data:
        assert file["scores"].shape == (1100, 10)
        assert accuracy == pytest.approx((file["scores"].argmax(1) == data["y"]).mean(), abs=1e-4)


def test_quantize_compile_and_run_are_the_stages_of_tune(
    tuned: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qdq, shared = tmp_path / "q.onnx", tmp_path / "q.so"
    common = f"--cache {cache}"
    assert hago(f"quantize {MODEL} --strategy {tuned / 'strategy.yaml'} --calibration {DATA} --out {qdq} {common}") == 0
    assert hago(f"compile {qdq} --threads 1 --out {shared} {common}") == 0
    assert hago(f"run {shared} --data {DATA}") == 0
    text = capsys.readouterr().out
    assert re.search(r"q\.onnx: \d+ of \d+ layers quantized", text)
    assert "1,100 samples, 1 per call" in text


def test_a_batch_takes_several_samples_per_call_and_fills_up_the_last(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "m.so"
    assert hago(f"compile {MODEL} --threads 1 --batch 8 --out {shared} --cache {cache}") == 0
    assert hago(f"run {shared} --data {DATA} --out {tmp_path / 'scores.npz'}") == 0
    assert "1,100 samples, 8 per call" in capsys.readouterr().out
    with np.load(tmp_path / "scores.npz") as file:
        assert file["scores"].shape == (1100, 10)


def test_inspect_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert hago(f"inspect {MODEL} --hw x86-avx2") == 0
    table = capsys.readouterr().out
    assert "node_linear" in table and "int7" in table and _ESCAPE not in table
    assert hago(f"inspect {MODEL} --hw x86-avx2 --json") == 0
    assert json.loads(capsys.readouterr().out)["hw"] == "x86-avx2"


def test_compare_keeps_a_row_for_each_engine(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    assert hago(f"compare {MODEL} --data {DATA} --rounds 2 --out {tmp_path / 'c'}") == 0
    table = capsys.readouterr().out
    for row in ("TVM float32", "TVM quantized", "ONNX Runtime float32", "ONNX Runtime int8", "OpenVINO float32"):
        assert row in table
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"compare.md", "compare.json", "model.qdq.onnx"}


def test_the_cache_reports_what_it_holds_and_is_emptied(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tiny / "cache"
    assert hago(f"compile {tiny / 'model.onnx'} --threads 1 --cache {place} --out {tiny / 'm.so'}") == 0
    assert hago(f"cache info --cache {place}") == 0
    kernels = int(re.search(r"kernels +(\d+) ", capsys.readouterr().out).group(1))  # type: ignore[union-attr]
    assert kernels > 0
    assert hago(f"cache clear --stale --cache {place}") == 0
    assert "deleted 0 kernels" in capsys.readouterr().out
    assert hago(f"cache clear --cache {place}") == 0
    assert f"deleted {kernels} kernels" in capsys.readouterr().out
    assert hago(f"cache info --cache {place}") == 0
    assert re.search(r"kernels +0 ", capsys.readouterr().out)


# Interruption; test_robustness.py has kills.

TUNE = "tune model.onnx --data samples.npz --threads 1 --out out --patience 0 --max-drop 0.2 --trials"


@pytest.mark.parametrize(("name", "code"), [pytest.param("SIGINT", 130, marks=pytest.mark.slow), ("SIGTERM", 143)])
def test_after_a_signal_the_best_so_far_is_there(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    monkeypatch.chdir(tiny)
    process = start(tiny, cache, f"{TUNE} 10000")
    wait_for_trials(process, tiny / "out" / "records.jsonl", 3)
    assert hago(f"{TUNE} 1 --resume") == EXIT_ERROR
    told = capsys.readouterr().err
    assert f"another run of hago (process {process.pid}) is filling" in told
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Report: out/report.html" in out
    assert {"SIGINT": "Ctrl-C"}.get(name, name) in err and "Traceback" not in err
    assert err.startswith("0:00  starting\n")
    assert {path.name for path in (tiny / "out").iterdir()} >= RESULTS


# Exit codes.


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ({"outcome": "met"}, 0),
        ({"outcome": "not faster"}, 0),
        ({"outcome": "not met"}, 1),
        ({"outcome": "met", "error": StorageError("disk full")}, 3),
        ({"outcome": "met", "signum": signal.SIGTERM}, 143),
        ({"outcome": "not met", "signum": signal.SIGHUP, "error": StorageError("disk full")}, 129),
    ],
)
def test_the_exit_code_of_a_search_says_how_it_ended(outcome: dict[str, Any], code: int) -> None:
    record = Record(-1, "float32")
    assert code_of(SearchResult(record, record, (), (), goal=Goal(), **outcome)) == code


def test_a_bound_that_is_not_met_and_candidates_that_all_fail_have_codes(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Any, *arguments: Any) -> None:
        raise BuildError("no compiler here")

    command = f"tune {tiny}/model.onnx --data {tiny}/samples.npz --threads 1 --trials 2 --cache {cache}"
    monkeypatch.setattr("hago.tuning.evaluator.TvmEvaluator.qdq", fail)
    assert hago(f"{command} --out {tiny}/failing") == 3
    out, err = capsys.readouterr()
    assert "error: no candidate could be measured: no compiler here" in err
    assert f"Report: {tiny}/failing/report.html" in out and (tiny / "failing" / "model.so").exists()


@pytest.mark.parametrize(
    "name",
    ["hago.tuning.session.write_atomic", "hago.tuning.session.write_report", "hago.tuning.evaluator.write_atomic"],
)
def test_a_disk_that_fills_up_at_the_end_loses_nothing_of_what_was_measured(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def refuse(path: Any, *arguments: Any, **more: Any) -> None:
        raise StorageError(f"cannot be written: {os.strerror(errno.ENOSPC)}", where=str(path))

    monkeypatch.setattr(name, refuse)
    command = f"tune {tiny}/model.onnx --data {tiny}/samples.npz --threads 1 --cache {cache} --out {tiny}/out"
    assert hago(f"{command} --max-drop 0.2 --trials 2") == 3
    out, err = capsys.readouterr()
    assert "error:" in err and "No space left on device" in err and "Traceback" not in err
    assert "float32" in out  # the answer is told all the same
    monkeypatch.undo()
    assert hago(f"{command} --max-drop 0.2 --trials 2 --resume") == 0
    assert {path.name for path in (tiny / "out").iterdir()} >= RESULTS and trials(tiny / "out" / "records.jsonl") == 2


# Pipes.


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m hago hw list | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
