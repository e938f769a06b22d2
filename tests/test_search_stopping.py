"""Budgets, plateaus, Ctrl-C; the choice of the answer; the displays."""

from __future__ import annotations

import io
import signal
import time
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hago.deadline import Deadline, parse_budget
from hago.errors import SearchError
from hago.goal import Goal
from hago.interrupts import Interrupts, Stopped
from hago.record import Record
from hago.search.progress import (
    JobProgress,
    LiveProgress,
    PlainProgress,
    SilentProgress,
    Status,
    describe,
    make_progress,
)
from hago.search.result import MET, NOT_FASTER, NOT_MET, SearchResult, choose, find_closest, pareto_front
from hago.search.stopping import hypervolume, trials_without_gain


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("1h 5s", 3605), ("45", 45), (7.5, 7.5)],
)
def test_budgets_are_read(text, seconds):
    assert parse_budget(text) == seconds
    assert parse_budget(timedelta(seconds=seconds)) == parse_budget(np.float32(seconds)) == seconds
    assert parse_budget(None) is None


@pytest.mark.parametrize(
    "text", ["", "m", "10x", "m10", "-5s", "0s", 0, -1, True, float("nan"), "1e9s", "10s5m", [], b"3"]
)
def test_other_budgets_are_refused(text):
    with pytest.raises(SearchError, match="a time budget is written like 10m, 90s or 1h30m"):
        parse_budget(text)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(-1, 2)), max_size=12))
def test_hypervolume_is_what_counting_cells_gives(points):
    n, reference = 60, (1.0, 1.0)
    area = hypervolume(points, reference)
    xs = [(i + 0.5) / n for i in range(n)]
    ys = [-1 + 2 * (i + 0.5) / n for i in range(n)]
    counted = sum(any(px <= x and py <= y for px, py in points) for x in xs for y in ys) * 2 / n**2
    assert abs(area - counted) <= 2 * len(points) * 2 / n + 1e-9


def test_standing_still_is_counted_from_the_last_gain():
    reference = (1.0, 0.04)
    assert trials_without_gain([], reference) == 0
    points = [(0.5, 0.01), (0.6, 0.02), (0.4, 0.01), (0.4, 0.01), (1.2, 0.0)]
    assert trials_without_gain(points, reference) == 2
    assert trials_without_gain([(1.5, 0.5)] * 4, reference) == 4


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_waits_while_something_is_written_down_and_a_second_does_not(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with Interrupts().installed() as interrupts, interrupts.careful():
        signal.raise_signal(number)  # kept
        assert interrupts.signum == number
        with pytest.raises(Stopped) as caught, interrupts.allowed():
            pytest.fail("the signal was waiting")
        assert caught.value.signum == number
        with interrupts.allowed():
            pass
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before


def test_a_signal_is_taken_at_once_where_that_does_no_harm():
    with Interrupts().installed() as interrupts, pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)
    with Interrupts().installed() as interrupts, interrupts.careful(), interrupts.allowed(), pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)


def test_signals_that_are_ignored_or_taken_by_the_program_stay_so():
    heard = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with Interrupts().installed() as interrupts:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert heard == [1] and interrupts.signum is None
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_a_deadline_can_be_drawn_nearer_and_not_put_off():
    now = [10.0]
    deadline = Deadline(60, lambda: now[0])
    assert (deadline.left_s(), deadline.share_s(0.5), deadline.over) == (60, 30, False)
    now[0] = 30.0
    deadline.shorten(10)
    deadline.shorten(100)
    assert (deadline.elapsed_s(), deadline.left_s()) == (20, 10)
    now[0] = 41.0
    assert deadline.over and deadline.left_s() == 0
    endless = Deadline(None, lambda: now[0])
    assert endless.left_s() is None and not endless.over
    endless.shorten(5)
    assert endless.left_s() == 5


def record(number: int, ratio: float, change: float, **more: object) -> Record:
    return Record(
        number, f"t{number}", accuracy=0.9 + change, accuracy_change=change, latency_s=ratio, latency_ratio=ratio,
        latency_ratio_interval=(ratio * 0.98, ratio * 1.02), **more,
    )  # fmt: skip


FLOAT = record(-1, 1.0, 0.0)


def test_the_fastest_within_the_bound_is_chosen_and_of_equals_the_most_accurate():
    goal = Goal(max_drop=0.01)
    records = [record(0, 0.5, -0.02), record(1, 0.600, -0.01), record(2, 0.604, -0.002), record(3, 0.7, 0.0)]
    assert choose(FLOAT, records, goal) == (records[2], MET)
    assert choose(FLOAT, records[:2], goal) == (records[1], MET)  # a drop of exactly the bound keeps it
    with_margin = Goal(max_drop=0.01, margin=0.009)
    assert choose(FLOAT, records, with_margin) == (records[3], MET)
    assert choose(FLOAT, records[:2], with_margin) == (records[1], MET)


