"""hago.tune, quantize, compile, load: what is promised to users, on a network that is tuned within seconds."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from qdq_graphs import run_onnx

import hago
from hago import Choice, Record, Result, Strategy
from hago.calibrate import Calibration
from hago.errors import DataError, HagoError, ModelError, SearchError, SpecError, StorageError, StrategyError
from hago.record_file import read_records
from hago.spec import resolve_hw

HOST = resolve_hw("auto")
if not HOST.kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)

X, Y = tiny.samples()
FILES = {
    "strategy.yaml", "model.qdq.onnx", "model.so", "records.jsonl", "report.html", "report.md", "environment.json",
    "study.db", "calibration.npz",
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(kernels_folder: Path) -> Path:
    return kernels_folder


@pytest.fixture(scope="module")
def tuned(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    out = tmp_path_factory.mktemp("tuned") / "out"
    return hago.tune(tiny.network(), data=(X, Y), trials=4, threads=1, max_drop=0.5, out=out, cache=cache)


# --- signatures ----------------------------------------------------------------------------------


def promised(function: object) -> str:
    """The parameters up to the last promised one, without annotations."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def test_the_promised_signatures() -> None:
    assert promised(hago.tune).startswith(
        "(model, *, hw='auto', data, calibration=None, metric='top1', max_drop=0.01, trials=40, budget=None, "
        "seed=0, threads=None, out=None"
    )
    assert promised(hago.compile).startswith("(model, *, hw='auto', batch=1, threads=None")
    assert promised(hago.load) == "(path)"
    assert promised(hago.quantize).startswith("(model, strategy, calibration, *, hw='auto'")
    for function in (hago.tune, hago.compile, hago.quantize):
        parameters = list(inspect.signature(function).parameters.values())
        assert all(p.default is not p.empty for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "data")


# --- tune ----------------------------------------------------------------------------------------


def test_the_result_tells_float_best_and_front(tuned: Result) -> None:
    for record in (tuned.float, tuned.best):
        assert isinstance(record, Record)
        assert record.part == "test" and record.state == "ok"
        assert record.accuracy_interval is not None and record.latency_interval is not None
        low, high = record.accuracy_interval
        assert 0 <= low <= record.accuracy <= high <= 1
        low, high = record.latency_interval
        assert 0 < low <= record.latency_s <= high
        assert record.n_samples > 0 and record.threads == 1
    assert tuned.float.accuracy == 1.0 and tuned.float.strategy is None
    assert tuned.best.size_bytes and tuned.float.size_bytes
    assert tuned.front
    ratios = [record.latency_ratio for record in tuned.front]
    assert ratios == sorted(ratios)
    accuracies = [record.accuracy for record in tuned.front]
    assert accuracies == sorted(accuracies)
    assert all(record.part == "search" for record in tuned.front)
    assert tuned.search.trials == 4
    assert tuned.summary() and tuned.met == (tuned.search.outcome == "met")


def test_the_parts_are_kept_apart(tuned: Result) -> None:
    sizes = {record.part: record.n_samples for record in (tuned.float, tuned.search.float)}
    assert sum(sizes.values()) < len(X)  # the rest is the calibration part
    assert set(sizes) == {"search", "test"}


def test_the_folder_is_complete(tuned: Result) -> None:
    assert tuned.folder is not None
    names = {path.name for path in tuned.folder.iterdir()}
    assert names >= FILES and not [name for name in names if name.startswith(".")]
    strategy = Strategy.load(tuned.folder / "strategy.yaml")
    assert strategy == tuned.strategy and strategy.hw == HOST.name
    records = read_records(tuned.folder / "records.jsonl")
    assert {0, 1, 2, 3} <= {record.id for record in records}
    assert [r.part for r in records].count("test") >= 1
    environment = json.loads((tuned.folder / "environment.json").read_text())
    assert environment["threads"] == 1
    page = (tuned.folder / "report.html").read_text()
    assert "<script src" not in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_compiled_file_is_the_answer(tuned: Result) -> None:
    """model.so, the strategy's QDQ file and the record of the test part are one and the same network."""
    assert tuned.folder is not None
    net = hago.load(tuned.folder / "model.so")
    qdq = onnx.load(tuned.folder / "model.qdq.onnx")
    onnx.checker.check_model(qdq, full_check=True)
    rows = X[:20]
    mine = np.concatenate([net(row[None])[0] for row in rows])
    theirs = np.concatenate([run_onnx(qdq, {"x": row[None]})[0] for row in rows])
    assert (mine.argmax(1) == theirs.argmax(1)).mean() >= 0.95
    again = hago.compile(qdq, threads=1)
    assert np.array_equal(np.concatenate([again(row[None])[0] for row in rows]), mine)


