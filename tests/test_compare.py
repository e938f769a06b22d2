"""The table of engines: with fakes on a clock of their own, then with the real peers on a tiny model."""

from __future__ import annotations

import argparse
import io
import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
from measure_fakes import (
    FakeArtifact,
    FakeClock,
    FakeRunner,
    FakeSamples,
    Top1,
    TwoInputSamples,
    fail,
    one_hot,
    tiny_model,
)
from rich.console import Console

import hago
from hago.cli import compare as cli_compare
from hago.compare import Engine, TurnPlan, compare
from hago.compare.cells import accuracy_text, change_text, latency_text
from hago.compare.engines import usual_engines
from hago.errors import BuildError, DataError, MeasureError, MissingExtraError
from hago.measure.latency import Latency
from hago.measure.metrics import get_metric
from hago.strategy import Choice, Strategy

LABELS = np.arange(40) % 3
SAMPLES = FakeSamples(one_hot(LABELS), LABELS)


class Closing(FakeRunner):
    closed = 0

    def close(self):
        self.closed += 1


def fakes():
    """Float, a faster one that gets the last four samples wrong, one not installed, three that fail."""
    clock = FakeClock()

    def worse(x):
        y = x.copy()
        if worse.seen % 40 >= 36:
            y = np.roll(y, 1, axis=1)
        worse.seen += 1
        return y

    worse.seen = 0
    made = {
        "TVM float32": Closing("f", clock=clock, ns=lambda call: 2_000_000),
        "TVM quantized": Closing("q", clock=clock, ns=lambda call: 1_000_000, function=worse),
        "bad outputs": Closing("b", clock=clock, function=lambda x: x * np.nan),
        "bad in timing": Closing("t", clock=clock, ns=lambda call: 1 / 0 if call > 45 else 1_000_000),
    }
    engines = [Engine(label, lambda r=runner: r, 1000) for label, runner in made.items()]

    def missing():
        raise MissingExtraError("openvino", "peers", "measuring OpenVINO")

    engines.insert(2, Engine("OpenVINO float32", missing))
    engines.insert(3, Engine("no kernels", lambda: fail(BuildError("there are no kernels"))(None)))
    return engines, made, clock


@pytest.fixture(scope="module")
def found():
    engines, made, clock = fakes()
    said = []
    result = compare(
        engines, SAMPLES, Top1(), model="net.onnx", plan=TurnPlan(8, clocks=clock), threads=1, progress=said.append
    )
    return SimpleNamespace(result=result, made=made, said=said)


def test_rows_keep_their_order_and_say_what_is_missing(found):
    assert [(row.label, row.note) for row in found.result.rows] == [
        ("TVM float32", None),
        ("TVM quantized", None),
        ("OpenVINO float32", "not installed: pip install 'hago[peers]'"),
        ("no kernels", "failed: there are no kernels"),
        ("bad outputs", "failed: output 0 holds NaN"),
        ("bad in timing", "failed: the run failed: ZeroDivisionError: division by zero"),
    ]


def test_numbers_are_those_of_the_runners(found):
    first, second = found.result.rows[:2]
    assert first.latency.median_s == pytest.approx(2e-3)
    assert second.latency.median_s == pytest.approx(1e-3) and second.latency.ratio == pytest.approx(0.5)
    assert (first.accuracy.value, second.accuracy.value) == (1.0, 0.9)
    assert second.accuracy.change == pytest.approx(-0.1)
    assert second.accuracy.p_value == pytest.approx(2 / 16)
    assert first.accuracy.change is None and first.size_bytes == 1000
    timing_failed = found.result.row("bad in timing")
    assert timing_failed.latency is None and timing_failed.accuracy.value == 1.0


def test_every_opened_runner_is_closed_once(found):
    opened = dict.fromkeys(found.made, 1) | {"TVM float32": 2}  # beside itself too
    assert {label: runner.closed for label, runner in found.made.items()} == opened


def test_progress_hears_each_step(found):
    assert found.said[0] == "preparing TVM float32" and found.said[-1] == "timing in turns"
    assert "accuracy of TVM quantized" in found.said


def test_the_terminal_table_shows_all(found):
    console = Console(file=io.StringIO(), width=200)
    console.print(found.result.table())
    text = console.file.getvalue()
    for piece in (
        "net.onnx",
        "2.00 ms [2.00, 2.00]",
        "0.50 [0.48, 0.52]",
        "90.0 % [76.9, 96.0]",
        "-10.0 points",
        "p = 0.12",
        "not installed: pip install 'hago[peers]'",
        "1 kB",
        "median of 8 rounds in turns, batch 1",
        "top1 on 40 samples",
        "to TVM float32",
    ):
        assert piece in text


def test_markdown_is_one_table_with_a_cell_per_column(found):
    lines = found.result.to_markdown().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 6
    assert len({line.count("|") for line in table}) == 1
    assert lines[-1].startswith("Latency: median of 8 rounds")