def test_what_is_likely_to_break_the_bound_elsewhere_does_not_keep_it():
    goal = Goal(max_drop=0.01)
    lucky = replace(record(0, 0.3, 0.004), expected_change=-0.02)
    steady = replace(record(1, 0.5, -0.004), expected_change=-0.002)
    assert goal.drop(lucky) == -0.004 and goal.likely_drop(lucky) == 0.02 and not goal.within(lucky)
    assert goal.likely_drop(steady) == 0.004 and goal.within(steady)
    assert choose(FLOAT, [lucky, steady], goal) == (steady, MET)
    errors = Goal(max_drop=0.01, higher_is_better=False)
    assert errors.likely_drop(replace(record(2, 0.5, -0.004), expected_change=0.03)) == 0.03


def test_of_equals_the_least_noise_wins_over_the_luckier_accuracy():
    goal = Goal(max_drop=0.01)
    records = [record(0, 0.600, 0.004), record(1, 0.604, -0.002), record(2, 0.7, 0.0)]
    assert choose(FLOAT, records, goal, {0: 0.2, 1: 0.1, 2: 0.01}) == (records[1], MET)
    assert choose(FLOAT, records, goal, {0: 0.2}) == (records[0], MET)  # known before unknown


def test_without_a_faster_one_float32_stays_and_without_any_the_closest_is_given():
    goal = Goal(max_drop=0.01)
    noisy = replace(record(0, 0.99, 0.0), latency_ratio_interval=(0.95, 1.03))
    assert not noisy.is_faster
    assert choose(FLOAT, [noisy, record(1, 0.4, -0.3)], goal) == (FLOAT, NOT_FASTER)
    lossy = [record(0, 0.4, -0.3), record(1, 0.5, -0.05), record(2, 0.3, -0.02, state="pruned", reason="early")]
    assert choose(FLOAT, lossy, goal) == (lossy[1], NOT_MET)
    failed = Record(3, "t3", state="failed", reason="no kernel")
    assert choose(FLOAT, [failed], goal) == (FLOAT, NOT_MET)
    assert find_closest([*lossy, noisy, failed], goal) == lossy[1]
    assert find_closest([failed], goal) is None


def test_for_errors_less_is_better():
    goal = Goal(max_drop=0.1, higher_is_better=False)
    worse, better = record(0, 0.5, 0.3), record(1, 0.6, 0.05)
    assert goal.drop(worse) == 0.3
    assert choose(FLOAT, [worse, better], goal) == (better, MET)


@given(st.lists(st.tuples(st.floats(0.1, 2), st.floats(-0.5, 0.5)), max_size=10))
def test_the_front_holds_what_nothing_beats(points):
    goal = Goal()
    records = [record(i, ratio, change) for i, (ratio, change) in enumerate(points)]
    front = pareto_front(records, goal)

    def beats(a: Record, b: Record) -> bool:
        return (a.latency_ratio, goal.drop(a)) != (b.latency_ratio, goal.drop(b)) and (
            a.latency_ratio <= b.latency_ratio and goal.drop(a) <= goal.drop(b)
        )

    assert not any(beats(a, b) for a in records for b in front)
    for left_out in records:
        if left_out not in front:
            assert any(a.latency_ratio <= left_out.latency_ratio and goal.drop(a) <= goal.drop(left_out) for a in front)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_drop": -0.1}, "max_drop must be a number of at least 0"),
        ({"max_drop": float("nan")}, "max_drop must be a number of at least 0"),
        ({"margin": float("inf")}, "margin must be a number of at least 0"),
        ({"objectives": ()}, "objectives must be some of"),
        ({"objectives": ("latency", "latency")}, "objectives must be some of"),
        ({"objectives": ("speed",)}, "objectives must be some of latency, accuracy, size"),
        ({"objectives": ("accuracy",)}, "accuracy cannot be the only objective"),
    ],
)
def test_impossible_goals_are_refused(arguments, message):
    with pytest.raises(SearchError, match=message):
        Goal(**arguments)


def result(best: Record, outcome: str, **more: object) -> SearchResult:
    return SearchResult(float=FLOAT, best=best, front=(), records=(best,), outcome=outcome, goal=Goal(), **more)  # type: ignore[arg-type]


def test_the_summary_states_the_answer_honestly():
    best = record(1, 0.5, -0.005)
    inside = replace(best, part="test", accuracy=0.895, accuracy_change=-0.006)
    text = result(best, MET, test=inside).summary()
    assert text.startswith("2.00 times faster than float32 within a drop of at most 0.01.")
    assert "accuracy is 0.895 (float32 0.901)" in text
    assert "outside" not in text
    outside = replace(inside, accuracy_change=-0.03)
    assert "outside the bound: it was chosen on other samples" in result(best, MET, test=outside).summary()
    assert result(best, MET, test=outside).test_within is False
    assert "Float32 stays" in result(FLOAT, NOT_FASTER).summary()
    lossy = record(1, 0.5, -0.05)
    assert "the closest drops by 0.05, 2.00 times faster" in result(lossy, NOT_MET).summary()
    ended = result(best, MET, error=SearchError("five candidates failed"))
    assert "The search ended early: five candidates failed" in ended.summary()


