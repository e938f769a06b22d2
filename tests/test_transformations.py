"""Rewrites of the float network before it is calibrated: what they must keep, and how users reach them.

Hago ships none: the one here moves a factor of two from one convolution to the next, in every other channel.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import yaml
from onnx import numpy_helper

import hago
from hago.choice import Choice
from hago.cli import main
from hago.compiler.cache import KernelCache
from hago.data import make_samples, split_samples
from hago.errors import DataError, SearchError, StrategyError
from hago.knobs import read_knobs
from hago.measure.metrics import get_metric
from hago.methods import TRANSFORMATIONS, Transformation, transformed
from hago.model import Model, load_model
from hago.record_file import read_records
from hago.scheme import PER_TENSOR
from hago.search import SearchSpace
from hago.spec import load_spec, resolve_hw
from hago.strategy import Strategy, uniform
from hago.testing import TransformationSuite
from hago.tuning.candidates import EvaluatorOptions
from hago.tuning.evaluator import TvmEvaluator

HOST = resolve_hw("auto")
AVX2 = load_spec("x86-avx2")
needs_kernels = pytest.mark.skipif(not HOST.kernels_available, reason="there are no kernels for this machine")
X, Y = tiny.samples()


def moved(model: Model) -> Model:
    """Every other channel between the convolutions of w1 and w2 is twice as large: exact in float32."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    first, second = (numpy_helper.to_array(constants[name]) for name in ("w1", "w2"))
    factor = np.where(np.arange(len(first)) % 2, 2, 1).astype(np.float32)
    changed = {"w1": first * factor[:, None, None, None], "w2": second / factor[:, None, None]}
    if "b1" in constants:
        changed["b1"] = numpy_helper.to_array(constants["b1"]) * factor
    for name, value in changed.items():
        constants[name].CopyFrom(numpy_helper.from_array(value, name))
    return load_model(proto)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSFORMATIONS, "moved", Transformation(moved))  # type: ignore[arg-type]


class TestTransformation(TransformationSuite):
    @pytest.fixture(params=["moved", "none"])
    def method(self, request: pytest.FixtureRequest) -> Transformation:
        return TRANSFORMATIONS[request.param]

    def test_weights_move(self, model: Model) -> None:
        assert not np.array_equal(moved(model).initializer("w1"), model.initializer("w1"))


def model() -> Model:
    return load_model(tiny.network())


def graph(proto: onnx.ModelProto) -> bytes:
    return proto.graph.SerializeToString(deterministic=True)


# --- a strategy ----------------------------------------------------------------------------------


def test_a_strategy_names_it_only_where_there_is_one(tmp_path: Path) -> None:
    plain = uniform(model(), AVX2)
    chosen = uniform(model(), AVX2, transformation="moved")
    assert "transformation" not in plain.to_dict() and chosen.to_dict()["transformation"] == "moved"
    assert chosen.key() != plain.key() and chosen != plain and hash(chosen) != hash(plain)
    for suffix in ("yaml", "json"):
        chosen.save(tmp_path / f"strategy.{suffix}")
        assert Strategy.load(tmp_path / f"strategy.{suffix}") == chosen
    assert pickle.loads(pickle.dumps(chosen)) == chosen
    assert chosen.bound_to(model()).with_("fc", Choice()).transformation == "moved"


def test_in_float32_it_means_nothing() -> None:
    """float32 is the network as it was loaded."""
    floats = Strategy("a", "b", {"conv1": Choice()}, transformation="moved")
    assert floats.is_float and floats.key() == Strategy("a", "b").key()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("move", "unknown transformation 'move'\n  hint: did you mean 'moved'?"),
        (3, "transformation must be a string, found 3"),
    ],
)
def test_a_strategy_of_an_unknown_one_is_refused(value: object, message: str) -> None:
    data = {**uniform(model(), AVX2).to_dict(), "transformation": value}
    with pytest.raises(StrategyError) as caught:
        Strategy.from_dict(data, "my.yaml")
    assert str(caught.value) == f"my.yaml: {message}"


# --- a knob of the network -----------------------------------------------------------------------


def test_it_is_a_knob_of_the_network_that_a_search_fixes() -> None:
    knobs = read_knobs({"transformation": "moved"})
    assert knobs == {**read_knobs(), "transformation": ("moved",)}
    plain, space = (SearchSpace.from_model(model(), AVX2, asked) for asked in (None, knobs))
    assert space.parameters == plain.parameters and space.signature != plain.signature
    int8 = space.strategy(space.uniform("int8/per_channel", "mse"))
    assert int8.transformation == "moved"
    assert space.params(int8) == plain.params(plain.strategy(space.params(int8)))
    of_another = uniform(model(), AVX2, calibrator="mse")
    assert space.strategy(space.nearest(of_another)).transformation == "moved"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("none,moved", "a search has one transformation, got none, moved\n  hint: search once with each"),
        ("mvoed", "unknown transformation 'mvoed'\n  hint: did you mean 'moved'?"),
        ((), "knob transformation needs a value\n  hint: values: none, moved"),
    ],
)
def test_what_no_search_can_have_is_refused(asked: object, message: str) -> None:
    with pytest.raises(StrategyError) as caught:
        read_knobs({"transformation": asked})  # type: ignore[dict-item]
    assert str(caught.value) == message