def test_json_holds_the_numbers_and_no_nan(found):
    data = json.loads(found.result.to_json(), parse_constant=pytest.fail)
    assert data["baseline"] == "TVM float32" and data["n_samples"] == 40
    row = data["rows"][1]
    assert row["latency_s"] == pytest.approx(1e-3) and row["accuracy_change"] == pytest.approx(-0.1)
    assert row["latency_interval"][0] <= row["latency_s"] <= row["latency_interval"][1]
    assert "latency_s" not in data["rows"][2] and "[peers]" in data["rows"][2]["note"]
    assert data["environment"]["threads"] == 1


def test_without_its_baseline_a_comparison_has_no_ratios():
    clock = FakeClock()
    rows = [
        Engine("first", lambda: FakeRunner("a", function=fail(OSError("gone")))),
        Engine("second", lambda: FakeRunner("b", clock=clock, ns=lambda call: 1_000_000)),
    ]
    found = compare(rows, SAMPLES, Top1(), plan=TurnPlan(3, clocks=clock))
    assert found.row("second").latency.median_s == pytest.approx(1e-3)
    assert "latency_ratio" not in found.to_dict()["rows"][1]
    assert "| ratio |" not in found.to_markdown()
    assert found.row("second").accuracy.change is None


def test_a_bug_of_one_engine_leaves_the_other_rows():
    clock = FakeClock()
    good = Engine("good", lambda: FakeRunner(clock=clock, ns=lambda call: 1_000_000))
    rows = [good, Engine("bug", lambda: {}["x"])]
    found = compare(rows, SAMPLES, Top1(), plan=TurnPlan(2, clocks=clock))
    assert [row.note for row in found.rows] == [None, "failed: KeyError('x')"]


def test_a_busy_machine_is_mentioned(found):
    busy = replace(found.result, environment=replace(found.result.environment, load=9.5, cores=2))
    assert "The machine was busy: load 9.5 on 2 cores." in busy.provenance()
    calm = replace(found.result, environment=replace(found.result.environment, load=0.1, cores=2))
    assert "busy" not in calm.provenance()


def test_nothing_that_runs_is_still_a_table():
    found = compare([Engine("x", lambda: FakeRunner("a", function=fail(OSError("gone"))))], SAMPLES, Top1())
    assert found.rows[0].note == "failed: the run failed: OSError: gone"
    assert "failed" in found.to_markdown() and json.loads(found.to_json())["rows"][0]["note"]


@pytest.mark.parametrize("rows", [[], [Engine("a", FakeRunner), Engine("a", FakeRunner)]])
def test_labels_must_tell_rows_apart(rows):
    with pytest.raises(MeasureError, match="different labels"):
        compare(rows, SAMPLES, Top1())


@pytest.mark.parametrize(
    ("median", "text"),
    [(51.4e-6, "51.4 µs [46.3, 56.5]"), (5.5e-3, "5.50 ms [4.95, 6.05]"), (0.2, "200 ms [180, 220]")],
)
def test_latencies_are_written_in_a_fitting_unit(median, text):
    assert latency_text(Latency("a", 1, median, median * 0.9, median * 1.1, 1, 1, 1, (median,), 1)) == text


@pytest.mark.parametrize(
    ("value", "ends", "change", "change_ends", "texts"),
    [
        (
            0.999941,
            (0.999936, 0.999946),
            -5.9e-5,
            (-6.4e-5, -5.4e-5),
            ("0.999941 [0.999936, 0.999946]", "-5.9e-05 [-6.4e-05, -5.4e-05]"),
        ),
        (1.0, (1.0, 1.0), -4.4e-14, (-4.6e-14, -4.3e-14), ("1 [1, 1]", "0 [0, 0]")),
        (3e-14, (2e-14, 4e-14), 3e-14, (2e-14, 4e-14), ("3e-14 [2e-14, 4e-14]", "+3e-14 [+2e-14, +4e-14]")),
        (0.875, (None, None), 0.25, (None, None), ("0.875", "+0.25")),
    ],
)
def test_plain_metrics_show_what_differs_and_no_rounding(value, ends, change, change_ends, texts):
    found = SimpleNamespace(
        value=value, low=ends[0], high=ends[1], change=change, change_low=change_ends[0], change_high=change_ends[1],
        is_share=False, p_value=None,
    )  # fmt: skip
    assert (accuracy_text(found), change_text(found)) == texts


def test_metrics_against_float_compare_with_the_first_row():
    rows = [
        Engine("float", lambda: FakeRunner("a", batch=8)),
        Engine("close", lambda: FakeRunner("b", batch=8, function=lambda x: x + np.float32([0.1, 0, 0]))),
    ]
    found = compare(rows, SAMPLES, get_metric("sqnr"), plan=TurnPlan(2))
    first, second = (row.accuracy for row in found.rows)
    assert first.value == 150.0 and 10 < second.value < 30 and second.change < -100
    assert "points" not in found.to_markdown()


# -- the usual engines, with the real peers


def fake_compile(graph, *, hw, batch, threads, cache=None):
    assert (batch, threads) == (2, 1)
    return FakeArtifact()


