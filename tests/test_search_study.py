"""Whole searches with an evaluator that needs no compiler: order, answers, stopping, reproducibility."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise

import optuna
import pytest
from search_harness import FakeEvaluator, NetBuilder, residual_space

from hago.errors import BuildError, HagoError, MeasureError, SearchError, StorageError
from hago.goal import Goal
from hago.record import Record
from hago.record_file import read_records
from hago.result_files import RECORDS_FILE, STUDY_FILE
from hago.search.open_store import open_store
from hago.search.progress import Status
from hago.search.result import MET, NOT_FASTER, NOT_MET
from hago.search.space import SearchSpace
from hago.search.study import run_search
from hago.spec import load_spec

LOSSES = {"stem": 6.0, "b0.conv1": 1.0, "b1.conv1": 12.0, "b1.conv2": 2.0, "b2.conv1": 0.5, "fc": 5.0}
HARMLESS = {"stem": 1.0, "fc": 1.0}


class Watching:
    """A progress display that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.trials: list[Status] = []
        self.ended: list[Status] = []

    def start(self, status: Status) -> None: ...

    def update(self, status: Status) -> None:
        self.stages.append(status.stage)

    def trial(self, status: Status) -> None:
        self.trials.append(status)

    def finish(self, status: Status) -> None:
        self.ended.append(status)


def test_everything_in_integers_comes_first_and_needs_no_sensitivities_of_layers():
    evaluator = FakeEvaluator(residual_space(), HARMLESS)
    result = run_search(evaluator.space, evaluator, trials=1)
    assert evaluator.calls.count("evaluate") == 1
    assert evaluator.calls.count("kernel_times") == 0
    assert evaluator.calls.count("sensitivity") == 0
    assert result.outcome == MET and result.best.label == "int8/per_channel everywhere, mse"
    assert result.stopped == "1 trials"
    assert result.first_within_s is not None and result.first_within_s <= result.seconds


def test_a_search_finds_a_fast_strategy_within_the_bound():
    evaluator = FakeEvaluator(residual_space(), LOSSES, noise=0.002, slow=("fc",))
    result = run_search(evaluator.space, evaluator, trials=40, max_drop=0.01)
    everywhere = result.records[0]
    assert everywhere.label.startswith("int8/per_channel everywhere") and not result.goal.within(everywhere)
    assert result.met and result.best.accuracy_change >= -0.01
    # The best that there is, by trying all: within a few percent.
    assert result.best.latency_ratio < 0.44
    # Integers are slower there: the layer is left alone, or made bfloat16, never int8.
    assert not result.best.strategy.choice("fc").precision.startswith("int")
    assert result.test is not None and result.test.part == "test" and result.test_within
    assert result.float_test is not None and result.float_test.accuracy == 0.9
    assert result.front[0].latency_ratio <= result.best.latency_ratio
    assert result.front[-1].accuracy_change >= 0
    assert len({record.strategy.key() for record in result.records}) == len(result.records)
    assert [record.id for record in result.records] == list(range(len(result.records)))
    assert all(record.trial_s is not None for record in result.records)
    assert result.sensitivities.losses and "float32" in result.times.times
    assert result.error is None and result.blockers == ()
    assert result.summary().startswith(f"{1 / result.best.latency_ratio:.2f} times faster than float32")


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", pytest.param("random", marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_proposals_however_noisy_the_latencies(sampler):
    runs = []
    for noise_seed in (1, 2):
        evaluator = FakeEvaluator(residual_space(), LOSSES, noise=0.1, seed=noise_seed)
        result = run_search(evaluator.space, evaluator, sampler=sampler, seed=7, trials=24, patience=None)
        runs.append((evaluator.proposed(), [record.latency_ratio for record in result.records]))
    assert runs[0][0] == runs[1][0] and len(runs[0][0]) == 24
    assert runs[0][1] != runs[1][1]
    other = FakeEvaluator(residual_space(), LOSSES)
    run_search(other.space, other, sampler=sampler, seed=8, trials=24, patience=None)
    assert other.proposed() != runs[0][0]


