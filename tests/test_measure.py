"""Timing is tested on a clock that the fake runners wind themselves; accuracy on scores known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from measure_fakes import FEEDS, FakeClock, FakeRunner, FakeSamples, Top1, fail, one_hot

from hago.errors import BuildError, MeasureError, NoDeviceError
from hago.measure.accuracy import hopeless, measure_accuracy
from hago.measure.clocks import CPU, GPU
from hago.measure.latency import Pace, measure_latency
from hago.measure.running import Renamed, collect_outputs

# -- latency


def test_times_median_and_ratio_are_what_the_clock_says():
    clock = FakeClock()
    fast = FakeRunner("fast", clock=clock, ns=lambda call: 50_000)
    slow = FakeRunner("slow", clock=clock, ns=lambda call: 200_000)
    found = measure_latency([slow, fast], FEEDS, rounds=20, clocks=clock)
    assert found["fast"].median_s == pytest.approx(50e-6)
    assert found["slow"].median_s == pytest.approx(200e-6)
    assert found["fast"].ratio == pytest.approx(0.25)
    assert found["fast"].clock == CPU and found["fast"].disturbed == 0
    # Rounds that agree to the bit still say nothing of the next process.
    assert (found["fast"].ratio_low, found["fast"].ratio_high) == pytest.approx((0.25 / 1.035, 0.25 * 1.035), rel=1e-3)
    assert (found["slow"].ratio, found["slow"].ratio_low, found["slow"].ratio_high) == (1.0, 1.0, 1.0)
    assert found["fast"].samples == 20 and list(found) == ["slow", "fast"]


def test_short_calls_are_repeated_until_a_turn_is_long_enough_and_timed_several_at_once():
    clock = FakeClock()
    times = {"tiny": 2_000, "short": 100_000, "long": 80_000_000}
    runners = [FakeRunner(name, clock=clock, ns=lambda call, ns=ns: ns) for name, ns in times.items()]
    found = measure_latency(runners, FEEDS, rounds=5, pace=Pace(round_s=0.003), clocks=clock)
    assert [found[name].calls for name in times] == [25, 1, 1]
    in_turns = [5 * (1 + 60 * 25), 5 * (1 + 30), 5]  # none of them untimed where a call is longer than 20 ms
    assert [runner.calls for runner in runners] == [10 + in_turns[0], 10 + in_turns[1], 7 + in_turns[2]]


def test_of_a_turn_the_least_call_counts_and_of_the_rounds_the_quieter_half():
    clock = FakeClock()

    def slowed(base):
        # In two rounds of five a neighbour slows the processor; in every turn some calls find the caches cold.
        return lambda call: int(base * (1.6 if call // 11 % 5 > 2 else 1.0) * (1 + (call % 11 < 6) / 2))

    a, b = (FakeRunner(name, clock=clock, ns=slowed(ns)) for name, ns in (("a", 400_000), ("b", 200_000)))
    found = measure_latency([a, b], FEEDS, rounds=25, pace=Pace(warmup_s=0), clocks=clock)
    assert found["a"].median_s == pytest.approx(400e-6) and found["b"].ratio == pytest.approx(0.5)
    assert max(found["a"].times_s) == pytest.approx(640e-6) and found["a"].samples == 25


class FakeGpuRunner(FakeRunner):
    """Its device tells how long calls take, after 3 us for the first; the process's clocks show only the launches."""

    def __init__(self, name, call_s, clock):
        super().__init__(name, clock=clock, ns=lambda call: 1_000)
        self.timed_by_cpu, self.call_s, self.asked = False, call_s, []

    def time_calls(self, feeds, count):
        self.asked.append(count)
        self.clock.work(int(1e9 * count * self.call_s))
        return 3e-6 + count * self.call_s