def test_a_finished_search_is_resumed_and_not_begun_again(tuned: Result, cache: Path, tmp_path: Path) -> None:
    assert tuned.folder is not None
    shutil.copytree(tuned.folder, tmp_path / "moved")
    before = {r.id: r for r in tuned.search.records}
    options = {"data": (X, Y), "threads": 1, "max_drop": 0.5, "out": tmp_path / "moved", "cache": cache}
    with pytest.raises(SearchError, match=r"there is a search already\n.*resume"):
        hago.tune(tiny.network(), trials=4, **options)
    more = hago.tune(tiny.network(), trials=5, resume=True, **options)
    after = {r.id: r for r in more.search.records}
    assert len(after) == len(before) + 1
    assert all(after[number].accuracy == record.accuracy for number, record in before.items())
    with pytest.raises(SearchError, match="samples"):
        hago.tune(tiny.network(), trials=6, resume=True, **{**options, "data": (X[1:], Y[1:])})


def test_without_labels_and_with_parts_of_ones_own(cache: Path) -> None:
    result = hago.tune(
        tiny.network(), data=X[:60], calibration=X[60:80], test=X[80:], metric="cosine", max_drop=0.2, trials=1,
        threads=1, cache=cache,
    )  # fmt: skip
    assert result.folder is None
    assert result.float.metric == "cosine" and result.float.accuracy == pytest.approx(1)
    assert result.best.n_samples == 40


