"""Latency on a machine with other work: on clocks that fakes wind, which tell own work, others' work and waiting."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from measure_fakes import FEEDS, FakeClock, FakeRunner, FakeSamples, Top1, one_hot

from hago.bench import Timing
from hago.cli.stages import _latency as latency_line
from hago.compare import Engine, TurnPlan, compare
from hago.compiler.cache import KernelCache
from hago.measure.clocks import CPU, REMOTE, WALL, Sample
from hago.measure.kernels import KernelTime, least_of, time_kernel
from hago.measure.latency import latency_of, measure_latency
from hago.measure.turns import Series, Turn, take_turn
from hago.record import Record

MS = 1_000_000


class BusyClock(FakeClock):
    """Own work of 1 ms at most goes through; longer work loses the CPU for 20 ms, as a scheduler's slice ends."""

    def __init__(self, slice_ns=3 * MS):
        super().__init__()
        self.slice_ns, self.since = slice_ns, 0

    def work(self, ns):
        super().work(ns)
        self.since += ns
        if self.since >= self.slice_ns:
            self.since = 0
            self.others_work(20 * MS)


def runners(clock, threads=1, **ns):
    made = [FakeRunner(name, clock=clock, ns=lambda call, ns=time: ns) for name, time in ns.items()]
    for runner in made:
        runner.threads = threads
    return made


def test_on_one_thread_the_work_of_others_is_not_counted():
    clock = BusyClock()
    found = measure_latency(runners(clock, slow=5 * MS, fast=2 * MS), FEEDS, rounds=20, clocks=clock)
    assert found["slow"].clock == found["fast"].clock == CPU
    assert (found["slow"].median_s, found["fast"].median_s) == pytest.approx((5e-3, 2e-3))
    assert found["fast"].ratio == pytest.approx(0.4)  # by wall time it would be between 2/25 and 1
    assert found["slow"].disturbed == 1.0


def test_a_disturbed_measurement_is_less_sure_of_itself():
    def interval(clock):
        fast = measure_latency(runners(clock, slow=4 * MS, fast=4 * MS), FEEDS, rounds=20, clocks=clock)["fast"]
        return fast.ratio_low, fast.ratio_high

    quiet, busy = interval(FakeClock()), interval(BusyClock())
    assert busy[0] < quiet[0] < 1 < quiet[1] < busy[1]


def test_what_a_call_waits_for_is_part_of_it():
    clock = FakeClock()

    def run(x):
        clock.wait(7 * MS)
        return x

    waiting, computing = runners(clock, waiting=3 * MS, computing=2 * MS)
    waiting.function = run
    found = measure_latency([computing, waiting], FEEDS, rounds=10, clocks=clock)
    assert (found["waiting"].clock, found["computing"].clock) == (WALL, CPU)
    assert found["waiting"].median_s == pytest.approx(10e-3) and found["waiting"].ratio == pytest.approx(5)


def test_a_wait_now_and_then_is_not_the_calls():
    clock = FakeClock()
    (runner,) = runners(clock, r=MS)
    calls = []

    def run(x):
        calls.append(x)
        if len(calls) % 30 == 0:  # such as for the interpreter's lock
            clock.wait(MS)
        return x

    runner.function = run
    found = measure_latency([runner], FEEDS, rounds=20, clocks=clock)["r"]
    assert found.clock == CPU and found.median_s == pytest.approx(1e-3)


def test_on_several_threads_disturbed_rounds_do_not_count():
    clock = FakeClock()
    slow, fast = runners(clock, threads=2, slow=8 * MS, fast=4 * MS)
    turns = []

    def run(x):
        turns.append(x)
        if len(turns) % 3 == 0:
            clock.others_work(30 * MS)
        return x

    slow.function = run
    found = measure_latency([slow, fast], FEEDS, rounds=12, clocks=clock)
    assert found["slow"].clock == WALL and found["slow"].reliable
    assert found["slow"].median_s == pytest.approx(8e-3) and found["fast"].ratio == pytest.approx(0.5)
    assert max(found["slow"].times_s) == pytest.approx(8e-3) and 0 < found["slow"].disturbed < 1
    assert found["slow"].samples >= 12  # more rounds were made for those that did not count


def test_where_no_round_counts_nothing_is_reported():
    clock = BusyClock(slice_ns=1)
    found = measure_latency(runners(clock, threads=2, slow=8 * MS, fast=4 * MS), FEEDS, rounds=7, clocks=clock)["fast"]
    assert not found.reliable and (found.ratio_low, found.ratio_high) == (0, math.inf)
    record = Record(0, "candidate", latency_s=1.0, latency_ratio=0.5).with_latency(found)
    assert record.latency_s is None and record.latency_ratio is None and record.disturbed == 1.0
    assert Record.from_dict(json.loads(record.to_line())) == record