def test_a_device_with_its_own_clock_is_timed_by_it_many_calls_at_once():
    clock = FakeClock()
    plain, fast = FakeGpuRunner("float32", 100e-6, clock), FakeGpuRunner("int8", 20e-6, clock)
    found = measure_latency([plain, fast], FEEDS, rounds=12, clocks=clock)
    assert [found[name].clock for name in found] == [GPU, GPU] and not plain.calls
    # At least ten calls between two events, and 400 us: what an event costs is shared by all of them.
    assert (found["float32"].calls, found["int8"].calls) == (10, 20)
    assert found["float32"].median_s == pytest.approx(100e-6 + 3e-7)
    assert found["int8"].ratio == pytest.approx((20e-6 + 1.5e-7) / (100e-6 + 3e-7))
    assert found["int8"].reliable and found["int8"].disturbed is None and found["int8"].samples == 12
    for runner, count in ((plain, 10), (fast, 20)):  # warm-up; then each turn begins with a call that does not count
        assert set(runner.asked[-12:]) == {1, count} and runner.asked.count(1) == 12


def test_devices_and_processors_are_timed_together_each_by_its_clock():
    clock = FakeClock()
    here = FakeRunner("here", clock=clock, ns=lambda call: 200_000)
    gpu = Renamed(FakeGpuRunner("there", 50e-6, clock), "gpu")
    found = measure_latency([here, gpu], FEEDS, rounds=6, clocks=clock)
    assert (found["here"].clock, found["gpu"].clock) == (CPU, GPU)
    assert found["gpu"].ratio == pytest.approx(0.25, rel=0.01)


def test_a_device_that_fails_while_it_is_timed_is_named():
    runner = FakeGpuRunner("int8", 1e-3, FakeClock())
    for error, kind in ((ValueError("no"), MeasureError), (NoDeviceError("the GPU is gone"), NoDeviceError)):
        runner.time_calls = lambda feeds, count, error=error: fail(error)(feeds)
        with pytest.raises(kind) as caught:
            measure_latency([runner], FEEDS, clocks=runner.clock)
        assert kind is NoDeviceError or caught.value.where == "int8"


