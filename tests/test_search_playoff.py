"""The play-off: luck does not choose."""

from __future__ import annotations

from dataclasses import replace

from search_harness import FakeEvaluator, residual_space

from hago.goal import Goal
from hago.record import Record
from hago.search.playoff import finalists, play_off
from hago.search.timing import TimeTable, options_to_time, time_option


def _measured(evaluator: FakeEvaluator) -> list[Record]:
    space = evaluator.space
    params = [space.uniform(option, "minmax") for option in options_to_time(space, False)[1:]]
    return [replace(evaluator.evaluate(space.strategy(p)), id=i) for i, p in enumerate(params)]


def test_a_lucky_measurement_does_not_win() -> None:
    space = residual_space()
    evaluator = FakeEvaluator(space)
    records = _measured(evaluator)
    assert len(records) >= 2
    slowest = max(records, key=lambda r: r.latency_ratio or 0.0)
    lucky = replace(slowest, latency_ratio=0.01, latency_ratio_interval=(0.009, 0.011))
    records = [lucky if r.id == slowest.id else r for r in records]
    table = TimeTable({s: time_option(space, evaluator, s) for s in options_to_time(space, False)})
    found = finalists(space, table, Goal(max_drop=1.0), records)
    assert {r.id for r in found} == {r.id for r in records}
    again = play_off(evaluator, found, records)
    assert [r.id for r in again] == [r.id for r in records]
    assert max(again, key=lambda r: r.latency_ratio or 0.0).id == slowest.id


def test_only_what_keeps_the_bound_plays() -> None:
    space = residual_space()
    evaluator = FakeEvaluator(space)
    records = _measured(evaluator)
    outside = replace(records[0], accuracy_change=-0.5, accuracy_change_interval=(-0.51, -0.49))
    found = finalists(space, TimeTable(), Goal(max_drop=0.2), [outside, *records[1:]])
    assert outside.id not in {r.id for r in found}
    assert finalists(space, TimeTable(), Goal(max_drop=0.2), [outside]) == []