def test_measuring_anew_keeps_what_was_wrong_with_devices_before():
    found = latency_of("0", 1, Series.of_times([0.5] * 9, REMOTE), Series.of_times([1.0] * 9, REMOTE), 1)
    first = Record(0, "candidate").measured_by(Timing({"0": found}, "two", "one: no answer"), "0")
    assert first.measured_by(Timing({"0": found}, "two"), "0").trouble == "one: no answer"


def test_intervals_are_wider_by_what_float32_is_off_itself_and_by_neighbours_that_nobody_sees():
    def relative(shared=False, **more):
        series, floats = (replace(Series.of_times([t] * 50, REMOTE), shared=shared) for t in (0.5, 1.0))
        found = latency_of("a", 1, series, floats, 1, **more)
        assert found.ratio == 0.5 and found.ratio_low * found.ratio_high == pytest.approx(0.25)
        return found.ratio_high / 0.5 - 1

    rounds = 0.5 / 25**2
    assert relative() == pytest.approx(0.03 + rounds)
    assert relative(spread=0.2) == pytest.approx(0.23 + rounds)
    assert relative(shared=True) == pytest.approx(0.08 + rounds)


def test_a_call_soon_after_an_interruption_is_distinguished_from_a_settled_one():
    """Five calls of 0.4 ms; other work comes in the call named. The least call is settled 1 ms of own time later."""

    def least(interrupted, fastest, settling=1):
        clock, calls = FakeClock(), []

        def work():
            clock.work(390_000 if len(calls) == fastest else 400_000)
            if len(calls) == interrupted:
                clock.others_work(20 * MS)
            calls.append(1)

        return take_turn(work, 1, 5, clock, settle_s=0.0 if settling else None)

    assert least(None, 3).least_cpu == (pytest.approx(390e-6), False)
    assert least(2, 2).least_cpu == (pytest.approx(400e-6), False)  # in it: another call is taken
    assert least(2, 4).least_cpu[1]  # 0.4 ms later
    assert not least(2, 1).least_cpu[1]  # before it
    assert not least(1, 5).least_cpu[1]  # 1.2 ms later
    assert least(0, 1).least_cpu[1]  # what comes while it settles counts, too
    wall, interrupted = least(2, 2).least_wall
    assert (wall, interrupted) == (pytest.approx(400e-6), False)


def test_time_that_a_hypervisor_stole_is_not_taken_off_a_call():
    """Linux takes it off the CPU time of what runs next: that call seems too short, or to take no time."""

    def turn(*cpu_ms, wall_ms=0.4):
        return Turn((), tuple(Sample(1, wall_ms * 1e-3, ms * 1e-3, 0, 0) for ms in cpu_ms))

    assert turn(0.4, 0.1, 0.39, 0.0).least_cpu == (pytest.approx(0.39e-3), False)
    assert turn(0.1, 0.2, wall_ms=1.0).least_cpu[0] == pytest.approx(0.1e-3)  # none that is whole: a waiting call
    turns = [turn(0.4)] * 8 + [turn(0.0)] * 2
    series = Series.of_turns(turns, 1)
    assert series.counts.sum() == 8
    found = latency_of("a", 1, series, series, 1)
    assert found.median_s == pytest.approx(0.4e-3) and found.samples == 8


