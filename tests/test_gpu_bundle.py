"""The bundle for machines with a GPU: packed, run on the emulated block, and what is read back from its results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from emulated_block import can_emulate
from onnx import TensorProto, helper, numpy_helper

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "gpu_bundle")]

import gpu_bundle as bundle_script  # noqa: E402
import run as runner  # noqa: E402
from bundle import Bundle, Notes, decoded  # noqa: E402
from packing import trial, tuning  # noqa: E402
from packing.graph import describe  # noqa: E402
from packing.models import Source, rounded, source  # noqa: E402
from stages import Stage  # noqa: E402
from turns import Contender, measured  # noqa: E402

from hago.compiler.cache import KernelCache  # noqa: E402
from hago.model import load_model  # noqa: E402


def onnx_model(nodes: list[Any], x: list[Any], initializers: list[Any]) -> onnx.ModelProto:
    """A model of x -> y, both of one shape."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """y = relu(x * w), with eight samples."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    weights = numpy_helper.from_array(np.array([[1, -2, 3, 4]], np.float32), "w")
    nodes = [helper.make_node("Mul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    onnx.save(onnx_model(nodes, ["n", 4], [weights]), path)
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    return source("scaled", path, x, np.arange(8) % 4, x)


@pytest.fixture(scope="module")
def results(scaled: Source, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not can_emulate():
        pytest.skip("there is no compiler of C++")
    place = tmp_path_factory.mktemp("bundle")
    return trial.emulated(place, [scaled], ("float32",), (1, 2), KernelCache(place / "kernels"))


def test_all_stages_run_on_the_emulated_block(results: dict[str, Any]) -> None:
    assert set(results["ends"].values()) == {"done"} and results["bundle"]["not_built"] == []
    exact = results["exactness"]["networks"]
    assert set(exact) == {"scaled.float32.b1", "scaled.float32.b2"}
    assert all(one["right"] and one["wrong"] == 0 and one["elements"] == 32 for one in exact.values())
    times = results["times"]["networks"]["scaled"]
    assert set(times) == {"1", "2"} and times["1"]["hago float32"]["median_s"] > 0
    (kernel,) = results["kernels"]["networks"]["scaled.float32.b2"]
    assert kernel["bytes"] == 4 * (8 + 4 + 8) and kernel["seconds"] > 0
    assert kernel["floor_s"] == pytest.approx(80 / results["kernels"]["copied_bytes_per_s"])


def test_results_can_be_read_and_shown(results: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps(results))
    text = bundle_script.table(tmp_path / "gpu.json")
    assert "emulated block" in text and "hago float32, ms" in text and "batch 1, 2" in text
    assert "onnxruntime float32 CPU, ms" in text and "T4" in text


def test_classes_of_the_samples_are_counted(results: dict[str, Any], scaled: Source) -> None:
    y = np.maximum(scaled.inputs["x"] * np.array([1, -2, 3, 4], np.float32), 0)
    right = int((y.argmax(-1) == scaled.labels).sum())
    assert results["exactness"]["networks"]["scaled.float32.b1"]["classes_right"] == right


def test_a_wrong_output_is_seen() -> None:
    from stages import _compared

    entry = {"model": "m", "batch": 2, "exact": True, "tolerance": 0.1}
    wanted = np.arange(6, dtype=np.float32).reshape(3, 2)
    held = SimpleNamespace(samples=lambda _: {"x": wanted}, expected=lambda _: [wanted], labels=lambda _: None)

    def network(change: float) -> Any:
        return SimpleNamespace(run=lambda feeds: [feeds["x"] + np.float32([[0, change]])])

    assert _compared(held, entry, network(0))["right"]  # type: ignore[arg-type]
    found = _compared(held, entry, network(0.25))  # type: ignore[arg-type]
    assert not found["right"] and found["wrong"] == 3 and found["error"] == pytest.approx(0.05)
    assert _compared(held, {**entry, "exact": False}, network(0.25))["right"]  # type: ignore[arg-type]
    assert not _compared(held, {**entry, "exact": False}, network(np.nan))["right"]  # type: ignore[arg-type]


def _raises(bundle: Bundle, device: Any, notes: Notes) -> None:
    notes.put(1, "before")
    raise ValueError("no")


def _dies(bundle: Bundle, device: Any, notes: Notes) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def _stays(bundle: Bundle, device: Any, notes: Notes) -> None:
    import time

    notes.put("something", "found")
    time.sleep(60)


def test_a_stage_that_fails_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_GRACE_S", 0.2)
    bundle = Bundle(tmp_path, tmp_path, {"networks": []})
    stages = [Stage(work.__name__, work, 0.5, 0.0) for work in (_raises, _dies, _stays)]
    end = runner.time.monotonic() + 60
    ends = [runner._run(stage, bundle, None, tmp_path, end) for stage in stages]
    assert ends == ["failed", "ended by signal 11", "stopped after 1 s"]
    told = json.loads((tmp_path / "_raises.json").read_text())
    assert told["before"] == 1 and told["errors"]["stage"]["error"] == "ValueError: no"
    assert json.loads((tmp_path / "_stays.json").read_text())["found"] == "something"
    assert runner._run(Stage("late", _raises, 5.0, 5.0), bundle, None, tmp_path, end - 60) == "no time left"


def test_contenders_take_turns_of_ten_calls_or_more(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []

    def contender(name: str, each_s: float) -> Contender:
        return Contender(name, lambda count: calls.append((name, count)) or count * each_s)  # type: ignore[func-returns-value]

    found = measured([contender("slow", 1e-2), contender("fast", 1e-6)], Notes(tmp_path / "n.json", 100))
    assert found["slow"]["median_s"] == pytest.approx(1e-2) and found["slow"]["calls"] == 10
    assert found["fast"]["median_s"] == pytest.approx(1e-6) and found["fast"]["calls"] == 500
    rounds = calls[4:]
    assert {name for name, _ in rounds[:2]} == {name for name, _ in rounds[2:4]} == {"slow", "fast"}


def test_constants_that_files_share_are_stored_once(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(300_000)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode() * 50 + data)
    bundle_script.archive(tmp_path / "all.tar.xz", tmp_path, ["a", "b", "c"])
    assert (tmp_path / "all.tar.xz").stat().st_size < 320_000


def test_samples_travel_in_few_bits_and_arrive_as_the_packer_has_them(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(3, 5, (9, 1, 256, 256)).astype(np.float32)
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    onnx.save(onnx_model(nodes, ["n", 1, 256, 256], []), tmp_path / "m.onnx")
    made = source("m", tmp_path / "m.onnx", x, None, x)
    assert made.stored["x/codes"].dtype == np.uint8
    np.savez(tmp_path / "s.npz", **made.stored)  # type: ignore[arg-type]
    with np.load(tmp_path / "s.npz") as file:
        assert (decoded(file, "x") == made.inputs["x"]).all()
    assert np.abs(made.inputs["x"] - x).max() <= (x.max() - x.min()) / 255


def test_rounded_weights_are_near(scaled: Source) -> None:
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = onnx_model(nodes, [1, 64], [numpy_helper.from_array(w, "w")])
    (kept,) = rounded(model).graph.initializer
    found = numpy_helper.to_array(kept)
    assert (np.abs(found / w - 1) <= 2.0**-5).all()
    assert not (found.view(np.uint32) & 0x7FFFF).any()


def test_a_trial_tells_what_failed(results: dict[str, Any]) -> None:
    assert trial.failures(results) == []
    broken = {**results, "ends": {**results["ends"], "tune": "ended by signal 11"}}
    broken["kernels"] = {"errors": {"k": {"error": "KeyError: 1"}, "torch": "PyTorch is not installed"}}
    assert trial.failures(broken) == ["tune: ended by signal 11", "kernels: k: KeyError: 1"]


def test_times_from_elsewhere_go_into_the_cache(tmp_path: Path) -> None:
    tried = [{"key": "k1", "tile": "a", "seconds": 2e-6}, {"key": "k2", "tile": "b", "seconds": 1e-6}]
    data = {"environment": {"device": {"name": "A GPU"}}, "tune": {"shapes": {"s": {"tried": tried}}}}
    (tmp_path / "gpu.json").write_text(json.dumps(data))
    cache = KernelCache(tmp_path / "kernels")
    assert tuning.import_times(tmp_path / "gpu.json", cache) == 2
    known = KernelCache(tmp_path / "kernels").time_of("k2", "A GPU")
    assert known is not None and known.seconds == 1e-6


def test_pytorch_runs_the_same_network() -> None:
    torch = pytest.importorskip("torch")
    from qdq_graphs import run_onnx
    from torch_network import TorchNetwork

    model = load_model(SCRIPTS.parent / "examples" / "digits" / "model.onnx", 2)
    network = TorchNetwork(describe(model)).eval()
    for initializer in model.proto.graph.initializer:
        place = network.places[initializer.name]
        if hasattr(network, place):
            getattr(network, place).copy_(torch.tensor(numpy_helper.to_array(initializer)))
    x = np.random.default_rng(0).uniform(0, 16, (2, 1, 8, 8)).astype(np.float32)
    (y,) = network(torch.tensor(x))
    (wanted,) = run_onnx(model.proto, {"image": x})
    np.testing.assert_allclose(y.detach().numpy(), wanted, rtol=1e-4, atol=1e-5)
