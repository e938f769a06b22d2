"""What a search answers where latencies cannot be relied on: intervals that hold 1, A/A tests that fail, tests that
contradict the search."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_samples import not_faster
from report_samples import report as met
from search_harness import FakeEvaluator, residual_space

from hago.errors import MeasureError
from hago.goal import Goal
from hago.record import Record
from hago.report.sentence import tell
from hago.search import run_search
from hago.search.result import INCONCLUSIVE, MET, NOT_FASTER, choose

FLOAT = Record(-1, "float32", accuracy=0.9, accuracy_change=0.0, latency_ratio=1.0, latency_s=1e-3)
HARMLESS: dict[str, float] = {}


def record(ratio, low, high, number=0):
    return Record(
        number, f"t{number}", accuracy=0.9, accuracy_change=0.0, latency_ratio=ratio, latency_ratio_interval=(low, high)
    )


def test_an_interval_that_holds_1_is_no_verdict():
    goal = Goal(max_drop=0.01)
    assert choose(FLOAT, [record(1.1, 0.7, 1.6)], goal) == (FLOAT, INCONCLUSIVE)
    assert choose(FLOAT, [record(0.9, 0.8, 1.01), record(1.4, 1.3, 1.5, 1)], goal) == (FLOAT, INCONCLUSIVE)
    unmeasured = replace(record(1, 1, 1), latency_ratio=None, latency_ratio_interval=None, disturbed=1.0)
    assert choose(FLOAT, [unmeasured], goal) == (FLOAT, INCONCLUSIVE)
    # That nothing is gained, or 5 % at the most, is a verdict.
    assert choose(FLOAT, [record(1.2, 1.1, 1.3)], goal) == (FLOAT, NOT_FASTER)
    assert choose(FLOAT, [record(1.0, 0.97, 1.03)], goal) == (FLOAT, NOT_FASTER)


def test_float32_that_is_slower_than_itself_leaves_no_verdict_against_quantization():
    noisy = replace(FLOAT, aa_ratio=1.3, aa_ratio_interval=(1.1, 1.5))
    assert noisy.aa_holds is False
    assert choose(noisy, [record(1.2, 1.1, 1.3)], Goal()) == (noisy, INCONCLUSIVE)
    quiet = replace(FLOAT, aa_ratio=1.01, aa_ratio_interval=(0.98, 1.04))
    assert choose(quiet, [record(1.2, 1.1, 1.3)], Goal()) == (quiet, NOT_FASTER)


class Disturbed(FakeEvaluator):
    """Its latencies are true in the search; what is measured later is ``later(ratio)`` at first, then the truth."""

    def __init__(self, space, later, wrong=100, aa=None, **more):
        super().__init__(space, HARMLESS, **more)
        self.later, self.wrong, self.aa, self.concluding = later, wrong, aa, []

    def float_record(self):
        return super().float_record() if self.aa is None else replace(super().float_record(), **self.aa)

    def _measured(self, what, record):
        self.concluding.append(what)
        if record.strategy.is_float or len(self.concluding) > self.wrong:
            return record
        ratio = self.later(record.latency_ratio)
        return replace(record, latency_ratio=ratio, latency_ratio_interval=(0.97 * ratio, 1.03 * ratio))


class WrongTest(Disturbed):
    def test(self, strategy):
        found = super().test(strategy)
        return found if strategy.is_float else self._measured("test", found)


class WrongLater(WrongTest):
    def remeasure(self, records):
        if len(records) > 1:  # the play-off
            return super().remeasure(records)
        return [self._measured("again", record) for record in super().remeasure(records)]


def searched(evaluator):
    return run_search(evaluator.space, evaluator, trials=6, patience=None)


def test_a_test_that_contradicts_the_search_is_repeated():
    evaluator = WrongTest(residual_space(blocks=1), lambda ratio: 2.0)
    result = searched(evaluator)
    assert result.outcome == MET and evaluator.concluding == ["test"]
    assert result.test is not None and result.test.latency_ratio == result.best.latency_ratio < 1


@pytest.mark.parametrize("fails", [False, True])
def test_what_the_repeated_measurement_contradicts_too_is_not_recommended(fails):
    class Broken(WrongLater):
        def remeasure(self, records):
            if len(records) == 1:
                raise MeasureError("the machine is gone")
            return super().remeasure(records)

    evaluator = (Broken if fails else WrongLater)(residual_space(blocks=1), lambda ratio: 1.0)
    result = searched(evaluator)
    assert result.outcome == INCONCLUSIVE and result.best is result.float and result.test is result.float_test
    assert evaluator.concluding.count("test") == 3  # the next best were tried as well
    assert "cannot be determined on this machine now" in result.summary()


def test_the_next_best_is_recommended_where_it_holds():
    evaluator = WrongLater(residual_space(blocks=1), lambda ratio: 1.5, wrong=2)
    result = searched(evaluator)
    assert evaluator.concluding == ["test", "again", "test"]
    assert result.outcome == MET and result.test is not None and result.test.latency_ratio < 1
    assert max(r.latency_ratio for r in result.records) >= 1.5  # what was contradicted says so


def test_a_failing_aa_test_is_said():
    evaluator = Disturbed(residual_space(blocks=1), None, aa={"aa_ratio": 1.4, "aa_ratio_interval": (1.2, 1.6)})
    result = searched(evaluator)
    assert result.too_busy and "float32 was not as fast as itself" in result.summary()


# -- the report


def busy(report, **more):
    floats = replace(report.baseline, aa_ratio=1.4, aa_ratio_interval=(1.2, 1.6), disturbed=0.8)
    key = "float_test" if report.baseline.part == "test" else "float_search"
    return replace(report, environment=replace(report.environment, load=12.3, cores=2), **{key: floats}, **more)


def test_the_report_names_a_busy_machine():
    notes = " ".join(tell(busy(met())).notes)
    assert "The machine was busy: load average 12.3 on 2 cores, other work interrupted 80 % of the calls." in notes
    assert "against itself, float32 took 1.40 (1.20 to 1.60) times as long" in notes
    quiet = replace(met(), environment=replace(met().environment, load=0.1))
    assert "busy" not in " ".join(tell(quiet).notes)


def test_what_cannot_be_determined_is_no_verdict_against_quantization():
    answer = tell(busy(not_faster(), outcome=INCONCLUSIVE))
    assert answer.badge == "Inconclusive"
    assert "The measurements do not show whether quantization pays off here" in answer.sentence
    assert "stays in float32" in answer.sentence and "does not pay" not in answer.sentence
    assert any("too busy" in note for note in answer.notes)
