"""What a search is for: goals as they are asked for, and the answer and the front that follow from each."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hago.amounts import read_bytes, read_seconds
from hago.errors import SearchError
from hago.goal import QUANTITIES, Goal
from hago.measure.metrics import get_metric, unit_of
from hago.outcomes import INCONCLUSIVE, MET, NOT_FASTER, NOT_MET
from hago.read_goal import read_goal
from hago.record import Record
from hago.search.measures import violations
from hago.search.result import choose, pareto_front

NONE = math.inf


def read(metric: str = "top1", **asked: Any) -> Goal:
    judge = get_metric(metric)
    return read_goal(judge, unit_of(judge), **asked)


@pytest.mark.parametrize(
    ("asked", "primary", "max_drop", "sentence"),
    [
        ({}, "latency", 0.01, "the fastest within a drop of at most 0.01"),
        ({"max_drop": 0.02}, "latency", 0.02, "the fastest within a drop of at most 0.02"),
        ({"objectives": "accuracy,latency"}, "latency", 0.01, "the fastest within a drop of at most 0.01"),
        ({"max_latency": "0.2ms"}, "accuracy", NONE, "the most accurate with at most 0.2 ms"),
        (
            {"max_latency": "5ms", "max_drop": "2%"},
            "latency", 0.02, "the fastest within a drop of at most 0.02 and at most 5 ms",
        ),
        ({"max_size": "200kB"}, "latency", 0.01, "the fastest within a drop of at most 0.01 and at most 200 kB"),
        (
            {"max_size": "2MB", "max_latency": "1s"},
            "accuracy", NONE, "the most accurate with at most 1 s and at most 2 MB",
        ),
        ({"objectives": "size,accuracy"}, "size", 0.01, "the smallest within a drop of at most 0.01"),
        ({"objectives": ("accuracy", "size")}, "size", 0.01, "the smallest within a drop of at most 0.01"),
        ({"objectives": "latency,size"}, "latency", 0.01, "the fastest within a drop of at most 0.01"),
        ({"objectives": "accuracy", "max_size": 200_000}, "accuracy", NONE, "the most accurate with at most 200 kB"),
        (
            {"objectives": "latency", "max_latency": "5ms"},
            "latency", 0.01, "the fastest within a drop of at most 0.01 and at most 5 ms",
        ),
        (
            {"objectives": "latency,accuracy,size", "max_latency": "5ms"},
            "size", 0.01, "the smallest within a drop of at most 0.01 and at most 5 ms",
        ),
        ({"min_value": 0.9, "max_size": "1kB"}, "latency", 0.01, "the fastest with at least 0.9 and at most 1 kB"),
    ],
)  # fmt: skip
def test_goals_are_read_as_they_are_meant(asked: dict[str, Any], primary: str, max_drop: float, sentence: str) -> None:
    goal = read(**asked)
    assert (goal.primary.name, goal.max_drop, goal.sentence) == (primary, max_drop, sentence)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"objectives": "accuracy"}, "accuracy cannot be the only objective(.|\n)*--max-latency, --max-size"),
        ({"objectives": "accuracy", "max_drop": 0.02}, "accuracy cannot be the only objective"),
        ({"objectives": "speed"}, "objectives must be some of latency, accuracy, size"),
        ({"max_latency": "5ms", "margin": 0.001}, "margin is a part of the bound on accuracy, and there is none"),
        ({"max_latency": "fast"}, "max_latency must be a time with its unit, such as '5ms' or '200us', got 'fast'"),
        ({"max_size": "-2MB"}, "max_size must be a size, such as '2MB' or '200kB', got '-2MB'"),
        ({"margin": -1}, "margin must be a number of at least 0"),
    ],
)
def test_what_is_no_goal_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(SearchError, match=words):
        read(**asked)


def test_of_decibels_a_value_is_asked_for_unless_accuracy_is_what_is_improved() -> None:
    assert read("sqnr", max_latency="5ms").max_drop == math.inf
    with pytest.raises(SearchError, match="nothing to drop from"):
        read("sqnr", max_size="2MB")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5ms", 5e-3),
        ("0.2 ms", 2e-4),
        ("200us", 2e-4),
        ("12 µs", 12e-6),
        (".5s", 0.5),
        (timedelta(seconds=2), 2.0),
        (0.005, 5e-3),
    ],
)
def test_times_are_read_with_their_unit(text: Any, seconds: float) -> None:
    assert read_seconds("max_latency", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["5", 0, -0.1, "", "ms", "0ms", "-1ms", "5 MS", "1e400s", "nan s", True, None])
def test_other_times_are_refused(text: Any) -> None:
    with pytest.raises(SearchError, match="max_latency must be a time with its unit"):
        read_seconds("max_latency", text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2MB", 2_000_000),
        ("200 kB", 200_000),
        ("1.5KiB", 1536),
        ("1mib", 1 << 20),
        (300, 300),
        ("300", 300),
        ("7 B", 7),
    ],
)
def test_sizes_are_read(text: Any, size: int) -> None:
    assert read_bytes("max_size", text) == size


@pytest.mark.parametrize("text", ["", "MB", "2TB", 0, -1, True, None, float("inf"), float("nan"), "0.2"])
def test_other_sizes_are_refused(text: Any) -> None:
    with pytest.raises(SearchError, match="max_size must be a size"):
        read_bytes("max_size", text)


def record(number: int, ratio: float | None, change: float, size: int | None = 100, **more: Any) -> Record:
    interval = None if ratio is None else (ratio * 0.99, ratio * 1.01)
    noise = change - 0.004, change + 0.004
    measured = {"latency_ratio": ratio, "latency_ratio_interval": interval, "size_bytes": size, **more}
    return Record(
        number, f"t{number}", accuracy=0.9 + change, accuracy_change=change,
        accuracy_change_interval=noise, latency_s=ratio, latency_interval=interval, **measured,
    )  # fmt: skip


FLOAT = record(-1, 1.0, 0.0, 400)
RECORDS = st.lists(
    st.tuples(
        st.sampled_from([None, 0.2, 0.4, 0.405, 0.7, 0.995, 1.3]),
        st.sampled_from([-0.3, -0.02, -0.01, -0.005, 0.0, 0.01]),
        st.sampled_from([None, 50, 100, 200, 399, 500]),
        st.sampled_from(["ok", "ok", "ok", "pruned", "failed"]),
    ),
    max_size=8,
)
GOALS = [
    Goal(),
    Goal(margin=0.004),
    Goal(objectives=("size", "accuracy")),
    Goal(objectives=("latency", "accuracy", "size")),
    Goal(max_size=150),
    Goal(math.inf, max_latency_s=0.5),
    Goal(math.inf, max_latency_s=2.0),
    Goal(max_latency_s=0.6, objectives=("size",)),
    Goal(math.inf, max_latency_s=0.6, max_size=150),
    Goal(math.inf, objectives=("accuracy",), max_size=150),
    Goal(math.inf, objectives=("latency",)),
    Goal(math.inf, objectives=("size",)),
]


def made(rows: list[tuple[Any, ...]]) -> list[Record]:
    return [
        record(i, ratio, change, size, state=state, reason=None if state == "ok" else "why")
        for i, (ratio, change, size, state) in enumerate(rows)
    ]


def kept(goal: Goal, r: Record) -> bool:
    """By the definitions, written once more."""
    fast = goal.max_latency_s is None or (
        r.latency_interval is not None and r.latency_interval[1] <= goal.max_latency_s
    )
    small = goal.max_size is None or (r.size_bytes is not None and r.size_bytes <= goal.max_size)
    return r.state == "ok" and -(r.accuracy_change or 0.0) <= goal.max_drop + 1e-12 and fast and small


def value(name: str, r: Record) -> float:
    found = {"latency": r.latency_ratio, "accuracy": -(r.accuracy_change or 0.0), "size": r.size_bytes}[name]
    return math.inf if found is None else found


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.sentence + (" with a margin" if goal.margin else ""))
@given(rows=RECORDS)
@settings(max_examples=60, deadline=None)
def test_the_answer_is_the_best_of_those_that_keep_every_bound(goal: Goal, rows: list[tuple[Any, ...]]) -> None:
    records, name = made(rows), goal.primary.name
    best, outcome = choose(FLOAT, records, goal)

    def gains(r: Record) -> bool:
        if name == "latency":
            return r.latency_ratio is not None and r.latency_ratio * 1.01 < 1
        return value(name, r) < value(name, FLOAT) - (0.004 if name == "accuracy" else 0.0)

    rivals = [r for r in records if kept(goal, r) and (gains(r) or not kept(goal, FLOAT))]
    assert (outcome == MET) == bool(rivals)
    if rivals:
        cautious = [r for r in rivals if -(r.accuracy_change or 0.0) <= goal.max_drop - goal.margin + 1e-12]
        least = min(value(name, r) for r in cautious or rivals)
        assert best in (cautious or rivals)
        assert value(name, best) <= least * {"latency": 1.03, "size": 1.01, "accuracy": 1.0}[name] + 1e-12
    elif outcome in (NOT_FASTER, INCONCLUSIVE):
        assert best is FLOAT
    else:
        assert outcome == NOT_MET and not any(kept(goal, r) for r in records)


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.sentence + (" with a margin" if goal.margin else ""))
@given(rows=RECORDS)
@settings(max_examples=60, deadline=None)
def test_the_front_holds_what_nothing_beats_along_every_axis(goal: Goal, rows: list[tuple[Any, ...]]) -> None:
    names = [quantity.name for quantity in goal.axes]
    records = [FLOAT, *made(rows)]
    points = {r.id: tuple(value(name, r) for name in names) for r in records}
    known = [r for r in records if r.state == "ok" and all(map(math.isfinite, points[r.id]))]
    front = pareto_front(records, goal)

    def as_good(a: Record, b: Record) -> bool:
        return all(x <= y for x, y in zip(points[a.id], points[b.id], strict=True))

    assert set(front) <= set(known)
    for r in known:
        beaten = any(as_good(other, r) and points[other.id] != points[r.id] for other in known)
        assert not (beaten and r in front)
        assert r in front or any(as_good(other, r) for other in front)
    assert len({points[r.id] for r in front}) == len(front)
    assert [points[r.id] for r in front] == sorted(points[r.id] for r in front)


def test_goals_have_from_one_to_three_axes() -> None:
    axes = [[quantity.name for quantity in goal.axes] for goal in GOALS]
    assert {len(names) for names in axes} == {1, 2, 3}
    assert axes[0] == ["latency", "accuracy"] and axes[2] == ["accuracy", "size"]


def test_smaller_and_slower_is_the_answer_where_size_is_what_counts() -> None:
    small = record(0, 1.05, -0.002, 40)
    assert choose(FLOAT, [small], Goal(objectives=("size", "accuracy"))) == (small, MET)
    assert choose(FLOAT, [small], Goal()) == (FLOAT, NOT_FASTER)
    alike = [record(0, 0.9, -0.008, 1000), record(1, 0.9, -0.001, 1001), record(2, 0.5, 0.0, 1100)]
    assert choose(FLOAT_BIG, alike, Goal(objectives=("size",))) == (alike[1], MET)  # sizes within 1 % are the same


FLOAT_BIG = replace(FLOAT, size_bytes=4000)


def test_a_bound_on_latency_is_judged_by_the_upper_end_of_the_interval() -> None:
    goal = Goal(math.inf, max_latency_s=0.5)
    sure, unsure = record(0, 0.49, -0.03), record(1, 0.497, -0.01)
    assert goal.within(sure) and not goal.within(unsure) and goal.keeps(unsure)
    assert choose(FLOAT, [sure, unsure], goal) == (sure, MET)
    assert choose(FLOAT, [unsure, record(2, 0.6, 0.0)], goal) == (unsure, NOT_MET)


def test_on_a_machine_too_busy_to_time_a_bound_on_latency_is_not_said_to_be_kept() -> None:
    untimed = record(0, None, -0.01)
    assert choose(FLOAT, [untimed], Goal(math.inf, max_latency_s=0.5)) == (FLOAT, INCONCLUSIVE)


def test_where_float32_keeps_the_bound_already_it_is_the_most_accurate() -> None:
    goal = Goal(math.inf, max_latency_s=2.0)
    assert choose(FLOAT, [record(0, 0.5, -0.01)], goal) == (FLOAT, NOT_FASTER)
    better = record(1, 0.5, 0.02)
    assert choose(FLOAT, [better], goal) == (better, MET)


def test_the_closest_misses_its_worst_bound_by_the_smallest_part() -> None:
    goal = Goal(max_drop=0.01, max_size=100)
    records = [record(0, 0.5, -0.011, 300), record(1, 0.5, -0.015, 120), record(2, 0.5, -0.03, 90)]
    assert choose(FLOAT, records, goal) == (records[1], NOT_MET)


def test_violations_are_those_of_every_bound() -> None:
    goal = Goal(max_drop=0.01, max_latency_s=0.5, max_size=100)
    assert list(violations(goal, FLOAT)) == ["max_latency", "max_drop", "max_size"]
    found = violations(goal, record(0, 0.4, -0.015, 150))
    assert found["max_drop"] == pytest.approx(0.005) and found["max_size"] == pytest.approx(0.5)
    assert found["max_latency"] == pytest.approx(0.404 / 0.5 - 1)
    failed = violations(goal, Record(3, "t3", state="failed", reason="no kernel"))
    assert all(math.isfinite(by) and by > 0 for by in failed.values())
    assert list(violations(Goal(), FLOAT)) == ["max_drop"]


def test_seconds_are_needed_for_a_bound_on_latency() -> None:
    goal = Goal(math.inf, max_latency_s=0.5)
    assert goal.settled(FLOAT).scale == pytest.approx(0.9)
    for other in (replace(FLOAT, estimated=True, instructions=7), replace(FLOAT, ratios={"a": 1.0, "b": 1.0})):
        with pytest.raises(SearchError, match="a bound on latency needs seconds, measured on one kind of machine"):
            goal.settled(other)
        assert Goal().settled(other) == Goal()


def test_a_quantity_says_all_that_the_search_needs_of_it() -> None:
    for name, quantity in QUANTITIES.items():
        assert quantity.name == name
        assert math.isfinite(quantity.cost(Goal(), FLOAT)) and not quantity.gains(Goal(), FLOAT, FLOAT)
    assert [quantity.study_name for quantity in QUANTITIES.values()] == [
        "latency over float32", "accuracy change", "size in bytes",
    ]  # fmt: skip