@pytest.mark.parametrize("objectives", [("latency",), ("latency", "size"), ("latency", "accuracy", "size"), ("size",)])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "grid"])
def test_any_objectives_go_with_any_sampler(objectives, sampler):
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    result = run_search(
        evaluator.space, evaluator, sampler=sampler, objectives=objectives, trials=18, reproducible=False
    )
    assert result.met and len(result.records) > 12


def test_a_bound_that_cannot_be_met_is_reported_with_the_layers_in_the_way():
    class Hard(FakeEvaluator):
        """Whatever is quantized, one layer that is always touched ruins it: no strategy keeps the bound."""

        def loss(self, strategy):
            return (super().loss(strategy) + 30) if strategy.choices else 0.0

    evaluator = Hard(residual_space(), {"b1.conv1": 200.0, "fc": 20.0})
    result = run_search(evaluator.space, evaluator, trials=25, max_drop=0.005)
    assert not result.met and result.outcome == NOT_MET
    assert result.best in result.records
    assert result.best.accuracy_change == max(r.accuracy_change for r in result.records)
    assert result.closest is not None
    assert result.blockers[0].layers == ("b1.conv1",) and result.blockers[0].cause == "accuracy"
    assert 0 < result.blockers[0].share < 1 and result.blockers[0].float_cost_s > 0
    text = result.summary()
    assert "No strategy keeps a drop of at most 0.005" in text and "In the way: b1.conv1:" in text


def test_where_integers_are_slower_float32_stays():
    space = residual_space("x86-avx512-vnni")
    evaluator = FakeEvaluator(space, HARMLESS, slow=tuple(space.macs))
    result = run_search(space, evaluator, trials=20)
    assert result.outcome == NOT_FASTER and result.best is result.float
    assert result.test is result.float_test
    assert {b.cause for b in result.blockers} >= {"latency"}
    assert "no faster quantized than in float32" in result.summary()


class SlowIntegers(FakeEvaluator):
    """Quantized is slower everywhere, so that every programme ends at float32."""

    def layer_s(self, layer, precision):
        return super().layer_s(layer, "float32") * (1.0 if precision == "float32" else 1.5)


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_no_trial_is_spent_on_float32(sampler, tmp_path):
    space = residual_space(blocks=1)
    for trials in (4, 12):  # begun, and resumed
        evaluator = SlowIntegers(space, HARMLESS, broken=("bfloat16",))
        result = run_search(
            space, evaluator, sampler=sampler, trials=trials, folder=tmp_path / "out", resume=trials > 4, patience=None
        )
        assert evaluator.evaluated and not any(strategy.is_float for strategy in evaluator.evaluated)
    assert len(result.records) == 12 and result.outcome == NOT_FASTER and result.best is result.float


def test_an_older_search_that_began_float32_is_resumed_without_it(tmp_path):
    """Its trial was left, failed, or stands in the records alone: float32's outcome is known all the same."""
    space = residual_space(blocks=1)
    params = {name: "float32" if "float32" in choices else choices[0] for name, choices in space.parameters.items()}
    goal, identity = Goal(), {**FakeEvaluator(space).identity(), "seed": "0"}
    store = open_store(space, goal, identity, folder=tmp_path)
    _, left = store.begin(params, "kernel times", "fastest by kernel times")
    store.leave(left, "KeyboardInterrupt")
    number, failed = store.begin(params, "programme", "integer programme 1")
    store.finish(failed, Record(number, "it", space.strategy(params), state="failed", reason="names"), None)
    evaluator = FakeEvaluator(space, LOSSES)
    result = run_search(space, evaluator, folder=tmp_path, resume=True, trials=12)
    assert evaluator.evaluated and not any(strategy.is_float for strategy in evaluator.evaluated)
    assert result.met


def test_a_model_without_a_quantizable_layer_gets_float32():
    net = NetBuilder(4, 8)
    space = SearchSpace.from_model(net.model(net.op("Softmax", "soft", "x", axis=1)), load_spec("x86-avx2"))
    evaluator = FakeEvaluator(space)
    result = run_search(space, evaluator)
    assert result.outcome == NOT_FASTER and result.best is result.float
    assert result.stopped == "no layer of the model can be quantized on this hardware"


def test_hardware_without_floats_is_searched_too():
    space = residual_space("integer-only")
    result = run_search(space, FakeEvaluator(space, HARMLESS), trials=12)
    assert len(result.records) == 12 and result.met