def test_runners_take_turns_in_changing_order_every_round():
    clock, log = FakeClock(), []
    runners = [FakeRunner(n, clock=clock, ns=lambda call: 30_000_000, log=log) for n in "abc"]
    measure_latency(runners, FEEDS, rounds=12, clocks=clock)
    turns = log[-36:]
    rounds = [tuple(turns[i : i + 3]) for i in range(0, 36, 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 1
    again: list[str] = []
    runners = [FakeRunner(n, clock=clock, ns=lambda call: 30_000_000, log=again) for n in "abc"]
    measure_latency(runners, FEEDS, rounds=12, clocks=clock)
    assert again[-36:] == turns


def test_worker_threads_are_given_time_to_fall_asleep_before_a_turn():
    clock, log = FakeClock(), []
    runners = [FakeRunner(n, clock=clock, ns=lambda call: 500_000, log=log) for n in "ab"]
    runners[1].threads = 2
    found = measure_latency(runners, FEEDS, rounds=4, pace=Pace(round_s=0.001), clocks=clock)
    assert found["a"].calls == found["b"].calls == 1
    assert len(log) - 2 * 10 == 4 * 2 * (4 + 2)  # 10 calls to warm up; 2 ms untimed and 1 ms timed a turn


def test_a_disturbance_of_whole_rounds_widens_the_times_but_not_the_ratio():
    clock = FakeClock()

    def disturbed(base):
        # Slower and slower, as under thermal throttling: both runners are called equally often.
        return lambda call: int(base * (1 + call / 50))

    a = FakeRunner("a", clock=clock, ns=disturbed(40_000_000))
    b = FakeRunner("b", clock=clock, ns=disturbed(20_000_000))
    found = measure_latency([a, b], FEEDS, rounds=30, pace=Pace(warmup_s=0), clocks=clock)
    wide = (found["b"].high_s - found["b"].low_s) / found["b"].median_s
    narrow = found["b"].ratio_high / found["b"].ratio_low
    assert wide > 0.05 and narrow == pytest.approx(1.0322**2, rel=1e-3)
    assert found["b"].ratio == pytest.approx(0.5)


def test_warm_up_leaves_slow_first_calls_out():
    clock = FakeClock()
    runner = FakeRunner("r", clock=clock, ns=lambda call: 1_000_000 if call else 400_000_000)
    found = measure_latency([runner], FEEDS, rounds=10, clocks=clock)["r"]
    assert max(found.times_s) == pytest.approx(0.001)


def test_warm_up_that_never_gets_steady_ends():
    clock = FakeClock()
    runner = FakeRunner("r", clock=clock, ns=lambda call: 1_000_000 * (1 + call % 7))
    found = measure_latency([runner], FEEDS, rounds=3, pace=Pace(warmup_s=0.2), clocks=clock)["r"]
    assert found.samples == 3


def test_the_budget_ends_the_measurement_after_a_whole_round():
    clock = FakeClock()
    runners = [FakeRunner(n, clock=clock, ns=lambda call: 100_000_000) for n in "ab"]
    found = measure_latency(runners, FEEDS, rounds=1000, budget_s=2.0, clocks=clock)
    assert found["a"].samples == found["b"].samples < 12
    one = measure_latency(runners, FEEDS, rounds=1000, budget_s=1e-9, clocks=clock)
    assert one["a"].samples == 1


def test_a_clock_that_does_not_advance_is_no_endless_loop_and_no_division_by_zero():
    with pytest.raises(MeasureError, match="fake: the clock did not move"):
        measure_latency([FakeRunner()], FEEDS, rounds=1, clocks=FakeClock())


def test_a_failing_runner_is_named_with_the_reason():
    broken = FakeRunner("broken", function=fail(RuntimeError("illegal instruction\nat 0x0")))
    with pytest.raises(MeasureError, match=r"^broken: the run failed: RuntimeError: illegal instruction$"):
        measure_latency([FakeRunner(), broken], FEEDS)
    ours = FakeRunner("ours", function=fail(BuildError("no kernel", hint="clear the cache")))
    with pytest.raises(MeasureError, match="ours: no kernel\n  hint: clear the cache"):
        measure_latency([ours], FEEDS)


def test_interrupting_passes_through():
    with pytest.raises(KeyboardInterrupt):
        measure_latency([FakeRunner(function=fail(KeyboardInterrupt()))], FEEDS)


@pytest.mark.parametrize(
    ("runners", "feeds", "message"),
    [
        ([], FEEDS, "needs a runner"),
        ([FakeRunner("a"), FakeRunner("a")], FEEDS, "different names"),
        ([FakeRunner("a")], {"y": FEEDS["x"]}, r"a: no value for the inputs \['x'\], got \['y'\]"),
    ],
)
def test_what_cannot_be_timed_is_said(runners, feeds, message):
    with pytest.raises(MeasureError, match=message):
        measure_latency(runners, feeds)


# -- accuracy


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_every_sample_is_scored_once_at_any_batch(batch):
    labels = np.arange(10) % 3
    x = one_hot(labels)
    x[[2, 7]] = x[[2, 7]][:, ::-1] + [[0, 0.5, 0]]
    expected = (x.argmax(axis=1) == labels).astype(float)
    found = measure_accuracy(FakeRunner(batch=batch), FakeSamples(x, labels), Top1())
    np.testing.assert_array_equal(found.scores, expected)
    assert found.n == 10 and not found.partial
    assert found.value == pytest.approx(expected.mean())
    assert found.low < found.value < found.high
    assert (found.change, found.p_value) == (None, None)
    assert not found.scores.flags.writeable


def test_the_change_is_paired_with_float_and_tested_by_mcnemar():
    labels = np.zeros(100, int)
    x = one_hot(labels)
    x[:8] = one_hot(np.ones(8, int))
    float_scores = np.ones(100)
    float_scores[:2] = 0
    found = measure_accuracy(FakeRunner(), FakeSamples(x, labels), Top1(), reference=float_scores)
    assert found.change == pytest.approx(-0.06)
    assert found.change_low < -0.06 < found.change_high
    assert found.p_value == pytest.approx(2 * 0.5**6)


def test_scores_that_are_no_shares_get_bootstrap_intervals_and_compare_with_float_outputs():
    class Closeness(Top1):
        name, needs_labels = "closeness", False

        def per_sample(self, outputs, labels, float_outputs):
            assert labels is None
            return -np.abs(outputs[0] - float_outputs[0]).sum(axis=1)

    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    samples = FakeSamples(x)
    floats = collect_outputs(FakeRunner(batch=8), samples)
    noisy = FakeRunner(batch=8, function=lambda x: x + 0.1)
    found = measure_accuracy(
        noisy, samples, Closeness(), float_outputs=floats, reference=np.zeros(50), stop=lambda *_: False
    )
    np.testing.assert_allclose(found.scores, -0.3, rtol=1e-5)
    assert found.value == found.change == pytest.approx(-0.3)
    assert found.p_value is None
    assert found.change_low <= found.change <= found.change_high


def test_a_metric_that_is_no_mean_is_resampled_as_it_is():
    class Worst(Top1):
        def value(self, scores):
            return float(np.min(scores))

        def per_sample(self, outputs, labels, float_outputs):
            return outputs[0][:, 0]

    x = np.random.default_rng(1).random((60, 3)).astype(np.float32)
    found = measure_accuracy(FakeRunner(), FakeSamples(x), Worst(), reference=x[:, 0] + 0.5)
    assert found.value == x[:, 0].min()
    assert found.change == pytest.approx(-0.5)
    assert found.low == found.value < found.high


def test_infinite_errors_are_reported_and_their_change_is_unknown():
    class Error(Top1):
        def per_sample(self, outputs, labels, float_outputs):
            return np.where(outputs[0][:, 0] > 0, np.inf, 0.0)

    x = one_hot(np.arange(6) % 3)
    float_scores = np.where(x[:, 0] > 0, np.inf, 0.0)
    found = measure_accuracy(FakeRunner(), FakeSamples(x), Error(), reference=float_scores)
    assert found.value == np.inf and found.change is None and found.change_low is None


def test_collected_outputs_are_in_order_and_without_padding():
    x = np.arange(21, dtype=np.float32).reshape(7, 3)
    (found,) = collect_outputs(FakeRunner(batch=4, function=lambda x: x * 2), FakeSamples(x))
    np.testing.assert_array_equal(found, x * 2)


# -- racing


def candidate(accuracy, seed, n=1000):
    """Samples, sorted by label as files often are, of which the network gets this share right."""
    labels = np.sort(np.arange(n) % 3)
    right = np.random.default_rng(seed).random(n) < accuracy
    return FakeSamples(one_hot(np.where(right, labels, (labels + 1) % 3)), labels)


def test_a_hopeless_candidate_is_stopped_early_and_says_so():
    samples = candidate(0.5, seed=1)
    float_scores = np.ones(1000)
    found = measure_accuracy(FakeRunner(), samples, Top1(), reference=float_scores, stop=hopeless(float_scores, 0.01))
    assert found.partial and 32 <= found.n <= 64
    assert np.count_nonzero(~np.isnan(found.scores)) == found.n
    assert found.change < -0.3 and found.change_high < -0.01


def test_the_order_of_the_samples_does_not_mislead_the_race():
    # All that is lost lies in the first class: in file order the first third would look hopeless.
    labels = np.sort(np.arange(900) % 3)
    wrong = np.zeros(900, bool)
    wrong[:9] = True
    samples = FakeSamples(one_hot(np.where(wrong, 1, labels)), labels)
    rule = hopeless(np.ones(900), 0.02)
    found = measure_accuracy(FakeRunner(), samples, Top1(), reference=np.ones(900), stop=rule)
    assert not found.partial and found.value == pytest.approx(1 - 9 / 900)


def test_candidates_within_the_bound_are_hardly_ever_stopped():
    stopped = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        float_scores = (rng.random(1000) < 0.9).astype(float)
        flips = rng.choice(1000, size=60, replace=False)
        scores = float_scores.copy()
        scores[flips] = 1 - scores[flips]
        drop = float(np.mean(float_scores) - np.mean(scores))
        rule = hopeless(float_scores, drop)  # just within the bound: the hardest case
        seen = np.full(1000, np.nan)
        order = rng.permutation(1000)
        for end in range(32, 1000, 32):
            seen[order[:end]] = scores[order[:end]]
            if rule(seen, 1000):
                stopped += 1
                break
    assert stopped <= 3


def test_a_lower_is_better_metric_races_the_other_way():
    float_scores = np.full(200, 1.0)
    worse = float_scores + np.random.default_rng(0).random(200)
    worse[100:] = np.nan
    assert hopeless(float_scores, 0.1, higher_is_better=False)(worse, 200)
    assert not hopeless(float_scores, 0.1)(worse, 200)


def test_too_few_or_infinite_scores_stop_nothing():
    rule = hopeless(np.ones(100), 0.01)
    few = np.full(100, np.nan)
    few[:10] = 0
    assert not rule(few, 100)
    few[:40] = -np.inf
    assert not rule(few, 100)


def test_the_rule_is_asked_every_block_with_scores_in_place():
    asked = []

    def never(scores, n_total):
        seen = ~np.isnan(scores)
        asked.append(int(seen.sum()))
        assert n_total == 100 and np.array_equal(scores[seen], np.arange(100)[seen])
        return False

    class First(Top1):
        def per_sample(self, outputs, labels, float_outputs):
            return outputs[0][:, 0]

    x = np.repeat(np.arange(100, dtype=np.float32)[:, None], 3, axis=1)
    found = measure_accuracy(FakeRunner(batch=24), FakeSamples(x), First(), stop=never)
    assert asked == [48, 96] and not found.partial


# -- what a device may do wrong


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: np.full_like(x, np.nan), "fake: output 0 holds NaN"),
        (lambda x: x[:1], r"fake: output 0 must hold 2 samples .* shape is \(1, 3\)"),
        (lambda x: x.sum(), "output 0 must hold 2 samples"),
        (fail(OSError("bus error")), "fake: the run failed: OSError: bus error"),
    ],
)
def test_bad_outputs_are_an_error_with_the_reason(function, message):
    samples = FakeSamples(one_hot(np.arange(6) % 3), np.arange(6) % 3)
    with pytest.raises(MeasureError, match=message):
        measure_accuracy(FakeRunner(batch=2, function=function), samples, Top1())


