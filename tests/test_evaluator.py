"""From a strategy to a record: what the search is told about a candidate, with the real compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from onnx import numpy_helper

from hago.api import quantize
from hago.compiler.cache import KernelCache
from hago.data import DataParts, make_samples, split_samples
from hago.errors import DataError, StorageError
from hago.kernels import backend_of
from hago.kernels.cpu.dot import DOTS
from hago.knobs import read_knobs
from hago.measure.metrics import get_metric
from hago.model import Model, load_model
from hago.scheme import PER_CHANNEL, PER_TENSOR
from hago.search.objective import Evaluator, evaluate_safely
from hago.spec import load_spec, resolve_hw
from hago.strategy import Choice, Strategy, uniform
from hago.tuning.candidates import EvaluatorOptions
from hago.tuning.evaluator import TvmEvaluator

HOST = resolve_hw("auto")
if not HOST.kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(tiny.network())


@pytest.fixture(scope="module")
def parts(model: Model) -> DataParts:
    return split_samples(make_samples(tiny.samples(), model.inputs))


@pytest.fixture(scope="module")
def evaluator(
    model: Model, parts: DataParts, cache: KernelCache, tmp_path_factory: pytest.TempPathFactory
) -> TvmEvaluator:
    folder = tmp_path_factory.mktemp("out")
    return TvmEvaluator(model, HOST, parts, get_metric("top1"), EvaluatorOptions(threads=1, cache=cache, folder=folder))


@pytest.fixture(scope="module")
def int8(model: Model) -> Strategy:
    return uniform(model, HOST)


FLOAT = Strategy("", "")


def test_it_is_what_the_search_asks_for(evaluator: TvmEvaluator) -> None:
    typed: Evaluator = evaluator
    assert typed.higher_is_better


def test_float_is_measured_against_itself(evaluator: TvmEvaluator, parts: DataParts) -> None:
    record = evaluator.float_record()
    assert (record.label, record.state, record.part, record.strategy) == ("float32", "ok", "search", None)
    assert record.accuracy == 1.0 and record.n_samples == len(parts.search)
    assert record.accuracy_change in (None, 0.0)
    assert record.latency_s and record.latency_s > 0
    assert record.size_bytes and record.size_bytes >= 4 * (32 * 18 + 32 * 288 + 128)


@pytest.mark.parametrize("named", [False, True])
def test_a_strategy_that_quantizes_nothing_is_float32(evaluator: TvmEvaluator, model: Model, named: bool) -> None:
    layers = {layer.name: Choice() for layer in model.layers} if named else {}
    strategy = Strategy(model.hash, HOST.name, layers)
    assert strategy.is_float
    record = evaluator.evaluate(strategy, stop_below=-0.01, time_left_s=1.0)
    assert (record.state, record.accuracy_change, record.latency_ratio) == ("ok", 0.0, 1.0)
    assert record.accuracy == evaluator.float_record().accuracy
    assert evaluator.test(strategy).label == "float32" and evaluator.sensitivity(strategy, 8) == 0.0


def test_answers_are_distinguished_from_float32_by_more_than_their_names(
    evaluator: TvmEvaluator, int8: Strategy
) -> None:
    """A device may have any name, float32 too."""
    proto = evaluator.qdq(int8)
    records = evaluator.test_together({"float32": proto, "other": proto})
    assert list(records) == ["float32", "other"] and all(r.latency_ratio for r in records.values())


def test_a_candidate_is_measured_in_full(evaluator: TvmEvaluator, parts: DataParts, int8: Strategy) -> None:
    record = evaluator.evaluate(int8)
    assert (record.state, record.part, record.strategy, record.reason) == ("ok", "search", int8, None)
    assert record.n_samples == len(parts.search)
    assert record.accuracy is not None and record.accuracy > 0.8
    assert record.accuracy_change == pytest.approx(record.accuracy - 1)
    assert record.accuracy_change_interval is not None and record.latency_ratio_interval is not None
    low, high = record.latency_ratio_interval
    assert record.latency_ratio is not None and 0 < low <= record.latency_ratio <= high
    # Where the exact instruction reads 16 bits, 8-bit weights lie in memory as such.
    share = DOTS[backend_of(HOST).families[HOST.kernels].exact_dot].weight_numpy.itemsize / 4
    assert record.size_bytes and record.size_bytes < evaluator.float_record().size_bytes * (share + 0.05)
    assert record.build_s and record.trial_s and record.trial_s >= record.build_s
    assert record.environment == evaluator.environment.key() and record.threads == 1


def test_the_accuracy_is_that_of_the_artifact_on_these_samples(
    evaluator: TvmEvaluator, parts: DataParts, int8: Strategy
) -> None:
    net = evaluator.artifact(int8)
    rows = [net.run(parts.search.batch(i, i + 1))[0] for i in range(len(parts.search))]
    right = np.concatenate(rows).argmax(1) == parts.search.labels
    assert evaluator.evaluate(int8).accuracy == right.mean()
    assert evaluator.evaluate(int8).accuracy == right.mean()  # and the same each time


def test_a_hopeless_candidate_is_cut_short(evaluator: TvmEvaluator, parts: DataParts) -> None:
    broken = load_model(tiny.network(seed=5))  # other weights, as wrong as can be
    other = TvmEvaluator(broken, HOST, parts, get_metric("top1"), EvaluatorOptions(cache=evaluator.cache))
    other.floats._kept_accuracy["search"] = evaluator.floats.accuracy("search")
    strategy = uniform(broken, HOST)
    record = other.evaluate(strategy, stop_below=-0.02)
    assert record.state == "pruned" and record.n_samples < len(parts.search)
    assert record.latency_s is None and record.accuracy_change is not None and record.accuracy_change < -0.02
    assert other.evaluate(strategy).state == "ok"  # without a bound it is measured in full


def test_what_cannot_be_built_is_a_record_with_its_reason(evaluator: TvmEvaluator, model: Model) -> None:
    wrong = Strategy(model.hash, HOST.name, {"conv1": Choice("int4")})
    record = evaluate_safely(evaluator, wrong, stop_below=None, time_left_s=None)
    assert record.state == "failed" and record.strategy == wrong
    assert record.reason and "int4" in record.reason


def test_a_full_disk_is_no_failed_candidate(model: Model, parts: DataParts, int8: Strategy, tmp_path: Path) -> None:
    """The search must end, and be resumed when there is room: not try the next candidate."""
    (tmp_path / "kernels").write_text("in the way")
    full = TvmEvaluator(
        model, HOST, parts, get_metric("top1"), EvaluatorOptions(cache=KernelCache(tmp_path / "kernels"))
    )
    with pytest.raises(StorageError):
        evaluate_safely(full, int8, stop_below=None, time_left_s=None)


def test_the_test_part_is_another(evaluator: TvmEvaluator, parts: DataParts, int8: Strategy, model: Model) -> None:
    chosen = evaluator.test(int8)
    base = evaluator.test(Strategy(model.hash, HOST.name))
    assert chosen.part == base.part == "test"
    assert chosen.n_samples == base.n_samples == len(parts.test)
    assert chosen.strategy == int8 and base.strategy is None
    assert base.accuracy == 1.0 and chosen.accuracy_change == pytest.approx(chosen.accuracy - 1)
    assert not set(parts.test.digests()) & set(parts.search.digests())


def test_sensitivity_is_noise_over_signal(evaluator: TvmEvaluator, parts: DataParts, model: Model) -> None:
    none = evaluator.sensitivity(Strategy(model.hash, HOST.name), 8)
    some = evaluator.sensitivity(uniform(model, HOST, "int8", PER_CHANNEL), 8)
    other = evaluator.sensitivity(uniform(model, HOST, "int8", PER_TENSOR), 8)
    assert none == 0 and 0 < some < 0.1 and 0 < other < 0.1
    net, reference = evaluator.artifact(uniform(model, HOST)), evaluator.float_artifact
    batches = [parts.calibration.batch(i, i + 1) for i in range(8)]
    floats, found = (np.concatenate([n.run(b)[0] for b in batches]).astype(np.float64) for n in (reference, net))
    assert some == pytest.approx(np.square(floats - found).sum() / np.square(floats).sum(), rel=1e-5)


def test_kernel_times_name_layers(evaluator: TvmEvaluator, int8: Strategy, model: Model) -> None:
    names = {layer.name for layer in model.layers}
    for strategy in (int8, Strategy(model.hash, HOST.name)):
        times = evaluator.kernel_times(strategy)
        assert {"conv1", "conv2", "fc"} <= set(times) <= names | {""}
        assert all(seconds > 0 for seconds in times.values())
        assert evaluator.kernel_times(strategy) == times  # from the cache


def test_the_identity_holds_what_must_stay_the_same(
    evaluator: TvmEvaluator, parts: DataParts, model: Model, cache: KernelCache
) -> None:
    base = evaluator.identity()
    assert base == evaluator.identity()

    def changed(**options: object) -> set[str]:
        given: dict[str, Any] = {"metric": get_metric("top1"), "threads": 1, "parts": parts, "spec": HOST, **options}
        how = EvaluatorOptions(threads=given["threads"], cache=cache)
        other = TvmEvaluator(model, given["spec"], given["parts"], given["metric"], how)
        return {key for key, value in other.identity().items() if base.get(key) != value}

    assert changed() == set()
    assert changed(metric=get_metric("top5")) == {"metric"}
    assert changed(threads=2) == {"threads"}
    assert changed(spec=load_spec("x86-avx2" if HOST.name != "x86-avx2" else "x86-amx")) == {"hw"}
    others = split_samples(make_samples(tiny.samples(seed=1), model.inputs))
    assert {key.split(".")[0] for key in changed(parts=others)} == {"samples"}


def test_the_calibration_is_kept_for_a_resumed_search(
    evaluator: TvmEvaluator, parts: DataParts, model: Model, cache: KernelCache, int8: Strategy
) -> None:
    kept = evaluator.calibration
    again = TvmEvaluator(model, HOST, parts, get_metric("top1"), EvaluatorOptions(cache=cache, folder=evaluator.folder))
    again.__dict__["float_artifact"] = None  # it is read, not made
    proto = again.qdq(int8).graph.SerializeToString(deterministic=True)
    assert proto == evaluator.qdq(int8).graph.SerializeToString(deterministic=True)
    assert set(again.calibration.tensors) == set(kept.tensors)


def test_a_metric_that_needs_labels_needs_labels(model: Model) -> None:
    x, _ = tiny.samples()
    unlabelled = split_samples(make_samples(x, model.inputs))
    with pytest.raises(DataError, match=r"'top1' needs labels.*\n.*cosine"):
        TvmEvaluator(model, HOST, unlabelled, get_metric("top1"))
    found = TvmEvaluator(model, HOST, unlabelled, get_metric("cosine")).float_record()
    assert found.metric == "cosine" and found.accuracy == pytest.approx(1)


def test_a_last_batch_that_is_not_full_is_scored_too(parts: DataParts, cache: KernelCache) -> None:
    model = load_model(tiny.network(), batch=7)
    record = TvmEvaluator(model, HOST, parts, get_metric("top1"), EvaluatorOptions(cache=cache)).float_record()
    assert record.n_samples == len(parts.search) and record.n_samples % 7
    assert record.accuracy == 1.0


def test_the_same_kernels_serve_many_strategies(evaluator: TvmEvaluator, model: Model) -> None:
    """What candidates share is compiled once: another calibrator compiles nothing."""
    evaluator.evaluate(uniform(model, HOST))
    before = evaluator.cache.info().kernels
    for calibrator in ("percentile", "entropy"):
        assert evaluator.evaluate(uniform(model, HOST, calibrator=calibrator)).state == "ok"
    assert evaluator.cache.info().kernels == before


def test_calibration_gathers_what_the_methods_of_the_search_need(
    evaluator: TvmEvaluator, model: Model, parts: DataParts, cache: KernelCache, tmp_path: Path
) -> None:
    plain, corrected = (uniform(model, HOST, correction=value) for value in ("none", "bias"))
    knobs = read_knobs({"correction": ("none", "bias")})
    metric = get_metric("top1")
    told = TvmEvaluator(
        model, HOST, parts, metric, EvaluatorOptions(threads=1, cache=cache, folder=tmp_path, knobs=knobs)
    )
    assert told.evaluate(corrected).state == "ok"
    found, without = (_int32(told.qdq(strategy)) for strategy in (corrected, plain))
    assert len(found) == 3 and len(without) == 1  # the convolutions have no bias of their own
    # The same from the API, of the same samples; and read from the file that a search leaves.
    samples = parts.calibration.batch(0, len(parts.calibration))
    for calibration in (samples, tmp_path / "calibration.npz"):
        again = _int32(quantize(model, corrected, calibration, hw=HOST, threads=1, cache=cache))
        assert again.keys() == found.keys() and all(np.array_equal(again[name], found[name]) for name in found)
    lacking = evaluator.evaluate(corrected)
    assert lacking.state == "failed" and "there is no input_mean of tensor" in str(lacking.reason)


def _int32(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The biases that are not all zero."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return {name: value for name, value in arrays.items() if value.dtype == np.int32 and value.any()}