STATUS = Status(stage="sensitivity: 3", trial=4, trials=40, elapsed_s=65.0, left_s=3700.0, max_drop=0.01, float=FLOAT)


def test_plain_progress_writes_a_line_per_trial_and_per_stage():
    stream = io.StringIO()
    shown = PlainProgress(stream)
    shown.start(STATUS)
    shown.update(STATUS)
    shown.update(replace(STATUS, stage="sensitivity: 4"))  # the same stage: nothing new to say
    best = record(2, 0.51234, -0.004)
    shown.trial(replace(STATUS, best=best, last=record(3, 0.7, -0.02)))
    shown.finish(replace(STATUS, stage="stopped: 40 trials"))
    lines = stream.getvalue().splitlines()
    assert lines == [
        "1:05  sensitivity",
        "1:05  trial 4/40 | t3: 0.700 of float32's latency, accuracy 0.880 (−0.020)"
        " | best 0.512 of float32's latency, accuracy 0.896 (−0.004) | 1:01:40 left",
        "1:05  stopped: 40 trials",
    ]


def test_the_live_display_shows_trial_best_and_time_left():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    shown = LiveProgress(console)
    shown.start(STATUS)
    shown.trial(
        replace(STATUS, best=record(2, 0.5, -0.004), last=Record(3, "t3", state="failed", reason="no"), failed=1)
    )
    shown.finish(replace(STATUS, best=record(2, 0.5, -0.004), stage="stopped: 40 trials"))
    text = console.file.getvalue()
    for part in ("trial 4/40", "about 1:01:", "0.500 of float32's latency", "stopped: 40 trials"):
        assert part in text


def test_displays_are_found_by_name():
    assert isinstance(make_progress(None), SilentProgress)
    assert isinstance(make_progress("silent"), SilentProgress)
    assert isinstance(make_progress("auto"), PlainProgress)  # the tests' stderr is no terminal
    assert isinstance(make_progress("live"), LiveProgress)
    own = SilentProgress()
    assert make_progress(own) is own
    with pytest.raises(SearchError, match="there is no progress display 'loud'"):
        make_progress("loud")


def test_records_are_described_in_a_few_words():
    assert describe(Record(0, "t", state="failed", reason="no kernel\nmore")) == "failed: no kernel"
    assert describe(replace(record(0, 0.5, -0.1), state="pruned", reason="early")).endswith("(stopped early)")
    assert describe(Record(0, "t", accuracy=0.5)) == "no latency, accuracy 0.500"


@pytest.mark.parametrize(
    ("metric", "accuracy", "change", "told"),
    [
        ("top1", 0.913, -0.002, "top-1 91.3 % (−0.2 points)"),
        ("top5", 0.913, 0.0, "top-5 91.3 % (0.0 points)"),
        ("cosine", 0.99991, -0.00009, "cosine similarity 0.999910"),
        ("sqnr:logits", 38.21, -80.0, "SQNR of logits 38.2 dB"),
        ("macro_f1", 0.713, 0.004, "macro_f1 0.713 (+0.004)"),
    ],
)
def test_a_record_is_described_in_its_metric_and_unit(metric, accuracy, change, told):
    found = Record(0, "t", metric=metric, accuracy=accuracy, accuracy_change=change, size_bytes=283_000)
    assert describe(found) == f"no latency, {told}, 283 kB"


def test_plain_progress_says_now_and_then_what_is_still_being_done():
    stream = io.StringIO()
    display = PlainProgress(stream, quiet_s=0.05)
    display.start(STATUS)
    for done in range(3):
        display.update(replace(STATUS, stage=f"calibrating: {done} of 3 samples"))
        deadline = time.monotonic() + 30
        while f"calibrating: {done} of 3 samples" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    display.finish(replace(STATUS, stage="done"))
    lines = [line.split("  ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines[:2] == ["sensitivity", "calibrating"] and lines[-1] == "done"
    assert [f"calibrating: {done} of 3 samples" in lines for done in range(3)] == [True] * 3


def test_a_display_hears_of_what_comes_before_the_search_and_begins_and_ends_once():
    heard = []

    class Hearing(SilentProgress):
        def start(self, status):
            heard.append(("start", status.stage))

        def update(self, status):
            heard.append(("update", status.stage))

        def finish(self, status):
            heard.append(("finish", status.stage))

    display = JobProgress(Hearing(), Deadline())
    display.close()  # nothing was begun
    display.say("reading the samples")
    display.start(STATUS)
    display.say("calibrating")
    display.finish(replace(STATUS, stage="stopped"))
    display.close()
    assert heard == [
        ("start", "reading the samples"),
        ("update", STATUS.stage),
        ("update", "calibrating"),
        ("finish", "stopped"),
    ]