def test_a_layer_has_no_transformation() -> None:
    with pytest.raises(StrategyError, match="there is no knob 'transformation'"):
        Choice("int8").with_(transformation="moved")
    with pytest.raises(StrategyError, match="unknown key"):
        Choice.from_dict({"precision": "int8", "transformation": "moved"})


# --- quantize ------------------------------------------------------------------------------------


@needs_kernels
def test_quantize_calibrates_and_quantizes_what_the_transformation_made(cache: KernelCache) -> None:
    by_name = hago.quantize(
        tiny.network(), uniform(model(), HOST, granularity=PER_TENSOR, transformation="moved"), X[:16], cache=cache
    )
    changed = load_model(moved(model()).proto)
    by_hand = hago.quantize(changed, uniform(changed, HOST, granularity=PER_TENSOR), X[:16], cache=cache)
    plain = hago.quantize(tiny.network(), uniform(model(), HOST, granularity=PER_TENSOR), X[:16], cache=cache)
    weights = [
        {tensor.name: tensor.raw_data for tensor in proto.graph.initializer} for proto in (by_name, by_hand, plain)
    ]
    assert weights[0] == weights[1] != weights[2]
    assert by_name.graph.input[0] == plain.graph.input[0]  # the batch of the user's file stays free


@needs_kernels
def test_ranges_of_the_network_as_it_was_are_refused(tmp_path: Path, cache: KernelCache) -> None:
    chosen = uniform(model(), HOST, transformation="moved")
    evaluator = evaluator_with(None, tmp_path, cache)
    with pytest.raises(DataError, match="its ranges belong to other weights"):
        hago.quantize(tiny.network(), chosen, evaluator.calibration)
    with pytest.raises(StrategyError, match="needs the transformation 'moved' of the network, this one went through"):
        evaluator.quantizer.qdq(chosen)
    assert evaluator.evaluate(chosen).state == "failed"


def evaluator_with(knobs: dict[str, str] | None, folder: Path, cache: KernelCache) -> TvmEvaluator:
    parts = split_samples(make_samples(tiny.samples(), model().inputs))
    asked = read_knobs(knobs)
    return TvmEvaluator(
        model(), HOST, parts, get_metric("top1"), EvaluatorOptions(cache=cache, folder=folder, knobs=asked)
    )


@needs_kernels
def test_the_identity_of_a_search_names_it_only_where_there_is_one(tmp_path: Path, cache: KernelCache) -> None:
    plain = evaluator_with(None, tmp_path, cache).identity()
    assert plain == evaluator_with({"transformation": "none"}, tmp_path, cache).identity()
    assert evaluator_with({"transformation": "moved"}, tmp_path, cache).identity() == {
        **plain,
        "transformation": "moved",
    }


def test_a_transformed_model_is_still_the_one_that_was_loaded() -> None:
    found = transformed(model(), "moved")
    assert (found.hash, found.structure, found.source) == (model().hash, model().structure, model().source)
    assert found.weights_hash != model().weights_hash == model().hash
    assert transformed(found, "moved") is found and transformed(model(), "none").weights_hash == model().hash


# --- a search ------------------------------------------------------------------------------------


@needs_kernels
def test_a_search_from_the_command_line_and_what_it_leaves(
    tmp_path: Path, kernels_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, samples = tiny.write(tmp_path)
    out = tmp_path / "out"
    usual = ["tune", str(network), "--data", str(samples), "--out", str(out), "--trials", "2", "--threads", "1"]
    usual += ["--cache", str(kernels_folder), "--max-drop", "0.9", "--progress", "silent"]
    assert main([*usual, "--knob", "transformation=moved"]) in (0, 1)
    tried = [record for record in read_records(out / "records.jsonl") if record.strategy is not None]
    assert tried and {record.strategy.transformation for record in tried if record.strategy} == {"moved"}
    assert "transformation moved" in (out / "report.md").read_text(encoding="utf-8")

    # Whatever of it was chosen can be written again from its files alone.
    tried[0].strategy.save(tmp_path / "tried.yaml")  # type: ignore[union-attr]
    assert yaml.safe_load((tmp_path / "tried.yaml").read_text())["transformation"] == "moved"
    arguments = ["--strategy", str(tmp_path / "tried.yaml"), "--calibration", str(out / "calibration.npz")]
    assert main(["quantize", str(network), *arguments, "--out", str(tmp_path / "q.onnx")]) == 0
    expected = hago.quantize(network, tmp_path / "tried.yaml", out / "calibration.npz")
    assert graph(onnx.load(tmp_path / "q.onnx")) == graph(expected)

    # The search goes on with the same transformation alone.
    assert main([*usual, "--resume"]) == 2
    assert "transformation was 'moved', is None" in capsys.readouterr().err
    with pytest.raises(SearchError, match="transformation was 'moved', is None"):
        hago.tune(network, data=samples, out=out, trials=2, threads=1, cache=kernels_folder, resume=True)
