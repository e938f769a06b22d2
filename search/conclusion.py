"""The end of a search: choose the answer, measure it on the test part, and explain it."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace

from ..errors import HagoError, NoDeviceError, StorageError
from ..goal import QUANTITIES, Goal
from ..outcomes import INCONCLUSIVE, MET, NOT_FASTER, NOT_MET
from ..record import Record
from ..strategy import Strategy
from .blockers import Blocker, accuracy_blockers, latency_blockers
from .context import Context
from .objective import Evaluator
from .planner import Planner
from .playoff import finalists, noise_of, play_off, remeasured
from .result import SearchResult, choose, find_closest, pareto_front
from .sensitivity import base_option, measure_probe, sample_count

_MOST_TESTED = 3  # candidates that may turn out slower than in the search


def conclude(
    context: Context, planner: Planner, records: Sequence[Record], stopped: str, error: HagoError | None
) -> SearchResult:
    """The result of the trials so far, within the time that is left.

    After a signal only the test samples are measured. A failed measurement leaves a record with its reason.
    """
    space, evaluator, goal, float_record = context.space, context.evaluator, context.goal, context.floats
    interrupts, deadline, tell = context.interrupts, context.deadline, context.tell
    best, outcome = choose(float_record, records, goal)
    if not records and not space.parameters:
        outcome = NOT_FASTER
    blockers: tuple[Blocker, ...] = ()
    test = float_test = None
    told_to_end = interrupts.signum is not None
    can_measure = not isinstance(error, (StorageError, NoDeviceError)) and not told_to_end
    try:
        with interrupts.allowed():
            noise: dict[int, float] = {}
            if outcome in (MET, INCONCLUSIVE) and can_measure and not deadline.over:
                tell("play-off")
                found = finalists(space, planner.times, goal, records)
                noise = noise_of(evaluator, found, sample_count(space), deadline)
                records = play_off(evaluator, found, records)
                if outcome == MET and choose(float_record, records, goal, noise)[1] != MET and not deadline.over:
                    tell("repeating the play-off, which contradicts the search")
                    records = play_off(evaluator, found, records)
                best, outcome = choose(float_record, records, goal, noise)
            if outcome in (NOT_FASTER, NOT_MET) and records and can_measure and not deadline.over:
                tell("finding the blocking layers")
                blockers = find_blockers(context, planner, outcome)
            if not isinstance(error, NoDeviceError):
                tell("test samples")
                float_test = _test_float(evaluator, float_record, Strategy(space.model_hash, space.hw))
                if outcome == NOT_FASTER and goal.primary.name == "latency" and float_test.aa_holds is False:
                    outcome = INCONCLUSIVE
                for _ in range(_MOST_TESTED):
                    test = None
                    if best.strategy is None or best is float_record:
                        break
                    test = _test(evaluator, best, best.strategy)
                    if outcome != MET or test.state != "ok" or _holds(goal, test):
                        break
                    if told_to_end or deadline.over:
                        best, outcome, test = float_record, INCONCLUSIVE, None
                        break
                    tell("measuring the answer again: the test contradicts the search")
                    newest = remeasured(evaluator, best, test)
                    records = [newest if record is best else record for record in records]
                    if _holds(goal, newest):
                        best, test = newest, test.with_latency_of(newest)
                        break
                    best, outcome = choose(float_record, records, goal, noise)
                else:  # none of the tested candidates was as fast as in the search
                    best, outcome, test = float_record, INCONCLUSIVE, None
                test = float_test if best is float_record else test
    except KeyboardInterrupt as caught:
        if told_to_end:
            raise
        interrupts.signum = getattr(caught, "signum", signal.SIGINT)
        stopped += " (a signal came before the test samples were done)"
    except StorageError as caught:
        error = error or caught
    return SearchResult(
        float=float_record,
        best=best,
        front=pareto_front([float_record, *records], goal),
        records=tuple(records),
        outcome=outcome,
        goal=goal,
        closest=find_closest(records, goal),
        test=test,
        float_test=float_test,
        blockers=blockers,
        sensitivities=planner.sensitivities,
        times=planner.times,
        stopped=stopped,
        error=error,
        signum=interrupts.signum,
        trials=len(records),
    )


def _holds(goal: Goal, test: Record) -> bool:
    """Whether the latency, measured again, still satisfies the goal."""
    if goal.max_latency_s is not None and not goal.kept(QUANTITIES["latency"], test, likely=False):
        return False
    return goal.primary.name != "latency" or test.is_faster


def find_blockers(context: Context, planner: Planner, outcome: str) -> tuple[Blocker, ...]:
    """The layers that lose too much accuracy; if only speed was missing, also those that gain none."""
    space = context.space

    def probe(group_name: str) -> float:
        if context.deadline.over:
            return 0.0
        group = next(g for g in space.groups if g.name == group_name)
        known = planner.sensitivities
        setting = known.settings(space, base_option(group))[0]
        asked = (group_name, base_option(group), setting)
        return measure_probe(space, context.evaluator, asked, sample_count(space))

    is_slow = outcome == NOT_FASTER and context.goal.primary.name == "latency"
    slow = latency_blockers(space, planner.times) if is_slow else ()
    return slow + accuracy_blockers(space, planner.times, planner.sensitivities, probe)


def _test_float(evaluator: Evaluator, record: Record, strategy: Strategy) -> Record:
    """float32 on the test part; repeated if the A/A test fails, as other work may be the cause."""
    found = _test(evaluator, record, strategy)
    return _test(evaluator, record, strategy) if found.aa_holds is False else found


def _test(evaluator: Evaluator, record: Record, strategy: Strategy) -> Record:
    """The record of a strategy on the test part; a failure becomes a record."""
    try:
        found = evaluator.test(strategy)
    except StorageError:
        raise
    except HagoError as error:
        found = Record(record.id, record.label, strategy, state="failed", reason=str(error))
    return replace(found, id=record.id, label=record.label, strategy=record.strategy, part="test")
