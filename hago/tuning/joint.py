"""One strategy for several devices: measures every candidate on each, and uses the worst or the mean ratio."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from ..measure.environment import Environment
from ..measure.metrics import Metric
from ..option_fields import check_rule
from ..record import Record
from ..strategy import Strategy
from .evaluator import TvmEvaluator


class JointEvaluator:
    """Measures strategies on several devices, each with its own evaluator.

    All share the model, the samples, and the spec of what they have in common (spec/join.py), and so one QDQ network.

    ``rule`` is "worst" (the largest ratio to float32) or "mean" (the geometric mean of the ratios). In both
    cases accuracy is the worst of all devices.
    """

    def __init__(self, evaluators: Mapping[str, TvmEvaluator], rule: str = "worst") -> None:
        self.evaluators, self.rule = dict(evaluators), check_rule("joint", rule)
        self._first = next(iter(self.evaluators.values()))
        self.spec, self.model = self._first.spec, self._first.model
        self.parts, self.seed = self._first.parts, self._first.seed

    @property
    def threads(self) -> int:
        """The threads that every device uses."""
        return self._first.threads

    @property
    def metric(self) -> Metric:
        """The metric, the same on all devices."""
        return self._first.metric

    @property
    def higher_is_better(self) -> bool:
        return self._first.higher_is_better

    @property
    def unit(self) -> str:
        """The unit of the metric: "share", "dB" or ""."""
        return self._first.unit

    def remarks(self) -> tuple[str, ...]:
        """Caveats of the metric."""
        return self._first.remarks()

    @property
    def estimated(self) -> bool:
        """Whether the latency of any device is estimated."""
        return any(evaluator.estimated for evaluator in self.evaluators.values())

    @property
    def where(self) -> str:
        named = [f"{name} ({evaluator.bench.spec.name})" for name, evaluator in self.evaluators.items()]
        return f"{' and '.join(named)}, by the {self.rule} of their ratios"

    @property
    def environment(self) -> Environment:
        """The environment of this machine."""
        return self._first.environment

    def identity(self) -> Mapping[str, str]:
        measured = [evaluator.identity().get("measured on", "here") for evaluator in self.evaluators.values()]
        return {**self._first.identity(), "joint": self.rule, "measured on": "; ".join(measured)}

    def float_record(self) -> Record:
        return self._together(lambda evaluator: evaluator.float_record(), None)

    def evaluate(
        self, strategy: Strategy, *, stop_below: float | None = None, time_left_s: float | None = None
    ) -> Record:
        left = None if time_left_s is None else time_left_s / len(self.evaluators)
        return self._together(
            lambda evaluator: evaluator.evaluate(strategy, stop_below=stop_below, time_left_s=left),
            strategy,
        )

    def remeasure(self, records: Sequence[Record]) -> list[Record]:
        again: list[dict[str, Record]] = [{} for _ in records]
        for name, evaluator in self.evaluators.items():
            for kept, found in zip(again, evaluator.remeasure(records), strict=True):
                kept[name] = found
        return [self._judged(record, found) for record, found in zip(records, again, strict=True)]

    def test(self, strategy: Strategy) -> Record:
        return self._together(lambda evaluator: evaluator.test(strategy), None if strategy.is_float else strategy)

    def sensitivity(self, strategy: Strategy, samples: int) -> float:
        return self._first.sensitivity(strategy, samples)  # all have the same network

    def kernel_times(self, strategy: Strategy) -> Mapping[str, float]:
        """Each layer's share of float32's time, averaged over devices, times float32's time on the first device."""
        sums: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            for layer, seconds in evaluator.kernel_times(strategy).items():
                share = seconds / self._float_s[name] / len(self.evaluators)
                sums[layer] = sums.get(layer, 0.0) + share * next(iter(self._float_s.values()))
        return sums

    def deliver(self, strategy: Strategy, folder: Path) -> None:
        """Writes the answer for every device, into a folder with its name."""
        for name, evaluator in self.evaluators.items():
            evaluator.deliver(strategy, folder / name)

    @property
    def delivered(self) -> tuple[str, ...]:
        """The files that `deliver` writes."""
        return tuple(f"{name}/{file}" for name, evaluator in self.evaluators.items() for file in evaluator.delivered)

    def close(self) -> None:
        for evaluator in self.evaluators.values():
            evaluator.close()

    @cached_property
    def _float_s(self) -> dict[str, float]:
        """Sum of float32's kernel times on each device."""
        plain = Strategy(self.model.hash, self.spec.name)
        return {name: sum(e.kernel_times(plain).values()) for name, e in self.evaluators.items()}

    def _together(self, measure: Callable[[TvmEvaluator], Record], strategy: Strategy | None) -> Record:
        """One record for all devices, or the first that failed or was stopped, with its reason."""
        found: dict[str, Record] = {}
        for name, evaluator in self.evaluators.items():
            record = found[name] = measure(evaluator)
            if record.state != "ok":
                reason = f"{name}: {record.reason}"
                return replace(record, strategy=strategy, reason=reason, device=name)
        sign = 1.0 if self.higher_is_better else -1.0
        worst = min(found.values(), key=lambda r: sign * (r.accuracy_change or 0.0))
        spent = sum(record.trial_s or 0.0 for record in found.values())
        return self._judged(replace(worst, strategy=strategy, trial_s=spent), found)

    def _judged(self, record: Record, found: Mapping[str, Record]) -> Record:
        """``record`` with the devices' latencies combined by the rule."""
        ratios = {name: 1.0 if r.latency_ratio is None else r.latency_ratio for name, r in found.items()}
        name = max(ratios, key=lambda key: ratios[key])
        worst = found[name]
        told = replace(
            record,
            latency_s=None,  # different machines have only ratios in common
            latency_interval=None,
            instructions=None,
            latency_ratio=worst.latency_ratio,
            latency_ratio_interval=worst.latency_ratio_interval,
            estimated=self.estimated,
            device=name,
            ratios=ratios,
        )
        if any(r.latency_ratio is None for r in found.values()):  # a machine too busy to measure
            return replace(told, latency_ratio=None, latency_ratio_interval=None)
        if self.rule == "worst":
            return told
        ends = [r.latency_ratio_interval or (ratios[key], ratios[key]) for key, r in found.items()]
        low, high = (_mean([end[side] for end in ends]) for side in (0, 1))
        return replace(told, latency_ratio=_mean(list(ratios.values())), latency_ratio_interval=(low, high))


def _mean(ratios: Sequence[float]) -> float:
    """The geometric mean, which suits ratios."""
    return math.exp(sum(math.log(max(ratio, 1e-12)) for ratio in ratios) / len(ratios))