def test_where_every_call_found_cold_caches_the_interval_is_much_wider():
    clock = BusyClock(slice_ns=MS // 2)
    found = measure_latency(runners(clock, slow=2 * MS, fast=MS), FEEDS, rounds=20, clocks=clock)["fast"]
    assert found.ratio == pytest.approx(0.5) and found.ratio_high / 0.5 == pytest.approx(1.385, rel=1e-3)


def test_one_round_is_not_taken_for_certain():
    found = latency_of("a", 1, Series.of_times([0.9], REMOTE), Series.of_times([1.0], REMOTE), 1)
    assert found.ratio_low < 0.7 and found.ratio_high > 1.3


def test_a_run_reports_the_calls_that_nothing_disturbed_or_that_there_are_none():
    def told(*preempted, threads=2):
        return latency_line(
            Series.of_turns([Turn((), (Sample(1, 2e-3 + p, 1e-3, p, 0),)) for p in preempted], threads == 1)
        )

    assert told(0, 5, 0) == f"2.000 ms per call (median, {WALL})"
    assert told(3, 5) == "cannot be determined: other work interrupted every call"
    assert told(3, 5, threads=1) == f"1.000 ms per call (median, {CPU})"


# -- the A/A test of a comparison


def compared(*times_of_the_first):
    clock, times = FakeClock(), iter(times_of_the_first)

    def first():
        (runner,) = runners(clock, f=next(times))
        return runner

    rows = [Engine("float32", first), Engine("int8", lambda: runners(clock, q=MS)[0])]
    return compare(rows, FakeSamples(one_hot([0, 1, 2]), [0, 1, 2]), Top1(), plan=TurnPlan(10, clocks=clock))


def test_a_comparison_holds_its_baseline_against_itself():
    found = compared(2 * MS, 2 * MS)
    assert not found.too_busy and found.aa.ratio == pytest.approx(1)
    assert "A/A test (float32 against itself): 1.00 [0.96, 1.04]" in found.provenance()
    assert found.to_dict()["aa_ratio"] == pytest.approx(1)


def test_a_comparison_whose_baseline_is_slower_than_itself_says_so():
    found = compared(2 * MS, 3 * MS)
    assert found.too_busy and found.to_dict()["too_busy"]
    assert "too busy to measure latencies now: float32 against itself has a ratio of 1.50" in found.provenance()
    int8 = found.row("int8").latency  # as sure of itself as float32 is
    assert int8.ratio == pytest.approx(0.5) and int8.ratio_low < 0.36 and int8.ratio_high > 0.7


def test_a_comparison_reports_no_latency_where_no_round_counts():
    clock = BusyClock(slice_ns=1)
    rows = [Engine(name, lambda name=name: runners(clock, threads=2, **{name: MS})[0]) for name in ("a", "b")]
    found = compare(rows, FakeSamples(one_hot([0, 1, 2]), [0, 1, 2]), Top1(), plan=TurnPlan(10, clocks=clock))
    assert found.too_busy and [row.latency for row in found.rows] == [None, None]
    assert all("latency cannot be determined" in row.note and row.accuracy is not None for row in found.rows)
    assert "too busy to measure latencies now" in found.to_markdown() and "Infinity" not in found.to_json()


# -- times of kernels


def test_a_kernels_time_is_the_least_that_nothing_interrupted():
    clock, runs = FakeClock(), []

    def run(calls):
        runs.append(calls)
        clock.work(calls * 100_000 + (50_000 if len(runs) % 2 else 0))
        if len(runs) % 2 == 0:
            clock.others_work(40 * MS)
        return calls

    # By CPU time the interrupted repeats are shorter, by wall time longer: neither is taken.
    for by_cpu in (True, False):
        found = time_kernel(run, 10, by_cpu=by_cpu, clocks=clock)
        assert found.seconds == pytest.approx(105e-6, rel=0.03)
        assert found.disturbed == 0.5 and not found.is_quiet
    assert least_of([1.0, 1.05, 2.0, 3.0]) == KernelTime(1.0, 0.5)


def remembered(tmp_path, times):
    cache = KernelCache(tmp_path)
    cache.folder.mkdir(parents=True, exist_ok=True)
    (cache.folder / "k.json").write_text(json.dumps({"family": "conv", **times}))
    return cache


def test_a_time_of_unknown_quiet_is_measured_anew_and_replaced(tmp_path):
    cache = remembered(tmp_path, {"times_s": {"cpu": 8585e-6, "other": 1.0}})  # as older versions wrote them
    assert cache.time_of("k", "cpu").seconds == 8585e-6 and cache.wants_time("k", "cpu")
    cache.remember_time("k", "cpu", KernelTime(1816e-6, 0.0))
    again = KernelCache(tmp_path)
    assert again.time_of("k", "cpu") == KernelTime(1816e-6, 0.0) and not again.wants_time("k", "cpu")
    assert again.time_of("k", "other").seconds == 1.0  # of another machine: left alone
    assert json.loads((again.folder / "k.json").read_text())["times_s"]["cpu"] == 1816e-6  # older versions read it


def test_a_time_of_a_busy_machine_is_measured_anew_by_the_next_process_and_never_gets_worse(tmp_path):
    cache = remembered(tmp_path, {"times_s": {"cpu": 3e-3}, "times_disturbed": {"cpu": 0.9}})
    assert cache.wants_time("k", "cpu")
    cache.remember_time("k", "cpu", KernelTime(5e-3, 0.8))
    assert not cache.wants_time("k", "cpu")  # once in a process
    assert cache.time_of("k", "cpu") == KernelTime(3e-3, 0.8)
    later = KernelCache(tmp_path)
    assert later.wants_time("k", "cpu")
    later.remember_time("k", "cpu", KernelTime(2e-3, 0.0))
    assert not KernelCache(tmp_path).wants_time("k", "cpu")
    assert KernelCache(tmp_path).time_of("k", "cpu").seconds == 2e-3
