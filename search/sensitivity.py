"""How much accuracy each group of layers costs: the additive model of quantization noise.

One group at a time is quantized, all others stay in float32, and the final outputs are compared with float32's on
calibration samples. Errors of different layers are nearly independent, so their powers add up (Zhou et al. 2018,
"Adaptive Quantization for Deep Neural Network"): a strategy's loss is modelled as the sum of its groups' losses. The
model ranks strategies; their accuracy is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import HagoError, StorageError
from ..knobs import setting_text
from .groups import Group
from .objective import Evaluator
from .option import FLOAT32, kind_of, precision_of
from .priors import typical_noise
from .space import SearchSpace

Probe = tuple[str, str, str]
"""Group, option, setting. The group "" means all groups at once."""

EVERYWHERE = ""
MOST_PROBES = 160  # of single groups: bounds the pass on nets of hundreds of layers
_MAC_BUDGET = 2e10  # multiply-adds of one probe; fixes its number of samples, the same on any machine
_FEWEST_SAMPLES, _MOST_SAMPLES = 8, 64


@dataclass(frozen=True)
class Sensitivities:
    """Probed losses: (group, option, setting) -> loss; infinite where a probe failed."""

    losses: Mapping[Probe, float] = field(default_factory=dict)

    def with_(self, probe: Probe, loss: float) -> Sensitivities:
        """The same sensitivities and the loss of one more probe."""
        return Sensitivities({**self.losses, probe: loss})

    def best(self, group: str, option: str) -> tuple[float, str] | None:
        """The smallest probed loss of the group at this option, and its setting."""
        found = [
            (loss, setting) for (name, text, setting), loss in self.losses.items() if name == group and text == option
        ]
        return min(found) if found else None

    def settings(self, space: SearchSpace, option: str) -> list[str]:
        """All settings, the best for the whole model first, those not probed last."""
        return sorted(space.settings, key=lambda c: self.losses.get((EVERYWHERE, option, c), math.inf))

    def loss(self, space: SearchSpace, group: Group, option: str) -> tuple[float, str]:
        """Loss and best setting of a group at an option; estimated from others if not probed."""
        base = base_option(group)
        favourite = self.settings(space, base)[0]
        if option == FLOAT32:
            return 0.0, favourite
        exact = self.best(group.name, option)
        if exact is not None:
            return exact
        known = self.best(group.name, base)
        loss, setting = known if known is not None else (self._typical(), favourite)
        return loss * self._factor(option) / self._factor(base), setting

    def _typical(self) -> float:
        """The mean loss of the probed groups, for those that were not probed."""
        found = [v for (group, _, _), v in self.losses.items() if group != EVERYWHERE and math.isfinite(v)]
        return sum(found) / len(found) if found else 1.0

    @staticmethod
    def _factor(option: str) -> float:
        return typical_noise(precision_of(option), kind_of(option))

    def to_json(self) -> list[list[Any]]:
        """Plain data; a failed probe's loss is null."""
        return [[*probe, loss if math.isfinite(loss) else None] for probe, loss in self.losses.items()]

    @classmethod
    def from_json(cls, data: Iterable[Sequence[Any]]) -> Sensitivities:
        """Reads what `to_json` returns."""
        return cls({(g, s, c): math.inf if loss is None else float(loss) for g, s, c, loss in data})


def base_option(group: Group) -> str:
    """The option that the group is probed at first: the hardware's favourite integer option."""
    return next((s for s in group.options if s in group.integer), group.options[0])


def sample_count(space: SearchSpace) -> int:
    """How many calibration samples a probe takes: fewer for larger models."""
    macs = max(1, sum(space.macs.values()))
    return int(min(_MOST_SAMPLES, max(_FEWEST_SAMPLES, _MAC_BUDGET // macs)))


def next_uniform_probe(space: SearchSpace, known: Sensitivities) -> Probe | None:
    """The next probe of the whole model at the base option; None when these are complete.

    Every calibrator, then knob by knob every other value at the best setting so far; the product would take too long.
    """
    option = main_option(space)
    settings = [{knob: values[0] for knob, values in space.free.items()}]
    for knob, values in space.free.items():
        base = min(settings, key=lambda values: known.losses.get((EVERYWHERE, option, setting_text(values)), math.inf))
        tried = [{**base, knob: value} for value in values]
        for values_tried in tried:
            probe = (EVERYWHERE, option, setting_text(values_tried))
            if probe not in known.losses:
                return probe
        settings += tried
    return None


def main_option(space: SearchSpace) -> str:
    """The base option that most groups have."""
    bases = [base_option(group) for group in space.groups if group.options != (FLOAT32,)]
    return max(dict.fromkeys(bases), key=bases.count) if bases else FLOAT32


def next_probe(space: SearchSpace, known: Sensitivities, thorough: bool) -> Probe | None:
    """The next probe; None when the pass is complete.

    Every group at its base option; ``thorough`` (the bound is at stake) adds the other good settings, and the other
    options of the groups that cost most. A function of ``known`` only, so an interrupted pass continues where it was.
    """
    done = sum(1 for group, _, _ in known.losses if group != EVERYWHERE)
    if done >= MOST_PROBES:
        return None
    main = main_option(space)
    by_rank = known.settings(space, main)
    groups = [g for g in space.groups if g.integer and FLOAT32 in g.options]
    # The largest first: they matter most if the pass is cut short.
    for group in sorted(groups, key=lambda g: -sum(space.macs[name] for name in g.layers)):
        probe = (group.name, base_option(group), by_rank[0])
        if probe not in known.losses:
            return probe
    if not thorough:
        return None
    costly = sorted(
        groups, key=lambda g: -known.losses[(g.name, base_option(g), by_rank[0])]
    )  # stable: equals in the model's order
    for group in costly[:16]:
        for setting in by_rank[1:3]:
            probe = (group.name, base_option(group), setting)
            if probe not in known.losses:
                return probe
    for group in costly[:8]:
        _, setting = known.loss(space, group, base_option(group))
        for option in group.options:
            probe = (group.name, option, setting)
            if option != FLOAT32 and known.best(group.name, option) is None:
                return probe
    return None


def measure_probe(space: SearchSpace, evaluator: Evaluator, probe: Probe, samples: int) -> float:
    """The loss of one probe; infinite if it cannot be built or run. Raises only StorageError."""
    name, text, setting = probe
    options = []
    for group in space.groups:
        if name == EVERYWHERE:
            options.append(text if text in group.options else base_option(group))
        elif name == group.name:
            options.append(text)
        else:
            options.append(group.find(FLOAT32))
    strategy = space.strategy(space.make_params(options, setting))
    try:
        loss = float(evaluator.sensitivity(strategy, samples))
    except StorageError:
        raise
    except HagoError:
        return math.inf
    return loss if math.isfinite(loss) and loss >= 0 else math.inf
