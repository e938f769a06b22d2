"""What an answer has to keep: as users write it, and as the search judges it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hago.errors import SearchError
from hago.goal import Goal
from hago.measure.metrics import get_metric, unit_of
from hago.read_goal import read_goal
from hago.record import Record


def read(metric: Any, **given: Any) -> Goal:
    judge = get_metric(metric)
    return read_goal(judge, unit_of(judge), **given)


def rate(outputs: Any, labels: Any) -> float:
    return 0.0


def errors(outputs: Any, labels: Any) -> float:
    return 0.0


errors.higher_is_better = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("metric", "given", "found"),
    [
        ("top1", {}, Goal(0.01)),
        ("top1", {"max_drop": "1%"}, Goal(0.01)),
        ("top5:b", {"max_drop": " 0.5 % "}, Goal(0.005)),
        ("top1", {"max_drop": "0.02"}, Goal(0.02)),
        ("top1", {"max_drop": np.float32(0.25)}, Goal(0.25)),
        ("top1", {"max_drop": 0}, Goal(0.0)),
        ("top1", {"max_drop": 1.0}, Goal(1.0)),
        ("top1", {"max_drop": "1.0"}, Goal(1.0)),
        ("top1", {"max_drop": "100%"}, Goal(1.0)),
        ("mse", {"max_drop": 3}, Goal(3.0)),
        (rate, {"max_drop": "2%"}, Goal(0.02)),
        ("cosine", {"max_drop": "0.1%"}, Goal(0.001)),
        ("sqnr", {"min_value": 30}, Goal(limit=30.0)),
        ("sqnr:boxes", {"min_value": "30 dB"}, Goal(limit=30.0)),
        ("top1", {"min_value": "93%"}, Goal(limit=0.93)),
        ("cosine", {"min_value": 0.99}, Goal(limit=0.99)),
        (rate, {"min_value": 7}, Goal(limit=7.0)),
        ("mse", {"max_value": "0.5"}, Goal(limit=0.5)),
        (errors, {"max_value": 0.1}, Goal(limit=0.1)),
    ],
)
def test_bounds_are_read_in_the_unit_of_the_metric(metric: Any, given: dict[str, Any], found: Goal) -> None:
    bound = read(metric, **given)
    assert bound.max_drop == pytest.approx(found.max_drop) and bound.limit == pytest.approx(found.limit)


@pytest.mark.parametrize(
    ("metric", "given", "words"),
    [
        ("sqnr", {}, r"nothing to drop from(.|\n)*--min 30"),
        ("sqnr:a", {"max_drop": "1%"}, r"--min 30(.|\n)*in place of max_drop=1%"),
        ("sqnr", {"min_value": "1%"}, "min_value must be a number of dB, such as 30, got '1%'"),
        ("top1", {"max_drop": 1}, r"drop by 100 points: was one point meant(.|\n)*0.01"),
        ("top1", {"max_drop": "1"}, "was one point meant"),
        ("top5", {"max_drop": 2.5}, r"were 2.5 points meant(.|\n)*0.025"),
        ("top1", {"max_drop": "5 dB"}, "max_drop must be a number, such as 0.01 or '1%', got '5 dB'"),
        ("top1", {"max_drop": -0.01}, "at least 0, got -0.01"),
        ("top1", {"max_drop": None}, "got None"),
        ("top1", {"max_drop": True}, "got True"),
        ("top1", {"max_drop": float("nan")}, "got nan"),
        ("mse", {"max_drop": "much"}, "max_drop must be a number, got 'much'"),
        ("top1", {"min_value": 93}, r"from 0 to 1, got 93(.|\n)*0.93 is 93 %"),
        ("top1", {"max_value": 0.9}, r"max_value does not apply to top1, where higher is better(.|\n)*--min"),
        ("mse", {"min_value": 0.9}, r"min_value does not apply to mse, where lower is better(.|\n)*--max"),
        ("top1", {"min_value": 0.9, "max_value": 0.95}, "not both"),
        ("top1", {"min_value": 0.9, "max_drop": 0.02}, "not both"),
        ("top1", {"min_value": 0.9, "max_drop": "0.01"}, "not both"),
    ],
)
def test_what_is_no_bound_is_refused_with_what_was_meant(metric: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(SearchError, match=words):
        read(metric, **given)


def record(value: float, floats: float, **more: Any) -> Record:
    return Record(1, "c", metric="m", accuracy=value, accuracy_change=value - floats, latency_ratio=0.5, **more)


def test_a_floor_holds_for_the_value_on_whatever_part() -> None:
    goal = Goal(limit=0.9).settled(record(0.95, 0.95))
    assert goal.max_drop == pytest.approx(0.05) and goal.words == "at least 0.9"
    assert goal.within(record(0.9, 0.95)) and not goal.within(record(0.899, 0.95))
    assert not goal.within(record(0.9, 0.95), margin=0.01) and goal.within(record(0.91, 0.95), margin=0.01)
    assert goal.within(record(0.9, 0.99, part="test")) and not goal.within(record(0.89, 0.9, part="test"))
    assert not goal.within(record(0.91, 0.95, expected_change=-0.06))  # lucky: 0.89 are to be expected
    assert not goal.within(record(0.95, 0.95, state="pruned", reason="stopped"))


def test_a_ceiling_is_the_other_way_round() -> None:
    goal = Goal(limit=0.2, higher_is_better=False).settled(record(0.15, 0.15))
    assert goal.max_drop == pytest.approx(0.05) and goal.words == "at most 0.2"
    assert goal.within(record(0.2, 0.15)) and not goal.within(record(0.21, 0.15))


def test_of_decibels_noise_is_what_adds_up() -> None:
    goal = Goal(limit=30.0, unit="dB").settled(record(150.0, 150.0))
    assert goal.max_drop == pytest.approx(1e-3) and goal.words == "at least 30 dB"
    assert goal.drop(record(20.0, 150.0)) == pytest.approx(1e-2)
    both = goal.drop(record(33.0103, 150.0)) * 2  # two layers of as much noise
    assert both == pytest.approx(goal.max_drop, rel=1e-4)
    assert goal.within(record(30.0, 150.0)) and not goal.within(record(29.9, 150.0))
    assert not goal.within(record(30.0, 150.0), margin=1.0) and goal.within(record(31.0, 150.0), margin=1.0)
    assert goal.drop(record(150.0, 150.0)) == 0.0


@pytest.mark.parametrize(("limit", "better", "words"), [(0.96, True, "at least 0.96"), (0.9, False, "at most 0.9")])
def test_what_float32_itself_does_not_reach_is_no_goal(limit: float, better: bool, words: str) -> None:
    with pytest.raises(SearchError, match=f"float32 itself reaches 0.95 on the search samples, the bound is {words}"):
        Goal(limit=limit, higher_is_better=better).settled(record(0.95, 0.95))