def test_the_six_usual_rows_give_the_same_answers_on_a_tiny_model():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    engines = usual_engines(tiny_model(), tiny_model(quantized=True), compile=fake_compile, batch=2, threads=1)
    samples = TwoInputSamples(101)
    found = compare(engines, samples, Top1(), plan=TurnPlan(3))
    assert [row.label for row in found.rows] == [
        f"{engine} {kind}"
        for engine, kinds in (
            ("TVM", ("float32", "quantized")),
            ("ONNX Runtime", ("float32", "int8")),
            ("OpenVINO", ("float32", "int8")),
        )
        for kind in kinds
    ]
    assert all(row.note is None and row.latency.median_s > 0 for row in found.rows)
    assert all(row.accuracy.value >= 0.95 and row.accuracy.n == 101 for row in found.rows)
    assert found.row("ONNX Runtime int8").size_bytes < found.row("ONNX Runtime float32").size_bytes


def test_absent_peers_leave_their_rows_and_the_others(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    engines = usual_engines(tiny_model(), tiny_model(quantized=True), compile=fake_compile, batch=2)
    found = compare(engines, TwoInputSamples(20), Top1(), plan=TurnPlan(2))
    assert [row.note for row in found.rows] == [None, None, *["not installed: pip install 'hago[peers]'"] * 4]


# -- the command


def parse(*words):
    parser = argparse.ArgumentParser()
    cli_compare.register(parser.add_subparsers())
    return parser.parse_args(["compare", *map(str, words)])


def test_the_command_has_the_promised_arguments():
    found = parse("m.onnx", "--data", "d.npz", "--strategy", "s.yaml", "--threads", "2", "--batch", "4", "--json")
    assert (found.model, found.data, found.strategy, found.qdq) == ("m.onnx", "d.npz", "s.yaml", None)
    assert (found.hw, found.threads, found.batch, found.rounds, found.json) == ("auto", 2, 4, 30, True)


@pytest.mark.parametrize(
    "words",
    [
        ("m.onnx",),
        ("m", "--data", "d", "--strategy", "s", "--qdq", "q"),
        ("m", "--data", "d", "--rounds", "0"),
    ],
)
def test_wrong_arguments_are_refused(words):
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A model, its QDQ form and samples as files, and an API that compiles with numpy."""
    samples = TwoInputSamples(60)
    onnx.save(tiny_model(), tmp_path / "tiny.onnx")
    onnx.save(tiny_model(batch=2, quantized=True), tmp_path / "tiny.qdq.onnx")
    np.savez(tmp_path / "data.npz", **samples.x, y=samples.labels)
    calls = []

    def quantize(model, strategy, *, calibration, hw, cache):
        calls.append((strategy, len(calibration)))
        return tiny_model(batch=2, quantized=True)

    api = ModuleType("hago.api")
    api.compile, api.quantize, api.calls = fake_compile, quantize, calls
    monkeypatch.setitem(sys.modules, "hago.api", api)
    monkeypatch.setattr(hago, "api", api, raising=False)
    return SimpleNamespace(folder=tmp_path, calls=calls)


def run(files, *words):
    folder = files.folder
    common = (folder / "tiny.onnx", "--data", folder / "data.npz", "--batch", 2, "--rounds", 2, "--threads", 1)
    arguments = parse(*common, *words)
    return arguments.run(arguments)


def test_a_given_qdq_file_is_scored_on_all_samples_and_written_out(files, capsys):
    out = files.folder / "out"
    assert run(files, "--qdq", files.folder / "tiny.qdq.onnx", "--json", "--out", out) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["n_samples"] == 60 and len(data["rows"]) == 6 and data["batch"] == 2
    assert all(row["accuracy"] > 0.9 for row in data["rows"] if "accuracy" in row)
    assert json.loads((out / "compare.json").read_text()) == data
    assert "| TVM quantized |" in (out / "compare.md").read_text()
    onnx.checker.check_model(onnx.load(out / "model.qdq.onnx"))
    assert files.calls == []


def test_a_strategy_is_carried_out_with_samples_that_are_not_scored(files, capsys):
    strategy = Strategy("0" * 64, "x86-avx512-vnni", {"matmul": Choice("int8")})
    strategy.save(files.folder / "s.yaml")
    assert run(files, "--strategy", files.folder / "s.yaml", "--hw", "x86-avx512-vnni") == 0
    assert files.calls == [(strategy, 15)]
    assert "top1 on 45 samples" in capsys.readouterr().out.replace("\n", " ")


def test_with_neither_it_is_int8_everywhere(files):
    assert run(files, "--hw", "x86-avx512-vnni", "--calibration", files.folder / "data.npz") == 0
    ((strategy, count),) = files.calls
    assert count == 60
    assert {choice.precision for choice in strategy.choices.values()} == {"int8"}


def test_too_few_samples_to_split_are_an_error_that_says_what_to_do(files):
    samples = TwoInputSamples(3)
    np.savez(files.folder / "data.npz", **samples.x, y=samples.labels)
    with pytest.raises(DataError, match=r"3 samples are too few.*\n.*--calibration"):
        run(files)
