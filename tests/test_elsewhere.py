"""Networks for another machine than this one, and machines without a linker: said at once, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny

import hago
import hago.compiler.linker
from hago.cli import main
from hago.compiler.cache import KernelCache
from hago.compiler.linker import linker
from hago.errors import BuildError, HagoWarning, MeasureError
from hago.runtime.processor import machine_name, machine_of, missing_features

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits"
MODEL, SAMPLES = str(DIGITS / "model.onnx"), str(DIGITS / "samples.npz")
X = np.zeros((1, 1, 8, 8), np.float32)

if machine_name() != "x86_64" or not hago.spec.resolve_hw("auto").kernels_available:
    pytest.skip("written for an x86 machine", allow_module_level=True)

ELSEWHERE = ["arm-cortex-a72", "arm-cortex-a76", "arm-neoverse-v1"]
NEWER = [
    name
    for name in ("x86-avx-vnni", "x86-avx512-vnni", "x86-avx512-bf16", "x86-amx")
    if missing_features(hago.load_spec(name).cpu_features)
]


@pytest.fixture
def no_linker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(hago.compiler.linker, "find_spec", lambda name: None)
    linker.cache_clear()
    yield
    linker.cache_clear()


# --- other machines ------------------------------------------------------------------------------


@pytest.mark.parametrize("hw", ELSEWHERE)
def test_code_for_another_kind_of_machine_is_saved_and_not_run(tmp_path: Path, cache: KernelCache, hw: str) -> None:
    net = hago.compile(MODEL, hw=hw, cache=cache)
    assert net.threads == 1 and net.meta["hw"] == hw and net.input_info[0].shape == X.shape
    for use in (lambda: net(X), net.layer_times):
        with pytest.raises(MeasureError, match=rf"'{hw}': this processor is x86_64: .* another processor\n.*save it"):
            use()
    if linker("aarch64-linux-gnu") is None:
        pytest.skip("nothing here links for AArch64")
    net.save(tmp_path / "model.so")
    assert machine_of(tmp_path / "model.so") == "aarch64"
    with pytest.raises(BuildError, match=r"model\.so: .* compiled for aarch64, this processor is x86_64\n"):
        hago.load(tmp_path / "model.so")


def test_the_command_line_compiles_for_another_machine(
    tmp_path: Path, cache: KernelCache, capsys: pytest.CaptureFixture[str]
) -> None:
    if linker("aarch64-linux-gnu") is None:
        pytest.skip("nothing here links for AArch64")
    out = str(tmp_path / "model.so")
    assert main(["compile", MODEL, "--hw", "arm-cortex-a76", "--cache", str(cache.root), "--out", out]) == 0
    assert "1 thread" in capsys.readouterr().out
    assert main(["run", out, "--data", SAMPLES]) == 2
    assert "compiled for aarch64" in capsys.readouterr().err


@pytest.mark.parametrize("hw", NEWER)
def test_code_for_a_newer_processor_is_saved_and_not_run(tmp_path: Path, cache: KernelCache, hw: str) -> None:
    """An instruction that is not there would end the process."""
    net = hago.compile(MODEL, hw=hw, threads=1, cache=cache)
    with pytest.raises(MeasureError, match=r"this processor lacks .*: the network is for another"):
        net(X)
    if linker() is None:
        pytest.skip("saving needs a linker")
    net.save(tmp_path / "model.so")
    with pytest.raises(BuildError, match=rf"this processor lacks .*: the network was compiled for {hw}\n"):
        hago.load(tmp_path / "model.so")


def test_what_machine_a_file_is_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for machine, name in ((62, "x86_64"), (183, "aarch64"), (40, "arm"), (9999, None)):
        path.write_bytes(b"\x7fELF\x02\x01" + bytes(12) + machine.to_bytes(2, "little"))
        assert machine_of(path) == name
    path.write_bytes(b"\x7fELF\x02\x02" + bytes(12) + (183).to_bytes(2, "big"))
    assert machine_of(path) == "aarch64"
    for data in (b"", b"\x7fELF", b"PK\x03\x04" + bytes(30)):
        path.write_bytes(data)
        assert machine_of(path) is None


# --- no linker -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["compile", MODEL, "--out", "model.so"], "apt install binutils;"),
        (["compile", MODEL, "--hw", "arm-cortex-a76", "--out", "model.so"], "binutils-aarch64-linux-gnu"),
        (["build", MODEL, "--hw", "arm-cortex-a76", "--out", "board"], "binutils-aarch64-linux-gnu"),
    ],
)
def test_without_a_linker_it_is_said_before_the_work(
    tmp_path: Path,
    no_linker: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--cache", "cache"]) == 2
    said = capsys.readouterr().err
    assert "a linker" in said and "is needed" in said and hint in said and "ziglang" in said
    assert list(tmp_path.iterdir()) == []  # nothing was compiled


def test_a_search_without_a_linker_writes_all_else(
    tmp_path: Path, no_linker: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.so").write_text("of an older search")
    model, samples = tiny.write(tmp_path)
    words = ["tune", str(model), "--data", str(samples), "--trials", "1", "--threads", "1", "--progress", "plain"]
    assert main([*words, "--cache", str(tmp_path / "cache"), "--out", str(out)]) == 3
    found = capsys.readouterr()
    first, last = found.err.index("warning: model.so: a linker is needed"), found.err.index("error: ")
    assert first < last and "trial 1/1" not in found.err[:first]
    assert "everything but model.so was written" in found.err[last:]
    assert "hago run" not in found.out and "Report: " in found.out
    names = {path.name for path in out.iterdir()}
    assert {"strategy.yaml", "model.qdq.onnx", "report.html", "report.md", "records.jsonl", "study.db"} <= names
    assert "model.so" not in names
    report = (out / "report.md").read_text()
    assert "hago compile model.qdq.onnx --out model.so" in report and 'hago.load("model.so")' not in report


def test_a_report_on_devices_without_a_linker_ends_as_a_search_does(
    tmp_path: Path, no_linker: None, capsys: pytest.CaptureFixture[str]
) -> None:
    model, samples = tiny.write(tmp_path)
    devices = tmp_path / "devices.yaml"
    devices.write_text("devices: {here: {spec: auto, local: true}}\n")
    words = ["report", str(model), "--data", str(samples), "--devices", "here", "--devices-file", str(devices)]
    words += ["--trials", "1", "--threads", "1", "--progress", "plain", "--out", str(tmp_path / "out")]
    assert main([*words, "--cache", str(tmp_path / "cache")]) == 3
    found = capsys.readouterr()
    assert "a linker is needed" in found.err and "model.so" in found.err[found.err.index("error: ") :]
    assert (tmp_path / "out" / "devices.md").is_file()


def test_a_search_from_python_warns(tmp_path: Path, no_linker: None) -> None:
    with pytest.warns(HagoWarning, match="a linker is needed"):
        result = hago.tune(
            tiny.network(), data=tiny.samples(), trials=1, threads=1, out=tmp_path / "out", cache=tmp_path / "cache"
        )
    assert json.loads((tmp_path / "out" / "records.jsonl").read_text().splitlines()[0])
    assert result.summary()