def test_failed_candidates_are_records_with_their_reason():
    evaluator = FakeEvaluator(residual_space(), LOSSES, broken=("int8/per_channel",))
    result = run_search(evaluator.space, evaluator, trials=12)
    failed = [record for record in result.records if record.state == "failed"]
    assert failed and failed[0].reason == "BuildError: layer conv1: no kernel for this"
    assert result.met and result.error is None  # bfloat16 works


def test_five_failures_in_a_row_end_the_search_with_what_is_there():
    class Failing(FakeEvaluator):
        def evaluate(self, strategy, *, stop_below=None, time_left_s=None):
            if len(self.evaluated) >= 2:
                raise ZeroDivisionError("a bug\nwith details")  # no HagoError: a metric of the user's
            return super().evaluate(strategy)

    evaluator = Failing(residual_space(), LOSSES)
    result = run_search(evaluator.space, evaluator, trials=40)
    assert isinstance(result.error, SearchError)
    assert result.error.what == "5 candidates in a row failed: ZeroDivisionError: a bug"
    assert len(result.records) == 7 and result.float.accuracy == 0.9
    assert result.test is not None  # the two that could be measured were enough for an answer


def test_a_float32_that_fails_is_an_error():
    class Broken(FakeEvaluator):
        def float_record(self):
            raise MeasureError("no outputs", where="float32")

    shown = Watching()
    with pytest.raises(MeasureError, match="float32: no outputs"):
        run_search(residual_space(), Broken(residual_space()), progress=shown)
    assert len(shown.ended) == 1


def test_the_evaluator_may_fail_at_everything_but_candidates():
    class Flaky(FakeEvaluator):
        def sensitivity(self, strategy, samples):
            raise BuildError("no")

        def kernel_times(self, strategy):
            raise BuildError("no")

        def test(self, strategy):
            raise MeasureError("the board is gone")

    evaluator = Flaky(residual_space(), LOSSES)
    result = run_search(evaluator.space, evaluator, trials=20, patience=None)
    assert len(result.records) == 20 and result.met
    assert result.test is not None and result.test.state == "failed" and result.test_within is None


