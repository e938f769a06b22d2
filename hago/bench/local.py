"""This machine as a bench."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..measure.clocks import SYSTEM_CLOCKS, take_sample
from ..measure.latency import Latency, measure_latency
from ..measure.runner import by_cpu_time
from ..result_files import LIBRARY_FILE
from . import Candidate, Feeds, MeasurementBudget, Timing

if TYPE_CHECKING:
    from ..measure.runner import Runner
    from ..spec import HardwareSpec

_ROUNDS, _BUDGET_S = 25, 0.4
_TRIES, _SCATTER = 3, 0.1  # measurements at most; relative interval of a median that counts as quiet
_MOST_PATIENCE = 5.0  # times the budget on a busy machine
_CALLS_WORTH = 40  # a latency measurement may take this many float calls, if they are long


@dataclass
class LocalBench:
    """This machine, for the candidates of one model."""

    spec: HardwareSpec
    seed: int = 0
    estimated: bool = False
    where: str = ""
    files: tuple[str, ...] = ()
    _float: Runner | None = None  # opened once, as every candidate is measured beside it
    _call_s: float = 0.0  # of float32

    @property
    def host(self) -> HardwareSpec:
        """The same as ``spec``."""
        return self.spec

    def identity(self) -> Mapping[str, str]:
        return {}

    def measure(self, candidates: Sequence[Candidate], samples: Sequence[Feeds], budget: MeasurementBudget) -> Timing:
        runners, rounds = [self._open(candidate) for candidate in candidates], round(_ROUNDS * budget.rounds)
        budget_s = budget.time * self._trial_budget_s(candidates[0], samples[0])
        if budget.limit_s is not None:
            budget_s = max(0.05, min(budget_s, budget.limit_s))

        def measure(more: int) -> dict[str, Latency]:
            return measure_latency(
                runners,
                samples[0],
                rounds=rounds * (1 + more),
                budget_s=budget_s * (1 + more),
                spread=budget.spread,
                seed=self.seed + more,
            )

        found = measure(0)
        hopeless = any(latency.disturbed == 1.0 and not latency.reliable for latency in found.values())
        if budget.settled and not hopeless and not all(map(is_steady, found.values())):
            found = measure(1)  # with twice the rounds; taking the better of two would only look certain
        return Timing(found)

    def runner(self, candidate: Candidate) -> AbstractContextManager[Runner]:
        return nullcontext(self._open(candidate))

    def kernel_costs(self, candidate: Candidate) -> Mapping[str, float]:
        return candidate.artifact.layer_times()

    def save(self, candidate: Candidate, folder: Path) -> None:
        candidate.artifact.save(folder / LIBRARY_FILE)

    def close(self) -> None:
        pass

    def _open(self, candidate: Candidate) -> Runner:
        from ..runners import TvmRunner

        if candidate.quantized or (self._float is not None and self._float.name != candidate.name):
            return TvmRunner(candidate.artifact, name=candidate.name)
        if self._float is None:
            self._float = TvmRunner(candidate.artifact, name=candidate.name)
        return self._float

    def _trial_budget_s(self, floats: Candidate, feeds: Feeds) -> float:
        """Time of one measurement: fixed for small models, a number of calls for large ones; more on a busy machine."""
        if not self._call_s:
            sample = take_sample(lambda: floats.artifact.run(feeds), 3, SYSTEM_CLOCKS)
            self._call_s = sample.cpu_s if by_cpu_time(floats.artifact) else sample.wall_s
        return max(_BUDGET_S, _CALLS_WORTH * self._call_s) * max(1.0, min(_MOST_PATIENCE, load_per_cpu() or 0.0))


def load_per_cpu() -> float | None:
    """Runnable processes per CPU over the last minute; None if the system does not report it."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (OSError, AttributeError):
        return None


def is_steady(latency: Latency) -> bool:
    """Whether the times of the rounds agree."""
    return latency.reliable and latency.high_s - latency.low_s <= _SCATTER * latency.median_s


def quietest(measure: Callable[[int], dict[str, Latency]]) -> dict[str, Latency]:
    """``measure(0)``; repeated with 1 and 2 if other load made the times scatter.

    For machines that report only times: the measurement with the smallest times is taken, since other load only adds.
    """
    tries: list[dict[str, Latency]] = []
    while len(tries) < _TRIES:
        tries.append(measure(len(tries)))
        if all(map(is_steady, tries[-1].values())):
            break
    return min(tries, key=lambda found: sum(latency.median_s for latency in found.values()))