def test_a_metric_of_ones_own(cache: Path) -> None:
    def right(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (outputs.argmax(1) == labels).astype(float)

    result = hago.tune(
        tiny.network(), data=list(zip(X, Y, strict=True)), metric=right, max_drop=1.0, trials=1, threads=1,
        cache=cache,
    )  # fmt: skip
    assert result.float.accuracy == 1.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": (X, Y[:-1])}, DataError, "labels"),
        ({"data": (X[:, :1], Y)}, DataError, "shape"),
        ({"data": (X * np.nan, Y)}, DataError, "not a finite number"),
        ({"calibration": X[:5]}, DataError, "share"),
        ({"data": X}, DataError, "needs labels"),
        ({"metric": "accuracy"}, HagoError, "top1"),
        ({"hw": "x86-avx1024"}, SpecError, "x86-avx1024"),
        ({"hw": "integer-only"}, HagoError, "no kernels"),
        ({"max_drop": -1}, SearchError, "max_drop"),
        ({"trials": 0}, SearchError, "trials"),
        ({"budget": "soon"}, SearchError, "soon"),
        ({"sampler": "oracle"}, SearchError, "oracle"),
        ({"objectives": ("accuracy",)}, SearchError, "objective"),
        ({"threads": 0}, HagoError, "threads"),
        ({"threads": True}, HagoError, "threads"),
        ({"out": "/proc/hago"}, StorageError, "cannot be created"),
        ({"model": np.zeros(3)}, ModelError, "not ndarray"),
        ({"model": "no.onnx"}, ModelError, r"no\.onnx"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_compiled(
    options: dict, error: type[HagoError], message: str, tmp_path: Path
) -> None:
    model = options.pop("model", tiny.network())
    given = {"data": (X, Y), "trials": 2, "threads": 1, "cache": tmp_path / "kernels", **options}
    with pytest.raises(error, match=message):
        hago.tune(model, **given)
    assert not (tmp_path / "kernels").exists()


# --- quantize ------------------------------------------------------------------------------------


def strategy(**layers: Choice) -> Strategy:
    return Strategy(hago.load_model(tiny.network()).hash, HOST.name, layers)


INT8 = {name: Choice("int8") for name in ("conv1", "conv2", "pool", "fc")}


def test_quantize_takes_a_strategy_or_its_file_and_any_calibration(tmp_path: Path, cache: Path) -> None:
    chosen = strategy(**INT8)
    chosen.save(tmp_path / "strategy.yaml")
    np.savez(tmp_path / "x.npz", x=X[:16])
    expected = hago.quantize(tiny.network(), chosen, X[:16], threads=1, cache=cache)
    onnx.checker.check_model(expected, full_check=True)
    assert {o.domain for o in expected.opset_import} == {""}
    assert sum(node.op_type == "QuantizeLinear" for node in expected.graph.node) >= 3
    forms = [
        (tmp_path / "strategy.yaml", X[:16]),
        (str(tmp_path / "strategy.yaml"), {"x": X[:16]}),
        (chosen, tmp_path / "x.npz"),
        (chosen, list(X[:16])),
    ]
    for which, calibration in forms:
        found = hago.quantize(tiny.network(), which, calibration, threads=1, cache=cache)
        assert found.graph.SerializeToString(deterministic=True) == expected.graph.SerializeToString(deterministic=True)


def test_quantize_takes_a_calibration_made_before(tuned: Result) -> None:
    assert tuned.folder is not None
    calibration = Calibration.load(tuned.folder / "calibration.npz")
    found = hago.quantize(tiny.network(), tuned.strategy, calibration, threads=1)
    written = onnx.load(tuned.folder / "model.qdq.onnx")
    assert found.graph.SerializeToString(deterministic=True) == written.graph.SerializeToString(deterministic=True)


def test_quantize_for_hardware_that_is_not_here(cache: Path) -> None:
    """The ranges are those of the float model, wherever it runs."""
    for name in ("arm-cortex-a76", "x86-avx-vnni"):
        chosen = Strategy(hago.load_model(tiny.network()).hash, name, INT8)
        found = hago.quantize(tiny.network(), chosen, X[:8], hw=name, threads=1, cache=cache)
        assert any(node.op_type == "QuantizeLinear" for node in found.graph.node)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (strategy(nothing=Choice("int8")), "no layer 'nothing'"),
        (strategy(conv1=Choice("int4")), "offers no int4"),
        (strategy(flatten=Choice("int8")), "flatten"),
        (Strategy("0" * 64, HOST.name, INT8), "is for the model 000000000000"),
    ],
)
def test_quantize_refuses_what_does_not_fit(chosen: Strategy, message: str, cache: Path) -> None:
    with pytest.raises(StrategyError, match=message):
        hago.quantize(tiny.network(), chosen, X[:8], threads=1, cache=cache)


# --- compile -------------------------------------------------------------------------------------


def test_compile_takes_paths_protos_and_models(tmp_path: Path, cache: Path) -> None:
    onnx.save(tiny.network(), tmp_path / "model.onnx")
    qdq = hago.quantize(tiny.network(), strategy(**INT8), X[:16], threads=1, cache=cache)
    onnx.save(qdq, tmp_path / "qdq.onnx")
    floats = [tmp_path / "model.onnx", str(tmp_path / "model.onnx"), tiny.network(), hago.load_model(tiny.network())]
    for sources, proto in ((floats, tiny.network()), ([tmp_path / "qdq.onnx", qdq], qdq)):
        expected = run_onnx(proto, {"x": X[:1]})[0]
        for source in sources:
            net = hago.compile(source, threads=1, cache=cache)
            np.testing.assert_allclose(net(X[:1])[0], expected, atol=0.02 * np.abs(expected).max())


def test_compile_fixes_the_batch(cache: Path) -> None:
    net = hago.compile(tiny.network(), batch=3, threads=1, cache=cache)
    assert net.batch == 3 and net.input_info[0].shape == (3, 2, 8, 8)
    np.testing.assert_allclose(net(X[:3])[0], run_onnx(tiny.network(), {"x": X[:3]})[0], atol=1e-5)
    with pytest.raises(DataError, match=r"must have shape \[3, 2, 8, 8\], not \[4, 2, 8, 8\]\n.*batch="):
        net(X[:4])


def test_compile_for_each_number_of_threads(cache: Path) -> None:
    outputs = [hago.compile(tiny.network(), threads=n, cache=cache)(X[:1])[0] for n in (1, 2, 1)]
    for found in outputs[1:]:
        np.testing.assert_allclose(found, outputs[0], atol=1e-5)
    assert hago.compile(tiny.network(), cache=cache).threads >= 1
