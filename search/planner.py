"""Which strategy comes next: a function of the seed, the measurements so far, and the tables kept with the study.

In this order: the user's start; everything in integers, for an early answer; other calibrators and more precision, if
that proves necessary; the fastest by kernel times; the front of the integer programme, by bisection; programmes
corrected by measured drops; then the sampler. The tables (kernel times, sensitivities) are measured when first needed
and stored with the study, so that a resumed search continues as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..strategy import Strategy
from .additive import AdditiveModel, make_acquisition
from .context import Context
from .measures import Measures
from .refine import TRIALS, refine
from .sampling import propose
from .sensitivity import (
    Probe,
    Sensitivities,
    main_option,
    measure_probe,
    next_probe,
    next_uniform_probe,
    sample_count,
)
from .sizes import SizeTable, programme_costs
from .space import Params
from .timing import TimeTable, options_to_time, time_option
from .trial_store import Finished
from .warmstart import Programme, WarmStartCandidate, bisect, fastest, first_candidates, uniform_candidates

START, UNIFORM, KERNEL_TIMES, PROGRAMME, REFINE = "start", "uniform", "kernel times", "programme", "refined programme"
WARM_START = (START, UNIFORM, KERNEL_TIMES, PROGRAMME, REFINE)
_SAVE_EVERY_S = 2.0
_PROBE_SHARE = 0.25  # of the time budget, for sensitivities
_SOLVING_SHARE = 0.1  # of the time left, for one integer programme


@dataclass(frozen=True)
class Proposal:
    """A strategy to measure: its parameters, the stage that proposes it, and its label."""

    params: Params
    origin: str
    label: str


class Planner:
    """Proposes strategies; measures and stores the tables that it needs.

    With ``reproducible`` options samplers see latencies of the time model instead of measured ones, whose noise would
    make each search propose something else. Ctrl-C is allowed while something is measured or computed, never while it
    is written.
    """

    def __init__(self, context: Context) -> None:
        space, options = context.space, context.options
        self._space, self._evaluator, self._goal, self._store = space, context.evaluator, context.goal, context.store
        self._interrupts, self._tell, self._left_s = context.interrupts, context.tell, context.left_s
        self._float_key = Strategy(space.model_hash, space.hw).key()
        self._seed, self._sampler, self._reproducible = options.seed, options.sampler, options.reproducible
        whole_s = context.deadline.seconds
        self._probe_s = None if whole_s is None else _PROBE_SHARE * whole_s
        self._given = None if options.start is None else space.nearest(options.start)
        floats = context.first_floats
        self.measures = Measures(self._goal, floats, self.ratio, self._reproducible)
        kept = self._store.recall("sensitivities") or {}
        self.sensitivities = Sensitivities.from_json(kept.get("losses", []))
        self._cut = bool(kept.get("cut", False))
        self.times = TimeTable(self._store.recall("kernel_times") or {})
        self._sizes = SizeTable(floats.size_bytes)
        self._front: tuple[tuple[int, int], Programme] | None = None
        self._additive: tuple[tuple[int, int], AdditiveModel] | None = None

    def next(self, history: Sequence[Finished]) -> Proposal | None:
        """What to measure next; None when every strategy has been measured.

        Never float32, which has been measured already.
        """
        elsewhere = self._store.elsewhere()
        for left in self._store.pending():
            if self._space.strategy(left.params).key() not in {*elsewhere, self._float_key}:
                return Proposal(left.params, left.origin, left.label)
        by_key = {past.key: past for past in history}
        for stage in (self._start, self._uniform, self._fastest, self._programme, self._refine):
            proposal = stage(by_key)
            if proposal is not None and self._space.strategy(proposal.params).key() not in elsewhere:
                return proposal
        return self._sample(history, elsewhere)

    def in_warm_start(self, history: Sequence[Finished]) -> bool:
        """Whether the newest trial was not proposed by the sampler."""
        return not history or history[-1].origin in WARM_START

    def _start(self, by_key: dict[str, Finished]) -> Proposal | None:
        if self._given is None:
            return None
        key = self._space.strategy(self._given).key()
        return None if key in by_key or key == self._float_key else Proposal(self._given, START, "the start given")

    def _uniform(self, by_key: dict[str, Finished]) -> Proposal | None:
        for candidate in first_candidates(self._space):
            if not self._is_measured(candidate, by_key):
                return Proposal(candidate.params, UNIFORM, candidate.label)
        self._probe(lambda: next_uniform_probe(self._space, self.sensitivities))
        within = any(self.measures.keeps(past) for past in by_key.values())
        main = f"{main_option(self._space)} everywhere"
        for candidate in uniform_candidates(self._space, self.sensitivities):
            # More precision gives an early answer; other settings serve the favourite option itself.
            needed = not within or (candidate.label.startswith(main) and self._at_stake(by_key))
            if needed and not self._is_measured(candidate, by_key):
                return Proposal(candidate.params, UNIFORM, candidate.label)
        return None

    def _fastest(self, by_key: dict[str, Finished]) -> Proposal | None:
        self._time(thorough=self._at_stake(by_key))
        if self._at_stake(by_key) or self._goal.primary.name == "size":
            return None  # the fastest strategy would hardly lose less, or be smaller
        candidate = fastest(self._space, self.times, self.sensitivities, self._solving_s())
        if candidate is None or self._is_measured(candidate, by_key):
            return None
        return Proposal(candidate.params, KERNEL_TIMES, candidate.label)

    def _programme(self, by_key: dict[str, Finished]) -> Proposal | None:
        thorough = self._at_stake(by_key)
        self._probe(lambda: next_probe(self._space, self.sensitivities, thorough))
        tables = (len(self.sensitivities.losses), len(self.times.times))
        if self._front is None or self._front[0] != tables:
            cost, limits = programme_costs(
                self._space, self._goal.primary.name, self.measures.limits, self.times, self._sizes
            )
            self._front = (
                tables,
                Programme(self._space, self.times, self.sensitivities, self._solving_s, cost, limits),
            )
        self._tell("integer programme")

        def verdict(candidate: WarmStartCandidate) -> bool | None:
            if self._key(candidate) == self._float_key:
                return self.measures.float_keeps
            past = by_key.get(self._key(candidate))
            return None if past is None else self.measures.keeps(past)

        with self._interrupts.allowed():
            candidate = bisect(
                Programme.count,
                self._front[1].candidate,
                verdict,
                exact_first=not self._goal.bounds_accuracy,
                float_keeps=self.measures.float_keeps,
            )
        return None if candidate is None else Proposal(candidate.params, PROGRAMME, candidate.label)

    def _refine(self, by_key: dict[str, Finished]) -> Proposal | None:
        done = [past for past in by_key.values() if past.origin == REFINE]
        if not self._at_stake(by_key) or not self._goal.bounds_accuracy or len(done) >= TRIALS:
            return None
        self._tell("integer programme")
        outcomes = [
            (past.params, self._goal.likely_drop(past.record))
            for past in by_key.values()
            if past.record.state != "failed"
        ]
        rng, seen = np.random.default_rng([self._seed, len(by_key)]), {*by_key, self._float_key}
        with self._interrupts.allowed():
            candidate = refine(
                *(self._space, self.times, self.sensitivities, outcomes, self._goal.max_drop, seen, rng),
                limit_s=self._solving_s(),
            )
        return None if candidate is None else Proposal(candidate.params, REFINE, candidate.label)

    def _sample(self, history: Sequence[Finished], elsewhere: set[str]) -> Proposal | None:
        name = self._sampler if isinstance(self._sampler, str) else "sampler"
        self._tell(f"{name} proposes")
        observations = [self.measures.observe(past) for past in history]
        known = {past.key: seen for past, seen in zip(history, observations, strict=True)}
        float_params = {
            group_name: "float32" if "float32" in choices else choices[0]
            for group_name, choices in self._space.parameters.items()
        }
        baseline = self.measures.float_observation(float_params)
        if self._space.strategy(float_params).key() == self._float_key:  # in this space, its outcome known
            observations = [baseline, *observations]
        known[self._float_key] = baseline
        for key in elsewhere:  # not to be proposed again; their outcome is not known yet
            known.setdefault(key, baseline)
        outcomes = [self.measures.outcome(past) for past in history if past.record.state != "failed"]
        with self._interrupts.allowed():
            params = propose(
                self._space,
                self._sampler,
                self._seed + len(elsewhere),
                observations,
                known,
                self.sensitivities,
                make_acquisition(self._model(), outcomes, self._goal, self.measures.limits),
            )
        return None if params is None else Proposal(params, name, f"{name}, trial {len(history) + 1}")

    def _model(self) -> AdditiveModel:
        """The additive model of the current tables."""
        tables = (len(self.sensitivities.losses), len(self.times.times))
        if self._additive is None or self._additive[0] != tables:
            self._additive = tables, AdditiveModel(self._space, self.times, self.sensitivities, self._sizes)
        return self._additive[1]

    def ratio(self, past: Finished) -> float:
        """Latency over float32's: by the time model if proposals must be reproducible, else as measured."""
        measured = past.record.latency_ratio
        if self._reproducible or measured is None:
            return self._model().ratio(past.params)
        return measured

    def _at_stake(self, by_key: dict[str, Finished]) -> bool:
        """Whether the hardware's favourite option everywhere breaks the bound at every setting."""
        main = main_option(self._space)
        plain = [self._space.uniform(main, setting) for setting in self._space.settings]
        found = [by_key.get(self._space.strategy(params).key()) for params in plain]
        return not any(past is not None and self.measures.keeps(past) for past in found)

    def _solving_s(self) -> float | None:
        """Seconds that one integer programme may take; None without a time budget."""
        left = self._left_s()
        return None if left is None else _SOLVING_SHARE * left

    def _is_measured(self, candidate: WarmStartCandidate, by_key: dict[str, Finished]) -> bool:
        key = self._key(candidate)
        return key in by_key or key == self._float_key

    def _key(self, candidate: WarmStartCandidate) -> str:
        return self._space.strategy(candidate.params).key()

    def _time(self, thorough: bool) -> None:
        for option in options_to_time(self._space, thorough):
            if option in self.times.times or self._left_s() == 0:
                continue
            self._tell(f"kernel times: {option}")
            with self._interrupts.allowed():
                times = time_option(self._space, self._evaluator, option)
            self.times = TimeTable({**self.times.times, option: times})
            self._store.remember("kernel_times", {name: dict(row) for name, row in self.times.times.items()})

    def _probe(self, following: Callable[[], Probe | None]) -> None:
        begin = saved_at = time.monotonic()
        samples, before = sample_count(self._space), (self.sensitivities, self._cut)
        try:
            while not self._cut and self._left_s() != 0 and (probe := following()) is not None:
                if self._probe_s is not None and time.monotonic() - begin > self._probe_s:
                    self._cut = True  # for good: the front must not change under the bisection
                    break
                self._tell(f"sensitivity: {len(self.sensitivities.losses) + 1}")
                with self._interrupts.allowed():
                    loss = measure_probe(self._space, self._evaluator, probe, samples)
                self.sensitivities = self.sensitivities.with_(probe, loss)
                if time.monotonic() - saved_at > _SAVE_EVERY_S:
                    self._save_sensitivities()
                    saved_at = time.monotonic()
        finally:
            if before != (self.sensitivities, self._cut):
                self._save_sensitivities()

    def _save_sensitivities(self) -> None:
        kept = {"losses": self.sensitivities.to_json(), "cut": self._cut}
        self._store.remember("sensitivities", kept)
