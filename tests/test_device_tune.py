"""Searches on devices: served here over RPC, killed in the middle, emulated, several at once."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import hago
from hago.bench.rpc import RpcBench
from hago.bench.server import kill, rpc_server
from hago.compiler.cache import KernelCache
from hago.data import make_samples, split_samples
from hago.device import device_pool as pool_module
from hago.device.config import Device
from hago.device.emulated import sysroot
from hago.device.places import Target, find_place
from hago.device.remote import RemoteNet
from hago.errors import DeviceError, NoDeviceError, SearchError, SpecError
from hago.measure.metrics import get_metric
from hago.model import Model, load_model
from hago.record import Record
from hago.record_file import read_records
from hago.scheme import PER_TENSOR
from hago.spec import load_spec, resolve_hw
from hago.spec.join import join
from hago.strategy import Choice, Strategy, uniform
from hago.tuning.candidates import EvaluatorOptions
from hago.tuning.evaluator import TvmEvaluator
from hago.tuning.joint import JointEvaluator

HOST = resolve_hw("auto")
if not HOST.kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(tiny.network())


def devices_file(folder: Path, **devices: Any) -> Path:
    path = folder / "devices.yaml"
    path.write_text(json.dumps({"devices": devices}))  # JSON is YAML
    return path


def at(address: tuple[str, int], **more: Any) -> dict[str, Any]:
    return {"spec": HOST.name, "rpc": f"{address[0]}:{address[1]}", **more}


class Watching:
    """A progress display that does something after some trial."""

    def __init__(self, after: int, what: Callable[[], None]) -> None:
        self._after, self._what = after, what

    def start(self, status: Any) -> None: ...
    def update(self, status: Any) -> None: ...
    def finish(self, status: Any) -> None: ...

    def trial(self, status: Any) -> None:
        if status.trial == self._after:
            self._what()


def test_a_server_is_killed_in_the_middle_and_nothing_is_lost(tmp_path: Path, cache: KernelCache) -> None:
    with rpc_server() as (one, first), rpc_server() as (_, second):
        file = devices_file(tmp_path, one=at(first), two=at(second))
        result = hago.tune(
            tiny.network(),
            data=tiny.samples(),
            devices="one+two",
            devices_file=file,
            trials=5,
            patience=None,
            cache=cache,
            out=tmp_path / "out",
            progress=Watching(3, lambda: kill(one)),
        )
    trials = [r for r in read_records(tmp_path / "out" / "records.jsonl") if r.id >= 0 and r.part == "search"]
    assert [r.id for r in trials] == list(range(5)) and all(r.state == "ok" for r in trials)
    assert {r.device for r in trials[:3]} == {"one", "two"}  # they share the work
    assert {r.device for r in trials[3:]} == {"two"}
    troubled = [r for r in trials[3:] if r.trouble]
    assert troubled and all("one: " in (r.trouble or "") for r in troubled)
    assert result.search.error is None and result.best.part == "test" and result.best.state == "ok"
    assert trials[0].checked == 4 and not any(r.estimated for r in trials)
    assert (tmp_path / "out" / "model.so").is_file() and (tmp_path / "out" / "run.py").is_file()
    assert "one+two" in result.summary()


@pytest.mark.slow
def test_a_tracker_gives_another_board_of_the_key(tmp_path: Path, cache: KernelCache) -> None:
    pytest.importorskip("tornado", reason="TVM's tracker needs tornado")
    with ExitStack() as stack:
        _, (host, port) = stack.enter_context(rpc_server(program="rpc_tracker"))
        key = ("--tracker", f"{host}:{port}", "--key", "board")
        one, _ = stack.enter_context(rpc_server(*key))
        file = devices_file(
            tmp_path, farm={"spec": HOST.name, "tracker": f"{host}:{port}", "key": "board", "timeout_s": 30}
        )

        def replace_board() -> None:
            kill(one)
            stack.enter_context(rpc_server(*key))

        result = hago.tune(
            tiny.network(),
            data=tiny.samples(),
            devices="farm",
            devices_file=file,
            trials=3,
            patience=None,
            cache=cache,
            progress=Watching(1, replace_board),
        )
    records = result.search.records
    assert [r.state for r in records] == ["ok"] * 3 and result.search.error is None
    assert any("farm: " in (r.trouble or "") for r in records)


@pytest.mark.slow
def test_a_server_that_hangs_is_given_up(tmp_path: Path, cache: KernelCache) -> None:
    with rpc_server() as (one, first), rpc_server() as (_, second):
        file = devices_file(tmp_path, one=at(first, timeout_s=2), two=at(second, timeout_s=20))
        result = hago.tune(
            tiny.network(),
            data=tiny.samples(),
            devices="one+two",
            devices_file=file,
            trials=4,
            patience=None,
            cache=cache,
            progress=Watching(1, lambda: os.killpg(one.pid, signal.SIGSTOP)),
        )
    records = result.search.records
    assert [r.state for r in records] == ["ok"] * 4 and {r.device for r in records[1:]} == {"two"}
    assert any("one: no answer within 2 s" in (r.trouble or "") for r in records)


def test_when_all_are_gone_the_search_ends_and_goes_on_later(
    tmp_path: Path, cache: KernelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_PATIENCE_S", 0.0)
    options: dict[str, Any] = {
        "data": tiny.samples(), "devices": "one", "trials": 3, "patience": None, "cache": cache,
        "out": tmp_path / "out",
    }  # fmt: skip
    with rpc_server() as (process, address):
        file = devices_file(tmp_path, one=at(address, timeout_s=20))
        watching = Watching(2, lambda: kill(process))
        result = hago.tune(tiny.network(), devices_file=file, progress=watching, **options)
    assert isinstance(result.search.error, NoDeviceError)
    assert result.search.trials == 2 and "no device answers" in result.summary()
    assert all(r.state == "ok" for r in result.search.records)
    with rpc_server(port=address[1]):
        again = hago.tune(tiny.network(), devices_file=file, resume=True, **options)
    assert again.search.error is None and again.search.trials == 3
    assert [r.id for r in again.search.records[:2]] == [r.id for r in result.search.records]


@pytest.fixture
def bench(cache: KernelCache) -> Iterator[RpcBench]:
    with ExitStack() as stack:
        _, address = stack.enter_context(rpc_server())
        opened = RpcBench([Device("there", HOST.name, rpc=address)], threads=1, cache=cache)
        stack.callback(opened.close)
        yield opened


@pytest.fixture
def evaluator(bench: RpcBench, model: Model, cache: KernelCache) -> TvmEvaluator:
    parts = split_samples(make_samples(tiny.samples(), model.inputs))
    return TvmEvaluator(model, HOST, parts, get_metric("top1"), EvaluatorOptions(cache=cache), bench=bench)


def test_a_device_with_other_integers_is_a_failed_record(
    evaluator: TvmEvaluator, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator.evaluate(uniform(model, HOST, "int8", PER_TENSOR))
    run = RemoteNet.run
    monkeypatch.setattr(RemoteNet, "run", lambda self, feeds: [output + np.float32(0.5) for output in run(self, feeds)])
    record = evaluator.evaluate(uniform(model, HOST))
    assert record.state == "failed" and "differ from this machine's" in (record.reason or "")


def test_float_layers_get_their_accuracy_from_the_device(
    evaluator: TvmEvaluator, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    run = RemoteNet.run
    monkeypatch.setattr(RemoteNet, "run", lambda self, feeds: calls.append(1) or run(self, feeds))
    whole = evaluator.evaluate(uniform(model, HOST))
    assert whole.state == "ok" and len(calls) == 8 and whole.checked == 4  # float32's and the candidate's samples alone
    mixed = Strategy(model.hash, HOST.name, {"conv1": Choice("int8")})
    record = evaluator.evaluate(mixed)
    assert record.state == "ok" and not record.checked
    assert len(calls) >= 8 + (record.n_samples or 0)
    assert set(evaluator.kernel_times(mixed)) >= {"conv1", "conv2"}


def test_many_candidates_in_one_measurement(evaluator: TvmEvaluator, model: Model) -> None:
    layers = ("conv1", "conv2", "fc")
    chosen = [frozenset(name for i, name in enumerate(layers) if bits >> i & 1) for bits in range(1, 8)]
    strategies = [Strategy(model.hash, HOST.name, {name: Choice("int8") for name in names}) for names in chosen]
    strategies += [uniform(model, HOST, "int8", PER_TENSOR)]
    records = [Record(i, "", strategy) for i, strategy in enumerate(strategies)]
    again = evaluator.remeasure(records)
    assert len(again) == 8 and all(record.latency_ratio for record in again)
    assert evaluator.evaluate(strategies[0]).state == "ok"  # whose network has been taken off the device meanwhile


def test_devices_of_two_kinds_do_not_share_work(tmp_path: Path) -> None:
    file = devices_file(
        tmp_path,
        a={"spec": "arm-cortex-a72", "rpc": "127.0.0.1:1"},
        b={"spec": "arm-cortex-a76", "rpc": "127.0.0.1:2"},
    )
    with pytest.raises(DeviceError, match="not of one kind"):
        find_place("a+b", file)
    with pytest.raises(DeviceError, match="its own spec"):
        hago.tune(tiny.network(), data=tiny.samples(), devices="a", devices_file=file, hw="x86-avx2")


def test_a_joint_spec_offers_what_all_offer() -> None:
    both = join([load_spec("arm-neoverse-v1"), load_spec("arm-cortex-a72")])
    precisions = {choice.precision for choice in both.choices("conv")}
    assert "int8" in precisions and "float32" in precisions
    assert not precisions & {"bfloat16", "float16"}
    assert both.choices("conv")[0].precision == "int7"  # seven bits lie in eight
    assert not both.kernels_available
    with pytest.raises(SpecError, match="bfloat16"):
        both.find("conv", "bfloat16")
    with pytest.raises(SpecError, match="at least two"):
        join([load_spec("arm-cortex-a72")])


def test_one_strategy_for_two_devices(tmp_path: Path, cache: KernelCache) -> None:
    file = devices_file(tmp_path, new={"spec": "auto", "local": True}, old={"spec": "x86-avx2", "local": True})
    if HOST.family != "x86":
        pytest.skip("two specs that this machine runs are needed")
    result = hago.tune(
        tiny.network(),
        data=tiny.samples(),
        devices=["new", "old"],
        devices_file=file,
        trials=3,
        cache=cache,
        out=tmp_path / "out",
    )
    for record in result.search.records:
        assert set(record.ratios) == {"new", "old"} and record.latency_ratio == max(record.ratios.values())
    for name in ("new", "old"):
        assert (tmp_path / "out" / name / "model.so").is_file()
        strategy = Strategy.load(tmp_path / "out" / name / "strategy.yaml")
        assert strategy.hw == f"{HOST.name}+x86-avx2"
        strategy.check(load_model(tiny.network()), resolve_hw(strategy.hw))
    assert "by the worst of their ratios" in result.summary()


@pytest.mark.slow
def test_one_strategy_for_two_devices_keeps_a_value_of_the_whole_set(tmp_path: Path, cache: KernelCache) -> None:
    """A metric of all samples at once, and a bound on its value instead of its change."""
    file = devices_file(tmp_path, new={"spec": "auto", "local": True}, old={"spec": HOST.name, "local": True})

    def balanced(outputs, labels):  # type: ignore[no-untyped-def]
        right = outputs.argmax(axis=1) == labels
        return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))

    def tuned(value: float) -> hago.Result:
        return hago.tune(
            tiny.network(), data=tiny.samples(), devices=["new", "old"], devices_file=file, trials=2, cache=cache,
            metric=balanced, min_value=value,
        )  # fmt: skip

    low = tuned(0.0)
    floats = low.search.float
    assert low.search.goal.limit == 0.0 and floats.accuracy is not None
    for record in low.search.records:
        assert set(record.ratios) == {"new", "old"} and record.accuracy is not None
        assert record.accuracy_change == pytest.approx(record.accuracy - floats.accuracy)
        assert low.search.goal.within(record)
    assert low.outcome in ("met", "not faster", "not told")
    with pytest.raises(SearchError, match=r"float32 itself reaches .*, the bound is at least 1.5"):
        tuned(1.5)


def test_the_mean_rule_takes_the_geometric_mean(model: Model, cache: KernelCache) -> None:
    parts = split_samples(make_samples(tiny.samples(), model.inputs))
    own = [TvmEvaluator(model, HOST, parts, get_metric("top1"), EvaluatorOptions(cache=cache)) for _ in range(2)]
    joint = JointEvaluator({"a": own[0], "b": own[1]}, "mean")
    record = joint.evaluate(uniform(model, HOST))
    assert record.latency_ratio == pytest.approx(np.sqrt(np.prod(list(record.ratios.values()))))
    with pytest.raises(SearchError, match="worst or mean"):
        JointEvaluator({"a": own[0], "b": own[1]}, "best")


@pytest.mark.aarch64
@pytest.mark.skipif(sysroot() is None, reason="there is no emulated AArch64 machine (scripts/aarch64_sysroot.py)")
def test_without_a_board_everything_is_marked_as_estimated(tmp_path: Path, cache: KernelCache) -> None:
    file = devices_file(tmp_path, a76={"spec": "arm-cortex-a76", "emulated": True})
    result = hago.tune(
        tiny.network(),
        data=tiny.samples(),
        devices="a76",
        devices_file=file,
        trials=2,
        cache=cache,
        out=tmp_path / "out",
    )
    assert result.best.estimated and result.best.latency_s is None and result.best.instructions
    for record in result.search.records:
        assert record.estimated and record.latency_s is None
        assert record.latency_ratio == pytest.approx(
            (record.instructions or 0) / (result.search.float.instructions or 1)
        )
    assert "Estimated: no board was attached" in result.summary()
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text()
        assert "stimated" in text and not re.search(r"\d.(ms|µs)\b", text)
    assert Target((Device("x", "arm-cortex-a76", emulated=True),)).name == "x"