def test_the_time_budget_is_kept(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("hago.search.run.time.monotonic", lambda: clock[0])
    given: list[float | None] = []

    class Slow(FakeEvaluator):
        def evaluate(self, strategy, *, stop_below=None, time_left_s=None):
            given.append(time_left_s)
            clock[0] += 10
            return super().evaluate(strategy)

        def sensitivity(self, strategy, samples):
            clock[0] += 1
            return super().sensitivity(strategy, samples)

    evaluator = Slow(residual_space(), LOSSES)
    result = run_search(evaluator.space, evaluator, trials=None, budget="2m", patience=None)
    assert result.stopped == "the time budget of 120 s"
    # The first may take all that is left; a part is kept for the end after that.
    assert given[0] == 120 and given[1] == 110 - 0.15 * 120 - 5 and all(b < a for a, b in pairwise(given))
    # A quarter of it for sensitivities, per pass, and the last trial may run over.
    assert evaluator.calls.count("sensitivity") <= 2 * 31
    assert 6 <= len(result.records) <= 12


def test_a_plateau_of_the_front_ends_the_search():
    evaluator = FakeEvaluator(residual_space(), {})
    result = run_search(evaluator.space, evaluator, trials=100, patience=6)
    assert result.stopped == "the front reached a plateau: no improvement in 6 trials"
    assert len(result.records) < 20


def test_every_strategy_measured_ends_the_search():
    net = NetBuilder(3, 8)
    model = net.model(net.conv("b", net.relu(net.conv("a", "x", 8)), 8))
    space = SearchSpace.from_model(model, load_spec("x86-avx512-vnni"), knobs={"calibrator": "minmax"})
    result = run_search(space, FakeEvaluator(space), trials=None, patience=None)
    assert result.stopped == "every strategy that the sampler can propose has been measured"
    assert len(result.records) == 8  # nine sets of parameters, one of them float32


def test_candidates_without_hope_may_be_cut_short_once_one_keeps_the_bound():
    asked: list[float | None] = []

    class Racing(FakeEvaluator):
        def evaluate(self, strategy, *, stop_below=None, time_left_s=None):
            record = super().evaluate(strategy)
            asked.append(stop_below)
            if stop_below is not None and record.accuracy_change < stop_below:
                return replace(record, state="pruned", reason="hopeless", n_samples=64)
            return record

    evaluator = Racing(residual_space(), {"stem": 60.0, "fc": 1.0})
    result = run_search(evaluator.space, evaluator, trials=30, max_drop=0.01)
    first = next(i for i, record in enumerate(result.records) if result.goal.within(record))
    assert all(bound == -0.1 for bound in asked[: first + 1])
    assert all(bound == -0.02 for bound in asked[first + 1 :])
    assert any(record.state == "pruned" for record in result.records)
    assert all(record.state == "ok" for record in result.front)


def test_progress_hears_of_every_trial_and_the_end():
    evaluator, shown = FakeEvaluator(residual_space(), LOSSES), Watching()
    result = run_search(evaluator.space, evaluator, trials=14, progress=shown)
    assert [status.trial for status in shown.trials] == list(range(1, 15))
    assert all(status.trials == 14 and status.float is not None for status in shown.trials)
    last = shown.trials[-1]
    assert last.best is not None and last.best.latency_ratio <= result.best.latency_ratio
    assert last.left_s == 0 and shown.trials[0].left_s is not None
    assert "integer programme" in shown.stages and "test samples" in shown.stages
    assert len(shown.ended) == 1 and shown.ended[0].stage == "stopped: 14 trials"


def test_the_study_is_in_sqlite_as_optuna_knows_it(tmp_path):
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    result = run_search(evaluator.space, evaluator, folder=tmp_path / "out", trials=12)
    url = f"sqlite:///{tmp_path / 'out' / STUDY_FILE}"
    study = optuna.load_study(study_name="hago", storage=url)
    assert [t.state for t in study.trials] == [optuna.trial.TrialState.COMPLETE] * 12
    assert study.metric_names == ["latency over float32", "accuracy change"]
    for trial, record in zip(study.trials, result.records, strict=True):
        assert trial.values == [record.latency_ratio, record.accuracy_change]
        assert evaluator.space.strategy(trial.params) == record.strategy
        assert Record.from_dict(trial.user_attrs["record"]) == record
        assert trial.duration is not None
    written = read_records(tmp_path / "out" / RECORDS_FILE)
    assert [r.id for r in written] == [-1, *range(12), result.best.id]
    assert written[-1].part == "test" and written[-1].accuracy == result.test.accuracy


@pytest.mark.parametrize("where", ["sqlite:///{}/a.db", "{}/b.sqlite", "{}/c.journal"])
def test_other_storages(tmp_path, where):
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    storage = where.format(tmp_path)
    run_search(evaluator.space, evaluator, storage=storage, trials=4)
    result = run_search(evaluator.space, evaluator, storage=storage, trials=6, resume=True)
    assert len(result.records) == 6 and len(evaluator.evaluated) == 6


def test_nothing_is_printed_and_no_warning_given(capfd):
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_search(evaluator.space, evaluator, trials=15)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"trials": 0}, SearchError, "trials must be a whole number of at least 1"),
        ({"trials": True}, SearchError, "trials must be a whole number of at least 1"),
        ({"patience": 0}, SearchError, "patience must be a whole number of at least 1"),
        ({"seed": -1}, SearchError, "seed must be a whole number of at least 0"),
        ({"seed": 1.5}, SearchError, "seed must be a whole number of at least 0"),
        ({"budget": "soon"}, SearchError, "a time budget is written like"),
        ({"sampler": "best"}, SearchError, "there is no sampler 'best'"),
        ({"progress": "loud"}, SearchError, "there is no progress display"),
        ({"max_drop": -1.0}, SearchError, "max_drop must be"),
        ({"storage": "nonsense://x"}, SearchError, "nonsense://x: the storage cannot be opened"),
        ({"storage": "/no/such/folder/study.db"}, StorageError, "there is no such folder"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_measured(arguments, error, message):
    evaluator = FakeEvaluator(residual_space())
    with pytest.raises(error, match=message) as caught:
        run_search(evaluator.space, evaluator, **arguments)
    assert isinstance(caught.value, HagoError)
    assert evaluator.calls == []