def test_a_metric_must_give_one_number_per_sample():
    class Broken(Top1):
        def per_sample(self, outputs, labels, float_outputs):
            return np.array([[1.0, 1.0]])

    samples = FakeSamples(one_hot(np.arange(2)), np.arange(2))
    with pytest.raises(MeasureError, match="top1: the metric must give one number for each of 2 samples"):
        measure_accuracy(FakeRunner(batch=2), samples, Broken())


def test_a_score_that_is_no_number_names_its_sample():
    class Mostly(Top1):
        def per_sample(self, outputs, labels, float_outputs):
            return np.where(np.isin(labels, (71, 75)), np.nan, 1.0)

    samples = FakeSamples(np.ones((100, 3), np.float32), np.arange(100))
    for stop in (None, lambda *_: False):
        with pytest.raises(MeasureError, match=r"gave NaN for sample 7[15]"):
            measure_accuracy(FakeRunner(), samples, Mostly(), stop=stop)
    with pytest.raises(MeasureError, match="NaN for sample 71 and 1 more of 32"):
        measure_accuracy(FakeRunner(), samples, Mostly())


def test_no_metric_but_a_mean_of_scores_is_raced():
    class Worst(Top1):
        def value(self, scores):
            return float(np.min(scores))

    float_scores = np.full(200, 1.0)
    worse = np.where(np.arange(200) % 2, 0.0, 1.0)
    seen = np.where(np.arange(200) < 100, worse, np.nan)
    assert hopeless(float_scores, 0.1)(seen, 200)
    assert not hopeless(float_scores, 0.1, value=Worst().value)(seen, 200)


def test_the_change_is_of_the_value_even_where_one_side_looks_like_a_mean():
    class Worst(Top1):
        def per_sample(self, outputs, labels, float_outputs):
            return outputs[0][:, 0]

        def value(self, scores):
            return float(np.min(scores))

    x = np.ones((40, 3), np.float32)
    floats = np.where(np.arange(40) == 3, 0.0, 1.0)
    found = measure_accuracy(FakeRunner(), FakeSamples(x), Worst(), reference=floats)
    assert (found.value, found.change, found.p_value) == (1.0, 1.0, None)


def test_float_scores_must_fit_the_samples():
    with pytest.raises(MeasureError, match="as many float scores"):
        measure_accuracy(FakeRunner(), FakeSamples(one_hot([0, 1]), np.array([0, 1])), Top1(), reference=[1.0])
